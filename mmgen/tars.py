"""Tar files: a deterministic writer, an index that makes every byte checkable, a random-access reader.

Readers of WebDataset, Hugging Face and energon read what is written here; this is also the one door to `webdataset`.
The index (`<tar>.idx`, JSON lines) has a head with the tar's size and digest, a line per member, and a last line with
the digest of the lines above it.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring
from pathlib import Path
from typing import IO, Any, Protocol

from mmgen.errors import IntegrityError, SourceError
from mmgen.records import MODALITIES

BLOCK = 512
INDEX_FORMAT = 1
#: extensions that are handed to `webdataset`; whatever it would unpickle or execute is not among them
SAFE_EXTENSIONS = ("txt", "json", "png", "jpg", "webp", "gif", "bmp", "tif", "wav", "flac", "ogg", "mp3", "aiff")

_SAFE = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]")
_ESCAPE = re.compile(r"%([0-9A-F]{2})")


def safe_key(key: str) -> str:
    """`key` as the start of a member's name: every byte but [A-Za-z0-9_-] as %XX. `key_of` takes it back.

    The first of two leading underscores too: Hugging Face passes over members whose names begin with both.
    """
    safe = key
    if _UNSAFE.search(key):
        safe = "".join(chr(byte) if byte in _SAFE else f"%{byte:02X}" for byte in key.encode())
    return f"%5F{safe[1:]}" if safe.startswith("__") else safe


def key_of(safe: str) -> str:
    """The key that `safe_key` wrote. Raises ValueError if it wrote no such thing."""
    raw = _ESCAPE.sub(lambda match: chr(int(match[1], 16)), safe).encode("latin-1").decode()
    if safe_key(raw) != safe:
        raise ValueError(f"'{safe}' is not a safe key")
    return raw


def member_suffix(slot: str, ext: str) -> str:
    """What follows a key's dot in the name of a member: `<ext>` for the default slots, `<slot>.<ext>` for others."""
    return ext if slot in MODALITIES else f"{slot}.{ext}"


@dataclass(frozen=True, slots=True)
class Member:
    """A file in a tar. offset: of its first byte, from the start of the tar. length in bytes."""

    name: str
    offset: int
    length: int
    sha256: str

    @property
    def key(self) -> str:
        """The safe key: what stands before the first dot of the name."""
        return self.name.split(".", 1)[0]

    @property
    def suffix(self) -> str:
        """What stands after the first dot: `png`, or `<slot>.png`."""
        return self.name.split(".", 1)[1] if "." in self.name else ""


@dataclass(frozen=True)
class TarIndex:
    """All members of a tar in order, and the tar's own size and digest."""

    members: tuple[Member, ...]
    length: int
    sha256: str

    def to_bytes(self) -> bytes:
        """The index file. Its last line is the digest of all before."""
        head = {"format": INDEX_FORMAT, "members": len(self.members), "length": self.length, "sha256": self.sha256}
        lines = [json.dumps(head, separators=(",", ":"))]
        lines += [f'[{encode_basestring(m.name)},{m.offset},{m.length},"{m.sha256}"]' for m in self.members]
        body = ("\n".join(lines) + "\n").encode()
        return body + hashlib.sha256(body).hexdigest().encode() + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> TarIndex:
        """Read an index file. Raises IntegrityError for any byte that is not as it was written."""
        body, seal = data[:-65], data[-65:]
        if hashlib.sha256(body).hexdigest().encode() + b"\n" != seal:
            raise IntegrityError(f"{where}: not a whole tar index (its last line is not the digest of the lines above)")
        # one call for all lines is several times as fast as a call for each
        head, *lines = json.loads(b"[%b]" % body.rstrip(b"\n").replace(b"\n", b","))
        if head["format"] != INDEX_FORMAT:
            raise IntegrityError(f"{where}: tar index format {head['format']}, this mmgen reads {INDEX_FORMAT}")
        return cls(tuple(Member(*line) for line in lines), head["length"], head["sha256"])


def _template() -> bytes:
    """The header of an empty, nameless member, as `tarfile` writes it."""
    info = tarfile.TarInfo("")
    info.mode = 0o644
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "strict")


