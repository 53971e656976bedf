"""Training curves: what a model's history says."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

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
    """Every numeric column of the artifact's "history" files over its "step". JSON lines, one object per reading.

    With several histories in one artifact (codecs), the file's name without its ending goes before the column's.
    """
    entries = artifact.by_role("history")
    found: dict[str, list[tuple[int, float]]] = {}
    for entry in entries:
        prefix = entry.path.rsplit("/", 1)[-1].split(".")[0] + "." if len(entries) > 1 else ""
        for line in store.read(entry.path).splitlines():
            row = json.loads(line)
            for column, value in row.items():
                if column != "step" and _is_number(value):
                    found.setdefault(prefix + column, []).append((int(row["step"]), float(value)))
    return [Curve(name, tuple(_thinned(points))) for name, points in sorted(found.items())]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _thinned(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    stride = math.ceil(len(points) / MAX_POINTS)
    return points if stride <= 1 else sorted({*points[::stride], points[-1]})
