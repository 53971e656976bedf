"""What is known of a source's files, so that what did not change is not read again (law 3).

One SQLite file in the store, `cache/source-<name>.sqlite`: the digests of files by size and change mark, and the
batches that they made. SQLite keeps memory flat, however many files a source has. A cache that is lost, damaged or
older than the source costs time and nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import stat
import tempfile
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from mmgen.errors import StoreError
from mmgen.sources.fetching import Patience, patiently
from mmgen.store import CHUNK_BYTES, Store, sha256, sha256_file
from mmgen.uris import digest_uri, read_uri, read_uris, stat_folder, stat_uri, stat_uris

#: objects of a remote source that are looked up at once
CONNECTIONS = 16
#: so many files of one folder are looked up by listing it
LISTED_FROM = 8
#: bytes of remote files that were read for their digest and wait to be planned
KEPT_BYTES = 256 << 20
#: files whose states are compared at once
WINDOW = 1_024
#: local files of at least this size are hashed side by side; smaller ones cost less than a thread's turn
THREADED_BYTES = 64 << 10
#: size of a file that is not there
MISSING = -1

_TABLES = """
create table files (uri text primary key, size integer not null, mark text not null, sha256 text) without rowid;
create table look (stamp text not null, batches text not null, beside text not null);
"""


@dataclass(frozen=True, slots=True)
class Digest:
    """A file's size in bytes, change mark (mtime or ETag), and sha256."""

    size: int
    mark: str
    sha256: str


#: what stands for a file that is not there
NOWHERE = Digest(MISSING, "", "")


@dataclass(frozen=True, slots=True)
class Look:
    """What a whole look at a source found. stamp: of all that the rows follow from, but for the media.

    batches: (name, rows) of each, in order. beside: facts of files that are no part of it.
    """

    stamp: str
    batches: tuple[tuple[str, int], ...]
    beside: Mapping[str, Any] = field(default_factory=dict)


