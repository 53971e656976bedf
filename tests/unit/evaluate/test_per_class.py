"""Precision, recall and F1 of each class."""

from __future__ import annotations

import numpy as np
import pytest

from mmgen.evaluate.per_class import per_class, rates
from mmgen.evaluate.scores import to_parquet


def test_each_class_is_counted_by_itself() -> None:
    truth, guess = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 1, 0])
    rows = {
        (row.metric, row.judge): row for row in per_class(truth, guess, ["a", "b", "c", "never"], ["image"], "fusion")
    }
    assert rows["class_precision", "fusion:a"].value == pytest.approx(2 / 3)
    assert rows["class_recall", "fusion:a"].value == pytest.approx(2 / 3)
    assert rows["class_recall", "fusion:b"].value == 1.0
    assert rows["class_f1", "fusion:b"].value == pytest.approx(2 * 2 / 5)
    assert rows["class_f1", "fusion:c"].value == 0.0
    # never said: no precision; neither said nor there: nothing at all
    assert ("class_precision", "fusion:c") not in rows
    assert not [judge for _, judge in rows if judge == "fusion:never"]
    to_parquet(list(rows.values()))


def test_sets_are_counted_class_by_class() -> None:
    truth, guess = np.array([[1, 1], [0, 1], [1, 0]]), np.array([[1, 0], [0, 1], [1, 1]])
    rows = {(row.metric, row.judge): row.value for row in per_class(truth, guess, ["a", "b"], ["image"], "fusion")}
    assert rows["class_f1", "fusion:a"] == 1.0
    assert rows["class_recall", "fusion:b"] == pytest.approx(0.5)


def test_the_interval_of_f1_holds_it() -> None:
    for right, said, there in ((0, 3, 0), (0, 0, 4), (3, 4, 5), (5, 5, 5)):
        f1 = rates(right, said, there, ["image"], "fusion:a")[-1]
        assert f1.metric == "class_f1"
        assert f1.low <= f1.value <= f1.high
        assert f1.value == pytest.approx(2 * right / (said + there))
