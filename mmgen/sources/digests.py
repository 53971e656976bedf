"""Digests of a source's files, remembered by size and change mark, so that what did not change is not read (law 3)."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from mmgen.errors import StoreError
from mmgen.store import Store, read_uri, sha256, sha256_file, stat_folder, stat_uri

#: objects of a remote source that are looked up at once
CONNECTIONS = 16
#: so many files of one folder are looked up by listing it
LISTED_FROM = 8


@dataclass(frozen=True, slots=True)
class Digest:
    """A file's size in bytes, change mark (mtime or ETag), and sha256."""

    size: int
    mark: str
    sha256: str


class DigestCache:
    """uri → Digest, kept in the store. `rehash` reads every file again.

    Raises FileNotFoundError for a file that is not there, StoreError for one that cannot be read.
    """

    def __init__(self, store: Store, name: str, *, rehash: bool = False) -> None:
        self._store, self._path = store, f"cache/source-{name}.json"
        self._known = {} if rehash else self._load()
        self._fresh: dict[str, Digest] = {}
        self._listed: dict[str, dict[str, tuple[int, str]]] = {}
        self._changed = rehash

    def _load(self) -> dict[str, Digest]:
        try:
            return {uri: Digest(*entry) for uri, entry in json.loads(self._store.read(self._path)).items()}
        except (FileNotFoundError, ValueError, TypeError, AttributeError):
            # a cache that is not there or not readable is an empty one
            return {}

    def of(self, uri: str) -> Digest:
        """The digest of the file as it is now."""
        if uri not in self._fresh:
            self._fresh[uri] = self._look(uri)
        return self._fresh[uri]

    def _look(self, uri: str) -> Digest:
        folder, _, name = uri.rpartition("/")
        size, mark = self._listed.get(folder, {}).get(name) or stat_uri(uri)
        known = self._known.get(uri)
        if known is not None and mark and (known.size, known.mark) == (size, mark):
            return known
        self._changed = True
        return Digest(size, mark, sha256_file(uri) if "://" not in uri else sha256(read_uri(uri)))

    def prefetch(self, uris: Iterable[str]) -> None:
        """Look up remote files side by side, whole folders in one listing. What fails is told when it is asked for."""
        remote = [uri for uri in dict.fromkeys(uris) if "://" in uri and uri not in self._fresh]
        folders = Counter(uri.rpartition("/")[0] for uri in remote)
        for folder, count in folders.items():
            # what a web server answers for a folder is no listing
            if count >= LISTED_FROM and folder not in self._listed and not folder.startswith(("http:", "https:")):
                with contextlib.suppress(FileNotFoundError, StoreError, NotImplementedError):
                    self._listed[folder] = stat_folder(folder)
        if remote:
            with ThreadPoolExecutor(CONNECTIONS) as pool:
                for uri, future in [(uri, pool.submit(self._look, uri)) for uri in remote]:
                    if future.exception() is None:
                        self._fresh[uri] = future.result()

    def save(self) -> None:
        """Keep the digests of the files that were asked for; others are no longer in the source."""
        if self._changed or self._known.keys() != self._fresh.keys():
            entries = {uri: [each.size, each.mark, each.sha256] for uri, each in sorted(self._fresh.items())}
            self._store.write(self._path, json.dumps(entries, ensure_ascii=False).encode())
            self._changed, self._known = False, dict(self._fresh)
