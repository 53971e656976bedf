"""Folders: files of one stem are one sample, with `.txt` and `.json` beside them.

`a/001.png`, `a/001.wav`, `a/001.txt`, `a/001.json` make the sample `a/001`; so do `images/001.png` and `audio/001.wav`
make `001`: a folder named like a slot or a modality says what lies in it and is no part of the key.
Several slots of one modality are told apart by `<stem>.<slot>.<ext>`.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from mmgen.errors import SourceError, StoreError
from mmgen.modalities.config import SlotConfig
from mmgen.modalities.dicom import is_dicom
from mmgen.records import SPLIT_SPELLINGS, MediaRef, Sample
from mmgen.sources.config import SourceConfig
from mmgen.sources.grouped import Grouping, Part, split_name
from mmgen.sources.rows import Refused, Roots, Row
from mmgen.sources.unnamed import Unnamed
from mmgen.uris import read_uri, walk_uri

FOLDER_NAMES = frozenset(("image", "images", "img", "audio", "audios", "wav", "wavs", "text", "texts", "captions"))


class FolderSource:
    """All files below a folder, links followed only within it. ignored: those that no row could use."""

    def __init__(self, config: SourceConfig, slots: Mapping[str, SlotConfig]) -> None:
        self.path = config.path.rstrip("/") if "://" in config.path else os.path.abspath(config.path)
        self.slots, self.grouping = slots, Grouping(config, slots)
        self.roots = Roots(self.path, config.allow_roots)
        self.ignored = Unnamed()

    def rows(self) -> Iterator[Row]:
        """In the order of their stems. See `Source.rows`."""
        if "://" not in self.path and not os.path.isdir(self.path):
            raise SourceError(f"source.path: {self.path}: no such folder")
        files = self._files()
        self._look_over(files)
        for number, (stem, entries) in enumerate(itertools.groupby(files, _stem)):
            yield self._row(number, stem, [self._part(entry.partition("\0")[2]) for entry in entries])

    def _files(self) -> list[str]:
        """`<stem>\\0<path below the folder>` of every useful file, in order: all that is held of a whole folder."""
        self.ignored, found = Unnamed(), []
        for uri in walk_uri(self.path):
            relative = uri[len(self.path) :].lstrip("/")
            if relative.startswith(".") or "/." in relative:
                continue
            stem, slot, ext = self._named(self._spelled(relative))
            if self.grouping.useful(Part(relative, slot, ext.lower(), MediaRef(uri), _nothing)):
                found.append(f"{stem}\0{relative}")
            else:
                self.ignored.add(relative)
        found.sort()
        return found

    def _look_over(self, files: Sequence[str]) -> None:
        """See all files before the first row is made."""

    def _row(self, number: int, stem: str, parts: Sequence[Part]) -> Row:
        return self.grouping.row(number, stem, parts)

    def _spelled(self, relative: str) -> str:
        """A path below the folder, with the extension that a DICOM may lack."""
        if not _is_bare(relative):
            return relative
        uri = f"{self.path}/{relative}"
        try:
            self.roots.resolve(uri)
            return f"{relative}.dcm" if is_dicom(read_uri(uri, limit_bytes=132)) else relative
        except (Refused, OSError, StoreError):
            # why it is none is told where it is read
            return relative

    def _part(self, relative: str) -> Part:
        uri = f"{self.path}/{relative}"
        _, slot, ext = self._named(self._spelled(relative))
        refused = None
        try:
            self.roots.resolve(uri)
        except Refused as error:
            refused = str(error)
        return Part(relative, slot, ext.lower(), MediaRef(uri, None, relative), _reader(uri, refused), refused)

    def _named(self, relative: str) -> tuple[str, str | None, str]:
        """(stem, slot, extension) of a path below the folder; the slot is None where the path does not tell."""
        folder, _, name = relative.rpartition("/")
        stem, ext = split_name(name)
        slot = None
        before, _, last = stem.rpartition(".")
        if before and last in self.slots:
            stem, slot = before, last
        pieces = folder.split("/") if folder else []
        for piece in pieces:
            if slot is None and piece in self.slots:
                slot = piece
        kept = [piece for piece in pieces if piece.lower() not in FOLDER_NAMES and piece not in self.slots]
        return "/".join([*kept, stem or name]), slot, ext


class ImageFolderSource(FolderSource):
    """Trees of `class/file` or `split/class/file`: the key is the path without its extension, the class the label.

    The first folders are splits if all of them have a split's name. What a `.json` beside a file says goes before.
    """

    _split = False

    def _look_over(self, files: Sequence[str]) -> None:
        paths = (_stem(entry).split("/", 2) for entry in files)
        self._split = bool(files) and all(len(path) > 2 and path[0].lower() in SPLIT_SPELLINGS for path in paths)

    def _row(self, number: int, stem: str, parts: Sequence[Part]) -> Row:
        """A file that lies in no class has no label."""
        row = super()._row(number, stem, parts)
        return row if row.sample is None else replace(row, sample=_classified(row.sample, stem, split=self._split))

    def _named(self, relative: str) -> tuple[str, str | None, str]:
        folder, _, name = relative.rpartition("/")
        stem, ext = split_name(name)
        return f"{folder}/{stem or name}".lstrip("/"), None, ext


def _classified(sample: Sample, stem: str, *, split: bool) -> Sample:
    *folders, _ = stem.split("/")
    own = folders[0] if split else None
    label = next(iter(folders[1:] if split else folders), None)
    return replace(sample, label=sample.label or label, split=sample.split or own)


def _stem(entry: str) -> str:
    return entry.partition("\0")[0]


def _is_bare(relative: str) -> bool:
    """Whether a file has no extension: scanners name DICOMs by numbers. The index of a disc is none of them."""
    name = relative.rpartition("/")[2]
    _, dot, ext = name.rpartition(".")
    return (not dot or ext.isdigit()) and name != "DICOMDIR"


def _reader(uri: str, refused: str | None) -> Callable[[int], bytes]:
    return lambda limit: b"" if refused else read_uri(uri, limit_bytes=limit)


def _nothing(_: int) -> bytes:
    return b""
