"""What a generator's label head gets right: scikit-learn's report per class, and its averages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from sklearn.metrics import classification_report, precision_recall_fscore_support
from torch import Tensor

from mmgen.batches import Batch


class Classifier(Protocol):
    """Something with a label head."""

    def classify(self, batch: Batch) -> Tensor:
        """Class logits (B, classes)."""
        ...


@dataclass(frozen=True, slots=True)
class LabelReport:
    """text: precision, recall, F1 and support per class, micro, macro, weighted. micro_f1 is the accuracy. n: rows."""

    text: str
    micro_f1: float
    macro_f1: float
    weighted_f1: float
    n: int


@torch.no_grad()
def label_report(model: Classifier, batches: Iterable[Batch], labels: Sequence[str]) -> LabelReport | None:
    """The report over all labelled rows of weight 1; None if there are none. `labels`: class names in index order."""
    wanted, came = [], []
    for batch in batches:
        counts_B = (batch.labels_B >= 0) & (batch.weights_B > 0)
        if bool(counts_B.any()):
            wanted.append(batch.labels_B[counts_B].cpu())
            came.append(model.classify(batch).argmax(dim=1)[counts_B].cpu())
    if not wanted:
        return None
    # one column per class: scikit-learn then shows the micro average, which it else folds into "accuracy"
    every = np.eye(len(labels), dtype=np.int64)
    truth, guess = every[torch.cat(wanted).numpy()], every[torch.cat(came).numpy()]
    lines = classification_report(truth, guess, target_names=list(labels), digits=3, zero_division=0).splitlines()
    micro, macro, weighted = (
        float(precision_recall_fscore_support(truth, guess, average=kind, zero_division=0)[2])
        for kind in ("micro", "macro", "weighted")
    )
    text = "\n".join(line for line in lines if "samples avg" not in line)
    return LabelReport(text, micro, macro, weighted, len(truth))
