"""The store: bytes in and out. Local folders and object stores behave the same.

A write is atomic (a reader sees all of it or nothing); `create` refuses to replace, which is what makes
a manifest's put a commit (law 4).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from mmgen.errors import StoreError
from mmgen.filesystems import Reading, filesystem, is_local, outside

CHUNK_BYTES = 1 << 20


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


class Store:
    """A folder or an object-store prefix that mmgen owns. Paths are relative, with '/'."""

    def __init__(self, root: str | Path) -> None:
        self.uri = str(root)
        self.fs, base = filesystem(self.uri)
        self.local = is_local(self.fs)
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
        with outside("look up", self.full(path)):
            return bool(os.path.exists(self.full(path)) if self.local else self.fs.exists(self.full(path)))

    def size(self, path: str) -> int | None:
        """Bytes of the file at `path`, None if there is none."""
        try:
            with outside("look up", self.full(path)):
                return os.stat(self.full(path)).st_size if self.local else int(self.fs.size(self.full(path)))
        except FileNotFoundError:
            return None

    def modified(self, path: str) -> float:
        """When the file at `path` was last written, in seconds since 1970. Raises FileNotFoundError."""
        with outside("look up", self.full(path)):
            full = self.full(path)
            return os.stat(full).st_mtime if self.local else self.fs.modified(full).timestamp()

    def read(self, path: str) -> bytes:
        """All bytes of `path`. Raises FileNotFoundError, StoreError."""
        with outside("read", self.full(path)):
            return bytes(self.fs.cat_file(self.full(path)))

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        """`length` bytes of `path` from `offset`."""
        with outside("read", self.full(path)):
            return bytes(self.fs.cat_file(self.full(path), start=offset, end=offset + length))

    def open(self, path: str) -> Any:
        """A readable binary stream of `path`."""
        with outside("read", self.full(path)):
            stream = self.fs.open(self.full(path), "rb")
            return stream if self.local else Reading(stream, self.full(path))

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
        with outside("write", self.full(folder)):
            where.mkdir(parents=True, exist_ok=True)
            written = Pieces(self, where / f".tmp-{os.getpid()}-{secrets.token_hex(4)}")
        try:
            yield written
        finally:
            written.close()

    def _put(self, path: str, data: bytes, *, create: bool) -> bool:
        full = self.full(path)
        with outside("write", full):
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
            with outside("list", full):
                if self.local:
                    return sorted(os.listdir(full))
                self.fs.invalidate_cache(full)
                return sorted({str(entry).rstrip("/").rsplit("/", 1)[-1] for entry in self.fs.ls(full, detail=False)})
        except FileNotFoundError:
            return []

    def walk(self, path: str = "") -> list[str]:
        """Sorted relative paths of all files below `path`."""
        full = self.full(path) if path else self.base
        with outside("list", full):
            return sorted(str(found)[len(self.base) + 1 :] for found in self.fs.find(full))

    def delete(self, path: str) -> None:
        """Remove the file at `path` if it is there."""
        with contextlib.suppress(FileNotFoundError), outside("delete", self.full(path)):
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
            with outside("write", str(cached)):
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
        with outside("write", str(self._temporary)):
            rest = memoryview(data)
            while rest:
                # a write may take less than it is given
                rest = rest[self._stream.write(rest) :]
        return len(data)

    def commit(self, path: str) -> None:
        """Give the file its name, replacing; atomic and on the disk when it returns. Raises StoreError."""
        full = self._store.full(path)
        with outside("write", full):
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
