"""Discriminators and their losses: hinge, feature matching, and a perceptual distance that nothing was trained for.

The training loop has one optimiser and one `loss`, so both players learn in the same step: `play` shows the
discriminator to the maker as constants, and the made values to the discriminator as data. The sum of the two losses
then sends each gradient to its own player alone. A network that wants an adversary beside it in training has a method
`learner(seed)`: what the loop trains (and its checkpoints hold) is that, what is kept is the network.

Shape suffixes: B batch, C channels, H and W height and width of a grid, T samples of a waveform.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NORM_GROUPS = 8
SLOPE = 0.2
# the smallest side of a grid that is still judged at a coarser scale
SMALLEST_SIDE = 16
# of PerceptualDistance; no judge's, and no codec's (those come from the configuration)
PERCEPTUAL_SEED = 8_001

# of every part of a discriminator its feature maps (B, …), the last of them its scores
Looks = list[list[Tensor]]


def learner_of(network: nn.Module, seed: int) -> nn.Module:
    """What the training loop is given for `network`: itself, or its `learner(seed)` with an adversary beside it."""
    learn: Any = getattr(network, "learner", None)
    learner: nn.Module = network if learn is None else learn(seed)
    return learner


# ---------------------------------------------------------------- discriminators


class PatchDiscriminator(nn.Module):
    """Scores of overlapping patches of a grid (Isola et al. 2017, arXiv:1611.07004), with group norm, so that a row's
    scores do not depend on the rows beside it.

    Args:
        channels: C of the grid.
        width: channels after the first layer; they double per layer, up to eight times.
        layers: strided convolutions.
        kernel, stride: of these, over (H, W).
    """

    def __init__(
        self,
        channels: int,
        *,
        width: int = 32,
        layers: int = 3,
        kernel: tuple[int, int] = (4, 4),
        stride: tuple[int, int] = (2, 2),
    ) -> None:
        super().__init__()
        widths = [channels, *(width * min(8, 2**layer) for layer in range(layers))]
        padding = ((kernel[0] - 1) // 2, (kernel[1] - 1) // 2)
        self.layers = nn.ModuleList()
        for layer in range(layers):
            conv = nn.Conv2d(widths[layer], widths[layer + 1], kernel, stride, padding)
            # no norm on the first: it alone sees how bright or loud the patch is
            norm = nn.GroupNorm(NORM_GROUPS, widths[layer + 1]) if layer else nn.Identity()
            self.layers.append(nn.Sequential(conv, norm, nn.LeakyReLU(SLOPE)))
        self.score = nn.Conv2d(widths[-1], 1, (min(3, kernel[0]), min(3, kernel[1])), padding="same")

    def forward(self, x_BCHW: Tensor) -> Looks:
        """One list: each layer's features, then scores (B, 1, h, w)."""
        seen = []
        for layer in self.layers:
            x_BCHW = layer(x_BCHW)
            seen.append(x_BCHW)
        return [[*seen, self.score(x_BCHW)]]


class MultiScaleDiscriminator(nn.Module):
    """Patch discriminators of the grid and of it at half the size each (Wang et al. 2018, arXiv:1711.11585).

    For images and for spectrograms, which a patch sees as it does any grid. size: (H, W); scales whose shorter side
    would be below SMALLEST_SIDE are left out, all but the first.
    """

    def __init__(self, channels: int, size: tuple[int, int], *, width: int = 32, layers: int = 3, scales: int = 2):
        super().__init__()
        count = sum(scale == 0 or min(size) >> scale >= SMALLEST_SIDE for scale in range(scales))
        # every layer halves the grid, and one number has to be left of it
        depth = max(1, min(layers, (min(size) >> (count - 1)).bit_length() - 1))
        self.parts = nn.ModuleList(PatchDiscriminator(channels, width=width, layers=depth) for _ in range(count))

    def forward(self, x_BCHW: Tensor) -> Looks:
        """The lists of all scales, finest first."""
        found: Looks = []
        for part in self.parts:
            if found:
                x_BCHW = F.avg_pool2d(x_BCHW, 2)
            found += part(x_BCHW)
        return found


class PeriodDiscriminator(nn.Module):
    """Patch discriminators of a waveform folded into rows of different periods (Kong et al. 2020, arXiv:2010.05646)."""

    def __init__(self, periods: Sequence[int] = (2, 3, 5, 7, 11), *, width: int = 32, layers: int = 4) -> None:
        super().__init__()
        self.periods = tuple(periods)
        self.parts = nn.ModuleList(
            PatchDiscriminator(1, width=width, layers=layers, kernel=(5, 1), stride=(3, 1)) for _ in self.periods
        )

    def forward(self, x_BT: Tensor) -> Looks:
        """Waveforms (B, T) to the lists of all periods."""
        found: Looks = []
        for period, part in zip(self.periods, self.parts, strict=True):
            padded_BT = F.pad(x_BT, (0, -x_BT.shape[1] % period))
            found += part(padded_BT.reshape(len(x_BT), 1, -1, period))
        return found


# ---------------------------------------------------------------- losses


def scores(looks: Looks) -> list[Tensor]:
    """Each part's scores (B, …), float32."""
    return [part[-1].float() for part in looks]


