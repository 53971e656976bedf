"""Bytes in and out: the one door to fsspec. Local folders and object stores behave the same.

A write is atomic (a reader sees all of it or nothing); `create` refuses to replace, which is what makes
a manifest's put a commit (law 4).
"""

from __future__ import annotations

import asyncio
import configparser
import contextlib
import errno
import hashlib
import os
import secrets
import stat
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import IO, Any, TypeVar

import fsspec
import fsspec.asyn

from mmgen.addresses import Guard, PrivateAddress, hosts_of
from mmgen.errors import AddressRefused, SourceError, StoreError

CHUNK_BYTES = 1 << 20
#: attempts of a request to S3, the first one included: some ten seconds until a server that is away is told
S3_ATTEMPTS = 5
#: seconds a web server may take to accept a connection, and to send the next bytes
CONNECT_SECONDS, SILENT_SECONDS = 10, 30
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
        _raise_refused(what, uri, error)
        if isinstance(error.__cause__, _client_errors()):
            raise StoreError(f"could not {what} {uri}: {error.__cause__}") from error
        raise
    except OSError as error:
        _raise_refused(what, uri, error)
        reason = error.strerror or str(error)
        raise StoreError(f"could not {what} {uri}: {reason}") from error
    except _client_errors() as error:
        _raise_refused(what, uri, error)
        raise StoreError(f"could not {what} {uri}: {' '.join(str(error).split())}") from error


def _raise_refused(what: str, uri: str, error: BaseException) -> None:
    """Raises AddressRefused if `error` came of an address that may not be reached."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, PrivateAddress):
        cause = cause.__cause__
    if cause is not None:
        raise AddressRefused(f"could not {what} {uri}: {cause.strerror}") from error


def _client_errors() -> tuple[type[Exception], ...]:
    """What clients of S3 and HTTP raise beside OSError (no connection, no credentials); none where none was loaded."""
    s3, http = sys.modules.get("botocore.exceptions"), sys.modules.get("aiohttp")
    return (*((s3.BotoCoreError,) if s3 else ()), *((http.ClientError,) if http else ()))


def _filesystem(uri: str, named: Sequence[str] | None = None) -> tuple[Any, str]:
    """fsspec's file system of `uri` and the path in it, with a patience of seconds. What the user set goes before.

    named: see `open_uri`.
    """
    scheme = uri.partition("://")[0] if "://" in uri else "file"
    if scheme in ("http", "https"):
        fsspec.get_filesystem_class(scheme)
        # its own is five minutes for a whole file, however slowly or quickly it comes
        limits = sys.modules["aiohttp"].ClientTimeout(
            total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENT_SECONDS
        )
        own = fsspec.config.conf.get(scheme, {}).get("client_kwargs", {})
        guard = Guard(hosts_of([uri]) if named is None else tuple(named))
        # the address as it is: `::` may be part of a host
        fs, path = fsspec.filesystem("http", get_client=guard, client_kwargs={"timeout": limits, **own}), uri
    elif scheme in ("s3", "s3a"):
        own = fsspec.config.conf.get(scheme, {}).get("config_kwargs", {})
        # "standard" ends soon for many requests to a server that is away: they share a quota of retries
        ours = {} if _has_aws_retries() else {"retries": {"mode": "standard", "total_max_attempts": S3_ATTEMPTS}}
        fs, path = fsspec.core.url_to_fs(uri, config_kwargs={**ours, **own})
        # it repeats all that its client has repeated already; twice is for answers that break off
        fs.retries = 2
    else:
        fs, path = fsspec.core.url_to_fs(uri)
    return fs, path


def _has_aws_retries() -> bool:
    """Whether the environment, or the profile of the AWS configuration file, says how often requests are repeated."""
    if {"AWS_MAX_ATTEMPTS", "AWS_RETRY_MODE"} & os.environ.keys():
        return True
    read = configparser.ConfigParser(interpolation=None, strict=False)
    with contextlib.suppress(configparser.Error, UnicodeDecodeError):
        read.read(Path(os.environ.get("AWS_CONFIG_FILE") or "~/.aws/config").expanduser(), encoding="utf-8")
    profile = os.environ.get("AWS_PROFILE", "default")
    section = profile if profile == "default" else f"profile {profile}"
    return any(read.has_option(section, name) for name in ("max_attempts", "retry_mode"))


class _Reading:
    """A remote stream whose failures are StoreErrors also while it is read."""

    def __init__(self, stream: Any, uri: str) -> None:
        self._stream, self._uri = stream, uri

    def read(self, size: int | None = -1) -> bytes:
        with _outside("read", self._uri):
            return bytes(self._stream.read(-1 if size is None else size))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __enter__(self) -> _Reading:
        return self

    def __exit__(self, *error: object) -> None:
        self._stream.close()


class Store:
    """A folder or an object-store prefix that mmgen owns. Paths are relative, with '/'."""

    def __init__(self, root: str | Path) -> None:
        self.uri = str(root)
        self.fs, base = _filesystem(self.uri)
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
            stream = self.fs.open(self.full(path), "rb")
            return stream if self.local else _Reading(stream, self.full(path))

    def write(self, path: str, data: bytes) -> None:
        """Write `data` at `path`, replacing; atomic and on the disk when it returns."""
        self._put(path, data, create=False)

    def create(self, path: str, data: bytes) -> bool:
        """Write `data` at `path` only if nothing is there; False if something else was. Atomic."""
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
            # a put whose answer was lost is sent again by the client, and finds what it wrote itself
            return bool(self.fs.cat_file(full) == data)
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
            data = self.read(path)
            with _outside("write", str(cached)):
                _put_local(cached, data, create=False)
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


def open_uri(uri: str, *, named: Sequence[str] | None = None) -> Any:
    """A readable, seekable binary stream of a source's file, local or remote.

    named: hosts that may have private addresses (`mmgen.addresses.hosts_of`); None: that of `uri`, if any. Raises
    FileNotFoundError, StoreError, AddressRefused.
    """
    with _outside("read", uri):
        # a local file needs none of fsspec's look-ups, which cost more than reading a small one
        if "://" not in uri:
            _refuse_pipe(os.stat(uri))
            return open(uri, "rb")
        fs, path = _filesystem(uri, named)
        return _Reading(fs.open(path, "rb"), uri)


def read_uri(uri: str, *, limit_bytes: int | None = None, offset: int = 0, named: Sequence[str] | None = None) -> bytes:
    """Bytes of a source's file from `offset`; at most `limit_bytes` + 1 of them, so a caller can tell more.

    Raises what `open_uri` raises.
    """
    with open_uri(uri, named=named) as stream, _outside("read", uri):
        if offset:
            stream.seek(offset)
        return bytes(stream.read() if limit_bytes is None else stream.read(limit_bytes + 1))


def digest_uri(uri: str, *, named: Sequence[str] | None = None) -> tuple[int, str]:
    """(size in bytes, sha256) of a source's file, read in chunks. Raises what `open_uri` raises."""
    size, digest = 0, hashlib.sha256()
    with open_uri(uri, named=named) as stream, _outside("read", uri):
        while chunk := stream.read(CHUNK_BYTES):
            size += len(chunk)
            digest.update(chunk)
    return size, digest.hexdigest()


