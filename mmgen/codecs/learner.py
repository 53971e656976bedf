"""A codec in training with further terms: beside it the discriminator and the perceptual net, which nobody ships."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mmgen.adversarial import MultiScaleDiscriminator, PerceptualDistance, play
from mmgen.codecs.grid import GridCodec, Terms


class GridLearner(nn.Module):
    """What the loop trains and its checkpoints hold; `codec` is what is kept.

    Args:
        codec: of images or spectrograms, trained in place.
        adversarial_weight, feature_weight: of fooling the discriminator, and of the distance in its features. With
            either above 0 there is one, a MultiScaleDiscriminator, and its own loss is part of `loss` with weight 1.
        perceptual_weight: of the PerceptualDistance.
        latent_noise: see Terms.
        seed: of the discriminator's first weights.
    """

    def __init__(
        self,
        codec: GridCodec,
        *,
        adversarial_weight: float = 0.0,
        feature_weight: float = 0.0,
        perceptual_weight: float = 0.0,
        latent_noise: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.codec: Any = codec
        self.adversarial_weight, self.feature_weight = adversarial_weight, feature_weight
        self.perceptual_weight, self.latent_noise = perceptual_weight, latent_noise
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            contested = adversarial_weight > 0 or feature_weight > 0
            self.discriminator = MultiScaleDiscriminator(codec.channels, codec.size) if contested else None
        self.perceptual = PerceptualDistance(codec.channels) if perceptual_weight > 0 else None

    def loss(self, value: Tensor, rng: torch.Generator | None = None) -> dict[str, Tensor]:
        """The codec's `loss` and parts, with `discriminator`, `adversarial`, `feature`, `perceptual` where they are."""
        found: dict[str, Tensor] = self.codec.loss(value, rng, Terms(self.latent_noise, self._beside))
        return found

    def _beside(self, real_BCHW: Tensor, made_BCHW: Tensor) -> dict[str, Tensor]:
        total = made_BCHW.new_zeros(())
        shown: dict[str, Tensor] = {}
        if self.discriminator is not None:
            both = play(self.discriminator, [real_BCHW], [made_BCHW])
            total = both.own + self.adversarial_weight * both.fooling + self.feature_weight * both.features
            shown |= {"discriminator": both.own, "adversarial": both.fooling, "feature": both.features}
        if self.perceptual is not None:
            apart = self.perceptual(real_BCHW, made_BCHW)
            total = total + self.perceptual_weight * apart
            shown["perceptual"] = apart
        return {"loss": total, **{name: each.detach() for name, each in shown.items()}}