# of a header (POSIX.1-1988, GNU's variant): where its fields lie, and the sum of the bytes that are the same in all
_HEADER = _template()
_NAME_BYTES, _SIZE_AT, _SUM_AT = 100, 124, 148
_BEFORE_SIZE, _AFTER_SUM = _HEADER[_NAME_BYTES:_SIZE_AT], _HEADER[_SUM_AT + 8 :]
_BEFORE_SUM = _HEADER[_SIZE_AT + 12 : _SUM_AT]
_SAME = sum(_BEFORE_SIZE + _BEFORE_SUM + _AFTER_SUM) + 8 * ord(" ")  # the sum counts its own field as spaces
_PADDING = [bytes(-length % BLOCK) for length in range(BLOCK)]
#: bytes that are gathered before they are hashed and written
_GATHER = 1 << 20


def _header(name: str, length: int) -> bytes:
    """The header of a regular file, byte for byte `tarfile`'s in GNU format, several times as fast for usual names."""
    raw = name.encode()
    if len(raw) > _NAME_BYTES or length >= 8**11:
        # long names and sizes take blocks of their own
        info = tarfile.TarInfo(name)
        info.size, info.mode = length, 0o644
        return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "strict")
    size = b"%011o\0" % length
    total = _SAME + sum(raw) + sum(size)
    return b"%b%b%b%b%06o\0 %b" % (raw.ljust(_NAME_BYTES, b"\0"), _BEFORE_SIZE, size, _BEFORE_SUM, total, _AFTER_SUM)


class Sink(Protocol):
    """What takes the bytes of a tar."""

    def write(self, data: bytes, /) -> int: ...


class TarWriter:
    """Writes members in sorted order with nothing of time, user or machine in them.

    `stream` takes the bytes; `close` ends the tar and gives its index.
    """

    def __init__(self, stream: Sink) -> None:
        self._stream, self._digest, self._at, self._last = stream, hashlib.sha256(), 0, ""
        self._members: list[Member] = []
        self._gathered: list[bytes] = []
        self._flushed = 0

    def add(self, name: str, data: bytes, sha256: str | None = None) -> Member:
        """Append a member. sha256: of `data`, where the caller has it from bytes that were just checked.

        Raises ValueError for a name that is not after the one before, absolute, or with '..'.
        """
        if self._members and name <= self._last:
            raise ValueError(f"member '{name}' comes after '{self._last}': names must be sorted and unique")
        if not name or name[0] == "/" or (".." in name and ".." in name.split("/")):
            raise ValueError(f"member name '{name}': wanted a relative path")
        length, header = len(data), _header(name, len(data))
        member = Member(name, self._at + len(header), length, sha256 or hashlib.sha256(data).hexdigest())
        padding = _PADDING[length % BLOCK]
        self._gathered += (header, data, padding)
        self._at += len(header) + length + len(padding)
        self._last = name
        self._members.append(member)
        if self._at - self._flushed >= _GATHER:
            self._flush()
        return member

    def _flush(self) -> None:
        chunk = b"".join(self._gathered)
        self._gathered.clear()
        self._digest.update(chunk)
        self._stream.write(chunk)
        self._flushed = self._at

    def close(self) -> TarIndex:
        """End the tar with its two empty blocks. The stream stays open."""
        self._gathered.append(bytes(2 * BLOCK))
        self._at += 2 * BLOCK
        self._flush()
        return TarIndex(tuple(self._members), self._at, self._digest.hexdigest())


def pack(members: Mapping[str, bytes] | Iterable[tuple[str, bytes]]) -> tuple[bytes, TarIndex]:
    """A whole tar in memory. A mapping is sorted; pairs must come sorted."""
    pairs = sorted(members.items()) if isinstance(members, Mapping) else members
    stream = io.BytesIO()
    writer = TarWriter(stream)
    for name, data in pairs:
        writer.add(name, data)
    index = writer.close()
    return stream.getvalue(), index


