"""What a label head gets right of each class: precision, recall and F1."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.metrics import multilabel_confusion_matrix

from mmgen.evaluate import scores
from mmgen.evaluate.intervals import Estimate, wilson
from mmgen.evaluate.scores import Score, score


def per_class(
    truth: np.ndarray, guess: np.ndarray, labels: Sequence[str], given: Sequence[str], judge: str
) -> list[Score]:
    """Rows of the classes of a head, from class indices (N,) or sets as 0 and 1 (N, K); judge `fusion:<class>`.

    A class that is neither there nor said has no row.
    """
    if truth.ndim == 1:
        counts = multilabel_confusion_matrix(truth, guess, labels=range(len(labels)))
    else:
        counts = multilabel_confusion_matrix(truth, guess)
    found = []
    for label, ((_, said_wrongly), (missed, right)) in zip(labels, counts.tolist(), strict=True):
        found += rates(right, right + said_wrongly, right + missed, given, f"{judge}:{label}")
    return found


def rates(right: int, said: int, there: int, given: Sequence[str], judge: str) -> list[Score]:
    """Precision (of what was said), recall (of what is there) and F1 of one class; none if it is neither.

    F1 rises with both, so its interval is that of their 95% intervals' ends, and so no narrower than 95%. Of the
    other two the one without a denominator is 0, and has no row.
    """
    if said + there == 0:
        return []
    precision = wilson(right, said) if said else None
    recall = wilson(right, there) if there else None
    rows = [
        score(name, given, [], judge, estimate)
        for name, estimate in ((scores.CLASS_PRECISION, precision), (scores.CLASS_RECALL, recall))
        if estimate is not None
    ]
    nothing = Estimate(0.0, 0.0, 1.0, 0)
    one, other = precision or nothing, recall or nothing
    f1 = Estimate(
        2 * right / (said + there), _harmonic(one.low, other.low), _harmonic(one.high, other.high), max(there, 1)
    )
    return [*rows, score(scores.CLASS_F1, given, [], judge, f1)]


def _harmonic(one: float, other: float) -> float:
    return 2 * one * other / (one + other) if one + other else 0.0
