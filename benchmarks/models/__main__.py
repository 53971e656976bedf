"""Our generators against multivae's on the same data, the same processor time and the same judges.

    make bench-models                 # everything that is not there yet; about three hours on two cores
    python -m benchmarks.models --only tuning

Cells that are done are kept in WORK (a stopped run goes on), their scores in `benchmarks/results/models.parquet`.
Tuning is done once: `benchmarks/results/models-tuning.json` holds the chosen setting of each peer and why.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks.models import cells, settings
from benchmarks.models.cells import Cell, Place
from benchmarks.models.judging import Bench, frame

RESULTS = Path(__file__).parents[1] / "results"
SCORES, TUNING = RESULTS / "models.parquet", RESULTS / "models-tuning.json"
COMMAND = "python -m benchmarks.models"


def tune(place: Place) -> dict[str, Any]:
    """The chosen setting of each peer, by mean coherence from one input on the validation split."""
    if TUNING.exists():
        return dict(json.loads(TUNING.read_text(encoding="utf-8")))
    tried: dict[str, list[dict[str, Any]]] = {peer: [] for peer in settings.GRID}
    bench: Bench | None = None
    for cell in cells.tuning():
        costs = cells.run(place, cell, {}, "validation")
        bench = bench or Bench(place.store, "validation")
        rows = bench.table(place.work / "cells" / f"{cell.name}.npz")
        mean = next(row.value for row in rows if row.metric == "mean_coherence_1")
        joint = max((row.value for row in rows if row.metric == "joint_coherence"), default=0.0)
        print(f"{cell.name}: mean coherence {mean:.3f}, joint {joint:.3f} ({costs['steps']} steps, {costs['cpu_s']:.0f} s)", flush=True)
        tried[cell.contender].append({
            **settings.GRID[cell.contender][cell.setting], "mean_coherence": mean, "joint_coherence": joint,
            "steps": costs["steps"], "cpu_s": costs["cpu_s"],
        })  # fmt: skip
    found = {
        peer: {"chosen": max(range(len(rows)), key=lambda at: rows[at]["mean_coherence"]), "tried": rows}
        for peer, rows in tried.items()
    } | {"about": _about()}
    RESULTS.mkdir(exist_ok=True)
    TUNING.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return found


def _about() -> dict[str, Any]:
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    return {"commit": head, "machine": f"{os.uname().machine} × {os.cpu_count()}", "command": COMMAND}


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("bench-models"), help="where tables, store and cells lie")
    parser.add_argument("--peer", type=Path, default=None, help="the peers' environment; WORK/peers")
    parser.add_argument("--only", choices=("tuning", "all"), default="all")
    asked = parser.parse_args()
    work = asked.work.resolve()
    place = Place(work, (asked.peer or work / "peers").resolve())
    tuned = tune(place)
    if asked.only == "tuning":
        return
    chosen = {peer: tuned[peer]["chosen"] for peer in settings.GRID}
    best = max(chosen, key=lambda peer: tuned[peer]["tried"][chosen[peer]]["mean_coherence"])
    bench: Bench | None = None
    tables = []
    for cell in cells.comparison(best):
        costs = cells.run(place, cell, chosen, "test")
        bench = bench or Bench(place.store, "test")
        rows = bench.table(work / "cells" / f"{cell.name}.npz")
        plain = {"contender": cell.contender, "variant": cell.variant, "seed": cell.seed, "minutes": float(cell.minutes)}
        tables.append(frame({**plain, "cpu_s": costs["cpu_s"], **_about()}, rows))
        pl.concat(tables).write_parquet(SCORES)
        means = [row for row in rows if "mean" in row.metric or "joint" in row.metric]
        print(cell.name, f"{costs['cpu_s']:.0f} s", *(f"{row.metric} {row.value:.3f}" for row in means), flush=True)


if __name__ == "__main__":
    main()
