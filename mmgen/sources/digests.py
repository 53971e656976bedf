"""Digests of a source's files, remembered by size and change mark, so that what did not change is not read (law 3)."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from mmgen.errors import StoreError
from mmgen.sources.fetching import Patience, patiently
from mmgen.store import Store, read_uri, read_uris, sha256, sha256_file, stat_folder, stat_uri, stat_uris

#: objects of a remote source that are looked up at once
CONNECTIONS = 16
#: so many files of one folder are looked up by listing it
LISTED_FROM = 8
#: bytes of remote files that were read for their digest and wait to be planned
KEPT_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Digest:
    """A file's size in bytes, change mark (mtime or ETag), and sha256."""

    size: int
    mark: str
    sha256: str


class DigestCache:
    """uri → Digest, kept in the store. `rehash` reads every file again.

    What was read for it may be taken once, so that a remote file is read once. Raises FileNotFoundError for a file
    that is not there, StoreError for one that cannot be read.
    """

    def __init__(self, store: Store, name: str, *, rehash: bool = False) -> None:
        self._store, self._name, self._path = store, name, f"cache/source-{name}.json"
        self._known = {} if rehash else self._load()
        self._fresh: dict[str, Digest] = {}
        self._listed: dict[str, dict[str, tuple[int, str]]] = {}
        self._changed = rehash
        self._failed: dict[str, Exception] = {}
        self._kept: dict[str, bytes] = {}
        self._kept_bytes = 0
        self.patience = Patience()

    def _load(self) -> dict[str, Digest]:
        try:
            return {uri: Digest(*entry) for uri, entry in json.loads(self._store.read(self._path)).items()}
        except (FileNotFoundError, ValueError, TypeError, AttributeError):
            # a cache that is not there or not readable is an empty one
            return {}

    def of(self, uri: str) -> Digest:
        """The digest of the file as it is now."""
        if uri in self._failed:
            raise self._failed.pop(uri)
        if uri not in self._fresh:
            self._fresh[uri] = self._look(uri, keep=False)
        return self._fresh[uri]

    def take(self, uri: str) -> bytes | None:
        """The bytes that were read for the digest, once; None if they are not at hand."""
        data = self._kept.pop(uri, None)
        self._kept_bytes -= len(data or b"")
        return data

    def _look(self, uri: str, *, keep: bool) -> Digest:
        remote = "://" in uri
        folder, _, name = uri.rpartition("/")
        found = self._listed.get(folder, {}).get(name)
        size, mark = found or (self.patience(lambda: stat_uri(uri)) if remote else stat_uri(uri))
        known = self._known.get(uri)
        # a web server may leave the size open until all is sent
        if known is not None and mark and known.mark == mark and size in (known.size, *((0,) if remote else ())):
            return known
        self._changed = True
        if not remote:
            return Digest(size, mark, sha256_file(uri))
        return self._noted(uri, mark, self.patience(lambda: read_uri(uri)), keep=keep)

    def _noted(self, uri: str, mark: str, data: bytes, *, keep: bool) -> Digest:
        if keep and self._kept_bytes + len(data) <= KEPT_BYTES:
            self._kept[uri] = data
            self._kept_bytes += len(data)
        return Digest(len(data), mark, sha256(data))

    def _ask_web(self, uris: Sequence[str], keep: Container[str]) -> None:
        """Look up the known ones among these files of web servers; read the others, whose answers tell their marks."""
        known = [uri for uri in uris if uri in self._known]
        for uri, state in patiently(stat_uris, known, CONNECTIONS, self.patience):
            if isinstance(state, Exception):
                self._failed[uri] = state
            else:
                folder, _, name = uri.rpartition("/")
                self._listed.setdefault(folder, {})[name] = state
        unknown = [uri for uri in uris if uri not in self._known]
        for uri, found in patiently(read_uris, unknown, CONNECTIONS, self.patience):
            if isinstance(found, Exception):
                self._failed[uri] = found
            else:
                self._fresh[uri] = self._noted(uri, *found, keep=uri in keep)
                self._changed = True

    def prefetch(self, uris: Iterable[str], keep: Container[str] = ()) -> None:
        """Look up remote files side by side, whole folders in one listing. What fails is told when it is asked for.

        keep: those of them whose bytes will be taken.
        """
        remote = [uri for uri in dict.fromkeys(uris) if "://" in uri and uri not in self._fresh]
        folders = Counter(uri.rpartition("/")[0] for uri in remote)
        for folder, count in folders.items():
            # what a web server answers for a folder is no listing
            if count >= LISTED_FROM and folder not in self._listed and not folder.startswith(("http:", "https:")):
                with contextlib.suppress(FileNotFoundError, StoreError, NotImplementedError):
                    self._listed[folder] = stat_folder(folder)
        self._ask_web([uri for uri in remote if uri.startswith(("http:", "https:"))], keep)
        if remote := [uri for uri in remote if uri not in self._fresh and uri not in self._failed]:
            with ThreadPoolExecutor(CONNECTIONS) as pool:
                for uri, future in [(uri, pool.submit(self._look, uri, keep=uri in keep)) for uri in remote]:
                    error = future.exception()
                    if error is None:
                        self._fresh[uri] = future.result()
                    elif isinstance(error, (OSError, StoreError)):
                        # not asked again: its attempts are used up
                        self._failed[uri] = error

    def save(self) -> None:
        """Keep the digests of the files that were asked for; others are no longer in the source."""
        if self._changed or self._known.keys() != self._fresh.keys():
            entries = {uri: [each.size, each.mark, each.sha256] for uri, each in sorted(self._fresh.items())}
            self._store.write(self._path, json.dumps(entries, ensure_ascii=False).encode())
            self._changed, self._known = False, dict(self._fresh)
        if self.patience.calls:
            calls, retries = _fetches(self._store, self._name)
            counts = [calls + self.patience.calls, retries + self.patience.retries]
            self._store.write(f"cache/fetches-{self._name}.json", json.dumps(counts).encode())
            self.patience = Patience()


def take_fetches(store: Store, name: str) -> dict[str, int]:
    """{"calls", "retries"} to remote files of the source since they were last taken."""
    calls, retries = _fetches(store, name)
    store.delete(f"cache/fetches-{name}.json")
    return {"calls": calls, "retries": retries}


def _fetches(store: Store, name: str) -> tuple[int, int]:
    try:
        calls, retries = json.loads(store.read(f"cache/fetches-{name}.json"))
        return int(calls), int(retries)
    except (FileNotFoundError, ValueError, TypeError):
        return 0, 0
