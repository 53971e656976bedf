"""The cells of the comparison: one contender on one variant of the data with one seed and one budget."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.environments import PEERS, environment
from benchmarks.models import lines, settings
from mmgen import artifact as artifacts
from mmgen.store import Store

ROOT = Path(__file__).parents[2]
FLOW, BASELINE = "joint_flow", "concat_baseline"


@dataclass(frozen=True, slots=True)
class Cell:
    """minutes: of processor time. setting: of a peer's grid; -1 for the chosen one, or ours."""

    contender: str
    variant: str
    seed: int
    minutes: float
    setting: int = -1

    @property
    def name(self) -> str:
        word = f"-s{self.setting}" if self.setting >= 0 else ""
        return f"{self.contender}-{self.variant}-seed{self.seed}-{self.minutes:g}min{word}"


def tuning() -> Iterator[Cell]:
    """Every setting of every peer, on the complete set, for a short budget; judged on the validation split."""
    for peer, grid in settings.GRID.items():
        for number in range(len(grid)):
            yield Cell(peer, "complete", 0, settings.TUNING_S / 60, number)


def comparison(best: str) -> Iterator[Cell]:
    """The table: everyone on both variants; ours and the best peer with all seeds; the curves."""
    full = settings.BUDGET_S / 60
    for variant in ("complete", "half"):
        for seed in settings.SEEDS:
            yield Cell(FLOW, variant, seed, full)
        for peer in settings.GRID:
            for seed in settings.SEEDS if peer == best else settings.SEEDS[:1]:
                yield Cell(peer, variant, seed, full)
        yield Cell(BASELINE, variant, 0, full)
    for minutes in settings.CURVE_MINUTES[:-1]:
        yield Cell(FLOW, "complete", 0, minutes)
        yield Cell(best, "complete", 0, minutes)
    for rows in settings.PAIRS:
        if rows != settings.ROWS:
            yield Cell(FLOW, f"pairs-{rows}", 0, full)


@dataclass(frozen=True)
class Place:
    """Where the comparison works. work: tables, store, what was made. peers: the peers' environment."""

    work: Path
    peers: Path

    @property
    def store(self) -> Store:
        return Store(str(self.work / "store"))

    def peer_python(self) -> Path:
        return environment(self.peers, PEERS / "multivae.lock")


def run(place: Place, cell: Cell, chosen: dict[str, int], split: str) -> dict[str, Any]:
    """Train and make one cell unless what it made is there; its costs. Raises CalledProcessError."""
    folder = place.work / "cells"
    folder.mkdir(parents=True, exist_ok=True)
    made, costs = folder / f"{cell.name}.npz", folder / f"{cell.name}.json"
    if costs.exists():
        found: dict[str, Any] = json.loads(costs.read_text(encoding="utf-8"))
        return found
    table, ready = lines.prepare(place.store, place.work / "data", cell.variant)
    request: dict[str, Any] = {
        "seed": cell.seed, "threads": settings.THREADS, "joint": settings.JOINT, "made": str(made), "steps": 20,
    }  # fmt: skip
    if cell.contender in settings.GRID:
        python, program = place.peer_python(), [str(ROOT / "benchmarks" / "models" / "peer.py")]
        request |= _peer_request(place, cell, ready, chosen, split)
    else:
        python, program = Path(sys.executable), ["-m", "benchmarks.models.ours"]
        changes = OURS[cell.contender](cell.minutes)
        request |= {"table": str(table), "variant": cell.variant, "changes": changes, "store": place.store.uri,
                    "exam": "digits-complete"}  # fmt: skip
    asked = folder / f"{cell.name}.request.json"
    asked.write_text(json.dumps(request), encoding="utf-8")
    done = subprocess.run([str(python), *program, str(asked)], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    found = asdict(cell) | json.loads(done.stdout.splitlines()[-1])
    costs.write_text(json.dumps(found), encoding="utf-8")
    return found


def _peer_request(
    place: Place, cell: Cell, ready: dict[str, artifacts.Artifact], chosen: dict[str, int], split: str
) -> dict[str, Any]:
    store, codecs, features = place.store, ready["fit"], ready["extract"]
    train = place.work / "cells" / f"train-{cell.variant}.npz"
    if not train.exists():
        lines.export(store, codecs, features, "train", train)
    exam = place.work / "cells" / f"exam-{split}.npz"
    if not exam.exists():
        _, complete = lines.prepare(store, place.work / "data", "complete")
        lines.export(store, complete["fit"], complete["extract"], split, exam, lines.exam_keys(store, split))
    number = cell.setting if cell.setting >= 0 else chosen[cell.contender]
    return {
        "peer": cell.contender, "settings": settings.GRID[cell.contender][number], "train": str(train),
        "exam": str(exam), "cpu_seconds": 60 * cell.minutes, "components": settings.COMPONENTS,
        "vocabulary": lines.vocabulary(store, codecs),
    }  # fmt: skip
