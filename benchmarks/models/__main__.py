"""Our generators against multivae's on the same data, the same processor time and the same judges.

    make bench-models                            # everything that is not there yet; hours on two cores
    make bench-models ARGS="--only tuning"       # the peers' settings alone, which are committed
    make bench-models ARGS="--only joint_flow"   # one contender alone; ours wants no tuning of the peers
    make bench-models ARGS="--table"             # the tables and docs/models-*.png, from the results alone

Cells that are done are kept in WORK, so a stopped run goes on; their scores are in `benchmarks/results/models.parquet`,
and a cell that has some there is not made again. Tuning is done once: `benchmarks/results/models-tuning.json` has the
chosen setting of each peer and all that were tried. `--rows` and `--minutes-scale` are for trying it out: their results
stay in WORK.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from benchmarks.kept import Kept, whole
from benchmarks.models import cells, drawing, settings, tables
from benchmarks.models.cells import Cell, Place
from benchmarks.models.judging import Bench, frame, value_of
from mmgen.evaluate import scores
from mmgen.training.loop import bf16_works

RESULTS, DOCS = Path(__file__).parents[1] / "results", Path(__file__).parents[2] / "docs"
COMMAND = "python -m benchmarks.models"
PAGE = "models.md"
HEAD = f"""# Generators, compared

What `make bench-models` measured, made by `make bench-models ARGS=--table` from benchmarks/results/models.parquet.
`spoken_digits`, 3,500 training pairs; the same minutes of processor time for each, codecs included; judged on 464 test
rows. Numbers of several seeds are means with the mean of their 95% bootstrap or Wilson intervals; "real" is what real
rows score, or one half of them against the other. The README says it in short.

