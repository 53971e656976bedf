"""How cells of `make bench-fusion` are summed up."""

from __future__ import annotations

import math

import pytest

from benchmarks.fusion import over_seeds, summed
from mmgen.evaluate import scores
from mmgen.evaluate.intervals import Estimate
from mmgen.evaluate.scores import Score, score


def row(metric: str, given: str, made: str, value: float) -> Score:
    return score(metric, given.split("+"), made.split("+") if made else (), "fusion", Estimate(value, value, value, 9))


def test_each_number_is_the_mean_of_its_own_rows() -> None:
    accuracy, noisy, subset = scores.LABEL_ACCURACY, f"{scores.LABEL_ACCURACY}_noise_1", scores.SUBSET_RECALL
    found = summed([
        row(f"{scores.RECALL_AT}1", "a", "b", 0.1), row(f"{scores.RECALL_AT}1", "b", "a", 0.3),
        row(f"{scores.RECALL_AT}10", "a", "b", 0.9),
        row(subset, "a", "b+c", 0.9), row(subset, "a+b", "c", 0.4), row(subset, "a+c", "b", 0.6),
        row(accuracy, "a", "", 0.5), row(accuracy, "b", "", 0.7), row(accuracy, "a+b", "", 0.8),
        row(accuracy, "a+b+c", "", 1.0), row(noisy, "a", "", 0.2), row(noisy, "a+b+c", "", 0.4),
    ])  # fmt: skip
    assert list(found.values()) == pytest.approx([0.2, 0.5, 0.6, 0.8, 0.3])


def test_what_no_row_says_is_left_out() -> None:
    assert list(summed([row(scores.LABEL_ACCURACY, "a", "", 0.5)])) == ["accuracy, 1 input"]


def test_intervals_over_seeds_are_students() -> None:
    mean, half = over_seeds([1.0, 2.0, 3.0])
    assert (mean, half) == (2.0, pytest.approx(4.303 / math.sqrt(3)))
    assert over_seeds([1.0]) == (1.0, None)