class DigestCache:
    """uri → Digest. `rehash` reads every file again.

    named: hosts that may have private addresses, see `open_uri`. What was read may be taken once, so that a remote
    file is read once. Raises FileNotFoundError for a file that is not there, StoreError for one that cannot be read.
    """

    def __init__(self, store: Store, name: str, *, rehash: bool = False, named: Sequence[str] | None = None) -> None:
        self._store, self._name, self._path, self._hosts = store, name, cache_path(name), named
        # a nameless database lies in a temporary file that is gone with the connection
        self._db = sqlite3.connect("", isolation_level=None)
        self._db.executescript(_TABLES)
        self._db.execute("begin")
        self._known = None if rehash else _open(store, self._path)
        self._listed: dict[str, dict[str, tuple[int, str]]] = {}
        # what was looked up last, and how it ended
        self._window: dict[str, Digest | Exception] = {}
        self._complete, self._changed = True, rehash
        self._kept: dict[str, bytes] = {}
        self._kept_bytes = 0
        self.patience = Patience()

    def of(self, uri: str) -> Digest:
        """The digest of the file as it is now."""
        if uri not in self._window:
            self.prefetch([uri])
        found = self._window[uri]
        if isinstance(found, Exception):
            raise found
        return found

    def take(self, uri: str) -> bytes | None:
        """The bytes that were read for the digest, once; None if they are not at hand."""
        data = self._kept.pop(uri, None)
        self._kept_bytes -= len(data or b"")
        return data

    def prefetch(self, uris: Iterable[str], keep: Container[str] = ()) -> None:
        """Look files up, remote ones side by side. What fails is told when it is asked for.

        keep: those of them whose bytes will be taken.
        """
        wanted = list(dict.fromkeys(uris))
        seen = _select(self._db, wanted)
        new = [uri for uri in wanted if uri not in seen]
        known = _select(self._known, new) if self._known is not None else {}
        found = dict(zip(new, self._look_up(new, known, keep), strict=True))
        self._window = {uri: _told(seen.get(uri) or found[uri], uri) for uri in wanted}
        self._note(found, known)

    def _note(self, found: dict[str, Digest | Exception], known: dict[str, Digest]) -> None:
        records = []
        for uri, each in found.items():
            if isinstance(each, FileNotFoundError):
                each = NOWHERE
            if isinstance(each, Exception):
                # whether it will be there next time is not known
                self._complete = False
            else:
                self._changed |= known.get(uri) != each
                records.append((uri, each.size, each.mark, each.sha256))
        self._db.executemany("insert into files values (?, ?, ?, ?)", records)

    # ------------------------------------------------------------ looking up

    def _look_up(self, uris: Sequence[str], known: dict[str, Digest], keep: Container[str]) -> list[Digest | Exception]:
        """The digest of each as it is now, or why there is none."""
        # a web server tells the change mark with the bytes: a file that is not known is not looked up before
        new = [uri for uri in uris if uri.startswith(("http:", "https:")) and uri not in known and uri in keep]
        found: dict[str, Digest | Exception] = {}
        for uri, answer in patiently(partial(read_uris, named=self._hosts), new, CONNECTIONS, self.patience):
            found[uri] = answer if isinstance(answer, Exception) else self._noted(uri, *answer)
        rest = [uri for uri in uris if uri not in found]
        ahead: dict[str, Future[Digest | Exception]] = {}
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            for uri, state in zip(rest, self._states(rest), strict=True):
                there = known.get(uri)
                if isinstance(state, Exception):
                    found[uri] = state
                elif there is not None and _same(there, state, uri):
                    found[uri] = there
                elif "://" in uri or state[0] >= THREADED_BYTES:
                    ahead[uri] = pool.submit(self._read, uri, state, keep=uri in keep)
                else:
                    found[uri] = self._read(uri, state, keep=False)
            found |= {uri: future.result() for uri, future in ahead.items()}
        return [found[uri] for uri in uris]

    def _read(self, uri: str, state: tuple[int, str], *, keep: bool) -> Digest | Exception:
        size, mark = state
        try:
            if "://" not in uri:
                return Digest(size, mark, sha256_file(uri))
            if not keep:
                # it may be larger than memory
                size, digest = self.patience(lambda: digest_uri(uri, named=self._hosts))
                return Digest(size, mark, digest)
            return self._noted(uri, mark, self.patience(lambda: read_uri(uri, named=self._hosts)))
        except (OSError, StoreError) as error:
            return error

    def _noted(self, uri: str, mark: str, data: bytes) -> Digest:
        if self._kept_bytes + len(data) <= KEPT_BYTES:
            self._kept[uri] = data
            self._kept_bytes += len(data)
        return Digest(len(data), mark, sha256(data))

    def _states(self, uris: Sequence[str]) -> list[tuple[int, str] | Exception]:
        """(size, change mark) of each file now, or why it cannot be told."""
        remote = [uri for uri in uris if "://" in uri]
        self._list_folders(remote)
        found: dict[str, tuple[int, str] | Exception] = {}
        for uri in remote:
            folder, _, name = uri.rpartition("/")
            if (listed := self._listed.get(folder, {}).get(name)) is not None:
                found[uri] = listed
        asked = [uri for uri in remote if uri not in found]
        found |= patiently(partial(stat_uris, named=self._hosts), asked, CONNECTIONS, self.patience)
        return [found[uri] if uri in found else _local_state(uri) for uri in uris]

    def _list_folders(self, uris: Iterable[str]) -> None:
        """Look whole folders up in one listing, where many of their files are asked for."""
        for folder, count in Counter(uri.rpartition("/")[0] for uri in uris).items():
            # what a web server answers for a folder is no listing
            if count >= LISTED_FROM and folder not in self._listed and not folder.startswith(("http:", "https:")):
                with contextlib.suppress(FileNotFoundError, StoreError, NotImplementedError):
                    self._listed[folder] = stat_folder(folder)

    # ------------------------------------------------------------ from look to look

    def unchanged(self, stamp: str) -> Look | None:
        """The last look, if it had this stamp and all its files are as they were; no file is read."""
        if self._known is None:
            return None
        found = self._known.execute("select stamp, batches, beside from look").fetchone()
        if found is None or found[0] != stamp:
            return None
        files = self._known.execute("select uri, size, mark from files")
        while window := files.fetchmany(WINDOW):
            for (uri, size, mark), state in zip(window, self._states([uri for uri, _, _ in window]), strict=True):
                now = (MISSING, "") if isinstance(state, FileNotFoundError) else state
                if isinstance(now, Exception) or not _same(Digest(size, mark, ""), now, uri, missing=size == MISSING):
                    return None
        return Look(stamp, tuple((name, rows) for name, rows in json.loads(found[1])), json.loads(found[2]))

    def save(self, look: Look | None = None) -> None:
        """Keep the digests of the files that were asked for; others are no longer in the source. Ends the cache.

        look: what they made, if every file's state is known.
        """
        count = "select count(*) from files"
        known = self._known.execute(count).fetchone()[0] if self._known is not None else None
        kept = look if self._complete else None
        if self._changed or kept is not None or known != self._db.execute(count).fetchone()[0]:
            if kept is not None:
                said = (kept.stamp, json.dumps(kept.batches), json.dumps(kept.beside))
                self._db.execute("insert into look values (?, ?, ?)", said)
            self._db.execute("commit")
            self._write()
        self._count_fetches()
        self.close()

    def _write(self) -> None:
        with tempfile.TemporaryDirectory(prefix="mmgen-") as folder, self._store.pieces("cache") as out:
            path = Path(folder, "files.sqlite")
            try:
                self._db.execute("vacuum into ?", (str(path),))
            except sqlite3.Error as error:
                raise StoreError(f"could not write {self._store.full(self._path)}: {_why(path, error)}") from error
            with path.open("rb") as stream:
                while chunk := stream.read(CHUNK_BYTES):
                    out.write(chunk)
            out.commit(self._path)

    def _count_fetches(self) -> None:
        if self.patience.calls:
            calls, retries = _fetches(self._store, self._name)
            counts = [calls + self.patience.calls, retries + self.patience.retries]
            self._store.write(f"cache/fetches-{self._name}.json", json.dumps(counts).encode())
            self.patience = Patience()

    def close(self) -> None:
        """Let go of its files. What was not saved is lost."""
        self._db.close()
        if self._known is not None:
            self._known.close()


