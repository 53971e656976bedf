"""Bytes in and out: the one door to fsspec. Local folders and object stores behave the same.

A write is atomic (a reader sees all of it or nothing); `create` refuses to replace, which is what makes
a manifest's put a commit (law 4).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import secrets
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import IO, Any, TypeVar

import fsspec
import fsspec.asyn

from mmgen.errors import StoreError

CHUNK_BYTES = 1 << 20
#: remote files that are asked for together, for each connection
_LOT = 4

T = TypeVar("T")


def sha256(data: bytes) -> str:
    """Hex digest of `data`."""
    return hashlib.sha256(data).hexdigest()


def sha256_stream(stream: IO[bytes]) -> str:
    """Hex digest of all that is left in `stream`, read in chunks."""
    digest = hashlib.sha256()
    while chunk := stream.read(CHUNK_BYTES):
        digest.update(chunk)
    return digest.hexdigest()


def sha256_file(path: str | Path) -> str:
    """Hex digest of a local file's bytes."""
    with open(path, "rb") as stream:
        return sha256_stream(stream)


@contextlib.contextmanager
def _outside(what: str, uri: str) -> Iterator[None]:
    """Turn an I/O failure into a StoreError that says what was tried and where. A missing file stays one."""
    try:
        yield
    except FileNotFoundError as error:
        # fsspec's HTTP says so of every failure; a real one has no cause, or one like itself
        if isinstance(error.__cause__, _client_errors()):
            raise StoreError(f"could not {what} {uri}: {error.__cause__}") from error
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise StoreError(f"could not {what} {uri}: {reason}") from error
    except _client_errors() as error:
        raise StoreError(f"could not {what} {uri}: {' '.join(str(error).split())}") from error


def _client_errors() -> tuple[type[Exception], ...]:
    """What clients of S3 and HTTP raise beside OSError (no connection, no credentials); none where none was loaded."""
    s3, http = sys.modules.get("botocore.exceptions"), sys.modules.get("aiohttp")
    return (*((s3.BotoCoreError,) if s3 else ()), *((http.ClientError,) if http else ()))


class Store:
    """A folder or an object-store prefix that mmgen owns. Paths are relative, with '/'."""

    def __init__(self, root: str | Path) -> None:
        self.uri = str(root)
        self.fs, base = fsspec.core.url_to_fs(self.uri)
        self.local = isinstance(self.fs, fsspec.implementations.local.LocalFileSystem)
        self.base = os.path.abspath(base) if self.local else base.rstrip("/")

    def __repr__(self) -> str:
        return f"Store({self.uri!r})"

    def __reduce__(self) -> tuple[type[Store], tuple[str]]:
        return (Store, (self.uri,))

    def full(self, path: str) -> str:
        """The absolute path or key of `path`. Raises StoreError if it would leave the store."""
        if path.startswith("/") or ".." in path.split("/"):
            raise StoreError(f"path '{path}' leaves the store {self.uri}")
        return f"{self.base}/{path}"

    def exists(self, path: str) -> bool:
        with _outside("look up", self.full(path)):
            return bool(os.path.exists(self.full(path)) if self.local else self.fs.exists(self.full(path)))

    def size(self, path: str) -> int | None:
        """Bytes of the file at `path`, None if there is none."""
        try:
            with _outside("look up", self.full(path)):
                return os.stat(self.full(path)).st_size if self.local else int(self.fs.size(self.full(path)))
        except FileNotFoundError:
            return None

    def modified(self, path: str) -> float:
        """When the file at `path` was last written, in seconds since 1970. Raises FileNotFoundError."""
        with _outside("look up", self.full(path)):
            full = self.full(path)
            return os.stat(full).st_mtime if self.local else self.fs.modified(full).timestamp()

    def read(self, path: str) -> bytes:
        """All bytes of `path`. Raises FileNotFoundError, StoreError."""
        with _outside("read", self.full(path)):
            return bytes(self.fs.cat_file(self.full(path)))

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        """`length` bytes of `path` from `offset`."""
        with _outside("read", self.full(path)):
            return bytes(self.fs.cat_file(self.full(path), start=offset, end=offset + length))

    def open(self, path: str) -> Any:
        """A readable binary stream of `path`."""
        with _outside("read", self.full(path)):
            return self.fs.open(self.full(path), "rb")

    def write(self, path: str, data: bytes) -> None:
        """Write `data` at `path`, replacing; atomic and on the disk when it returns."""
        self._put(path, data, create=False)

    def create(self, path: str, data: bytes) -> bool:
        """Write `data` at `path` only if nothing is there; False if something was. Atomic."""
        return self._put(path, data, create=True)

    @contextlib.contextmanager
    def pieces(self, folder: str) -> Iterator[Pieces]:
        """A file of `folder` that is written piece by piece and named at its end; without a name nothing stays."""
        where = Path(self.full(folder)) if self.local else Path(tempfile.gettempdir())
        with _outside("write", self.full(folder)):
            where.mkdir(parents=True, exist_ok=True)
            written = Pieces(self, where / f".tmp-{os.getpid()}-{secrets.token_hex(4)}")
        try:
            yield written
        finally:
            written.close()

    def _put(self, path: str, data: bytes, *, create: bool) -> bool:
        full = self.full(path)
        with _outside("write", full):
            if self.local:
                return _put_local(Path(full), data, create=create)
            return self._put_remote(full, data, create=create)

    def _put_remote(self, full: str, data: bytes, *, create: bool) -> bool:
        try:
            self.fs.pipe_file(full, data, mode="create" if create else "overwrite")
        except FileExistsError:
            return False
        self.fs.invalidate_cache()
        return True

    def names(self, path: str) -> list[str]:
        """Sorted names (not paths) directly below `path`; empty if there is nothing."""
        full = self.full(path)
        try:
            with _outside("list", full):
                if self.local:
                    return sorted(os.listdir(full))
                self.fs.invalidate_cache(full)
                return sorted({str(entry).rstrip("/").rsplit("/", 1)[-1] for entry in self.fs.ls(full, detail=False)})
        except FileNotFoundError:
            return []

    def walk(self, path: str = "") -> list[str]:
        """Sorted relative paths of all files below `path`."""
        full = self.full(path) if path else self.base
        with _outside("list", full):
            return sorted(str(found)[len(self.base) + 1 :] for found in self.fs.find(full))

    def delete(self, path: str) -> None:
        """Remove the file at `path` if it is there."""
        with contextlib.suppress(FileNotFoundError), _outside("delete", self.full(path)):
            self.fs.rm_file(self.full(path))

    def local_path(self, path: str) -> Path:
        """A local file with the bytes of `path`: itself, or a copy in the cache `$MMGEN_CACHE`.

        Files are immutable once named by a manifest, so a copy of the recorded size stays good.
        """
        if self.local:
            return Path(self.full(path))
        root = Path(os.environ.get("MMGEN_CACHE") or Path.home() / ".cache" / "mmgen")
        cached = root / sha256(self.uri.encode())[:16] / path
        if not cached.exists() or cached.stat().st_size != self.size(path):
            _put_local(cached, self.read(path), create=False)
        return cached


