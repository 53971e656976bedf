"""What measures a data set of `mmgen demo`: its line up to date, test samples, and the scores as a table."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.kept import whole
from flows.demo import configure
from mmgen import steps
from mmgen.artifact import Artifact
from mmgen.config import Config
from mmgen.dataset import Dataset, Item
from mmgen.evaluate import scores
from mmgen.evaluate.intervals import Estimate, wilson
from mmgen.evaluate.scores import Score
from mmgen.generate import Model, load
from mmgen.runtime import Runtime, circumstance
from mmgen.store import Store

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Line:
    """A data set's line up to its generator, and the generator."""

    config: Config
    dataset: Artifact
    generator: Artifact
    store: Store
    model: Model

    def samples(self, split: str, at_most: int | None = None, seed: int = 0) -> list[Item]:
        """Samples of a split in the order of their keys: all, or so many drawn at random."""
        with Dataset(self.store, self.dataset) as data:
            keys = sorted(data.keys(split))
            if at_most is not None and at_most < len(keys):
                places = np.random.default_rng(seed).choice(len(keys), at_most, replace=False)
                keys = [keys[place] for place in sorted(places.tolist())]
            return [data[key] for key in keys]

    def make(
        self, items: Sequence[Item], given: Sequence[str], to: str, num: int = 1, seed: int = 0, **how: Any
    ) -> list[Any]:
        """`num` of the slot `to` from the slots `given` of each sample: texts, or bytes of files."""
        return self.ask({slot: [first(item, slot) for item in items] for slot in given}, to, num, seed, **how)

    def ask(self, slots: dict[str, Any], to: str, num: int = 1, seed: int = 0, **how: Any) -> list[Any]:
        """The same of values of one's own, sampled as the recipe's evaluation does where `how` does not say."""
        names = ("guidance", "steps", "candidates")
        asked = {name: getattr(self.config.evaluate, name) for name in names} | how
        return self.model.generate(slots=slots, to=to, num=num, seed=seed, **asked)[to]


def first(item: Item, slot: str) -> Any:
    """A slot's bytes, or the first of its texts. Raises KeyError if the sample lacks it."""
    value = item.values[slot]
    return value[0] if isinstance(value, tuple) else value


def trained(name: str, given: argparse.Namespace) -> Line:
    """Run what of the line is not there yet, up to the generator; what is unchanged is skipped."""
    store = Store(given.store)
    runtime = Runtime(store, device=given.device)
    config = configure(name, given.store, given.size, given.quick, runtime.progress)
    made: dict[str, Artifact] = {}
    for each in steps.run(config, runtime, steps.select(last="train-generator")):
        print(f"{each.step}: {'made' if each.ran else 'have'} {each.artifact.ref}", file=sys.stderr, flush=True)
        made[each.step] = each.artifact
    generator = made["train-generator"]
    return Line(config, made["shard"], generator, store, load(generator.ref, store, given.device))


def arguments(name: str, rows: int | None) -> argparse.ArgumentParser:
    """The options that these benchmarks share. rows: test samples that are asked about, at most."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--store", default="mmgen-store", help=f"where `mmgen demo {name}` ran, or is run")
    parser.add_argument("--quick", action="store_true", help=f"the line of `mmgen demo {name} --quick`")
    parser.add_argument("--size", type=int, help=f"--rows of `mmgen demo {name}`: how much of the data set is made")
    parser.add_argument("--rows", type=int, default=rows, help="samples of the split that are asked about, at most")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help=f"the table; default: benchmarks/results/{name}.parquet")
    parser.add_argument("--json", action="store_true")
    return parser


# ---------------------------------------------------------------- scores


def share(metric: str, given: Sequence[str], made: str, judge: str, right: Sequence[bool]) -> list[Score]:
    """A row with the share that is right and Wilson's interval; none of no samples."""
    if not right:
        return []
    return [scores.score(metric, given, (made,) if made else (), judge, wilson(sum(right), len(right)))]


def counted(metric: str, given: Sequence[str], made: str, judge: str, found: Estimate) -> Score:
    """A row of one made slot."""
    return scores.score(metric, given, (made,), judge, found)


def keep(path: Path, rows: Sequence[Score], model: str, **about: Any) -> pl.DataFrame:
    """Check the rows against data_schemas.scores and write them, beside where and by what they were made."""
    here = circumstance()
    # as one types it: where this checkout and the store happen to lie is nobody's concern
    typed = " ".join(["python", "-m", f"benchmarks.{Path(sys.argv[0]).stem}", *sys.argv[1:]])
    command = re.sub(r"(--store[ =])\S+", r"\1DIR", typed)
    beside = {
        **about, "model": model,
        "machine": here["machine"], "commit": here["commit"] or "", "time": here["time"], "command": command,
    }  # fmt: skip
    checked = pl.read_parquet(scores.to_parquet(rows))
    table = checked.with_columns(pl.lit(value).alias(name) for name, value in beside.items())
    whole(path, table.write_parquet)
    return table


def tell(rows: Sequence[Score], path: Path, as_json: bool) -> None:
    """The rows on stdout: one JSON object, or a table for people."""
    if as_json:
        print(json.dumps({"scores": [asdict(row) for row in rows], "table": str(path)}, ensure_ascii=False))
        return
    wide = max((len(row.metric) for row in rows), default=0) + 2
    print(f"{'metric':<{wide}}{'given → made':<34}{'value':>9}   {'95% interval':<18}{'n':>6}")
    for row in rows:
        way = f"{row.given or '—'} → {row.made}"
        print(f"{row.metric:<{wide}}{way:<34}{row.value:>9.3f}   {f'{row.low:.3f}–{row.high:.3f}':<18}{row.n:>6}")
    print(path)
