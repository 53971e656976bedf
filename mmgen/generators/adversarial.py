"""Adversarial generator over any set of slots: noise and what is given to the latents of what is wanted, in one pass.

Roles as in the joint flow (roles.py), so any subset given makes any subset, and slots may be missing in training. Two
losses train it. The energy score (Gneiting & Raftery 2007, as in DISCO Nets: Bouchacourt et al. 2016, arXiv:1606.02556)
compares two draws for the same condition with the real one and with each other: a proper score, so it is lowest where
draws are spread as the data are, which keeps all modes, and it tells how good a generator is, which the two players'
losses do not. A projection discriminator (Miyato & Koyama 2018, arXiv:1802.05637) beside it judges whether the made
slots look real and agree with each other and with the condition. It is no part of the generator: see `learner`.

Shape suffixes: B batch, S slots, N numbers of all slots' latents, K numbers of the condition, Z noise, W network width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmgen.adversarial import Looks, play
from mmgen.batches import Batch
from mmgen.errors import ConfigError
from mmgen.generators.joint_flow import embedding_key
from mmgen.generators.roles import ABSENT, GIVEN, ROLES, TARGET, draw_roles
from mmgen.generators.sampling import Sampling, made_together

# under a square root, whose slope at 0 is infinite
TINY = 1e-8


class ResidualBlock(nn.Module):
    """Pre-norm residual layer; starts as the identity."""

    def __init__(self, width: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(dropout)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        nn.init.zeros_(self.down.weight)

    def forward(self, h_BW: Tensor) -> Tensor:
        out: Tensor = h_BW + self.down(self.dropout(F.silu(self.up(self.norm(h_BW)))))
        return out


@dataclass(frozen=True)
class Draw:
    """A training batch as the two players see it. real_BN, made_BN, other_BN: the data and two draws, zeros where
    nothing is a target. weight_BN: how much each number counts, 1 in all per row (0 in one without a target)."""

    known_BK: Tensor
    real_BN: Tensor
    made_BN: Tensor
    other_BN: Tensor
    weight_BN: Tensor
    weights_B: Tensor


class AdversarialGenerator(nn.Module):
    """See the module. Latents are expected standardised.

    Args:
        slots: slot to its latent shape (T, D).
        width, blocks, hidden: of the residual networks, the discriminator's too; hidden None is 2 · width.
        noise_width: Z.
        embedding_width: of the fusion embeddings of given slots, if they are a further condition; None: they are not.
        joint_share, given_share, absent_share: see draw_roles.
        condition_dropout: chance that a given slot comes without its embedding, and that it comes without its latent.
        given_noise: standard deviation of noise on given latents and embeddings in training.
        dropout: inside the blocks of the generator.
        adversarial_weight: of the discriminator's say; 0 trains by the energy score alone.
        energy_weight: of the energy score.
        penalty_weight: of the discriminator's gradient penalty (see adversarial.play).
    """

    feature_set: ClassVar[Literal["latents", "tensors"]] = "latents"
    slot_N: Tensor

    def __init__(
        self,
        *,
        slots: Mapping[str, Sequence[int]],
        width: int = 512,
        blocks: int = 4,
        hidden: int | None = None,
        noise_width: int = 64,
        embedding_width: int | None = None,
        joint_share: float = 0.4,
        given_share: float = 0.4,
        absent_share: float = 0.3,
        condition_dropout: float = 0.2,
        given_noise: float = 0.4,
        dropout: float = 0.0,
        adversarial_weight: float = 0.1,
        energy_weight: float = 1.0,
        penalty_weight: float = 0.1,
    ) -> None:
        super().__init__()
        if not slots:
            raise ConfigError("adversarial: wanted at least one slot, came none")
        if adversarial_weight + energy_weight <= 0:
            raise ConfigError("adversarial: wanted adversarial_weight or energy_weight above 0, came 0 for both")
        self.shapes = {slot: (int(shape[0]), int(shape[1])) for slot, shape in slots.items()}
        self.sizes = [tokens * wide for tokens, wide in self.shapes.values()]
        self.embedding_width, self.noise_width = embedding_width, noise_width
        self.joint_share, self.given_share, self.absent_share = joint_share, given_share, absent_share
        self.condition_dropout, self.given_noise = condition_dropout, given_noise
        self.adversarial_weight, self.energy_weight = adversarial_weight, energy_weight
        self.penalty_weight = penalty_weight
        self.width, self.depth, self.hidden = width, blocks, hidden or 2 * width
        # of every number the slot that it belongs to; known from the shapes, so no part of what is saved
        self.register_buffer("slot_N", torch.arange(len(self.sizes)).repeat_interleave(torch.tensor(self.sizes)), False)
        self.read = nn.Linear(self.condition_size, width)
        self.noise = nn.Linear(noise_width, width)
        self.blocks = nn.Sequential(*(ResidualBlock(width, self.hidden, dropout) for _ in range(blocks)))
        self.write = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, sum(self.sizes)))

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the slots, in order."""
        return tuple(self.shapes)

    @property
    def condition_size(self) -> int:
        """K: every slot's latent, its embedding and its role."""
        return sum(self.sizes) + len(self.sizes) * (ROLES + (self.embedding_width or 0))

    def forward(self, known_BK: Tensor, noise_BZ: Tensor) -> Tensor:
        """Latents (B, N) of all slots, float32; those that are no target mean nothing."""
        made: Tensor = self.write(self.blocks(self.read(known_BK) + self.noise(noise_BZ)))
        return made.float()

    # ------------------------------------------------------------ training

    def learner(self, seed: int) -> nn.Module:
        """What the loop trains: this generator and, if it has a say, a discriminator whose weights come from `seed`."""
        return AdversarialLearner(self, seed) if self.adversarial_weight > 0 else self

    def loss(self, batch: Batch, rng: torch.Generator | None = None) -> dict[str, Tensor]:
        """`loss`: the energy score alone, by which generators of this kind can be compared.

        batch: latents of any of the slots (a slot it does not name is missing), masks (B, T), and, under
        `embedding_key(slot)`, fusion embeddings (B, 1, E). Rows of weight 0 count nothing.
        """
        return {"loss": energy_score(self.draw(batch, rng))}

    def draw(self, batch: Batch, rng: torch.Generator | None = None) -> Draw:
        """Roles, conditions and two draws for them, for a batch as in `loss`."""
        roles_BS = draw_roles(
            batch.presence(self.slots), joint_share=self.joint_share, given_share=self.given_share,
            absent_share=self.absent_share, rng=rng,
        )  # fmt: skip
        real_BN, there_BN = self._latents(batch)
        wanted_BN = there_BN & self._spread(roles_BS == TARGET)
        known_BK = self._condition(real_BN, there_BN, self._embeddings(batch), roles_BS, rng)
        count, device = len(batch), real_BN.device
        noise_BZ = torch.randn((2 * count, self.noise_width), generator=rng, device=device)
        made_BN, other_BN = self(known_BK.repeat(2, 1), noise_BZ).masked_fill(~wanted_BN.repeat(2, 1), 0.0).chunk(2)
        weight_BN = self._weights(wanted_BN)
        weights_B = batch.weights_B * (weight_BN.sum(1) > 0)
        real_BN = real_BN.masked_fill(~wanted_BN, 0.0)
        return Draw(known_BK, real_BN, made_BN, other_BN, weight_BN, weights_B)

    def _weights(self, wanted_BN: Tensor) -> Tensor:
        """Every target slot counts the same, whatever its size."""
        parts = torch.split(wanted_BN.float(), self.sizes, dim=1)
        weight_BN = torch.cat([part / part.sum(1, keepdim=True).clamp_min(1) for part in parts], dim=1)
        return weight_BN / weight_BN.sum(1, keepdim=True).clamp_min(TINY)

    def _spread(self, is_BS: Tensor) -> Tensor:
        """What is said of slots (B, S), of each of their numbers (B, N)."""
        return is_BS[:, self.slot_N]

    def _latents(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Latents (B, N), zeros where there are none, and where there are some (B, N)."""
        count, device = len(batch), batch.weights_B.device
        values, there = [], []
        for slot, (tokens, wide) in self.shapes.items():
            mask_BT = torch.zeros((count, tokens), dtype=torch.bool, device=device)
            value_BTD = torch.zeros((count, tokens, wide), device=device)
            if slot in batch.values:
                mask_BT = batch.masks[slot]
                # a masked token's number must not get in, not even as 0 · NaN
                value_BTD = batch.values[slot].float().masked_fill(~mask_BT[..., None], 0.0)
            values.append(value_BTD.flatten(1))
            there.append(mask_BT[..., None].expand(-1, -1, wide).flatten(1))
        return torch.cat(values, dim=1), torch.cat(there, dim=1)

    def _embeddings(self, batch: Batch) -> Tensor:
        """Fusion embeddings (B, S, E), zeros where a row has none; E is 0 where they are no condition."""
        count, device = len(batch), batch.weights_B.device
        found_BSE = torch.zeros((count, len(self.sizes), self.embedding_width or 0), device=device)
        for number, slot in enumerate(self.slots):
            key = embedding_key(slot)
            if self.embedding_width and key in batch.values:
                found_BSE[:, number] = batch.values[key][:, 0].float().masked_fill(~batch.masks[key][:, :1], 0.0)
        return found_BSE

    def _condition(
        self, z_BN: Tensor, there_BN: Tensor, e_BSE: Tensor, roles_BS: Tensor, rng: torch.Generator | None
    ) -> Tensor:
        """What is known in training: noisy, and now and then without a given slot's embedding, or with only it."""
        lots_BS = torch.rand(roles_BS.shape, generator=rng, device=roles_BS.device)
        has_BS = e_BSE.any(2)
        # never both: a row without an embedding of its own keeps its latent
        without_BS = (lots_BS > 1 - self.condition_dropout) & has_BS
        noisy_BN = z_BN + self.given_noise * torch.randn(z_BN.shape, generator=rng, device=z_BN.device)
        noisy_BN = noisy_BN.masked_fill(~there_BN | self._spread(without_BS), 0.0)
        noisy_BSE = e_BSE + self.given_noise * torch.randn(e_BSE.shape, generator=rng, device=e_BSE.device)
        noisy_BSE = noisy_BSE.masked_fill((~has_BS | (lots_BS < self.condition_dropout))[..., None], 0.0)
        return self._known(noisy_BN, noisy_BSE, roles_BS)

    def _known(self, z_BN: Tensor, e_BSE: Tensor, roles_BS: Tensor) -> Tensor:
        """(B, K) of what is GIVEN, and every slot's role."""
        given_BS = roles_BS == GIVEN
        z_BN = z_BN.masked_fill(~self._spread(given_BS), 0.0)
        e_BSE = e_BSE.masked_fill(~given_BS[..., None], 0.0)
        roles_BSR = F.one_hot(roles_BS, ROLES).to(z_BN.dtype)
        return torch.cat([z_BN, e_BSE.flatten(1), roles_BSR.flatten(1)], dim=1)

    # ------------------------------------------------------------ sampling

    @torch.no_grad()
    def sample(
        self, given: Batch, to: Sequence[str], how: Sampling, rng: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Latents (B, T, D) of the slots `to`, made together from what `given` holds of the others.

        given: latents and fusion embeddings as in `loss`; a row may lack any slot, and B rows without a slot ask for
        unconditional samples. What it holds of the slots in `to` is not looked at.
        how: a flow's; here everything is made in one pass, and nothing is read of it.
        rng: noise is drawn row by row, so a row's sample does not depend on how many follow it.

        Raises ConfigError for an unknown or repeated slot, or none at all.
        """
        targets = made_together(to, self.slots)
        roles_BS = torch.where(given.presence(self.slots), GIVEN, ABSENT)
        for slot in targets:
            roles_BS[:, self.slots.index(slot)] = TARGET
        z_BN, _ = self._latents(given)
        known_BK = self._known(z_BN, self._embeddings(given), roles_BS)
        made = self(known_BK, self._noise(len(given), rng, known_BK.device)).split(self.sizes, dim=1)
        return {
            slot: part.unflatten(1, shape)
            for (slot, shape), part in zip(self.shapes.items(), made, strict=True) if slot in targets
        }  # fmt: skip

    def _noise(self, count: int, rng: torch.Generator | None, device: torch.device) -> Tensor:
        rows = [
            torch.randn(self.noise_width, generator=rng, device=rng.device if rng else device) for _ in range(count)
        ]
        return torch.stack(rows).to(device) if rows else torch.zeros(0, self.noise_width, device=device)


def energy_score(draw: Draw) -> Tensor:
    """Mean over rows of E|made - real| - E|made - made'| / 2, with the targets of a row as one vector.

    Distances are root mean squares, so that one unit is a standard deviation of the latents.
    """
    near_B = 0.5 * (_apart(draw.made_BN, draw.real_BN, draw) + _apart(draw.other_BN, draw.real_BN, draw))
    spread_B = _apart(draw.made_BN, draw.other_BN, draw)
    score_B = near_B - 0.5 * spread_B
    return (score_B * draw.weights_B).sum() / draw.weights_B.sum().clamp_min(TINY)


def _apart(one_BN: Tensor, other_BN: Tensor, draw: Draw) -> Tensor:
    return ((one_BN - other_BN).square() * draw.weight_BN).sum(1).add(TINY).sqrt()


# ---------------------------------------------------------------- the adversary


class ProjectionDiscriminator(nn.Module):
    """How real the targets of a row are together, plus how well their features fit those of the condition.

    score = w · φ(x) + φ(x) · ψ(c) (Miyato & Koyama 2018, arXiv:1802.05637, eq. 4, with a condition that is a vector).
    size: N; condition: K; width, blocks, hidden: of φ and ψ.
    """

    def __init__(self, size: int, condition: int, width: int, blocks: int, hidden: int) -> None:
        super().__init__()
        self.read = nn.Linear(size, width)
        self.blocks = nn.Sequential(*(ResidualBlock(width, hidden) for _ in range(blocks)))
        self.features = nn.Sequential(nn.LayerNorm(width), nn.SiLU())
        self.condition = nn.Sequential(
            nn.Linear(condition, width), ResidualBlock(width, hidden), nn.LayerNorm(width), nn.Linear(width, width)
        )
        self.score = nn.Linear(width, 1)

    def forward(self, x_BN: Tensor, wanted_BN: Tensor, known_BK: Tensor) -> Looks:
        """wanted_BN: where x_BN is looked at. One list: features (B, W), scores (B, 1)."""
        features_BW = self.features(self.blocks(self.read(x_BN * wanted_BN)))
        fit_B1 = (features_BW * self.condition(known_BK)).sum(1, keepdim=True) / math.sqrt(features_BW.shape[1])
        return [[features_BW, self.score(features_BW) + fit_B1]]


class AdversarialLearner(nn.Module):
    """The generator (`generator`, which alone is kept) and its discriminator, trained in the same steps."""

    def __init__(self, generator: AdversarialGenerator, seed: int) -> None:
        super().__init__()
        self.generator = generator
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.discriminator = ProjectionDiscriminator(
                sum(generator.sizes), generator.condition_size, generator.width, generator.depth, generator.hidden
            )

    def loss(self, batch: Batch, rng: torch.Generator | None = None) -> dict[str, Tensor]:
        """`loss` of both players together, with `energy`, `adversarial`, `discriminator` and `penalty`."""
        draw = self.generator.draw(batch, rng)
        energy = energy_score(draw)
        condition = (draw.weight_BN > 0, draw.known_BK)
        both = play(
            self.discriminator, [draw.real_BN, *condition], [draw.made_BN, *condition], draw.weights_B,
            self.generator.penalty_weight,
        )  # fmt: skip
        total = self.generator.energy_weight * energy + self.generator.adversarial_weight * both.fooling + both.own
        shown = {
            "energy": energy, "adversarial": both.fooling, "discriminator": both.own, "penalty": both.penalty,
        }  # fmt: skip
        return {"loss": total, **{name: each.detach() for name, each in shown.items()}}