class Pieces:
    """A file on its way into a store; see `Store.pieces`."""

    def __init__(self, store: Store, temporary: Path) -> None:
        self._store, self._temporary = store, temporary
        # what comes here was gathered already
        self._stream = open(temporary, "wb", buffering=0)  # noqa: SIM115

    def write(self, data: bytes) -> int:
        """Append `data`. Raises StoreError."""
        with _outside("write", str(self._temporary)):
            rest = memoryview(data)
            while rest:
                # a write may take less than it is given
                rest = rest[self._stream.write(rest) :]
        return len(data)

    def commit(self, path: str) -> None:
        """Give the file its name, replacing; atomic and on the disk when it returns. Raises StoreError."""
        full = self._store.full(path)
        with _outside("write", full):
            if not self._store.local:
                self._store.fs.put_file(str(self._temporary), full)
                self._store.fs.invalidate_cache()
                return
            os.fsync(self._stream.fileno())
            os.replace(self._temporary, full)
            _fsync_folder(Path(full).parent)

    def close(self) -> None:
        """End it; what has no name by now goes."""
        self._stream.close()
        self._temporary.unlink(missing_ok=True)


def _put_local(target: Path, data: bytes, *, create: bool) -> bool:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f".tmp-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        with open(temporary, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        if create:
            try:
                # a hard link is the local create-only put: it fails if the name is taken
                os.link(temporary, target)
            except FileExistsError:
                return False
        else:
            os.replace(temporary, target)
        _fsync_folder(target.parent)
        return True
    finally:
        temporary.unlink(missing_ok=True)


def _fsync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # some network file systems refuse to fsync a folder; the file itself is already on the disk
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def open_uri(uri: str) -> Any:
    """A readable, seekable binary stream of a source's file, local or remote. Raises FileNotFoundError, StoreError."""
    with _outside("read", uri):
        # a local file needs none of fsspec's look-ups, which cost more than reading a small one
        return open(uri, "rb") if "://" not in uri else fsspec.open(uri, "rb").open()


def read_uri(uri: str, *, limit_bytes: int | None = None, offset: int = 0) -> bytes:
    """Bytes of a source's file from `offset`; at most `limit_bytes` + 1 of them, so a caller can tell more.

    Raises FileNotFoundError, StoreError.
    """
    with open_uri(uri) as stream, _outside("read", uri):
        if offset:
            stream.seek(offset)
        return bytes(stream.read() if limit_bytes is None else stream.read(limit_bytes + 1))


