"""Calibration: is what a head calls 80% sure right 80% of the time?

Guo et al. 2017, arXiv:1706.04599; bins of equal mass, as Nguyen & O'Connor 2015, arXiv:1508.05154.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mmgen.evaluate import scores
from mmgen.evaluate.intervals import Estimate
from mmgen.evaluate.scores import Score, score

BINS, RESAMPLES = 15, 500
#: fewest rows to be read of a calibration
FEWEST = 30
#: temperatures that are tried: four decades, 1% apart or so
TEMPERATURES = np.geomspace(0.05, 20.0, 600)


def calibration_error(sure_N: np.ndarray, right_N: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error: mean over rows of |mean confidence - share right| of the row's bin.

    sure_N: confidence of the guess; right_N: whether it is right. Bins hold equally many rows of neighbouring
    confidence, as far as their number divides.
    """
    order = np.argsort(sure_N, kind="stable")
    gaps = [
        len(part) * abs(sure_N[part].mean() - right_N[part].mean()) for part in np.array_split(order, bins) if len(part)
    ]
    return float(sum(gaps) / len(sure_N))


def estimate_error(sure_N: np.ndarray, right_N: np.ndarray, seed: int) -> Estimate:
    """`calibration_error` with a 95% bootstrap interval over the rows.

    The error is a mean of absolute values, which resampling only adds to: the interval is widened to hold the value.
    """
    value, draws = calibration_error(sure_N, right_N), np.random.default_rng(seed)
    picks = draws.integers(0, len(sure_N), (RESAMPLES, len(sure_N)))
    low, high = np.quantile([calibration_error(sure_N[pick], right_N[pick]) for pick in picks], (0.025, 0.975))
    return Estimate(value, min(value, float(low)), max(value, float(high)), len(sure_N))


def temperature(logits_NK: Tensor, labels_N: Tensor) -> float:
    """The temperature by which logits are divided for the least cross-entropy, of those that are tried."""
    losses = [float(F.cross_entropy(logits_NK / each, labels_N)) for each in TEMPERATURES]
    return float(TEMPERATURES[int(np.argmin(losses))])


def calibration(logits_NK: Tensor, labels_N: Tensor, given: list[str], seed: int) -> list[Score]:
    """The error of a head, and what is left of it with a temperature; no rows for fewer than FEWEST samples.

    The temperature of each half of the rows (even, odd) is fitted on the other half, so no row tunes its own.
    """
    if len(labels_N) < FEWEST:
        return []
    logits_NK, labels_N = logits_NK.double().cpu(), labels_N.cpu()
    halves = (torch.arange(len(labels_N)) % 2).bool()
    fitted = torch.ones(len(labels_N), 1, dtype=torch.float64)
    for half in (halves, ~halves):
        fitted[half] = temperature(logits_NK[~half], labels_N[~half])
    right_N = (logits_NK.argmax(1) == labels_N).numpy().astype(np.float64)
    rows = []
    for name, each_NK in ((scores.CALIBRATION, logits_NK), (scores.CALIBRATION_TEMPERED, logits_NK / fitted)):
        sure_N = each_NK.softmax(1).amax(1).numpy()
        rows.append(score(name, given, [], "fusion", estimate_error(sure_N, right_N, seed)))
    return rows