def read_uris(
    uris: Sequence[str], connections: int, *, named: Sequence[str] | None = None
) -> Iterator[tuple[str, bytes] | Exception]:
    """(change mark, bytes) of remote files in their order, so many at once, each in one request; or what it raised.

    The mark is that of `stat_uri`, "" where the store does not tell it with the bytes. What fails is a
    FileNotFoundError or StoreError in its place.
    """
    return _side_by_side("read", partial(_read_remote, named=named), uris, connections)


def stat_uris(
    uris: Sequence[str], connections: int, *, named: Sequence[str] | None = None
) -> Iterator[tuple[int, str] | Exception]:
    """What `stat_uri` tells of remote files in their order, so many at once; or what it raised."""
    return _side_by_side("look up", partial(_stat_remote, named=named), uris, connections)


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


async def _stat_remote(uri: str, named: Sequence[str] | None) -> tuple[int, str]:
    fs, path = _filesystem(uri, named)
    return _size_and_mark(await (fs._info(path) if fs.async_impl else asyncio.to_thread(fs.info, path)))


async def _read_remote(uri: str, named: Sequence[str] | None) -> tuple[str, bytes]:
    fs, path = _filesystem(uri, named)
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


def stat_uri(uri: str, *, named: Sequence[str] | None = None) -> tuple[int, str]:
    """(size in bytes, change mark) of a file; the mark is its mtime in ns, or an ETag. Raises as `open_uri`."""
    with _outside("look up", uri):
        if "://" not in uri:
            found = os.stat(uri)
            _refuse_pipe(found)
            return found.st_size, str(found.st_mtime_ns)
        fs, path = _filesystem(uri, named)
        return _size_and_mark(fs.info(path))


def _refuse_pipe(found: os.stat_result) -> None:
    # opening a pipe waits for its writer
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
        raise OSError(errno.EINVAL, "neither a file nor a folder")


def stat_folder(uri: str) -> dict[str, tuple[int, str]]:
    """Name → (size in bytes, change mark) of the files directly below a remote folder, in one listing.

    Raises FileNotFoundError, StoreError.
    """
    with _outside("list", uri):
        fs, path = _filesystem(uri)
        fs.invalidate_cache(path)
        found = [info for info in fs.ls(path, detail=True) if info["type"] == "file"]
        return {str(info["name"]).rpartition("/")[2]: _size_and_mark(info) for info in found}


def _size_and_mark(info: Mapping[str, Any]) -> tuple[int, str]:
    # S3, GCS, web servers and file systems, each in its own spelling
    names = ("ETag", "etag", "LastModified", "Last-Modified", "mtime")
    return int(info["size"] or 0), str(next((info[name] for name in names if info.get(name)), ""))


def walk_uri(uri: str) -> Iterator[str]:
    """URIs of all files below the folder `uri`, folder by folder, symbolic links not followed out of it.

    Raises SourceError for a local folder that may not be read, StoreError for a server.
    """
    if "://" not in uri:
        for folder, _, names in os.walk(os.path.abspath(uri), onerror=_unlisted):
            yield from (f"{folder}/{name}" for name in names)
        return
    with _outside("list", uri):
        fs, path = _filesystem(uri)
        fs.invalidate_cache(path)
        for found in fs.find(path):
            # spelled as the folder is: a file system may have several spellings
            yield f"{uri.rstrip('/')}/{found[len(path.rstrip('/')) :].lstrip('/')}"


def _unlisted(error: OSError) -> None:
    # os.walk passes over what it cannot list; files that nobody sees would vanish (law 6)
    raise SourceError(f"source.path: {error.filename}: {error.strerror}; allow it to be listed, or move it away")


def list_uri(uri: str) -> list[str]:
    """What `walk_uri` gives, sorted."""
    return sorted(walk_uri(uri))
