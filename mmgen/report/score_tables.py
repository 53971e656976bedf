"""The table of scores, as a card draws it and as MLflow's metrics name it."""

from __future__ import annotations

import io
import math
import re
from dataclasses import dataclass
from typing import Any

import polars as pl

from mmgen.artifact import Artifact
from mmgen.store import Store

#: roles of a scores artifact's tables: on the test split, and on the one that was held out
TEST, HELD_OUT = "scores", "scores:heldout"


@dataclass(frozen=True, slots=True)
class Score:
    """One row of the scores table."""

    metric: str
    given: str
    made: str
    judge: str
    value: float
    low: float
    high: float
    n: int

    @property
    def direction(self) -> str:
        """What the score is of, as a label: "text + audio → image"."""
        given, made = (each.replace("+", " + ") for each in (self.given, self.made))
        return f"{given} → {made}" if given and made else made or given or "all"


@dataclass(frozen=True, slots=True)
class Bar:
    """A score on an axis that runs from the chart's `low` to 1: places as percentages of its width.

    left, width: of the interval. marks: what the score is held against, as (word, value, place).
    """

    label: str
    score: Score
    left: float
    width: float
    dot: float
    marks: tuple[tuple[str, float, float], ...]


def read_scores(store: Store, scores: Artifact, role: str = TEST) -> list[Score]:
    """The rows of the artifact's table of this role; none where it has no such table."""
    return [row for entry in scores.by_role(role) for row in rows_of(store.read(entry.path))]


def rows_of(table: bytes) -> list[Score]:
    """The rows of a table of scores as Parquet."""
    columns = [*Score.__dataclass_fields__]
    return [Score(**row) for row in pl.read_parquet(io.BytesIO(table)).select(columns).to_dicts()]


def flat_scores(store: Store, scores: Artifact) -> dict[str, float]:
    """Scores under names that MLflow takes as metrics, intervals as `….low` and `….high`. Finite values only.
    Those of the held-out split begin with "heldout/"."""
    flat: dict[str, float] = {}
    for role, prefix in ((TEST, ""), (HELD_OUT, "heldout/")):
        rows = read_scores(store, scores, role)
        keys = [_metric_key(row) for row in rows]
        for key, row in zip(keys, rows, strict=True):
            name = prefix + (key if keys.count(key) == 1 else f"{key}/{_plain(row.judge)[:24]}")
            flat |= {name: row.value, f"{name}.low": row.low, f"{name}.high": row.high}
    return {key: value for key, value in flat.items() if math.isfinite(value)}


def _metric_key(row: Score) -> str:
    given, made = (_plain(slots.replace("+", "-and-")) for slots in (row.given, row.made))
    direction = f"{given}-to-{made}" if given and made else made or given
    return f"{_plain(row.metric)}/{direction}" if direction else _plain(row.metric)


def _plain(text: str) -> str:
    return re.sub(r"[^\w.-]", "_", text)


#: metric → (title of its table, what it means)
METRICS: dict[str, tuple[str, str]] = {
    "mean_coherence": ("Mean coherence", "mean over all directions from one input"),
    "coherence": ("Coherence", "share of made samples that the judge puts in the class of their condition"),
    "joint_coherence": ("Joint coherence", "share of samples made from nothing whose slots all agree"),
    "reconstruction_coherence": ("Codec ceiling", "real data through the codec and back, judged likewise"),
    "text_exact": ("Exact text", "share of real texts that the codec gives back token for token"),
    "judge_accuracy": ("Judges", "the judges themselves, on real test data"),
    "recognised": ("Independent recogniser", "share of made clips in which it hears the asked word"),
    "recognised_real": ("Independent recogniser, real clips", "the same on real clips: its ceiling"),
    "read": ("Independent reader", "share of made pictures in which it reads the asked label"),
    "read_real": ("Independent reader, real pictures", "the same on real pictures: its ceiling"),
    "mean_retrieval": ("Mean retrieval", "mean over all directions"),
    "retrieval": ("Retrieval", "recall@1 of the condition among 100, in the fusion space"),
    "retrieval_real": ("Retrieval, real partners", "the same for real partners: the ceiling"),
    "mean_coverage": ("Mean coverage", "mean over all directions from one input"),
    "coverage": ("Coverage", "share of real samples that have a made one among their nearest: low where it collapsed"),
    "coverage_real": ("Coverage, real", "of one half of the real data by the other: the ceiling"),
    "precision": ("Precision", "share of made samples that lie among the real ones"),
    "precision_real": ("Precision, real", "of one half of the real data among the other: the ceiling"),
    "recall": ("Recall", "share of real samples that lie among the made ones"),
    "recall_real": ("Recall, real", "of one half of the real data among the other: the ceiling"),
    "density": ("Density", "real neighbourhoods around a made sample, over their size; about 1 for real data"),
    "density_real": ("Density, real", "of one half of the real data in the other"),
    "frechet_distance": (
        "Fréchet distance",
        "among the judge's features, over the real ones' variance: 1 is making their mean always; lower is better",
    ),
    "frechet_floor": ("Fréchet distance, real", "of two halves of the real data, as many as above: the floor"),
    "judge_kernel_distance": (
        "Kernel distance, judge",
        "unbiased squared MMD among the judge's features, lower is better",
    ),
    "judge_kernel_floor": ("Kernel distance, judge, real", "of two halves of the real data: the floor"),
    "kernel_distance": ("Kernel distance", "unbiased squared MMD of made and real embeddings, lower is better"),
    "kernel_floor": ("Kernel distance, real", "of two halves of the real data: the floor"),
    "memorised": (
        "Memorised",
        "share of made samples nearer to a training sample than all but 1% of real test samples are: 0.01 is chance",
    ),
    "training_distance": (
        "Distance to training data",
        "to the nearest training sample, over that of real test samples (medians): far below 1 is copying",
    ),
    "bleu": ("BLEU", "made texts against those of the same samples, 0 to 100"),
    "chrf": ("chrF", "the same by letters, 0 to 100"),
    "rouge_l": ("ROUGE-L", "longest common subsequence of words, F1"),
    "exact_match": ("Exact match", "share of made texts that are one of the sample's own"),
    "perplexity": ("Perplexity", "of a token of real texts under the generator, lower is better"),
    "recall_at_1": ("Fusion: recall@1", "real samples: share whose own partner is the nearest of all"),
    "recall_at_5": ("Fusion: recall@5", "is among the five nearest"),
    "recall_at_10": ("Fusion: recall@10", "is among the ten nearest"),
    "zero_shot": ("Fusion: zero-shot", "share of real samples whose nearest class prompt is that of their class"),
    "label_accuracy": ("Fusion: label head", "share of real samples whose class it names, from each subset of inputs"),
    "mean_absolute_error": ("Fusion: label head", "mean absolute error of the number, from each subset of inputs"),
    "class_f1": ("Fusion: F1 of each class", "harmonic mean of precision and recall"),
    "calibration_error": ("Fusion: calibration error", "mean distance of confidence from accuracy, bins of equal mass"),
    "calibration_error_tempered": ("Fusion: calibration error, tempered", "after a temperature from the other half"),
    "subset_recall_at_1": ("Fusion: recall@1 from subsets", "the rest of a real sample, from each subset of inputs"),
}
_SEVERAL = re.compile(r"mean_coherence_of_(\d+)")


