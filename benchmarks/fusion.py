"""Ways to fuse on spoken_digits, end to end and over frozen latents: retrieval, and accuracy with inputs missing.

    make bench-fusion                 # or: python -m benchmarks.fusion --json
    make bench-fusion ARGS="--rows 400 --recipe spoken_digits_quick --kinds gated --seeds 1 --steps 20"

A cell is a way to fuse, what it learns from, and a seed; all of them have the same data, steps, encoder widths and test
split. Their rows (scores as data_schemas/scores.py has them, beside the cell, CPU seconds, commit and machine) are in
benchmarks/results/fusion.parquet; a cell that has some there is not made again. Intervals are Student's over the
seeds, of differences from concat over the same seeds.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks.environments import cpu_seconds
from benchmarks.kept import Kept
from flows.demo import configure
from mmgen import steps
from mmgen.artifact import Artifact
from mmgen.batches import Batch, Loader, open_samples
from mmgen.codec_set import CodecSet
from mmgen.config import Config
from mmgen.evaluate import fused, scores
from mmgen.evaluate.robustness import robustness
from mmgen.evaluate.scores import Score
from mmgen.fusion.fusion import Fusion
from mmgen.maker import load_fusion
from mmgen.runtime import Runtime, circumstance
from mmgen.store import Store
from mmgen.train import train_fusion

RESULTS = Kept(Path(__file__).parent / "results" / "fusion.parquet", ("kind", "features", "seed", "rows", "steps"))
TOKENS = "cross_attention_tokens"
KINDS = ("concat", "gated", "low_rank", "cross_attention", TOKENS)
FEATURES = {"tensors": "end to end", "latents": "frozen"}
#: two-sided 95% of Student's t by degrees of freedom
STUDENT = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
#: what a cell is summed up as: name → means over rows of these
SUMMARY = (
    "retrieval@1, 1 input", "retrieval@1, 2 inputs", "accuracy, 1 input", "accuracy, 2 inputs", "accuracy, noise of 1",
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One training and its scores."""

    kind: str
    features: str
    seed: int
    rows: int
    steps: int


@dataclass(frozen=True)
class Prepared:
    """The line up to its features, made once for all cells."""

    config: Config
    runtime: Runtime
    made: dict[str, Artifact]


def prepare(store: str, rows: int, quick: bool) -> Prepared:
    """Bring the store's data, codecs and features up to date."""
    runtime = Runtime(Store(store), device="cpu")
    config = configure("spoken_digits", store, rows, quick, runtime.progress)
    names = steps.NAMES[: steps.NAMES.index("extract") + 1]
    return Prepared(config, runtime, {each.step: each.artifact for each in steps.run(config, runtime, names)})


def measure(prepared: Prepared, cell: Cell) -> pl.DataFrame:
    """Train a cell and score it on the test split."""
    config, store = prepared.config, prepared.runtime.store
    training = config.fusion.train.model_copy(update={"steps": cell.steps})
    way = {"kind": "cross_attention", "tokens": True} if cell.kind == TOKENS else {"kind": cell.kind}
    settings = {**way, "features": cell.features, "train": training}
    fusion = config.fusion.model_copy(update=settings)
    mine = config.model_copy(update={"fusion": fusion, "seed": cell.seed, "name": "bench"})
    inputs = {"features": prepared.made["extract"], "codecs": prepared.made["fit"]}
    before = cpu_seconds()
    made = train_fusion(mine, inputs, prepared.runtime)
    spent = cpu_seconds() - before
    network = load_fusion(store, made)
    assert isinstance(network, Fusion)
    real = test_split(prepared)
    rows = fused.retrieval(network, real) + robustness(network, real, seed=0)
    about = {
        **asdict(cell), "cpu_seconds": spent, "parameters": made.facts["parameters"], "command": "make bench-fusion",
        "circumstance": json.dumps(circumstance(device="cpu")),
    }  # fmt: skip
    return pl.DataFrame([asdict(row) | about for row in rows])


def test_split(prepared: Prepared) -> Batch:
    """All of it, as tensors."""
    store = prepared.runtime.store
    codecs = CodecSet.load(store, prepared.made["fit"])
    samples = open_samples(store, prepared.made["extract"], "tensors", "test")
    assert samples is not None, "the test split is empty"
    to_value = {slot: how.value for slot, how in codecs.preprocesses.items()}
    return Loader(samples, batch_size=len(samples), to_value=to_value, shuffle=False).next()


