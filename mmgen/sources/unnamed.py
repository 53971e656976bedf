"""Files beside a source that none of its rows names: counted, the first of them listed, and never a reason to stop.

Which files these are is circumstance: they make no new version, for nothing of them is in one.
"""

from __future__ import annotations

import bisect
import os
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np

from mmgen.errors import StoreError
from mmgen.modalities.config import SlotConfig
from mmgen.sources.config import SourceConfig
from mmgen.sources.grouped import EXTENSIONS
from mmgen.uris import walk_uri

#: paths that are listed by name
LISTED = 100
#: files of a folder that are looked at; a table in a place with more is not there to describe it
LOOKED_AT = 2_000_000


@dataclass
class Unnamed:
    """How many files no row names, and the first of them in order. complete: all files were looked at."""

    files: int = 0
    first: list[str] = field(default_factory=list)
    complete: bool = True

    def add(self, path: str) -> None:
        """Count a file, and keep its path if it is among the first."""
        self.files += 1
        # a name on a disk may be of any bytes
        path = path.encode("utf-8", "backslashreplace").decode()
        if len(self.first) < LISTED or path < self.first[-1]:
            bisect.insort(self.first, path)
            del self.first[LISTED:]


class NamedFiles:
    """The files that rows name, 8 bytes each."""

    def __init__(self) -> None:
        self._marks, self._folders = array("Q"), dict[str, str]()

    def add(self, uri: str) -> None:
        """Remember a file by its path or address."""
        self._marks.append(self._mark(uri))

    def _mark(self, uri: str) -> int:
        if "://" not in uri:
            # a row may name a file by a folder's other name
            folder, _, name = uri.rpartition("/")
            if folder not in self._folders:
                if len(self._folders) > 10_000:
                    self._folders.clear()
                self._folders[folder] = os.path.realpath(folder)
            uri = f"{self._folders[folder]}/{name}"
        return int.from_bytes(blake2b(uri.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "little")

    def others(self, folder: str, extensions: frozenset[str]) -> Unnamed:
        """The files below `folder` with one of `extensions` that were not named; what is hidden does not count."""
        known, found = np.sort(np.frombuffer(self._marks, np.uint64)), Unnamed()
        try:
            for number, uri in enumerate(_media(folder, extensions)):
                if number >= LOOKED_AT:
                    found.complete = False
                    break
                mark = np.uint64(self._mark(uri))
                at = int(np.searchsorted(known, mark))
                if at == len(known) or known[at] != mark:
                    found.add(uri[len(folder) :].lstrip("/"))
        except (StoreError, FileNotFoundError, NotImplementedError):
            # what cannot be listed names no files of its own
            found.complete = False
        return found


def _media(folder: str, extensions: frozenset[str]) -> Iterator[str]:
    for uri in walk_uri(folder):
        relative = uri[len(folder) :].lstrip("/")
        if not relative.startswith(".") and "/." not in relative and _extension(relative) in extensions:
            yield uri


def _extension(path: str) -> str:
    return path.rpartition(".")[2].lower()


def unnamed(config: SourceConfig, slots: Mapping[str, SlotConfig], source: object, named: NamedFiles) -> Unnamed | None:
    """What lies beside a source that was read whole and is in none of its rows; None where nobody looks.

    Of a table: media of its slots below its own folder. Of a folder: files that could be no part of a sample.
    """
    ignored = getattr(source, "ignored", None)
    if isinstance(ignored, Unnamed):
        return ignored
    if not config.list_unnamed or config.kind not in ("table", "hf_dataset") or config.path.startswith("http"):
        return None
    folder = config.path.rstrip("/") if config.kind == "hf_dataset" else config.path.rpartition("/")[0]
    folder = folder if "://" in folder else os.path.realpath(folder or os.curdir)
    wanted = {slot.modality for slot in slots.values()} - {"text"}
    return named.others(folder, frozenset(ext for ext, modality in EXTENSIONS.items() if modality in wanted))


def as_facts(found: Unnamed | None) -> dict[str, Any]:
    """What a manifest says of it."""
    return (
        {} if found is None else {"unnamed": {"files": found.files, "first": found.first, "complete": found.complete}}
    )


def sentence(found: Mapping[str, Any] | None) -> str | None:
    """One line for a person; None if there is nothing to tell."""
    if not found or not found["files"]:
        return None
    count, examples = found["files"], ", ".join(found["first"][:3])
    verb = "file lies" if count == 1 else "files lie"
    return f"{count:,} {verb} beside the source that no row names: {examples}{', …' if count > 3 else ''}"
