"""Pairs that do not belong together: what the similarities of a fusion model say of each sample's slots.

A threshold per pair of slots, from the data's own pairs and the same pairs shuffled (`data_schemas/pairs.py`):

1. An outlier: below the lower quartile of the similarities by `fence_iqr` interquartile ranges (Tukey, "Exploratory
   data analysis", 1977: 3 is his outer fence). Quartiles stand still until a quarter of the pairs is wrong.
2. As unlike as what is known to be wrong: shuffled pairs beyond that fence. Those within it match by accident (captions
   repeat) and are left out. The threshold lies the share `toward_wrong` of the way from the fence to their median, so a
   pair that is merely odd, more alike than wrong ones are, is let be.

A model whose fence lies beyond half of the shuffled pairs cannot tell true from wrong: there is no threshold then. A
row is flagged only if all pairs of one of its slots are below their thresholds: of three slots, two agree and one is
odd. A sample that the model misreads looks like one whose slot was swapped; no score can tell these two apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import polars as pl

from data_schemas.pairs import broken
from mmgen.artifact import Artifact, Draft, fingerprint
from mmgen.errors import IntegrityError
from mmgen.records import Rejection
from mmgen.runtime import Runtime, circumstance
from mmgen.tables import read_parquet
from mmgen.validate_config import PairsConfig

REASON = "mismatched_pair"
STEP = "score-pairs"
#: shuffled pairs beyond the fence, from which a model counts as one that can tell
TELLS = 0.5
#: pairs of which quartiles mean something
LEAST = 20


@dataclass(frozen=True, slots=True)
class Threshold:
    """Of one pair of slots. below: a similarity, None where the model cannot tell or there are too few pairs.

    median, fence: of the similarities of all pairs. wrong: the share of shuffled pairs below the fence.
    """

    given: str
    other: str
    pairs: int
    median: float
    fence: float
    wrong: float
    below: float | None


@dataclass(frozen=True)
class PairScores:
    """A `pairs` artifact and its table; no table where scoring failed."""

    artifact: Artifact
    table: pl.DataFrame | None


def read(scores: Artifact, runtime: Runtime) -> PairScores:
    """Raises IntegrityError if the table breaks its schema."""
    if not scores.passed:
        return PairScores(scores, None)
    table = read_parquet(runtime.store, scores.file("pairs").path)
    if said := broken(table):
        raise IntegrityError(f"{scores.ref}: {said}; delete it, and it is made again")
    return PairScores(scores, table)


def thresholds(scores: pl.DataFrame, settings: PairsConfig) -> list[Threshold]:
    """One per pair of slots, by name."""
    found = []
    for (given, other), part in scores.group_by("given", "other", maintain_order=True):
        low, median, high = (float(part["similarity"].quantile(q, "linear") or 0.0) for q in (0.25, 0.5, 0.75))
        fence = low - settings.fence_iqr * (high - low)
        shuffled = part["shuffled"].drop_nulls()
        wrong = shuffled.filter(shuffled < fence)
        share = len(wrong) / len(shuffled) if len(shuffled) else 0.0
        tells = part.height >= LEAST and share >= TELLS
        below = fence + settings.toward_wrong * (float(wrong.median()) - fence) if tells else None  # type: ignore[arg-type]
        found.append(Threshold(str(given), str(other), part.height, median, fence, share, below))
    return sorted(found, key=lambda each: (each.given, each.other))


def mismatched(
    scores: PairScores | None, settings: PairsConfig, severity: Mapping[str, Literal["reject", "flag", "off"]]
) -> list[Rejection]:
    """A note for each row of which a slot does not belong to the others, in row order."""
    effect = severity.get(REASON, "flag")
    if effect == "off" or scores is None or scores.table is None:
        return []
    limits = thresholds(scores.table, settings)
    table = pl.DataFrame(
        [(each.given, each.other, each.below) for each in limits],
        schema={"given": pl.String, "other": pl.String, "below": pl.Float64}, orient="row",
    )  # fmt: skip
    mine = scores.table.filter((pl.col("given") == pl.col("odd")) | (pl.col("other") == pl.col("odd"))).join(
        table, on=["given", "other"], how="left"
    )
    bad = mine.filter((pl.col("similarity") <= pl.col("below")).fill_null(False).all().over("row"))
    # the worst of a row's pairs is told
    worst = bad.sort("row", "similarity", "given", "other").unique("row", keep="first", maintain_order=True)
    return [
        Rejection(row["row"], row["key"], "validate", row["odd"], REASON, effect, _said(row))
        for row in worst.iter_rows(named=True)
    ]


def _said(row: Mapping[str, object]) -> str:
    odd = row["odd"]
    other = row["other"] if row["given"] == odd else row["given"]
    own = f"similarity {row['similarity']:.2f} with its own"
    if row["better_key"] is None:
        return f"its {odd} does not fit its {other} ({own}, wanted above {row['below']:.2f})"
    return f"its {odd} fits the {other} of '{row['better_key']}' better ({row['better_similarity']:.2f}; {own})"


def unscored(name: str, inputs: Mapping[str, Artifact], runtime: Runtime, why: str) -> Artifact:
    """A `pairs` artifact that says why there are no scores: what could not be scored is counted too (law 6)."""
    runtime.progress.say(f"pairs: not scored: {why}")
    links = {role: each.link for role, each in inputs.items()}
    mark = fingerprint(step=STEP, inputs={role: link.fingerprint for role, link in links.items()}, why=why)
    facts = {"why": why, "rows": 0, "unscored": inputs["staging"].facts["rows"]}
    draft = Draft(runtime.store, "pairs", name, mark)
    return draft.commit(step=STEP, config={}, inputs=links, facts=facts, passed=False, circumstance=circumstance())
