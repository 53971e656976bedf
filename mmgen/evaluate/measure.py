"""Measurements on real samples and on what a generator makes of them. Each function gives rows of the scores table.

Judges never meet a training of what they judge (law 16): here they only look.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from mmgen.batches import Batch
from mmgen.evaluate import scores
from mmgen.evaluate.intervals import wilson
from mmgen.evaluate.kernel_distance import kernel_distance, unit_scale
from mmgen.evaluate.retrieval import recall_at_1
from mmgen.evaluate.scores import Score, score
from mmgen.generators.sampling import Sampling
from mmgen.records import Modality
from mmgen.training.loop import seed_of

#: rows made or judged at once: a constant, so that what is drawn does not depend on the machine
ROWS = 128
#: fewest samples that a kernel distance or a retrieval is taken of
FEWEST = 4


class Maker(Protocol):
    """Makes values of slots from values of others."""

    @property
    def makes(self) -> tuple[str, ...]:
        """The slots that it can make."""
        ...

    def make(self, given: Batch, to: tuple[str, ...], how: Sampling, rng: torch.Generator) -> dict[str, Tensor]:
        """`tensors` values of the slots present in `given` → values (B, …) of `to`."""
        ...


class Judging(Protocol):
    """A judge: a value to features, and these to the logits of classes."""

    def features(self, value: Tensor) -> Tensor:
        """value (B, …) to (B, D)."""
        ...

    def classify(self, features_BD: Tensor) -> Tensor:
        """features (B, D) to class logits (B, K)."""
        ...


# (slot, value (B, …)) → embedding (B, D) of that slot alone
Embedding = Callable[[str, Tensor], Tensor]


@dataclass(frozen=True)
class Panel:
    """Who judges. judges: modality → its judge; names: modality → what a row calls it."""

    modalities: Mapping[str, Modality]
    judges: Mapping[Modality, Judging]
    names: Mapping[Modality, str]

    def judge(self, slot: str) -> str:
        """The name of a slot's judge."""
        return self.names[self.modalities[slot]]

    @torch.no_grad()
    def features(self, slot: str, value: Tensor) -> Tensor:
        """What the slot's judge sees in each value: (B, D)."""
        judge = self.judges[self.modalities[slot]]
        return torch.cat([judge.features(part) for part in torch.split(value, ROWS)])

    @torch.no_grad()
    def classes(self, slot: str, features_BD: Tensor) -> Tensor:
        """Class indices (B,) that the slot's judge gives for its features."""
        return self.judges[self.modalities[slot]].classify(features_BD).argmax(dim=1)

    def guess(self, slot: str, value: Tensor) -> Tensor:
        """Class indices (B,) that the slot's judge gives for values."""
        return self.classes(slot, self.features(slot, value))

    @property
    def slots(self) -> tuple[str, ...]:
        """Slots that have a judge."""
        return tuple(slot for slot, modality in self.modalities.items() if modality in self.judges)


@dataclass(frozen=True, slots=True)
class Draws:
    """How samples are drawn, and from which seed."""

    sampling: Sampling
    seed: int


@dataclass(frozen=True)
class Made:
    """What came of some inputs. given: their slots joined by '+', "" for none. value: (N, …) on the samples' device.

    rows: indices of the real samples that gave the inputs, which may repeat; -1 where that is not known.
    """

    given: str
    slot: str
    rows: Tensor
    value: Tensor


def having(real: Batch, *slots: str) -> Tensor:
    """Indices of the rows that have all of these slots."""
    there = torch.stack([real.masks[slot].any(dim=1) for slot in slots])
    return there.all(dim=0).nonzero().squeeze(1)


def labels_of(real: Batch, rows: Tensor) -> Tensor:
    """Class indices (N,) of the samples at these rows; -1 where there is no label or the row is not known."""
    return torch.where(rows >= 0, real.labels_B[rows.clamp_min(0)], -1)


def take(batch: Batch, rows: Tensor, slots: Sequence[str]) -> Batch:
    """Those rows with only `slots` present; all else is absent and zero."""
    values = {
        slot: value[rows] if slot in slots else torch.zeros_like(value[rows]) for slot, value in batch.values.items()
    }
    masks = {slot: mask[rows] if slot in slots else torch.zeros_like(mask[rows]) for slot, mask in batch.masks.items()}
    keys = [batch.keys[row] for row in rows.tolist()]
    return replace(
        batch, values=values, masks=masks, labels_B=batch.labels_B[rows], weights_B=batch.weights_B[rows], keys=keys
    )


@torch.no_grad()
def make(
    maker: Maker, real: Batch, given: Sequence[str], to: Sequence[str], rows: Tensor, how: Draws
) -> dict[str, Tensor]:
    """Values of `to` from the `given` slots of these rows. Draws depend on the seed, the slots and the row's place."""
    parts: dict[str, list[Tensor]] = {slot: [] for slot in to}
    words = "+".join(given) + ">" + "+".join(to)
    for start in range(0, len(rows), ROWS):
        rng = torch.Generator(real.labels_B.device).manual_seed(seed_of(how.seed, *words.encode(), start))
        condition = take(real, rows[start : start + ROWS], given)
        made = maker.make(condition, tuple(to), how.sampling, rng)
        for slot in to:
            parts[slot].append(made[slot])
    return {slot: torch.cat(found) for slot, found in parts.items()}


