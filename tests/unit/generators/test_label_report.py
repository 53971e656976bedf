"""The label head's report, counted by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mmgen.batches import Batch
from mmgen.generators.label_report import label_report


class Says:
    """Answers what it is told, whatever it sees."""

    def __init__(self, answers: list[int], classes: int) -> None:
        self.logits = torch.nn.functional.one_hot(torch.tensor(answers), classes).float()

    def classify(self, batch: Batch) -> Tensor:
        return self.logits


def batch(labels: list[int], weights: list[float] | None = None) -> Batch:
    given = torch.ones(len(labels)) if weights is None else torch.tensor(weights)
    return Batch({}, {}, torch.tensor(labels), given, [str(n) for n in range(len(labels))])


def test_it_shows_every_class_and_the_three_averages() -> None:
    found = label_report(Says([0, 0, 1, 1], 3), [batch([0, 0, 1, 2])], ["cat", "dog", "owl"])
    assert found is not None
    rows = {line.split()[0]: line.split()[1:] for line in found.text.splitlines()[1:] if line.strip()}
    assert rows["cat"] == ["1.000", "1.000", "1.000", "2"]
    assert rows["dog"] == ["0.500", "1.000", "0.667", "1"]
    assert rows["owl"] == ["0.000", "0.000", "0.000", "1"]
    assert [key for key in rows if key in ("micro", "macro", "weighted", "samples")] == ["micro", "macro", "weighted"]
    assert found.micro_f1 == pytest.approx(0.75)
    assert found.macro_f1 == pytest.approx((1 + 2 / 3 + 0) / 3)


def test_rows_without_a_label_and_padding_do_not_count() -> None:
    found = label_report(Says([0, 1, 1, 1], 2), [batch([0, -1, 1, 0], [1, 1, 1, 0])], ["a", "b"])
    assert found is not None
    assert (found.n, found.micro_f1) == (2, 1.0)


def test_no_labelled_row_is_no_report() -> None:
    assert label_report(Says([0], 2), [batch([-1])], ["a", "b"]) is None
