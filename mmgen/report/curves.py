"""Training curves: what a model's history says."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmgen.artifact import Artifact
from mmgen.store import Store

#: a curve keeps at most this many points, evenly chosen, the last one among them
MAX_POINTS = 400


@dataclass(frozen=True, slots=True)
class Curve:
    """One recorded quantity of a training. points: (step, value), finite values only."""

    name: str
    points: tuple[tuple[int, float], ...]


def read_curves(store: Store, artifact: Artifact) -> list[Curve]:
    """The columns of the artifact's "history" files over their "step". A history is JSON: column → list of numbers,
    a mapping of columns counting as its columns.

    With several histories in one artifact (codecs), the file's name without its ending goes before the column's.
    """
    found = []
    entries = artifact.by_role("history")
    for entry in entries:
        prefix = entry.path.rsplit("/", 1)[-1].split(".")[0] + "." if len(entries) > 1 else ""
        columns = _columns(json.loads(store.read(entry.path)))
        steps = columns.pop("step", [])
        for name, values in sorted(columns.items()):
            points = [(int(step), float(value)) for step, value in zip(steps, values, strict=True) if _is_number(value)]
            if points:
                found.append(Curve(prefix + name, tuple(_thinned(points))))
    return found


def _columns(history: Mapping[str, Any]) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {}
    for name, values in history.items():
        columns |= _columns(values) if isinstance(values, Mapping) else {name: list(values)}
    return columns


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _thinned(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    stride = math.ceil(len(points) / MAX_POINTS)
    return points if stride <= 1 else sorted({*points[::stride], points[-1]})
