"""Scores as rows: what was measured, on what, by whom, with its interval."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import polars as pl

from data_schemas.scores import Scores
from mmgen.evaluate.intervals import Estimate

#: metrics whose row has one value for all directions from one input, or for all slots together
MEAN_COHERENCE, JOINT_COHERENCE, MEAN_RETRIEVAL = "mean_coherence", "joint_coherence", "mean_retrieval"
#: the mean over what is made from so many inputs, two or more: "mean_coherence_of_2"
MEAN_COHERENCE_OF = "mean_coherence_of_"
#: made from `given`, judged by the judge of `made` against the label
COHERENCE = "coherence"
#: real values through the codec and back, judged likewise: the ceiling of every generator on it
RECONSTRUCTION = "reconstruction_coherence"
#: share of texts that the codec gives back token for token
TEXT_EXACT = "text_exact"
#: the judges on real data: the ceiling of every judgement
JUDGE_ACCURACY = "judge_accuracy"
#: an independent recogniser on made, and on real clips
RECOGNISED, RECOGNISED_REAL = "recognised", "recognised_real"
#: an independent reader on made, and on real pictures of written labels
READ, READ_REAL = "read", "read_real"
#: recall@1 of the condition among 100, for made samples and for real partners
RETRIEVAL, RETRIEVAL_REAL = "retrieval", "retrieval_real"
#: unbiased squared MMD of made and real embeddings, and of two halves of the real ones
KERNEL_DISTANCE, KERNEL_FLOOR = "kernel_distance", "kernel_floor"
#: the same among a judge's features
JUDGE_KERNEL_DISTANCE, JUDGE_KERNEL_FLOOR = "judge_kernel_distance", "judge_kernel_floor"
#: Fréchet distance among features, over the variance of the real ones; of two halves of these
FRECHET_DISTANCE, FRECHET_FLOOR = "frechet_distance", "frechet_floor"
#: see mmgen.evaluate.manifold; with "_real" of one half of the real data among the other
PRECISION, RECALL, DENSITY, COVERAGE = "precision", "recall", "density", "coverage"
#: the mean of the coverage over all directions from one input
MEAN_COVERAGE = "mean_coverage"
REAL = "_real"
#: share of made samples nearer to a training sample than all but 1% of real test samples are; and how near they are,
#: as the ratio of both medians
MEMORISED, TRAINING_DISTANCE = "memorised", "training_distance"
#: exp of the mean negative log-probability of a token of real texts, under the generator
PERPLEXITY = "perplexity"

#: of the fusion model on real data. Recall of a sample's own partner in `made` among the k nearest of all, and what a
#: random order has (whose n is the size of the gallery): "recall_at_5", "recall_at_5_chance"
RECALL_AT, CHANCE = "recall_at_", "_chance"
#: its label head: each class (judge `fusion:<class>`), how far its confidence is from its accuracy, and how far after
#: a temperature; its accuracy from each subset of slots, and recall@1 of the other slots from them, clean and with
#: "_noise_0.5", "_pgd_0.1" at the end of the name under a disturbance of that size
CLASS_PRECISION, CLASS_RECALL, CLASS_F1 = "class_precision", "class_recall", "class_f1"
CALIBRATION, CALIBRATION_TEMPERED = "calibration_error", "calibration_error_tempered"
LABEL_ACCURACY, SUBSET_RECALL = "label_accuracy", "subset_recall_at_1"
#: share of samples whose nearest class prompt in the fusion space is that of their class
ZERO_SHOT = "zero_shot"
#: of a head for numbers, in their own unit
MEAN_ABSOLUTE_ERROR = "mean_absolute_error"

#: joins the slots of one side of a score
AND = "+"


@dataclass(frozen=True, slots=True)
class Score:
    """One row of the table of scores (data_schemas.scores). given, made: slots joined by '+', "" for none."""

    metric: str
    given: str
    made: str
    judge: str
    value: float
    low: float
    high: float
    n: int


def single(row: Score) -> bool:
    """Whether a row is of what is made from one input alone."""
    return row.given != "" and AND not in row.given


def score(metric: str, given: Sequence[str], made: Sequence[str], judge: str, found: Estimate) -> Score:
    """A row from an estimate."""
    return Score(metric, AND.join(given), AND.join(made), judge, found.value, found.low, found.high, found.n)


def mean_of(metric: str, rows: Sequence[Score], judge: str) -> Score:
    """The unweighted mean of rows that share their samples. Its interval is the mean of theirs, which is no narrower
    than the truth whatever their correlation. n is the smallest of theirs. `rows` must not be empty."""
    count = len(rows)
    value, low, high = (sum(getattr(row, name) for row in rows) / count for name in ("value", "low", "high"))
    return Score(metric, "", "", judge, value, low, high, min(row.n for row in rows))


def to_parquet(rows: Sequence[Score]) -> bytes:
    """The checked table as Parquet. Raises pandera's SchemaError if a row breaks the contract: a bug of ours."""
    schema = {"metric": pl.String, "given": pl.String, "made": pl.String, "judge": pl.String,
              "value": pl.Float64, "low": pl.Float64, "high": pl.Float64, "n": pl.Int64}  # fmt: skip
    table = Scores.validate(pl.DataFrame([asdict(row) for row in rows], schema=schema))
    sink = io.BytesIO()
    table.write_parquet(sink)
    return sink.getvalue()


#: what a manifest repeats of the table, and a screen shows; all else is in the table, the card and MLflow
TOLD = frozenset({
    MEAN_COHERENCE, JOINT_COHERENCE, MEAN_RETRIEVAL, MEAN_COVERAGE, COHERENCE, RECONSTRUCTION, TEXT_EXACT,
    JUDGE_ACCURACY, RECOGNISED, RECOGNISED_REAL, READ, READ_REAL, RETRIEVAL, RETRIEVAL_REAL, KERNEL_DISTANCE,
    KERNEL_FLOOR,
})  # fmt: skip


def told(rows: Sequence[Score]) -> list[Score]:
    """The rows that a manifest repeats."""
    return [row for row in rows if row.metric in TOLD or row.metric.startswith(MEAN_COHERENCE_OF)]


def plain(rows: Sequence[Score]) -> list[dict[str, str | float | int]]:
    """Rows as plain data for a manifest's facts, with the judge's own accuracy on real data beside each."""
    accuracy = {row.judge: row.value for row in rows if row.metric == JUDGE_ACCURACY}
    heard = {row.judge: row.value for row in rows if row.metric == RECOGNISED_REAL}
    found = []
    for row in rows:
        each = asdict(row)
        beside = (accuracy | heard).get(row.judge)
        found.append(each if beside is None else each | {"judge_accuracy": beside})
    return found
