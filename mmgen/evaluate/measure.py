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


# value (B, …) → class logits (B, K)
Judging = Callable[[Tensor], Tensor]
# (slot, value (B, …)) → embedding (B, D) of that slot alone
Embedding = Callable[[str, Tensor], Tensor]


@dataclass(frozen=True)
class Panel:
    """Who judges. judges: modality → a judge's logits; names: modality → what a row calls it."""

    modalities: Mapping[str, Modality]
    judges: Mapping[Modality, Judging]
    names: Mapping[Modality, str]

    def judge(self, slot: str) -> str:
        """The name of a slot's judge."""
        return self.names[self.modalities[slot]]

    @torch.no_grad()
    def guess(self, slot: str, value: Tensor) -> Tensor:
        """Class indices (B,) that the slot's judge gives."""
        judge = self.judges[self.modalities[slot]]
        return torch.cat([judge(part).argmax(dim=1) for part in torch.split(value, ROWS)])

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
    """What came of one condition. rows: indices of the real samples that gave it; value (N, …) on their device."""

    given: str
    slot: str
    rows: Tensor
    value: Tensor


def having(real: Batch, slot: str) -> Tensor:
    """Indices of the rows that have a slot."""
    return real.masks[slot].any(dim=1).nonzero().squeeze(1)


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


def coherence(panel: Panel, real: Batch, made: Made) -> list[Score]:
    """Share of made values that the judge puts in the class of their condition; no row without labels or judge."""
    if made.slot not in panel.slots:
        return []
    labels = real.labels_B[made.rows]
    if not bool((labels >= 0).any()):
        return []
    right = (panel.guess(made.slot, made.value) == labels)[labels >= 0]
    return [score(scores.COHERENCE, [made.given], [made.slot], panel.judge(made.slot), wilson(*share(right)))]


def joint_coherence(panel: Panel, values: Mapping[str, Tensor]) -> list[Score]:
    """Share of samples made from nothing whose slots' judges all name one class; no row for fewer than two slots."""
    slots = [slot for slot in values if slot in panel.slots]
    if len(slots) < 2:
        return []
    guesses_SN = torch.stack([panel.guess(slot, values[slot]) for slot in slots])
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


def distance(embed: Embedding, real: Batch, made: Made) -> list[Score]:
    """Kernel distance of what was made from the real values of its slot, in the fusion space."""
    rows = having(real, made.slot)
    if min(len(rows), len(made.rows)) < FEWEST:
        return []
    wanted, came = unit_scale(embed(made.slot, real.values[made.slot][rows])), unit_scale(embed(made.slot, made.value))
    return [score(scores.KERNEL_DISTANCE, [made.given], [made.slot], "fusion", kernel_distance(came, wanted))]


def distance_floor(embed: Embedding, real: Batch, slot: str, seed: int) -> list[Score]:
    """Kernel distance of two random halves of a slot's real values: what a perfect generator would score."""
    rows = having(real, slot)
    if len(rows) < 2 * FEWEST:
        return []
    mixed = rows[torch.randperm(len(rows), generator=_draw(seed)).to(rows.device)]
    halves = [unit_scale(embed(slot, real.values[slot][half])) for half in mixed.chunk(2)]
    return [score(scores.KERNEL_FLOOR, [], [slot], "fusion", kernel_distance(*halves))]


def _draw(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