def keep(store: str, quick: bool, cells: Sequence[Cell]) -> pl.DataFrame:
    """Make the cells that are missing, and read all that are asked for."""
    missing = [cell for cell in cells if not RESULTS.has(asdict(cell))]
    prepared = prepare(store, cells[0].rows, quick) if missing else None
    for cell in missing:
        assert prepared is not None
        print(f"{cell.kind}, {FEATURES[cell.features]}, seed {cell.seed}", file=sys.stderr, flush=True)
        RESULTS.add(measure(prepared, cell))
    found = RESULTS.table()
    assert found is not None
    return pl.concat([found.filter(**asdict(cell)) for cell in cells])


# ---------------------------------------------------------------- the table


def summed(rows: Sequence[Score]) -> dict[str, float]:
    """A cell's few numbers: means over directions from one slot to another, and over subsets of so many inputs."""

    def of(metric: str, inputs: int | None = None) -> list[float]:
        fitting = [row for row in rows if row.metric == metric]
        return [row.value for row in fitting if inputs is None or row.given.count(scores.AND) == inputs - 1]

    accuracies = (of(scores.LABEL_ACCURACY, 1), of(scores.LABEL_ACCURACY, 2), of(f"{scores.LABEL_ACCURACY}_noise_1"))
    found = dict(zip(SUMMARY, (of(f"{scores.RECALL_AT}1"), of(scores.SUBSET_RECALL, 2), *accuracies), strict=True))
    return {name: statistics.fmean(values) for name, values in found.items() if values}


def over_seeds(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and half the width of its 95% interval; that of one value is not known."""
    if len(values) < 2:
        return values[0], None
    return statistics.fmean(values), STUDENT[len(values) - 1] * statistics.stdev(values) / math.sqrt(len(values))


def summarise(table: pl.DataFrame) -> list[dict[str, Any]]:
    """A row for each way to fuse and what it learns from: mean and half interval of each number, and of what it is
    above concat."""
    names = list(Score.__slots__)
    cells = {
        (kind, features, seed): summed([Score(**row) for row in part.select(names).to_dicts()])
        for (kind, features, seed), part in table.group_by("kind", "features", "seed", maintain_order=True)
    }
    found = []
    for kind, features in dict.fromkeys((kind, features) for kind, features, _ in cells):
        seeds = [seed for one, other, seed in cells if (one, other) == (kind, features)]
        row: dict[str, Any] = {"kind": kind, "features": FEATURES[str(features)], "seeds": len(seeds)}
        for name in SUMMARY:
            row[name] = over_seeds([cells[kind, features, seed][name] for seed in seeds])
            beside = [seed for seed in seeds if ("concat", features, seed) in cells]
            if kind != "concat" and beside:
                gains = [cells[kind, features, seed][name] - cells["concat", features, seed][name] for seed in beside]
                row[f"{name} above concat"] = over_seeds(gains)
        part = table.filter((pl.col("kind") == kind) & (pl.col("features") == features))
        row["cpu_seconds"] = statistics.fmean(part["cpu_seconds"].unique())
        found.append(row)
    return found


def show(rows: list[dict[str, Any]]) -> None:
    """The table as text."""
    print(f"{'':<28}{'seeds':>6}{'CPU s':>8}  " + "  ".join(f"{name:<32}" for name in SUMMARY))
    for row in rows:
        parts = []
        for name in SUMMARY:
            gain = row.get(f"{name} above concat")
            parts.append(_said(row[name], "") + (f" ({_said(gain, '+')})" if gain else ""))
        what = f"{row['kind']}, {row['features']}"
        print(f"{what:<28}{row['seeds']:>6}{row['cpu_seconds']:>8.0f}  " + "  ".join(f"{part:<32}" for part in parts))


def _said(found: tuple[float, float | None], sign: str) -> str:
    mean, half = found
    return f"{mean:{sign}.3f}" + (f" ± {half:.3f}" if half is not None else "")


def main() -> None:
    """Make what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--store", default="mmgen-store", help="where the data set and its features are, or are made")
    parser.add_argument("--rows", type=int, default=5_000)
    parser.add_argument("--recipe", choices=("spoken_digits", "spoken_digits_quick"), default="spoken_digits")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--features", nargs="+", choices=tuple(FEATURES), default=tuple(FEATURES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    cells = [
        Cell(kind, features, seed, given.rows, given.steps)
        for seed in range(given.seeds)
        for features in given.features
        for kind in given.kinds
    ]
    rows = summarise(keep(given.store, given.recipe == "spoken_digits_quick", cells))
    if given.json:
        print(json.dumps(rows))
    else:
        show(rows)


if __name__ == "__main__":
    main()
