"""Any subset of slots to one embedding: an encoder per slot, a way to fuse, contrastive losses and a label head.

Shape suffixes: B batch, S slots, D width, K classes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmgen.batches import Batch
from mmgen.encoders.specs import Spec, Start
from mmgen.encoders.table import make_encoder
from mmgen.errors import ConfigError
from mmgen.fusion.augment import augment
from mmgen.fusion.fuse import unit_scale
from mmgen.records import Modality

START_TEMPERATURE = 0.1


class Fusion(nn.Module):
    """See the module. Reads the `tensors` feature set; embeddings have root mean square 1.

    Args:
        fuse: the way to fuse, made for len(modalities) slots and `width`.
        modalities, shapes: slot to its modality and the shape of one value: image (C, H, W), audio (M, T),
            text (L, vocabulary).
        encoders: modality to what makes its encoder (see encoders.specs): a name of the table, or {"kind", …}.
        classes: K of the label head; 0 for none.
        width: D.
        label_weight, contrastive_weight: of the two losses.
        augment: disturb images and sounds in training.
        weights: modality to what its encoders start from.
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
        weights: Mapping[Modality, Start] | None = None,
    ) -> None:
        super().__init__()
        if not modalities or set(modalities) != set(shapes):
            raise ConfigError(
                f"fusion: wanted one shape for each slot ({', '.join(modalities) or 'none'}), came {', '.join(shapes)}"
            )
        self.modalities = dict(modalities)
        self.width, self.classes = width, classes
        self.label_weight, self.contrastive_weight, self.augments = label_weight, contrastive_weight, augment
        self.encoders = nn.ModuleList(
            make_encoder(encoders[modality], modality, tuple(shapes[slot]), width, (weights or {}).get(modality))
            for slot, modality in modalities.items()
        )
        self.fuser = fuse
        self.head = nn.Linear(width, classes) if classes else None
        self.log_temperature = nn.Parameter(torch.tensor(math.log(START_TEMPERATURE)))

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the slots, in the order of S."""
        return tuple(self.modalities)

    def mask(self, batch: Batch) -> Tensor:
        """Presence (B, S) bool, slots in this module's order; a slot that the batch does not name is absent."""
        nothing_B = torch.zeros(len(batch), dtype=torch.bool, device=batch.weights_B.device)
        return torch.stack(
            [batch.masks[slot].any(1) if slot in batch.values else nothing_B for slot in self.slots], dim=1
        )

    def slot_embeddings(self, batch: Batch) -> Tensor:
        """Each slot by itself, (B, S, D) float32; zeros where it is absent."""
        return self._slot_embeddings(batch.values, self.mask(batch))

    def _slot_embeddings(self, values: Mapping[str, Tensor], mask_BS: Tensor) -> Tensor:
        nothing_BD = torch.zeros(len(mask_BS), self.width, device=mask_BS.device)
        each = []
        for number, slot in enumerate(self.slots):
            if slot not in values:
                each.append(nothing_BD)
                continue
            e_BD = unit_scale(self.encoders[number](values[slot]))
            each.append(e_BD.masked_fill(~mask_BS[:, number, None], 0.0))
        return torch.stack(each, dim=1)

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
        out: Tensor = self.head(e_BD)
        return out.float()

    # ------------------------------------------------------------ training

    def loss(self, batch: Batch, rng: torch.Generator | None = None) -> dict[str, Tensor]:
        """`loss`, with `contrastive` and, where there is a label head, `label` and `accuracy`.

        Contrastive: every pair of slots, each by itself, and a random part of the slots against the rest. Label:
        every slot by itself and the random part.
        """
        mask_BS = self.mask(batch) & (batch.weights_B > 0)[:, None]
        values = batch.values
        if self.augments:
            values = {slot: augment(self.modalities[slot], values[slot], rng) for slot in self.slots if slot in values}
        e_BSD = self._slot_embeddings(values, mask_BS)
        views = self._views(e_BSD, mask_BS, rng)
        contrastive = self._contrastive(views)
        found = {"loss": self.contrastive_weight * contrastive, "contrastive": contrastive.detach()}
        if self.head is not None:
            label, accuracy = self._label(views, batch.labels_B)
            found["loss"] = found["loss"] + self.label_weight * label
            found |= {"label": label.detach(), "accuracy": accuracy}
        return found

    def _views(self, e_BSD: Tensor, mask_BS: Tensor, rng: torch.Generator | None) -> list[tuple[Tensor, Tensor]]:
        """(fused (B, D), whether the row has any of it (B,)): each slot by itself, then a random part and its rest."""
        singles = torch.eye(len(self.slots), dtype=torch.bool, device=mask_BS.device)
        part_BS = torch.rand(mask_BS.shape, generator=rng, device=mask_BS.device) < 0.5
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

    def _label(self, views: list[tuple[Tensor, Tensor]], labels_B: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy and accuracy, means over the labelled rows of all views but the last."""
        e_BD = torch.cat([e_BD for e_BD, _ in views[:-1]])
        counted_B = torch.cat([has_B & (labels_B >= 0) for _, has_B in views[:-1]]).float()
        wanted_B = labels_B.clamp_min(0).repeat(len(views) - 1)
        logits_BK = self.logits(e_BD)
        each_B = F.cross_entropy(logits_BK, wanted_B, reduction="none")
        right_B = (logits_BK.detach().argmax(1) == wanted_B).float()
        count = counted_B.sum().clamp_min(1)
        return (each_B * counted_B).sum() / count, (right_B * counted_B).sum() / count
