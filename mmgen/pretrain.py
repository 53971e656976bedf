"""Text encoders of a fusion that first learn from the training texts alone, before the fusion is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmgen.batches import VALUE, Batch, Loader, Samples
from mmgen.encoders.base import TokenEncoder
from mmgen.encoders.masked_tokens import MaskedTokens
from mmgen.errors import ConfigError
from mmgen.preprocess.text import TextPreprocess
from mmgen.runtime import Progress
from mmgen.training.checkpoint import Checkpoint
from mmgen.training.config import TrainConfig
from mmgen.training.loop import Trained, seed_of, train
from mmgen.training.parallel import World


@dataclass(frozen=True)
class Texts:
    """Texts of all text slots together. slots: their names; how: of them all, which share a tokenizer."""

    slots: Sequence[str]
    how: TextPreprocess
    train: Samples
    validation: Samples | None

    @property
    def shown(self) -> Samples:
        """What accuracy is measured on: the validation texts, the training ones where there are none."""
        held = self.validation
        return held if held is not None and any(len(held.having(slot)) for slot in self.slots) else self.train

    def loader(self, samples: Samples, batch_size: int, seed: int, world: World, shuffle: bool = True) -> Loader:
        """Ids (B, L) of every slot's texts as the slot `value`."""
        pooled = samples.pooled(self.slots)
        return Loader(
            pooled, batch_size=batch_size, seed=seed, to_value={VALUE: self.how.value}, indices=pooled.having(VALUE),
            rank=world.rank, world=world.size, shuffle=shuffle, device=world.device,
        )  # fmt: skip


def pretrain_text(
    network: nn.Module, texts: Texts, settings: TrainConfig, seed: int, world: World,
    checkpoint: Checkpoint, progress: Progress,
) -> tuple[Trained, dict[str, Any]]:  # fmt: skip
    """Train the text encoders of a fusion (in place, all alike) with masked tokens.

    Returns the training, and what is recorded of it: steps, loss, and the share of hidden tokens that is named before
    and after, of the validation texts (of the training texts where there are none). Raises ConfigError: an
    encoder that does not say something of every token.
    """
    encoders = _text_encoders(network)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        masked = MaskedTokens(encoders[0]).to(world.device)
    alone = World(0, 1, world.device)
    shown = texts.loader(texts.shown, settings.batch_size, seed, alone, shuffle=False)
    before = accuracy(masked, shown, seed)

    def loss(batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        return masked.loss(batch.values[VALUE], rng)

    loader = texts.loader(texts.train, settings.batch_size, seed, world)
    trained = train(
        masked, loss, loader, settings, world=world, seed=seed, what="pretrain", checkpoint=checkpoint,
        progress=progress,
    )  # fmt: skip
    for encoder in encoders[1:]:
        encoder.load_state_dict(encoders[0].state_dict())
    record = {
        "steps": trained.steps,
        "loss": trained.curves.loss[-1] if trained.curves.loss else None,
        "accuracy_before": before,
        "accuracy": accuracy(masked, shown, seed),
    }
    return trained, record


@torch.no_grad()
def accuracy(masked: MaskedTokens, loader: Loader, seed: int) -> float:
    """Mean share of hidden tokens that is named over one epoch; what is hidden depends on (seed, batch) alone."""
    rng, found = torch.Generator(loader.device), []
    masked.eval()
    for number, batch in enumerate(loader):
        rng.manual_seed(seed_of(seed, number))
        found.append(float(masked.loss(batch.values[VALUE], rng)["accuracy"]))
    return sum(found) / len(found)


def _text_encoders(network: Any) -> list[TokenEncoder]:
    """The encoders of a fusion's text slots."""
    found = []
    for number, (slot, modality) in enumerate(network.modalities.items()):
        if modality != "text":
            continue
        encoder = network.encoders[number]
        if not isinstance(encoder, TokenEncoder):
            raise ConfigError(
                f"fusion.pretrain: wanted transformer_text or bilstm_text as the encoder of '{slot}', "
                f"came {type(encoder).__name__}; take one of them, or leave pretrain out"
            )
        found.append(encoder)
    return found