![Coherence over minutes of processor time]({drawing.MINUTES})
![Pictures that each makes of the same captions]({drawing.PICTURES})
![Coherence over the number of pairs]({drawing.PAIRS})
"""
#: what a row says of its cell; `real` is nobody's: what real rows score
CELL = ("contender", "variant", "seed", "minutes")
REAL = "real"
COSTS = ("cpu_s", "making_cpu_s", "parameters", "steps", "skipped", "rows")


@dataclass(frozen=True)
class Results:
    """The two files that are committed."""

    folder: Path

    @property
    def scores(self) -> Kept:
        return Kept(self.folder / "models.parquet", CELL)

    @property
    def tuning(self) -> Path:
        return self.folder / "models-tuning.json"


def tune(place: Place, results: Results) -> dict[str, Any]:
    """The chosen setting of each peer, by mean coherence from one input on the validation split."""
    if results.tuning.exists():
        return dict(json.loads(results.tuning.read_text(encoding="utf-8")))
    tried: dict[str, list[dict[str, Any]]] = {peer: [] for peer in settings.GRID}
    bench: Bench | None = None
    for cell, costs in cells.run_all(place, list(cells.tuning()), {}, "validation"):
        bench = bench or Bench(place.store, "validation", place.exam("validation"))
        rows = bench.table(place.made(cell))
        mean, joint = value_of(rows, scores.MEAN_COHERENCE), value_of(rows, scores.JOINT_COHERENCE)
        note = f"{costs['steps']} steps, {costs['skipped']} skipped, {costs['cpu_s']:.0f} s"
        print(f"{cell.name}: mean coherence {mean:.3f}, joint {joint:.3f} ({note})", flush=True)
        tried[cell.contender].append({
            **settings.GRID[cell.contender][cell.setting], "mean_coherence": mean, "joint_coherence": joint,
            "steps": costs["steps"], "skipped": costs["skipped"], "cpu_s": costs["cpu_s"],
        })  # fmt: skip
    found = {
        peer: {"chosen": max(range(len(rows)), key=lambda at: rows[at]["mean_coherence"]), "tried": rows}
        for peer, rows in tried.items()
    } | {"about": provenance()}
    whole(results.tuning, lambda path: path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8"))
    return found


def provenance() -> dict[str, str]:
    """Where results are from; bfloat16 instructions double what a minute is worth to our flow."""
    bf16 = "with" if bf16_works(torch.device("cpu")) else "without"
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    return {"commit": head, "machine": f"{os.uname().machine}, {os.cpu_count()} cores, {bf16} bf16", "command": COMMAND}


def compare(place: Place, results: Results, chosen: dict[str, int], best: str, only: str | None) -> None:
    """Every cell that has no scores yet, and once what real rows score."""
    asked = [
        cell for cell in cells.comparison(best) if only in (None, cell.contender) and not results.scores.has(told(cell))
    ]
    nobody = {"contender": REAL, "variant": "complete", "seed": 0, "minutes": 0.0}
    bench: Bench | None = None
    for cell, costs in cells.run_all(place, asked, chosen, "test"):
        bench = bench or Bench(place.store, "test", place.exam("test"))
        if not results.scores.has(nobody):
            results.scores.add(frame({**nobody, **dict.fromkeys(COSTS, 0.0), **provenance()}, bench.floors()))
        rows = bench.table(place.made(cell))
        paid = {name: float(costs[name]) for name in COSTS}
        results.scores.add(frame({**told(cell), **paid, **provenance()}, rows))
        summary = (scores.MEAN_COHERENCE, f"{scores.MEAN_COHERENCE_OF}2", scores.JOINT_COHERENCE)
        said = ", ".join(f"{metric} {value_of(rows, metric):.3f}" for metric in summary)
        print(f"{cell.name}: {said} ({costs['cpu_s']:.0f} s)", flush=True)


def told(cell: Cell) -> dict[str, Any]:
    """What a row says of its cell."""
    return {"contender": cell.contender, "variant": cell.variant, "seed": cell.seed, "minutes": float(cell.minutes)}


def show(place: Place, table: pl.DataFrame, docs: Path) -> None:
    """All tables on the screen and as a page, the plots, and, where the cells themselves are here, what they make of
    the same captions."""
    said = tables.everything(table)
    print(said)
    docs.mkdir(parents=True, exist_ok=True)
    whole(docs / PAGE, lambda path: path.write_text(f"{HEAD}\n{said}\n", encoding="utf-8"))
    drawing.draw(table, docs)
    full = tables.full(table)
    made = {tables.NAMES[name]: place.made(Cell(name, "complete", 0, full)) for name in tables.contenders(table)}
    here = {name: path for name, path in made.items() if path.exists()}
    if len(here) > 1:
        bench = Bench(place.store, "test", place.exam("test"))
        images = {"real": bench.real["image"].numpy()} | {
            name: np.load(path)["text>image"] for name, path in here.items()
        }
        drawing.pictures(images, bench.labels_N.numpy(), docs / drawing.PICTURES)


def best_of(tuned: dict[str, Any]) -> str:
    """The peer with the highest mean coherence in tuning."""
    return max(settings.GRID, key=lambda peer: tuned[peer]["tried"][tuned[peer]["chosen"]]["mean_coherence"])


def _scale(factor: float) -> None:
    """Budgets of a run that only tries the command out."""
    settings.BUDGET_S *= factor
    settings.TUNING_S *= factor
    settings.CURVE_MINUTES = tuple(minutes * factor for minutes in settings.CURVE_MINUTES)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("bench-models"), help="where tables, store and cells lie")
    parser.add_argument("--peer", type=Path, default=None, help="the peers' environment; WORK/peers")
    parser.add_argument("--only", choices=("tuning", *settings.GRID, cells.FLOW, cells.BASELINE), default=None)
    parser.add_argument("--jobs", type=int, default=settings.JOBS, help="cells at once, each on one core")
    parser.add_argument("--table", action="store_true", help="print the tables and draw the plots, train nothing")
    parser.add_argument("--rows", type=int, default=settings.ROWS, help="to try it out: of the whole data set")
    parser.add_argument("--minutes-scale", type=float, default=1.0, help="to try it out: all budgets times this")
    asked = parser.parse_args()
    work = asked.work.resolve()
    place = Place(work, (asked.peer or work / "peers").resolve(), asked.rows)
    trying = asked.rows != settings.ROWS or asked.minutes_scale != 1.0
    results = Results(work / "results" if trying else RESULTS)
    settings.JOBS = asked.jobs
    if asked.minutes_scale != 1.0:
        _scale(asked.minutes_scale)
    if not asked.table:
        ours = asked.only in (cells.FLOW, cells.BASELINE)
        tuned = {} if ours else tune(place, results)
        if asked.only == "tuning":
            return
        chosen = {peer: tuned[peer]["chosen"] for peer in tuned if peer in settings.GRID}
        compare(place, results, chosen, "" if ours else best_of(tuned), asked.only)
    found = results.scores.table()
    if found is None:
        raise SystemExit(f"{results.scores.path}: no results yet; run `make bench-models` first")
    show(place, found, work / "docs" if trying else DOCS)


if __name__ == "__main__":
    main()
