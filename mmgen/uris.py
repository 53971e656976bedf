"""A source's files, local and remote, by path or address: opened, read, looked up, listed."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import stat
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

from mmgen.errors import SourceError, StoreError
from mmgen.filesystems import Reading, clients_loop, filesystem, outside
from mmgen.store import CHUNK_BYTES

#: remote files that are asked for together, for each connection
_LOT = 4

T = TypeVar("T")


def open_uri(uri: str, *, named: Sequence[str] | None = None) -> Any:
    """A readable, seekable binary stream of a source's file, local or remote.

    named: hosts that may have private addresses (`mmgen.addresses.hosts_of`); None: that of `uri`, if any. Raises
    FileNotFoundError, StoreError, AddressRefused.
    """
    with outside("read", uri):
        # a local file needs none of fsspec's look-ups, which cost more than reading a small one
        if "://" not in uri:
            _refuse_pipe(os.stat(uri))
            return open(uri, "rb")
        fs, path = filesystem(uri, named)
        return Reading(fs.open(path, "rb"), uri)


def read_uri(uri: str, *, limit_bytes: int | None = None, offset: int = 0, named: Sequence[str] | None = None) -> bytes:
    """Bytes of a source's file from `offset`; at most `limit_bytes` + 1 of them, so a caller can tell more.

    Raises what `open_uri` raises.
    """
    with open_uri(uri, named=named) as stream, outside("read", uri):
        if offset:
            stream.seek(offset)
        return bytes(stream.read() if limit_bytes is None else stream.read(limit_bytes + 1))


def digest_uri(uri: str, *, named: Sequence[str] | None = None) -> tuple[int, str]:
    """(size in bytes, sha256) of a source's file, read in chunks. Raises what `open_uri` raises."""
    size, digest = 0, hashlib.sha256()
    with open_uri(uri, named=named) as stream, outside("read", uri):
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
                with outside(what, uri):
                    return await work(uri)
            except (OSError, StoreError) as error:
                return error

    async def many(some: Sequence[str]) -> list[T | Exception]:
        return await asyncio.gather(*(one(uri) for uri in some))

    ahead: deque[Future[list[T | Exception]]] = deque()
    for start in range(0, len(uris), lot):
        ahead.append(asyncio.run_coroutine_threadsafe(many(uris[start : start + lot]), clients_loop()))
        # while one lot is taken, the next is on its way
        if len(ahead) == 2:
            yield from ahead.popleft().result()
    while ahead:
        yield from ahead.popleft().result()


async def _stat_remote(uri: str, named: Sequence[str] | None) -> tuple[int, str]:
    fs, path = filesystem(uri, named)
    return _size_and_mark(await (fs._info(path) if fs.async_impl else asyncio.to_thread(fs.info, path)))


async def _read_remote(uri: str, named: Sequence[str] | None) -> tuple[str, bytes]:
    fs, path = filesystem(uri, named)
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
    with outside("look up", uri):
        if "://" not in uri:
            found = os.stat(uri)
            _refuse_pipe(found)
            return found.st_size, str(found.st_mtime_ns)
        fs, path = filesystem(uri, named)
        return _size_and_mark(fs.info(path))


def _refuse_pipe(found: os.stat_result) -> None:
    # opening a pipe waits for its writer
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
        raise OSError(errno.EINVAL, "neither a file nor a folder")


def stat_folder(uri: str) -> dict[str, tuple[int, str]]:
    """Name → (size in bytes, change mark) of the files directly below a remote folder, in one listing.

    Raises FileNotFoundError, StoreError.
    """
    with outside("list", uri):
        fs, path = filesystem(uri)
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
    with outside("list", uri):
        fs, path = filesystem(uri)
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
