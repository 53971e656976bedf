"""Samples to look at and listen to: drawn while the rows stream by, shown within a fixed number of bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import polars as pl
from markupsafe import Markup

from mmgen.report import page

SHOWN_ORDER = ("image", "text", "audio")
#: slots of one sample and modality that are shown
MAX_SLOTS = 4
#: a sound is cut to its part of the room, but to no less than this
MIN_CLIP_BYTES = 24 << 10

Facts = Mapping[str, Any]


class Media(Protocol):
    """The staged media."""

    def read(self, row: int, slot: str, ext: str) -> bytes:
        """The bytes of a slot of a row."""


class Draw:
    """The `count` rows whose keys have the smallest hashes, and the rows that are asked for by number."""

    def __init__(self, count: int, wanted: Sequence[int] = ()) -> None:
        self.count = count
        self.by_row: dict[int, Facts] = {}
        self._wanted_W = np.array(sorted(wanted), np.int64)
        self._drawn: list[tuple[bytes, Facts]] = []

    def add(self, frame: pl.DataFrame, kept_N: npt.NDArray[np.bool_]) -> None:
        """Look at a batch's facts; only kept rows are drawn."""
        places = np.flatnonzero(kept_N)
        keys = frame["key"].gather(places).to_list()
        hashed = [(hashlib.sha256(key.encode()).digest(), at) for at, key in zip(places.tolist(), keys, strict=True)]
        worst = self._drawn[-1][0] if len(self._drawn) == self.count else b"\xff" * 33
        better = sorted(each for each in hashed if each[0] < worst)[: self.count]
        self._drawn += [(digest, frame.row(at, named=True)) for digest, at in better]
        self._drawn = sorted(self._drawn, key=lambda each: each[0])[: self.count]
        if len(self._wanted_W):
            for at in np.flatnonzero(np.isin(frame["row"].to_numpy(), self._wanted_W)).tolist():
                row = frame.row(at, named=True)
                self.by_row[row["row"]] = row

    @property
    def drawn(self) -> list[Facts]:
        """The drawn rows, by their hash."""
        return [row for _, row in self._drawn]


class Room:
    """What pictures and sounds of some samples may take on a page, as characters of their URIs."""

    def __init__(
        self, samples: Sequence[Facts], slots: Mapping[str, str], *, picture_bytes: int, sound_bytes: int
    ) -> None:
        sounds = sum(slots[slot] == "audio" for row in samples for slot in _chosen(row, slots))
        self.clip_bytes = max(MIN_CLIP_BYTES, sound_bytes // max(1, sounds))
        self.left = {"image": picture_bytes, "audio": sound_bytes}

    def shown(self, row: Facts, slots: Mapping[str, str], media: Media) -> dict[str, Any]:
        """A sample for the page: its key, label, split and parts; `further` slots are left out."""
        texts: dict[str, list[str]] = json.loads(row["texts"])
        parts: list[dict[str, Any]] = []
        for slot in _chosen(row, slots):
            if slots[slot] == "text":
                said = texts.get(slot) or [""]
                parts.append({"slot": slot, "modality": "text", "text": said[0], "more": len(said) - 1})
            else:
                uri, why = self._uri(row, slot, slots[slot], media)
                parts.append({"slot": slot, "modality": slots[slot], "uri": uri, "why": why})
        further = sum(bool(row[f"{slot}.present"]) for slot in slots) - len(parts)
        return {name: row[name] for name in ("key", "label", "split")} | {"parts": parts, "further": further}

    def _uri(self, row: Facts, slot: str, modality: str, media: Media) -> tuple[Markup | None, str]:
        """A picture or a sound as a URI; else None, and why."""
        if self.left[modality] <= 0:
            return None, "left out: the page stays small"
        data = media.read(row["row"], slot, row[f"{slot}.ext"])
        uri = page.picture(data) if modality == "image" else page.clip(data, self.clip_bytes)
        if uri is None:
            return None, "cannot be shown" if modality == "image" else "cannot be played"
        self.left[modality] -= len(uri)
        return (uri, "") if self.left[modality] >= 0 else (None, "left out: the page stays small")


def _chosen(row: Facts, slots: Mapping[str, str]) -> list[str]:
    """The slots of a sample that are shown: pictures, then texts, then sounds."""
    there = [slot for slot in slots if row[f"{slot}.present"]]
    return [slot for kind in SHOWN_ORDER for slot in [each for each in there if slots[each] == kind][:MAX_SLOTS]]


def show(
    samples: Sequence[Facts], slots: Mapping[str, str], media: Media, *, picture_bytes: int, sound_bytes: int
) -> list[dict[str, Any]]:
    """The samples for the page, their pictures and sounds within these bytes."""
    room = Room(samples, slots, picture_bytes=picture_bytes, sound_bytes=sound_bytes)
    return [room.shown(row, slots, media) for row in samples]