def described(metric: str) -> tuple[str, str]:
    """(title, meaning) of any metric; an unknown one has its own name for a title."""
    if several := _SEVERAL.fullmatch(metric):
        return f"Mean coherence, {several[1]} inputs", f"mean over all directions from {several[1]} inputs"
    return METRICS.get(metric, (metric, ""))


#: a drawn metric → what is marked on the same axis: (word, metric)
_DRAWN: dict[str, tuple[tuple[str, str], ...]] = {
    "coherence": (("judge on real data", "judge_accuracy"), ("codec ceiling", "reconstruction_coherence")),
    "recognised": (("on real clips", "recognised_real"),),
    "read": (("on real pictures", "read_real"),),
    "retrieval": (("real partners", "retrieval_real"),),
    "coverage": (("half of the real data", "coverage_real"),),
}


def _bars(rows: list[Score], metric: str) -> tuple[float, list[Bar]]:
    """The axis' lower end, and a bar per direction with what it is held against."""
    mine = [row for row in rows if row.metric == metric]
    words = {other: word for word, other in _DRAWN[metric]}
    beside = {(words[row.metric], row.given, row.made): row.value for row in rows if row.metric in words}
    lowest = min([row.low for row in mine] + list(beside.values()), default=0.0)
    low = max(0.0, math.floor(lowest * 10 - 0.5) / 10)

    def at(value: float) -> float:
        return 100 * min(1.0, max(0.0, (value - low) / (1 - low)))

    bars = []
    for row in sorted(mine, key=lambda row: (row.given.count("+"), -row.value)):
        found = []
        for word, _ in _DRAWN[metric]:
            # a judge or codec is of the made slot alone; a real partner is of the same pair
            value = beside.get((word, row.given, row.made), beside.get((word, "", row.made)))
            if value is not None:
                found.append((word, value, at(value)))
        bars.append(Bar(row.direction, row, at(row.low), at(row.high) - at(row.low), at(row.value), tuple(found)))
    return low, bars


def charts(rows: list[Score]) -> list[dict[str, Any]]:
    """What is drawn: {"title", "meaning", "low" (end of the axis), "bars", "words" (what the marks are)} per metric."""
    drawn = []
    for metric, against in _DRAWN.items():
        low, bars = _bars(rows, metric)
        if bars:
            title, meaning = METRICS[metric]
            words = [word for word, _ in against if any(word == mark[0] for bar in bars for mark in bar.marks)]
            drawn.append({"title": title, "meaning": meaning, "low": low, "bars": bars, "words": words})
    return drawn


def tables(rows: list[Score]) -> list[dict[str, Any]]:
    """All rows by metric, known ones first: {"title", "meaning", "rows"}."""
    several = sorted({row.metric for row in rows if _SEVERAL.fullmatch(row.metric)})
    first, *others = METRICS
    order = [first, *several, *others, *sorted({row.metric for row in rows} - METRICS.keys() - {*several})]
    return [
        {"title": described(metric)[0], "meaning": described(metric)[1], "rows": found}
        for metric in order
        if (found := [row for row in rows if row.metric == metric])
    ]