def cache_path(name: str) -> str:
    """Where in a store the cache of a data set lies. It names the source's files."""
    return f"cache/source-{name}.sqlite"


def _open(store: Store, path: str) -> sqlite3.Connection | None:
    """The cache of the store, read-only; None for one that is not there or cannot be read."""
    try:
        with contextlib.ExitStack() as stack:
            if store.local:
                local = store.full(path)
            else:
                local = stack.enter_context(tempfile.NamedTemporaryFile(prefix="mmgen-")).name
                Path(local).write_bytes(store.read(path))
            found = sqlite3.connect(f"{Path(local).as_uri()}?mode=ro&immutable=1", uri=True)
            try:
                found.execute("select uri, size, mark, sha256 from files limit 1").fetchone()
                found.execute("select stamp, batches, beside from look limit 1").fetchone()
            except sqlite3.DatabaseError:
                found.close()
                raise
            return found
    except (FileNotFoundError, sqlite3.DatabaseError):
        return None


def _select(database: sqlite3.Connection, uris: Sequence[str]) -> dict[str, Digest]:
    """What the database has of these files."""
    found: dict[str, Digest] = {}
    for start in range(0, len(uris), WINDOW):
        asked = "select uri, size, mark, sha256 from files where uri in (select value from json_each(?))"
        with contextlib.suppress(sqlite3.DatabaseError):
            # a damaged page is as good as one that is not there
            rows = database.execute(asked, (json.dumps(uris[start : start + WINDOW]),)).fetchall()
            found |= {uri: Digest(size, mark, digest) for uri, size, mark, digest in rows}
    return found


def _why(path: Path, error: sqlite3.Error) -> str:
    """What the system says of writing there: SQLite tells no more than that it failed."""
    try:
        path.with_suffix(".probe").write_bytes(bytes(CHUNK_BYTES))
    except OSError as told:
        return told.strerror or str(told)
    return str(error)


def _told(found: Digest | Exception, uri: str) -> Digest | Exception:
    return FileNotFoundError(uri) if isinstance(found, Digest) and found.size == MISSING else found


def _same(known: Digest, state: tuple[int, str], uri: str, *, missing: bool = False) -> bool:
    """Whether a file of this state is the known one."""
    size, mark = state
    if missing or known.size == MISSING:
        return size == known.size
    # a web server may leave the size open until all is sent
    return bool(mark) and known.mark == mark and size in (known.size, *((0,) if "://" in uri else ()))


def _local_state(path: str) -> tuple[int, str] | Exception:
    """What `stat_uri` tells, without the detour that makes its errors ours: asked for every file of a source."""
    try:
        found = os.stat(path)
        # what is no file is refused there, and what fails is told there
        return (found.st_size, str(found.st_mtime_ns)) if stat.S_ISREG(found.st_mode) else stat_uri(path)
    except (OSError, ValueError, StoreError):
        try:
            return stat_uri(path)
        except (OSError, StoreError) as error:
            return error


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
