"""Heads: one linear layer from embeddings to what a label is, its loss, and how right it is.

Shape suffixes: N rows, D width, K classes, W words.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

#: a row or a word without a label
NONE = -1


class Head(nn.Linear):
    """(N, D) to (N, K). `shown` is what `right` is called where a training is shown."""

    shown: ClassVar[str] = "accuracy"

    def logits(self, e_ND: Tensor) -> Tensor:
        """Float32 outputs (N, K)."""
        out: Tensor = self(e_ND)
        return out.float()

    @abstractmethod
    def losses(self, logits_NK: Tensor, target: Tensor) -> Tensor:
        """Loss (N,) of each row."""

    @abstractmethod
    def right(self, logits_NK: Tensor, target: Tensor) -> Tensor:
        """How right (N,) each row is."""

    @abstractmethod
    def guess(self, logits_NK: Tensor) -> Tensor:
        """What it says, in the form of a target."""


class ClassificationHead(Head):
    """One of K classes; target (N,) class index."""

    def losses(self, logits_NK: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(logits_NK, target, reduction="none")

    def right(self, logits_NK: Tensor, target: Tensor) -> Tensor:
        return (self.guess(logits_NK) == target).float()

    def guess(self, logits_NK: Tensor) -> Tensor:
        return logits_NK.argmax(1)


class MultiLabelHead(Head):
    """A set of K classes; target (N, K) of 0 and 1. Right is the share of classes decided rightly."""

    def losses(self, logits_NK: Tensor, target: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits_NK, target.float(), reduction="none").mean(1)

    def right(self, logits_NK: Tensor, target: Tensor) -> Tensor:
        return (self.guess(logits_NK) == target).float().mean(1)

    def guess(self, logits_NK: Tensor) -> Tensor:
        return (logits_NK > 0).float()


class RegressionHead(Head):
    """A number; target (N, 1) in standard deviations of the training labels. `right` is the absolute error in them."""

    shown: ClassVar[str] = "error"

    def losses(self, logits_NK: Tensor, target: Tensor) -> Tensor:
        return F.smooth_l1_loss(logits_NK, target.float(), reduction="none").mean(1)

    def right(self, logits_NK: Tensor, target: Tensor) -> Tensor:
        return (logits_NK - target).abs().mean(1)

    def guess(self, logits_NK: Tensor) -> Tensor:
        return logits_NK


class TaggingHead(Head):
    """One of K tags for each of W words; (N, W, D) to (N, W, K), target (N, W) tag index, -1 where there is no word."""

    def losses(self, logits_NK: Tensor, target: Tensor) -> Tensor:
        each_NW = F.cross_entropy(logits_NK.transpose(1, 2), target, reduction="none", ignore_index=NONE)
        return each_NW.sum(1) / (target != NONE).sum(1).clamp_min(1)

    def right(self, logits_NK: Tensor, target: Tensor) -> Tensor:
        hits_NW = (self.guess(logits_NK) == target) & (target != NONE)
        return hits_NW.sum(1) / (target != NONE).sum(1).clamp_min(1)

    def guess(self, logits_NK: Tensor) -> Tensor:
        return logits_NK.argmax(-1)


def over_rows(each_N: Tensor, counted_N: Tensor) -> Tensor:
    """Mean over the rows that count; 0 where none does."""
    weights_N = counted_N.float()
    return (each_N * weights_N).sum() / weights_N.sum().clamp_min(1)