class TarReader:
    """Random access to a local tar by member or key; every read is checked against the index.

    Opening refuses a tar of another size (a truncation at any byte); `verify` reads all of it.
    """

    def __init__(self, path: str | Path, index: TarIndex) -> None:
        self.path, self.index = Path(path), index
        self._by_name = {member.name: member for member in index.members}
        self._by_key: dict[str, list[Member]] = {}
        for member in index.members:
            self._by_key.setdefault(member.key, []).append(member)
        try:
            self._file = os.open(self.path, os.O_RDONLY)
        except FileNotFoundError:
            raise IntegrityError(f"{self.path}: missing") from None
        size = os.fstat(self._file).st_size
        if size != index.length:
            self.close()
            raise IntegrityError(f"{self.path}: {size} bytes, its index says {index.length}; truncated or replaced")

    @classmethod
    def open(cls, path: str | Path) -> TarReader:
        """Open a tar with the index beside it (`<path>.idx`). Raises IntegrityError."""
        index = Path(f"{path}.idx")
        try:
            data = index.read_bytes()
        except FileNotFoundError:
            raise IntegrityError(f"{index}: missing") from None
        return cls(path, TarIndex.from_bytes(data, str(index)))

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    def __enter__(self) -> TarReader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def keys(self) -> list[str]:
        """Safe keys, in order."""
        return list(self._by_key)

    def __contains__(self, name: str) -> bool:
        return name in self._by_name

    def read(self, name: str) -> bytes:
        """The bytes of a member. Raises KeyError, or IntegrityError if they are not what was written."""
        member = self._by_name[name]
        data = os.pread(self._file, member.length, member.offset)
        if hashlib.sha256(data).hexdigest() != member.sha256:
            raise IntegrityError(f"{self.path}: member {name} is not what its index recorded")
        return data

    def sample(self, key: str) -> dict[str, bytes]:
        """Suffix → bytes of all members of a safe key. Raises KeyError, IntegrityError."""
        return {member.suffix: self.read(member.name) for member in self._by_key[key]}

    def verify(self) -> None:
        """Read all bytes, headers included. Raises IntegrityError for any that is not as written."""
        digest, at = hashlib.sha256(), 0
        while chunk := os.pread(self._file, 1 << 20, at):
            digest.update(chunk)
            at += len(chunk)
        if digest.hexdigest() != self.index.sha256:
            raise IntegrityError(
                f"{self.path}: sha256 {digest.hexdigest()[:12]}…, its index says {self.index.sha256[:12]}…"
            )


# ---------------------------------------------------------------- tars of others


def scan(stream: IO[bytes], where: str) -> Iterator[tuple[str, int, int]]:
    """(name, offset, length) of the regular files of any uncompressed tar, reading headers only.

    Raises SourceError where it is truncated or no tar at all.
    """
    end = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    after = 0
    try:
        with tarfile.open(fileobj=stream, mode="r:") as tar:
            for info in tar:
                if info.offset_data + info.size > end:
                    raise SourceError(f"{where}: truncated within its member '{info.name}'")
                after = info.offset_data + -(-info.size // BLOCK) * BLOCK
                if info.isreg():
                    yield info.name, info.offset_data, info.size
        # a cut between two members looks like an end to tarfile; a whole tar ends in empty blocks
        stream.seek(after)
        if stream.read(BLOCK) != bytes(BLOCK):
            raise SourceError(f"{where}: ends without its empty blocks: truncated between two members")
        while rest := stream.read(_GATHER):
            if rest.strip(b"\0"):
                raise SourceError(
                    f"{where}: goes on after its empty blocks: tars that were joined, or zeros in the middle"
                )
    except (tarfile.TarError, EOFError) as error:
        raise SourceError(f"{where}: not a whole, uncompressed tar: {error}") from error


def web_dataset(paths: Sequence[str | Path], extensions: Sequence[str] = SAFE_EXTENSIONS) -> Any:
    """A `webdataset.WebDataset` over local tars: samples as bytes, in order, only members of these extensions.

    The library would run `pipe:` addresses and unpickle members by their extension; neither gets through here.
    Raises SourceError for a path that is no local file.
    """
    import webdataset

    allowed = frozenset(extensions) & frozenset(SAFE_EXTENSIONS)
    for path in paths:
        if not Path(path).is_file():
            raise SourceError(f"'{path}': wanted a local tar file")
    return webdataset.WebDataset(
        [os.path.abspath(path) for path in paths],
        shardshuffle=False,
        empty_check=False,
        select_files=lambda name: name.rsplit(".", 1)[-1].lower() in allowed,
    )
