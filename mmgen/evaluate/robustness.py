"""Robustness of the fusion model: from each subset of slots, clean, noisy and attacked, is the label still read and the
rest of the sample still found?

Shape suffixes: B samples, S slots, D width.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from mmgen.batches import Batch
from mmgen.evaluate import scores
from mmgen.evaluate.label_head import rightness
from mmgen.evaluate.measure import FEWEST, ROWS
from mmgen.evaluate.retrieval import groups, recall_at
from mmgen.evaluate.scores import Score, score
from mmgen.fusion.attack import Attack, worst
from mmgen.fusion.fusion import START_TEMPERATURE, Fusion
from mmgen.records import Modality
from mmgen.training.loop import seed_of

#: Gaussian noise in standard deviations of a slot's values; of a text that half share of its tokens is left out
NOISES = (0.25, 0.5, 1.0)
#: projected gradient descent on the slots' embeddings, within so many of their standard deviations in every number
ATTACKS = (Attack(0.1, 10, 0.025), Attack(0.3, 10, 0.075))
#: subsets are taken of so many slots at most: of more, each by itself, each left out, and all
MOST_SLOTS = 4
PAD, EOS = 0, 2


@dataclass(frozen=True)
class Disturbance:
    """name: what a metric's name ends in. e_BSD: the slots' embeddings under it."""

    name: str
    e_BSD: Tensor
    attack: Attack | None = None


@torch.no_grad()
def slot_embeddings(fusion: Fusion, batch: Batch) -> Tensor:
    """(B, S, D) of a batch of any size."""
    return torch.cat([fusion.slot_embeddings(batch.rows(at, at + ROWS)) for at in range(0, len(batch), ROWS)])


def noisy(batch: Batch, modalities: Mapping[str, Modality], level: float, seed: int) -> Batch:
    """Values with Gaussian noise of `level` standard deviations (over all that is present of the slot), or, of text,
    with half that share of the tokens left out and the rest closed up. What is drawn depends on the seed alone."""
    values = dict(batch.values)
    for slot, modality in modalities.items():
        if slot not in values:
            continue
        value, present_B = values[slot], batch.masks[slot].any(1)
        rng = torch.Generator(value.device).manual_seed(seed_of(seed, *slot.encode()))
        if modality == "text":
            values[slot] = without_tokens(value, level / 2, rng)
        elif bool(present_B.any()):
            unit = value[present_B].float().std(correction=0)
            noise = torch.randn(value.shape, generator=rng, device=value.device) * level * unit
            values[slot] = value + noise * present_B.view(-1, *[1] * (value.dim() - 1))
    return replace(batch, values=values)


def without_tokens(ids_BL: Tensor, share: float, rng: torch.Generator) -> Tensor:
    """Ids (B, L) without a random share of those that are no special ones; the others move up, pads fill the end."""
    draws_BL = torch.rand(ids_BL.shape, generator=rng, device=ids_BL.device)
    gone_BL = (ids_BL > EOS) & (draws_BL < share) | (ids_BL == PAD)
    order_BL = gone_BL.long().argsort(dim=1, stable=True)
    return ids_BL.masked_fill(gone_BL, PAD).gather(1, order_BL)


def subsets(slots: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """All parts of the slots but none, smallest first; of more than MOST_SLOTS those of one, all but one, and all."""
    count = len(slots)
    sizes = range(1, count + 1) if count <= MOST_SLOTS else (1, count - 1, count)
    for size in sizes:
        yield from itertools.combinations(slots, size)


def robustness(fusion: Fusion, real: Batch, seed: int) -> list[Score]:
    """The table's rows: for each subset of slots, over the samples that have all of it, and each disturbance.

    `label_accuracy` where there is a label head, of numbers `mean_absolute_error`; `subset_recall_at_1` of the other
    slots together, over the samples that have one. The gallery is clean; an attack is made for each question by itself.
    """
    clean = Disturbance("", slot_embeddings(fusion, real))
    under = [clean]
    for level in NOISES:
        e_BSD = slot_embeddings(fusion, noisy(real, fusion.modalities, level, seed))
        under.append(Disturbance(f"_noise_{level:g}", e_BSD))
    under += [Disturbance(f"_pgd_{attack.epsilon:g}", clean.e_BSD, attack) for attack in ATTACKS]
    alike = {slot: groups([value]) for slot, value in real.values.items() if slot in fusion.slots}
    table = _Table(fusion, *fusion.truth(real), fusion.mask(real), clean.e_BSD, alike, seed)
    asked = [slot for number, slot in enumerate(fusion.slots) if bool(table.mask_BS[:, number].any())]
    return [row for given in subsets(asked) for each in under for row in table.rows(each, given)]


@dataclass(frozen=True)
class _Table:
    fusion: Fusion
    #: of each sample, in the form of the head's targets, and which samples have it
    wanted: Tensor
    known_B: Tensor
    mask_BS: Tensor
    clean_BSD: Tensor
    #: slot → group numbers (B,) of equal values
    alike: Mapping[str, Tensor]
    seed: int

    def rows(self, each: Disturbance, given: tuple[str, ...]) -> list[Score]:
        """Of the samples that have all of `given`."""
        chosen_S = torch.tensor([slot in given for slot in self.fusion.slots], device=self.mask_BS.device)
        whole_B = (self.mask_BS | ~chosen_S).all(1)
        return self._labels(each, given, whole_B, chosen_S) + self._partners(each, given, whole_B, chosen_S)

    def _labels(self, each: Disturbance, given: tuple[str, ...], whole_B: Tensor, chosen_S: Tensor) -> list[Score]:
        rows, head = (whole_B & self.known_B).nonzero()[:, 0], self.fusion.head
        if head is None or len(rows) == 0:
            return []
        wanted, given_BS = self.wanted[rows], chosen_S.expand(len(rows), -1)

        def wrong(e_BSD: Tensor) -> Tensor:
            return head.losses(self.fusion.logits(self.fusion.fuse(e_BSD, given_BS)), wanted).sum()

        moved_BSD = self._moved(each, rows, given_BS, wrong, given)
        with torch.no_grad():
            guess = head.guess(self.fusion.logits(self.fusion.fuse(moved_BSD, given_BS)))
        metric, found = rightness(self.fusion.target, guess, wanted)
        return [score(metric + each.name, given, [], "fusion", found)]

    def _partners(self, each: Disturbance, given: tuple[str, ...], whole_B: Tensor, chosen_S: Tensor) -> list[Score]:
        rest_BS = self.mask_BS & ~chosen_S
        rows = (whole_B & rest_BS.any(1)).nonzero()[:, 0]
        if len(rows) < FEWEST:
            return []
        given_BS, own_B = chosen_S.expand(len(rows), -1), torch.arange(len(rows), device=rows.device)
        with torch.no_grad():
            gallery_BD = self.fusion.fuse(self.clean_BSD[rows], rest_BS[rows])

        def wrong(e_BSD: Tensor) -> Tensor:
            cosine_BB = self.fusion.fuse(e_BSD, given_BS) @ gallery_BD.T / self.fusion.width
            return F.cross_entropy(cosine_BB / START_TEMPERATURE, own_B, reduction="sum")

        moved_BSD = self._moved(each, rows, given_BS, wrong, given)
        rest = [slot for slot in self.fusion.slots if slot not in given]
        same = [groups([self.alike[slot][rows, None] for slot in part if slot in self.alike]) for part in (given, rest)]
        with torch.no_grad():
            found = recall_at(self.fusion.fuse(moved_BSD, given_BS), gallery_BD, (1,), same).recall[1]
        return [score(scores.SUBSET_RECALL + each.name, given, rest, "fusion", found)]

    def _moved(
        self, each: Disturbance, rows: Tensor, given_BS: Tensor, wrong: Callable[[Tensor], Tensor],
        given: tuple[str, ...],
    ) -> Tensor:  # fmt: skip
        """Embeddings of these rows under the disturbance, searched against `wrong` where it is an attack."""
        e_BSD = each.e_BSD[rows]
        if each.attack is None:
            return e_BSD
        rng = torch.Generator(e_BSD.device).manual_seed(seed_of(self.seed, *"+".join(given).encode()))
        return e_BSD + worst(wrong, e_BSD, given_BS, each.attack, rng)
