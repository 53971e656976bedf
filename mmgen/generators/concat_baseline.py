"""The field's first textbook architecture: encode every slot, concatenate, decode one slot, and name the class.

    ImageEncoder ─ h ┐
    TextEncoder  ─ v ┼ z = [h; v; a] ─ GenerateNet (512, 256) ─ z' ┬ DecodeNet (128, 64, output's size) ─ target slot
    AudioEncoder ─ a ┘                                             └ label head

Trained end to end from the `tensors` features. It has no noise: what it makes is the mean of what could be, which is
why it is the floor that the joint flow is measured against.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmgen.batches import Batch
from mmgen.encoders.specs import Spec, Start
from mmgen.encoders.table import make_encoder
from mmgen.errors import ConfigError
from mmgen.generators.sampling import Sampling
from mmgen.records import Modality

PAD_ID, EOS_ID = 0, 2


class MultiModalEncoder(nn.Module):
    """z = [h; v; a]: every slot's vector side by side; an absent slot's is zeros. Slots in the order they are given."""

    def __init__(self, encoders: Mapping[str, nn.Module], widths: Mapping[str, int]) -> None:
        super().__init__()
        # ModuleDict refuses names with dots and of its own methods, so slots go by number
        self.encoders = nn.ModuleList(encoders.values())
        self.widths = dict(widths)
        self.slots = tuple(encoders)

    @property
    def width(self) -> int:
        """D of z_BD."""
        return sum(self.widths.values())

    def forward(self, values: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """values: slot → value; present: slot → (B,) bool. Returns z_BD."""
        return torch.cat([self._slot(slot, values[slot], present[slot]) for slot in self.slots], dim=1)

    def _slot(self, slot: str, value: Tensor, present_B: Tensor) -> Tensor:
        encoder = self.encoders[self.slots.index(slot)]
        e_BD = value.new_zeros((len(present_B), self.widths[slot]), dtype=torch.float32)
        rows = present_B.nonzero().squeeze(1)
        if len(rows) == 0:
            return e_BD
        # only present rows are encoded, so zeros of absent ones never enter a batch norm's statistics;
        # a lone row is taken twice because a batch norm over one value has no variance
        chosen = rows.repeat(2) if self.training and len(rows) == 1 else rows
        encoded = encoder(value[chosen])[: len(rows)]
        return e_BD.index_copy(0, rows, encoded.float())


class ConcatBaseline(nn.Module):
    """See the module.

    modalities, shapes: slot → its modality and the shape of one value (see encoders.base.Encoder).
    encoders: slot → what makes its encoder (see encoders.specs): a name of the table, or of another library's {"kind",
    …}; widths: slot → width of its vector, None for a foreign trunk's own. target: the slot it makes.
    classes: of the label head, 0 for none. hide: chance that an input slot is hidden in training, so that it learns
    to make the target from the others (a batch row always keeps one slot).
    weights: slot → what its encoder starts from.
    """

    feature_set: ClassVar[Literal["tensors", "latents"]] = "tensors"

    def __init__(
        self,
        modalities: Mapping[str, Modality],
        shapes: Mapping[str, tuple[int, ...]],
        encoders: Mapping[str, Spec],
        widths: Mapping[str, int | None],
        target: str,
        classes: int = 0,
        label_weight: float = 1.0,
        hide: float = 0.5,
        weights: Mapping[str, Start] | None = None,
    ) -> None:
        super().__init__()
        if unknown := sorted({target, *encoders} - set(shapes)):
            raise ConfigError(f"generator: '{unknown[0]}' is not a slot of this configuration; wanted {sorted(shapes)}")
        self.reads, self.target, self.makes = tuple(encoders), target, (target,)
        self.modality, self.shape = modalities[target], tuple(shapes[target])
        self.classes, self.label_weight, self.hide = classes, label_weight, hide
        made = {
            slot: make_encoder(kind, modalities[slot], tuple(shapes[slot]), widths[slot], (weights or {}).get(slot))
            for slot, kind in encoders.items()
        }
        self.encode = MultiModalEncoder(made, {slot: each.width for slot, each in made.items()})
        self.generate_net = nn.Sequential(nn.Linear(self.encode.width, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU())
        self.decode_net = nn.Sequential(
            nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, torch.Size(self.shape).numel())
        )
        self.label_head = nn.Linear(256, classes) if classes else None

    def forward(self, values: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """values and presence of the input slots → (target (B, *shape), float; class logits (B, classes) or None).

        A text target is logits over the vocabulary, (B, L, V).
        """
        latent_BD = self.generate_net(self.encode(values, present))
        made = self.decode_net(latent_BD).view(-1, *self.shape)
        return made, None if self.label_head is None else self.label_head(latent_BD)

    def loss(self, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        """{"loss", "reconstruction", "label"}: weighted means over rows that have the target, and a label."""
        present = self._hidden(self._present(batch), rng)
        made, logits = self(batch.values, present)
        has_target_B = batch.masks[self.target].any(dim=1)
        # what stands in an absent slot is never looked at, not even as 0 · NaN
        wanted = batch.values[self.target].clone()
        wanted[~has_target_B] = 0
        reconstruction = _mean(self._distance(made, wanted), has_target_B * batch.weights_B)
        label = reconstruction.new_zeros(())
        if logits is not None:
            has_label_B = (batch.labels_B >= 0).float() * batch.weights_B
            each_B = functional.cross_entropy(logits.float(), batch.labels_B.clamp(min=0), reduction="none")
            label = _mean(each_B, has_label_B)
        return {"loss": reconstruction + self.label_weight * label, "reconstruction": reconstruction, "label": label}

    @torch.no_grad()
    def classify(self, batch: Batch) -> Tensor:
        """Class logits (B, classes) from all slots that a row has. Raises ConfigError if there is no label head."""
        _, logits = self(batch.values, self._present(batch))
        if logits is None:
            raise ConfigError("this generator was trained without labels: it has no label head")
        found: Tensor = logits.float()
        return found

    @torch.no_grad()
    def sample(self, given: Batch, to: tuple[str, ...], how: Sampling, rng: torch.Generator) -> dict[str, Tensor]:
        """{target: value} from the slots present in `given`; the target's own value there is not looked at.

        how and rng are other generators'; here nothing is drawn. Raises ConfigError for another slot.
        """
        if to != (self.target,):
            raise ConfigError(f"this concat_baseline makes '{self.target}' only, asked for {', '.join(to)}")
        present = self._present(given)
        if self.target in present:
            present[self.target] = torch.zeros_like(present[self.target])
        made, _ = self(given.values, present)
        return {self.target: _until_end(made.argmax(dim=-1)) if self.modality == "text" else made.float()}

    def _present(self, batch: Batch) -> dict[str, Tensor]:
        return {slot: batch.masks[slot].any(dim=1) for slot in self.reads}

    def _hidden(self, present: dict[str, Tensor], rng: torch.Generator) -> dict[str, Tensor]:
        """Each present slot hidden with chance `hide`; a row that would lose all keeps all of them."""
        if not self.training or self.hide == 0 or len(present) == 1:
            return present
        have_BS = torch.stack(list(present.values()), dim=1)
        draws_BS = torch.rand(have_BS.shape, generator=rng, device=rng.device).to(have_BS.device)
        kept_BS = have_BS & (draws_BS >= self.hide)
        kept_BS = torch.where(kept_BS.any(dim=1, keepdim=True), kept_BS, have_BS)
        return dict(zip(present, kept_BS.unbind(dim=1), strict=True))

    def _distance(self, made: Tensor, wanted: Tensor) -> Tensor:
        """Per row: mean squared error, or the mean cross-entropy over the tokens of a text."""
        if self.modality != "text":
            return (made.float() - wanted).square().flatten(1).mean(dim=1)
        each_BL = functional.cross_entropy(made.float().transpose(1, 2), wanted, reduction="none")
        # the tokens alone: else short texts teach padding above all
        count_BL = (wanted != PAD_ID).float()
        return (each_BL * count_BL).sum(dim=1) / count_BL.sum(dim=1).clamp(min=1)


def _until_end(ids_BL: Tensor) -> Tensor:
    """Token ids with padding after the first end: the loss says nothing about what comes there."""
    after_BL = (ids_BL == EOS_ID).cumsum(dim=1) - (ids_BL == EOS_ID).long() > 0
    return ids_BL.masked_fill(after_BL, PAD_ID)


def _mean(each_B: Tensor, weights_B: Tensor) -> Tensor:
    """Weighted mean; 0 where no row counts."""
    return (each_B * weights_B).sum() / weights_B.sum().clamp(min=1e-6)
