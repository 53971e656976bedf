"""A directory of made samples and its scores, as one page that stands alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmgen.records import Modality
from mmgen.report import page
from mmgen.report.card import Cell, Example
from mmgen.report.score_tables import Score, charts, described, tables

#: samples shown of each slot
SHOWN = 12


def render(
    about: Mapping[str, Any],
    rows: Sequence[Score],
    files: Mapping[str, Sequence[Path]],
    modalities: Mapping[str, Modality],
    nearest: Iterable[tuple[Mapping[str, Any], bytes]],
) -> bytes:
    """The page. about: of `mmgen.evaluate.against.Judged`. files: slot → made files, of which the first are shown.
    nearest: (facts, bytes) of made samples and of the training samples beside them."""
    samples = {
        slot: [_cell(path.name, modalities[slot], path.read_bytes()) for path in paths[:SHOWN]]
        for slot, paths in files.items()
    }
    sides: dict[tuple[str, int], dict[str, tuple[Mapping[str, Any], bytes]]] = {}
    for facts, data in nearest:
        sides.setdefault((facts["slot"], facts["pair"]), {})[facts["side"]] = (facts, data)
    pairs: dict[str, list[Example]] = {}
    for (slot, _), each in sorted(sides.items()):
        made, training = (
            (_cell(side, modalities[slot], each[side][1]),) for side in ("made", "training")
        )  # fmt: skip
        note = f"{each['made'][0]['distance']:g} apart"
        pairs.setdefault(slot, []).append(Example(made, training, note))
    shown = {"charts": charts(list(rows)), "tables": tables(list(rows)), "samples": samples, "nearest": pairs}
    return page.render("scores.html.j2", {"answer": about, "described": described, **shown})


def _cell(title: str, modality: Modality, data: bytes) -> Cell:
    if modality == "text":
        return Cell(title, text=data.decode("utf-8", "replace"))
    return Cell(title, image=page.picture(data)) if modality == "image" else Cell(title, audio=page.clip(data))
