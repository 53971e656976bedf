"""Folders: files of one stem are one sample, with `.txt` and `.json` beside them.

`a/001.png`, `a/001.wav`, `a/001.txt`, `a/001.json` make the sample `a/001`; so do `images/001.png` and `audio/001.wav`
make `001`: a folder named like a slot or a modality says what lies in it and is no part of the key.
Several slots of one modality are told apart by `<stem>.<slot>.<ext>`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from mmgen.errors import SourceError, StoreError
from mmgen.modalities.config import SlotConfig
from mmgen.modalities.dicom import is_dicom
from mmgen.records import SPLIT_SPELLINGS, MediaRef, Sample
from mmgen.sources.config import SourceConfig
from mmgen.sources.grouped import Grouping, Part, split_name
from mmgen.sources.rows import Refused, Roots, Row
from mmgen.store import list_uri, read_uri

FOLDER_NAMES = frozenset(("image", "images", "img", "audio", "audios", "wav", "wavs", "text", "texts", "captions"))


class FolderSource:
    """All files below a folder, links followed only within it."""

    def __init__(self, config: SourceConfig, slots: Mapping[str, SlotConfig]) -> None:
        self.path = config.path.rstrip("/") if "://" in config.path else os.path.abspath(config.path)
        self.slots, self.grouping = slots, Grouping(config, slots)
        self.roots = Roots(self.path, config.allow_roots)

    def rows(self) -> Iterator[Row]:
        """In the order of their stems. See `Source.rows`."""
        if "://" not in self.path and not os.path.isdir(self.path):
            raise SourceError(f"source.path: {self.path}: no such folder")
        groups: dict[str, list[Part]] = {}
        for uri in list_uri(self.path):
            relative = uri[len(self.path) :].lstrip("/")
            if any(piece.startswith(".") for piece in relative.split("/")):
                continue
            stem, part = self._part(relative, uri)
            if self.grouping.useful(part):
                groups.setdefault(stem, []).append(part)
        for number, stem in enumerate(sorted(groups)):
            yield self.grouping.row(number, stem, groups[stem])

    def _part(self, relative: str, uri: str) -> tuple[str, Part]:
        refused = None
        try:
            self.roots.resolve(uri)
        except Refused as error:
            refused = str(error)
        bare = refused is None and _is_bare_dicom(relative, uri)
        stem, slot, ext = self._named(f"{relative}.dcm" if bare else relative)
        return stem, Part(relative, slot, ext.lower(), MediaRef(uri, None, relative), _reader(uri, refused), refused)

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

    def rows(self) -> Iterator[Row]:
        """See `Source.rows`. A file that lies in no class has no label."""
        rows = list(super().rows())
        paths = [row.sample.key.split("/") for row in rows if row.sample is not None]
        split = bool(paths) and all(len(path) > 2 and path[0].lower() in SPLIT_SPELLINGS for path in paths)
        for row in rows:
            yield row if row.sample is None else replace(row, sample=_classified(row.sample, split=split))

    def _named(self, relative: str) -> tuple[str, str | None, str]:
        folder, _, name = relative.rpartition("/")
        stem, ext = split_name(name)
        return f"{folder}/{stem or name}".lstrip("/"), None, ext


def _classified(sample: Sample, *, split: bool) -> Sample:
    *folders, _ = sample.key.split("/")
    own = folders[0] if split else None
    label = next(iter(folders[1:] if split else folders), None)
    return replace(sample, label=sample.label or label, split=sample.split or own)


def _is_bare_dicom(relative: str, uri: str) -> bool:
    """Whether a file is a DICOM without an extension: scanners name them by numbers. The index of a disc is none."""
    name = relative.rpartition("/")[2]
    _, dot, ext = name.rpartition(".")
    if (dot and not ext.isdigit()) or name == "DICOMDIR":
        return False
    try:
        return is_dicom(read_uri(uri, limit_bytes=132))
    except (OSError, StoreError):
        return False


def _reader(uri: str, refused: str | None) -> Callable[[int], bytes]:
    return lambda limit: b"" if refused else read_uri(uri, limit_bytes=limit)