def discriminator_hinge(real: Looks, made: Looks, weights_B: Tensor | None = None) -> Tensor:
    """max(0, 1 - D(real)) + max(0, 1 + D(made)), mean over rows (Lim & Ye 2017, arXiv:1705.02894)."""
    kept_B = _rows([F.relu(1 - score) for score in scores(real)])
    caught_B = _rows([F.relu(1 + score) for score in scores(made)])
    return _mean(kept_B + caught_B, weights_B)


def generator_hinge(made: Looks, weights_B: Tensor | None = None) -> Tensor:
    """-D(made), mean over rows: the maker's side of the hinge loss."""
    return _mean(_rows([-score for score in scores(made)]), weights_B)


def feature_distance(real: Looks, made: Looks) -> Tensor:
    """Mean distance between features of real and made rows, each layer's as a share of the real one's size.

    Feature matching (Salimans et al. 2016, arXiv:1606.03498) in its relative form (Défossez et al. 2022,
    arXiv:2210.13438). The real side is a target: no gradient goes there.
    """
    each = []
    for real_part, made_part in zip(real, made, strict=True):
        for wanted, came in zip(real_part[:-1], made_part[:-1], strict=True):
            target = wanted.detach().float()
            each.append((came.float() - target).abs().mean() / target.abs().mean().clamp_min(1e-6))
    return torch.stack(each).mean()


@dataclass(frozen=True)
class Round:
    """One step of the two players. own: what the discriminator minimises. fooling: what the maker does.
    features: how far the made values are from the real ones in the discriminator's features (for the maker).
    penalty: mean squared slope of the discriminator at the real values, within `own` by its weight."""

    own: Tensor
    fooling: Tensor
    features: Tensor
    penalty: Tensor


def play(
    discriminator: nn.Module,
    real: Sequence[Tensor],
    made: Sequence[Tensor],
    weights_B: Tensor | None = None,
    penalty_weight: float = 0.0,
) -> Round:
    """The losses of both players of one step, whose sum sends each player its own gradient and no other.

    real, made: what the discriminator takes; the first of each is the value, what follows is the condition.
    weights_B: 0 for rows that count nothing; None counts all.
    penalty_weight: of the zero-centred gradient penalty on real values, under which such games converge (Mescheder
    et al. 2018, arXiv:1801.04406); it needs gradients, and is 0 where they are off.
    """
    penalised = penalty_weight > 0 and torch.is_grad_enabled()
    x = real[0].detach().requires_grad_(penalised)
    seen_real = discriminator(x, *real[1:])
    seen_made = discriminator(*(each.detach() for each in made))
    own = discriminator_hinge(seen_real, seen_made, weights_B)
    penalty = own.new_zeros(())
    if penalised:
        (slope,) = torch.autograd.grad(_rows(scores(seen_real)).sum(), x, create_graph=True)
        penalty = _mean(slope.float().square().flatten(1).sum(1), weights_B)
        own = own + 0.5 * penalty_weight * penalty
    judged = held(discriminator, *made)
    return Round(own, generator_hinge(judged, weights_B), feature_distance(seen_real, judged), penalty)


def held(network: nn.Module, *inputs: Tensor) -> Any:
    """network(*inputs) with its weights as constants: gradients go to the inputs only."""
    constants = {name: weight.detach() for name, weight in network.named_parameters()}
    return torch.func.functional_call(network, constants, inputs)


def _rows(each: Sequence[Tensor]) -> Tensor:
    """Mean over the positions of every map, then over the maps: (B,)."""
    return torch.stack([part.flatten(1).mean(1) for part in each]).mean(0)


def _mean(each_B: Tensor, weights_B: Tensor | None) -> Tensor:
    """Weighted mean; 0 where no row counts."""
    return each_B.mean() if weights_B is None else (each_B * weights_B).sum() / weights_B.sum().clamp_min(1e-8)


# ---------------------------------------------------------------- a perceptual distance


class PerceptualDistance(nn.Module):
    """Distance of two grids in the features of a small convolutional net with random, fixed weights.

    What it is: filters drawn from a seed of its own, three scales, channels brought to unit length at every place as
    LPIPS does (Zhang et al. 2018, arXiv:1801.03924). Random filters see edges and textures well enough to be a
    distance (Ustyuzhaninov et al. 2016, arXiv:1606.00021; Amir & Weiss, CVPR 2021).
    What it is not: trained on anything, and a judge: no evaluation looks through it (law 16).
    """

    def __init__(self, channels: int, *, width: int = 32, levels: int = 3, seed: int = PERCEPTUAL_SEED) -> None:
        super().__init__()
        widths = [channels, *(width * 2**level for level in range(levels))]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layers = [nn.Conv2d(before, after, 3, stride=2, padding=1) for before, after in itertools.pairwise(widths)]
            for layer in layers:
                nn.init.kaiming_normal_(layer.weight, SLOPE)
            self.layers = nn.ModuleList(layers)
        self.requires_grad_(False)

    def forward(self, real_BCHW: Tensor, made_BCHW: Tensor) -> Tensor:
        """Mean over levels and places of the squared difference of unit feature vectors, in [0, 4]."""
        each = []
        for layer in self.layers:
            real_BCHW, made_BCHW = (F.leaky_relu(layer(x), SLOPE) for x in (real_BCHW, made_BCHW))
            apart = F.normalize(real_BCHW.float(), dim=1) - F.normalize(made_BCHW.float(), dim=1)
            each.append(apart.square().sum(1).mean())
        return torch.stack(each).mean()
