"""Any subset of slots to one embedding: an encoder per slot, a way to fuse, contrastive losses and a label head.

Shape suffixes: B batch, S slots, D width, K classes, T tokens.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmgen.batches import Batch
from mmgen.encoders.specs import Spec, Start
from mmgen.encoders.table import make_encoder
from mmgen.errors import ConfigError
from mmgen.fusion.attack import Attack, worst
from mmgen.fusion.augment import augment
from mmgen.fusion.cached import Cached, CachedEncoder, CachedTokens
from mmgen.fusion.fuse import unit_scale
from mmgen.fusion.heads import ClassificationHead, Head, over_rows
from mmgen.fusion.targets import TARGET, Target
from mmgen.records import Modality

START_TEMPERATURE = 0.1
#: of the vectors by which tokens of one slot are told apart, beside tokens of root mean square 1
PLACE_SCALE = 0.1


class Fusion(nn.Module):
    """See the module. Embeddings have root mean square 1. With `tokens` what is fused of a slot is not one embedding
    (D) but those of its tokens side by side (T · D), T of the slot that has most, zeros where one holds nothing.

    Args:
        fuse: the way to fuse, made for len(modalities) slots and `width`.
        modalities, shapes: slot to its modality and the shape of one value: image (C, H, W), audio (M, T),
            text (L, vocabulary).
        encoders: modality to what makes its encoder (see encoders.specs): a name of the table, or {"kind", …}.
        classes: K of the label head; 0 for none.
        width: D.
        label_weight, contrastive_weight: of the two losses.
        augment: disturb images and sounds in training.
        cached: what frozen networks make of the values, if it learns from that; None: from the values, end to end.
        head, target: what learns the labels, and what they are where they are no class index.
        hide: share of a training sample's slots that are hidden from it; one always stays.
        adversarial: also learn from what this attack makes of the slots' embeddings.
        adversarial_weight: of the loss there.
        weights: modality to what its encoders start from.
        tokens: `fuse` is given every token of a slot; it has to be one that can take them.
    """

    def __init__(
        self,
        *,
        fuse: nn.Module,
        modalities: Mapping[str, Modality],
        shapes: Mapping[str, Sequence[int]],
        encoders: Mapping[Modality, Spec],
        classes: int,
        width: int,
        label_weight: float = 1.0,
        contrastive_weight: float = 1.0,
        augment: bool = True,
        cached: Cached | None = None,
        head: type[Head] = ClassificationHead,
        target: Target | None = None,
        hide: float = 0.0,
        adversarial: Attack | None = None,
        adversarial_weight: float = 1.0,
        weights: Mapping[Modality, Start] | None = None,
        tokens: bool = False,
    ) -> None:
        super().__init__()
        if not modalities or set(modalities) != set(shapes):
            raise ConfigError(
                f"fusion: wanted one shape for each slot ({', '.join(modalities) or 'none'}), came {', '.join(shapes)}"
            )
        self.modalities = dict(modalities)
        self.width, self.classes = width, classes
        self.label_weight, self.contrastive_weight, self.augments = label_weight, contrastive_weight, augment
        self.target, self.hide = target, hide
        self.adversarial, self.adversarial_weight = adversarial, adversarial_weight
        self.cached = cached
        read = CachedTokens if tokens else CachedEncoder
        self.encoders = nn.ModuleList(
            make_encoder(encoders[modality], modality, tuple(shapes[slot]), width, (weights or {}).get(modality))
            if cached is None
            else read(cached.shape(slot), width)
            for slot, modality in modalities.items()
        )
        readers: list[Any] = list(self.encoders) if tokens else []
        counts = [int(each.token_count) for each in readers]
        self.token_count = max(counts, default=1)
        self.places = nn.ParameterList(torch.randn(count, width) * PLACE_SCALE for count in counts) if tokens else None
        self.fuser = fuse
        self.head = head(width, classes) if classes else None
        self.log_temperature = nn.Parameter(torch.tensor(math.log(START_TEMPERATURE)))

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the slots, in the order of S."""
        return tuple(self.modalities)

    def mask(self, batch: Batch) -> Tensor:
        """Presence (B, S) bool, slots in this module's order; a slot that the batch does not name is absent."""
        return batch.presence(self.slots)

    def slot_embeddings(self, batch: Batch) -> Tensor:
        """Each slot of a batch of `tensors` by itself, (B, S, D) float32, or (B, S, T · D) of its tokens; zeros where
        it is absent."""
        values = {slot: batch.values[slot] for slot in self.slots if slot in batch.values}
        if self.cached is not None:
            values = {slot: self.cached.of(slot, value) for slot, value in values.items()}
        return self._slot_embeddings(values, self.mask(batch))

    def read(self, batch: Batch) -> Tensor:
        """One embedding (B, D) of all that each row of a batch has, of the feature set that it learned from."""
        mask_BS = self.mask(batch)
        return self.fuse(self._slot_embeddings(batch.values, mask_BS), mask_BS)

    def _slot_embeddings(self, values: Mapping[str, Tensor], mask_BS: Tensor) -> Tensor:
        nothing_BD = torch.zeros(len(mask_BS), self.token_count * self.width, device=mask_BS.device)
        each = []
        for number, slot in enumerate(self.slots):
            if slot not in values:
                each.append(nothing_BD)
                continue
            e_BD = (
                self._tokens(number, values[slot]) if self.places else unit_scale(self.encoders[number](values[slot]))
            )
            each.append(e_BD.masked_fill(~mask_BS[:, number, None], 0.0))
        return torch.stack(each, dim=1)

    def _tokens(self, number: int, value: Tensor) -> Tensor:
        """A slot's tokens side by side (B, T · D) float32, each of root mean square 1 before its place is added."""
        assert self.places is not None
        reader: Any = self.encoders[number]
        x_BTD, holds_BT = reader.token_features(value)
        placed_BTD = (unit_scale(x_BTD) + self.places[number]).masked_fill(~holds_BT[..., None], 0.0)
        return F.pad(placed_BTD, (0, 0, 0, self.token_count - placed_BTD.shape[1])).flatten(1)

    def fuse(self, e_BSD: Tensor, mask_BS: Tensor) -> Tensor:
        """One embedding (B, D) float32 of the slots that `mask_BS` (bool) says are to be used."""
        return unit_scale(self.fuser(e_BSD, mask_BS))

    def forward(self, batch: Batch) -> Tensor:
        """One embedding (B, D) of all that each row has."""
        return self.fuse(self.slot_embeddings(batch), self.mask(batch))

    def logits(self, e_BD: Tensor) -> Tensor:
        """Class logits (B, K) of fused embeddings, float32. Raises ConfigError if there is no label head."""
        if self.head is None:
            raise ConfigError("fusion: this model was trained without labels, so it has no label head")
        return self.head.logits(e_BD)

    def truth(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """What the head should say of each row, in the form of its targets (see Head), and which rows (B,) have it.

        Class indices are the batch's own; anything else has to be in its slot TARGET.
        """
        if self.target is None:
            return batch.labels_B.clamp_min(0), batch.labels_B >= 0
        return batch.values[TARGET], batch.masks[TARGET].any(1)

    # ------------------------------------------------------------ training

    def loss(self, batch: Batch, rng: torch.Generator | None = None) -> dict[str, Tensor]:
        """`loss`, with `contrastive` and, where there is a label head, `label` and `accuracy` (of numbers `error`).

        Contrastive: every pair of slots, each by itself, and a random part of the slots against the rest. Label:
        every slot by itself and the random part. `batch` is of the feature set that it learns from, with targets
        in the slot TARGET where labels are no class index.
        """
        mask_BS = self.mask(batch) & (batch.weights_B > 0)[:, None]
        values = batch.values
        if self.augments and self.cached is None:
            values = {slot: augment(self.modalities[slot], values[slot], rng) for slot in self.slots if slot in values}
        e_BSD = self._slot_embeddings(values, mask_BS)
        part_BS = torch.rand(mask_BS.shape, generator=rng, device=mask_BS.device) < 0.5
        if self.hide and self.training:
            mask_BS = mask_BS & ~hidden(mask_BS, self.hide, rng)
        found = self._losses(e_BSD, mask_BS, part_BS, batch)
        if self.adversarial is not None and self.training:
            move_BSD = worst(
                lambda moved: self._losses(moved, mask_BS, part_BS, batch)["loss"],
                e_BSD,
                mask_BS,
                self.adversarial,
                rng,
            )
            there = self._losses(e_BSD + move_BSD, mask_BS, part_BS, batch)["loss"]
            found["loss"] = found["loss"] + self.adversarial_weight * there
            found["adversarial"] = there.detach()
        return found

    def _losses(self, e_BSD: Tensor, mask_BS: Tensor, part_BS: Tensor, batch: Batch) -> dict[str, Tensor]:
        views = self._views(e_BSD, mask_BS, part_BS)
        contrastive = self._contrastive(views)
        found = {"loss": self.contrastive_weight * contrastive, "contrastive": contrastive.detach()}
        if self.head is not None:
            label, right = self._label(self.head, views, batch)
            found["loss"] = found["loss"] + self.label_weight * label
            found |= {"label": label.detach(), self.head.shown: right}
        return found

    def _views(self, e_BSD: Tensor, mask_BS: Tensor, part_BS: Tensor) -> list[tuple[Tensor, Tensor]]:
        """(fused (B, D), whether the row has any of it (B,)): each slot by itself, then a random part and its rest."""
        singles = torch.eye(len(self.slots), dtype=torch.bool, device=mask_BS.device)
        masks = [mask_BS & only_S for only_S in singles] + [mask_BS & part_BS, mask_BS & ~part_BS]
        fused = self.fuse(e_BSD.repeat(len(masks), 1, 1), torch.cat(masks)).chunk(len(masks))
        return [(e_BD, kept_BS.any(1)) for e_BD, kept_BS in zip(fused, masks, strict=True)]

    def _contrastive(self, views: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Mean over pairs of views of the symmetric InfoNCE (van den Oord et al. 2018, arXiv:1807.03748)."""
        pairs = [*itertools.combinations(views[:-2], 2), (views[-2], views[-1])]
        scale = self.log_temperature.clamp(math.log(0.02), 0.0).neg().exp() / self.width
        losses = []
        for (a_BD, has_a_B), (b_BD, has_b_B) in pairs:
            both_B = has_a_B & has_b_B
            logits_BB = (scale * a_BD @ b_BD.T).float().masked_fill(~both_B[None, :], -1e4)
            flipped_BB = (scale * b_BD @ a_BD.T).float().masked_fill(~both_B[None, :], -1e4)
            own_B = torch.arange(len(both_B), device=both_B.device)
            there_B = F.cross_entropy(logits_BB, own_B, reduction="none")
            back_B = F.cross_entropy(flipped_BB, own_B, reduction="none")
            losses.append(((there_B + back_B) * both_B).sum() / (2 * both_B.sum().clamp_min(1)))
        return torch.stack(losses).mean()

    def _label(self, head: Head, views: list[tuple[Tensor, Tensor]], batch: Batch) -> tuple[Tensor, Tensor]:
        """The head's loss and how right it is, means over the labelled rows of all views but the last."""
        target, labelled_B = self.truth(batch)
        counted_N = torch.cat([has_B & labelled_B for _, has_B in views[:-1]])
        wanted = target.repeat(len(views) - 1, *[1] * (target.dim() - 1))
        logits_NK = self.logits(torch.cat([e_BD for e_BD, _ in views[:-1]]))
        right_N = head.right(logits_NK.detach(), wanted)
        return over_rows(head.losses(logits_NK, wanted), counted_N), over_rows(right_N, counted_N)


def hidden(mask_BS: Tensor, share: float, rng: torch.Generator | None) -> Tensor:
    """Which present slots are hidden, (B, S) bool: each with probability `share`, but never all that a row has."""
    draws_BS = torch.rand(mask_BS.shape, generator=rng, device=mask_BS.device)
    # the highest draw of a row is what stays
    kept_BS = draws_BS.masked_fill(~mask_BS, -1.0)
    stays_BS = kept_BS == kept_BS.amax(1, keepdim=True)
    return mask_BS & (draws_BS < share) & ~stays_BS