# ---------------------------------------------------------------- with labels


def share(right_N: Tensor) -> tuple[int, int]:
    """(hits, n) of a boolean vector."""
    return int(right_N.sum()), len(right_N)


def judge_accuracy(panel: Panel, real: Batch) -> list[Score]:
    """Each judge on the real labelled values of its slot: the ceiling of its judgements."""
    found = []
    for slot in panel.slots:
        rows = _labelled(real, having(real, slot))
        if len(rows):
            right = panel.guess(slot, real.values[slot][rows]) == real.labels_B[rows]
            found.append(score(scores.JUDGE_ACCURACY, [], [slot], panel.judge(slot), wilson(*share(right))))
    return found


def coherence(panel: Panel, real: Batch, made: Made, features_ND: Tensor | None = None) -> list[Score]:
    """Share of made values that the judge puts in the class of their condition; no row without labels or judge.

    features_ND: what the judge sees in them, if it has looked already.
    """
    if made.slot not in panel.slots:
        return []
    labels = labels_of(real, made.rows)
    if not bool((labels >= 0).any()):
        return []
    seen_ND = panel.features(made.slot, made.value) if features_ND is None else features_ND
    right = (panel.classes(made.slot, seen_ND) == labels)[labels >= 0]
    return [score(scores.COHERENCE, [made.given], [made.slot], panel.judge(made.slot), wilson(*share(right)))]


def joint_coherence(panel: Panel, features: Mapping[str, Tensor]) -> list[Score]:
    """Share of samples made from nothing whose slots' judges all name one class; no row for fewer than two slots.

    features: slot → what its judge sees in the samples, in one order.
    """
    slots = [slot for slot in features if slot in panel.slots]
    if len(slots) < 2:
        return []
    guesses_SN = torch.stack([panel.classes(slot, features[slot]) for slot in slots])
    agree = (guesses_SN == guesses_SN[:1]).all(dim=0)
    return [score(scores.JOINT_COHERENCE, [], slots, "all", wilson(*share(agree)))]


def reconstruction(panel: Panel, real: Batch, through: Callable[[str, Tensor], Tensor]) -> list[Score]:
    """Real labelled values through their codec and back, judged: the ceiling of every generator on it.

    through: (slot, value) → the codec's reconstruction.
    """
    found = []
    for slot in panel.slots:
        rows = _labelled(real, having(real, slot))
        if len(rows):
            right = panel.guess(slot, through(slot, real.values[slot][rows])) == real.labels_B[rows]
            found.append(score(scores.RECONSTRUCTION, [], [slot], panel.judge(slot), wilson(*share(right))))
    return found


def exactness(
    real: Batch, slot: str, texts: Callable[[Tensor], list[str]], through: Callable[[str, Tensor], Tensor]
) -> list[Score]:
    """Share of real texts that their codec gives back character for character."""
    rows = having(real, slot)
    if len(rows) == 0:
        return []
    value = real.values[slot][rows]
    same = [came == wanted for came, wanted in zip(texts(through(slot, value)), texts(value), strict=True)]
    return [score(scores.TEXT_EXACT, [], [slot], "codec", wilson(sum(same), len(same)))]


def _labelled(real: Batch, rows: Tensor) -> Tensor:
    return rows[real.labels_B[rows] >= 0]


# ---------------------------------------------------------------- without labels


def retrieval(embed: Embedding, real: Batch, made: Made, seed: int) -> list[Score]:
    """Recall@1 of the condition among 100 in the fusion space: of what was made, and of the real partners."""
    if len(made.rows) < FEWEST:
        return []
    given = embed(made.given, real.values[made.given][made.rows])
    found = recall_at_1(embed(made.slot, made.value), given, _draw(seed))
    rows = [score(scores.RETRIEVAL, [made.given], [made.slot], "fusion", found)]
    both = having(real, made.slot)
    both = both[torch.isin(both, made.rows)]
    if len(both) >= FEWEST:
        partners, conditions = (embed(slot, real.values[slot][both]) for slot in (made.slot, made.given))
        ceiling = recall_at_1(partners, conditions, _draw(seed))
        rows.append(score(scores.RETRIEVAL_REAL, [made.given], [made.slot], "fusion", ceiling))
    return rows


def distance(wanted_ND: Tensor, came_ND: Tensor, made: Made) -> list[Score]:
    """Kernel distance of what was made from the real values of its slot, both as embeddings in the fusion space."""
    if min(len(wanted_ND), len(came_ND)) < FEWEST:
        return []
    found = kernel_distance(unit_scale(came_ND), unit_scale(wanted_ND))
    return [score(scores.KERNEL_DISTANCE, [made.given], [made.slot], "fusion", found)]


def distance_floor(wanted_ND: Tensor, slot: str, seed: int) -> list[Score]:
    """Kernel distance of two random halves of a slot's real embeddings: what a perfect generator would score."""
    if len(wanted_ND) < 2 * FEWEST:
        return []
    halves = [unit_scale(wanted_ND[half]) for half in halved(len(wanted_ND), seed)]
    return [score(scores.KERNEL_FLOOR, [], [slot], "fusion", kernel_distance(*halves))]


def halved(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Two random halves of `count` places; the first is the larger one of an odd number."""
    first, second = torch.randperm(count, generator=_draw(seed)).chunk(2)
    return first, second


def _draw(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
