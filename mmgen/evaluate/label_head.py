"""How right a label head is, whatever a label is: one class, a set of them, a number.

Shape suffixes: N rows, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mmgen.evaluate import scores
from mmgen.evaluate.calibration import calibration
from mmgen.evaluate.intervals import Z_95, Estimate, wilson
from mmgen.evaluate.per_class import per_class
from mmgen.evaluate.scores import Score
from mmgen.fusion.heads import NONE
from mmgen.fusion.targets import Target


def rightness(target: Target | None, guess: Tensor, wanted: Tensor) -> tuple[str, Estimate]:
    """(metric, value) over N rows, 1 or more: the mean absolute error of numbers, in their own unit, else the share of
    rows that are wholly right.

    target: None for class indices. guess, wanted: in the form of the head's targets; an index NONE is never right.
    """
    if target is not None and target.kind == "regression":
        error_N = ((guess - wanted).abs()[:, 0] * target.std).double()
        spread = float(error_N.std()) / math.sqrt(len(error_N)) * Z_95 if len(error_N) > 1 else 0.0
        mean = float(error_N.mean())
        return scores.MEAN_ABSOLUTE_ERROR, Estimate(mean, max(0.0, mean - spread), mean + spread, len(error_N))
    same_N = guess == wanted if wanted.dim() == 1 else (guess == wanted).all(1)
    return scores.LABEL_ACCURACY, wilson(int(same_N.sum()), len(same_N))


def class_rows(
    target: Target | None, names: Sequence[str], out_NK: Tensor, wanted: Tensor, guess: Tensor, given: list[str],
    seed: int, judge: str,
) -> list[Score]:  # fmt: skip
    """Precision, recall and F1 of each class, and of class indices the calibration; nothing of numbers.

    names: of the classes, in index order. judge: `<judge>:<class>`. The others: see `rightness`.
    """
    if target is not None and target.kind == "regression":
        return []
    if target is not None and target.kind == "multi_label":
        return per_class(wanted.cpu().numpy().astype(int), guess.cpu().numpy().astype(int), names, given, judge)
    known_N = wanted != NONE
    if not bool(torch.any(known_N)):
        return []
    found = per_class(wanted[known_N].cpu().numpy(), guess[known_N].cpu().numpy(), names, given, judge)
    return found + calibration(out_NK[known_N], wanted[known_N], given, seed)
