"""WebDataset tars: adjacent members of one stem are one sample. Members are read in place, nothing is unpacked.

As its readers have it, a stem ends at the first dot of a name, and names without a dot, hidden ones and those in a
folder like `__meta__` are no samples. Where all that follows first dots fills no slot, the dots belong to the keys
(`img.001.jpg`, `img.002.jpg`), and the stems end at the last one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import IO

from mmgen.errors import SourceError, StoreError
from mmgen.modalities.config import SlotConfig
from mmgen.records import MediaRef
from mmgen.sources.config import SourceConfig
from mmgen.sources.grouped import Grouping, Part, split_name
from mmgen.sources.rows import Row, rejected
from mmgen.tars import scan
from mmgen.uris import list_uri, open_uri

# webdataset 1.0, tariterators.py: base_plus_ext and skip_meta
_NAME = re.compile(r"(?P<stem>(?:.*/|)[^./]+)\.(?P<suffix>[^/]*)", re.DOTALL)
_META = re.compile(r"__[^/]*__(?:$|/)")
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}")
#: a pattern that names more files than this is a slip of the pen
MAX_TARS = 100_000


class ArchiveSource:
    """A tar, a pattern such as `train-{000..127}.tar`, or a folder of tars."""

    def __init__(self, config: SourceConfig, slots: Mapping[str, SlotConfig]) -> None:
        self.path, self.slots, self.grouping = config.path, slots, Grouping(config, slots)

    def rows(self) -> Iterator[Row]:
        """In the order of tars and members. A tar that breaks off ends in a rejected row. See `Source.rows`."""
        number = 0
        for uri in tars_of(self.path):
            for make in self._samples(uri):
                yield make(number)
                number += 1

    def _samples(self, uri: str) -> Iterator[Callable[[int], Row]]:
        stem, parts = "", list[Part]()
        try:
            stream = open_uri(uri)
        except FileNotFoundError:
            raise SourceError(f"source.path: {uri}: no such file") from None
        except StoreError as error:
            if "://" in uri:
                raise
            raise SourceError(f"source.path: {error}") from error
        with stream:
            try:
                for name, offset, length in scan(stream, uri):
                    match = _NAME.fullmatch(name.removeprefix("./"))
                    if match is None or _META.match(name):
                        continue
                    if match["stem"] != stem:
                        yield from self._rows(stem, parts)
                        stem, parts = match["stem"], []
                    parts.append(_part(uri, stream, name, match["suffix"], (offset, length)))
                yield from self._rows(stem, parts)
            except SourceError as error:
                # what was begun when the tar broke off is not whole
                message = str(error)
                yield lambda number: rejected(number, stem, "broken_archive", message)

    def _rows(self, stem: str, parts: Sequence[Part]) -> Iterator[Callable[[int], Row]]:
        """The samples of the adjacent members of one stem: usually one. Unknown fields are left out, as columns are."""
        useful = [part for part in parts if self._useful(part)]
        if useful:
            yield _bound(self.grouping, stem, useful)
            return
        for longer, group in groupby(parts, key=lambda part: part.name.removeprefix("./").rpartition(".")[0]):
            whole = [replace(part, slot=None) for part in group]
            # one that fills no slot is a sample still, and counted as one
            yield _bound(self.grouping, longer, [part for part in whole if self._useful(part)])

    def _useful(self, part: Part) -> bool:
        if part.ext in ("json", "cls"):
            return part.slot is None
        return self.grouping.slot_of(part) is not None


def _part(uri: str, stream: IO[bytes], name: str, suffix: str, span: tuple[int, int]) -> Part:
    slot, ext = split_name(suffix)
    offset, length = span

    def read(limit: int) -> bytes:
        stream.seek(offset)
        return stream.read(min(limit + 1, length))

    return Part(name, slot or None, ext.lower(), MediaRef(uri, None, name, span), read)


def _bound(grouping: Grouping, stem: str, parts: list[Part]) -> Callable[[int], Row]:
    return lambda number: grouping.row(number, stem, parts)


def tars_of(path: str) -> list[str]:
    """The tars that a path, a brace pattern or a folder names, in order. Raises SourceError if there is none."""
    if "://" not in path and os.path.isdir(path):
        found = [uri for uri in list_uri(path) if uri.endswith(".tar")]
        if not found:
            raise SourceError(f"source.path: {path}: wanted tars in this folder, there is none")
        return found
    found = expand(path)
    for uri in found:
        if not uri.endswith(".tar"):
            raise SourceError(
                f"source.path: {uri}: wanted an uncompressed .tar, a pattern of them or a folder with them"
            )
    return found


def expand(pattern: str) -> list[str]:
    """`a-{00..02}.tar` and `{x,y}.tar` spelled out. Raises SourceError for far too many."""
    match = _BRACES.search(pattern)
    if match is None:
        return [pattern]
    if match[3] is not None:
        choices = match[3].split(",")
    else:
        first, last = int(match[1]), int(match[2])
        if abs(last - first) >= MAX_TARS:
            raise SourceError(f"source.path: {pattern}: names more than {MAX_TARS} files")
        step = 1 if last >= first else -1
        choices = [str(value).zfill(len(match[1])) for value in range(first, last + step, step)]
    return [
        f"{pattern[: match.start()]}{choice}{rest}" for choice in choices for rest in expand(pattern[match.end() :])
    ]