def read_uris(uris: Sequence[str], connections: int) -> Iterator[tuple[str, bytes] | Exception]:
    """(change mark, bytes) of remote files in their order, so many at once, each in one request; or what it raised.

    The mark is that of `stat_uri`, "" where the store does not tell it with the bytes. What fails is a
    FileNotFoundError or StoreError in its place.
    """
    return _side_by_side("read", _read_remote, uris, connections)


def stat_uris(uris: Sequence[str], connections: int) -> Iterator[tuple[int, str] | Exception]:
    """What `stat_uri` tells of remote files in their order, so many at once; or what it raised."""
    return _side_by_side("look up", _stat_remote, uris, connections)


def _side_by_side(
    what: str, work: Callable[[str], Coroutine[Any, Any, T]], uris: Sequence[str], connections: int
) -> Iterator[T | Exception]:
    """What `work` gives for each, on the event loop where fsspec's clients live: a thread's turn is paid once a lot."""
    free, lot = asyncio.Semaphore(connections), _LOT * connections

    async def one(uri: str) -> T | Exception:
        async with free:
            try:
                with _outside(what, uri):
                    return await work(uri)
            except (OSError, StoreError) as error:
                return error

    async def many(some: Sequence[str]) -> list[T | Exception]:
        return await asyncio.gather(*(one(uri) for uri in some))

    ahead: deque[Future[list[T | Exception]]] = deque()
    for start in range(0, len(uris), lot):
        ahead.append(asyncio.run_coroutine_threadsafe(many(uris[start : start + lot]), fsspec.asyn.get_loop()))
        # while one lot is taken, the next is on its way
        if len(ahead) == 2:
            yield from ahead.popleft().result()
    while ahead:
        yield from ahead.popleft().result()


async def _stat_remote(uri: str) -> tuple[int, str]:
    fs, path = fsspec.core.url_to_fs(uri)
    return _size_and_mark(await (fs._info(path) if fs.async_impl else asyncio.to_thread(fs.info, path)))


async def _read_remote(uri: str) -> tuple[str, bytes]:
    fs, path = fsspec.core.url_to_fs(uri)
    if not fs.async_impl:
        return "", await asyncio.to_thread(fs.cat_file, path)
    if not uri.startswith(("http://", "https://")):
        return "", await fs._cat_file(path)
    # fsspec's session, whose own reading drops the headers, and would look them up in a request before
    session = await fs.set_session()
    settings = {**fs.kwargs, "headers": {"Accept-Encoding": "identity", **fs.kwargs.get("headers", {})}}
    async with session.get(fs.encode_url(path), **settings) as response:
        fs._raise_not_found_for_status(response, path)
        return response.headers.get("ETag") or response.headers.get("Last-Modified", ""), await response.read()


def stat_uri(uri: str) -> tuple[int, str]:
    """(size in bytes, change mark) of a file; the mark is its mtime in ns, or an ETag. Raises FileNotFoundError."""
    with _outside("look up", uri):
        if "://" not in uri:
            found = os.stat(uri)
            return found.st_size, str(found.st_mtime_ns)
        fs, path = fsspec.core.url_to_fs(uri)
        return _size_and_mark(fs.info(path))


def stat_folder(uri: str) -> dict[str, tuple[int, str]]:
    """Name → (size in bytes, change mark) of the files directly below a remote folder, in one listing.

    Raises FileNotFoundError, StoreError.
    """
    with _outside("list", uri):
        fs, path = fsspec.core.url_to_fs(uri)
        fs.invalidate_cache(path)
        found = [info for info in fs.ls(path, detail=True) if info["type"] == "file"]
        return {str(info["name"]).rpartition("/")[2]: _size_and_mark(info) for info in found}


def _size_and_mark(info: Mapping[str, Any]) -> tuple[int, str]:
    # S3, GCS, web servers and file systems, each in its own spelling
    names = ("ETag", "etag", "LastModified", "Last-Modified", "mtime")
    return int(info["size"] or 0), str(next((info[name] for name in names if info.get(name)), ""))


def list_uri(uri: str) -> list[str]:
    """Sorted URIs of all files below the folder `uri`, symbolic links not followed out of it."""
    with _outside("list", uri):
        if "://" not in uri:
            root = os.path.abspath(uri)
            return sorted(os.path.join(folder, name) for folder, _, names in os.walk(root) for name in names)
        fs, path = fsspec.core.url_to_fs(uri)
        return sorted(fs.unstrip_protocol(found) for found in fs.find(path))
