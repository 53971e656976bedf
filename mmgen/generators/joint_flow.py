"""Joint latent rectified flow over any set of slots: one network for every conditional and for the joint.

Every slot has a role and a time of its own (Bao et al. 2023, arXiv:2303.06555, with the straight paths of Liu et al.
2022, arXiv:2209.03003): what is given stands at t = 1 (data), what is made moves from t = 0 (noise) to t = 1, what is
absent is left out. x_t = (1 - t) x_0 + t x_1 and dx_t = x_1 - x_0, with x_0 from N(0, 1).

Shape suffixes: B batch, S slots, T latent tokens, D latent width, E width of a fusion embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from mmgen.batches import Batch
from mmgen.errors import ConfigError, unknown_name
from mmgen.generators.fields import FIELDS
from mmgen.generators.flow_sampling import Condition, FlowSampling
from mmgen.generators.roles import GIVEN, TARGET, draw_roles, draw_times
from mmgen.generators.samplers import State
from mmgen.generators.sampling import Sampling, Steering
from mmgen.generators.stages import Pairs

EMBEDDING_SUFFIX = ".fusion"


def embedding_key(slot: str) -> str:
    """Where a batch holds the fusion embedding (B, 1, E) of `slot`, beside its latents."""
    return slot + EMBEDDING_SUFFIX


class JointFlow(nn.Module):
    """See the module. Latents are expected standardised.

    Args:
        slots: slot to its latent shape (T, D).
        network: "residual" or "transformer", see `fields`. width, blocks, hidden: its size; hidden None is 2 · width.
        embedding_width: E, if the fusion embeddings of given slots are a further condition; None: they are not.
        joint_share: share of training rows in which every present slot is a target.
        shared_time: share of the rows whose targets have one time together.
        given_share, absent_share: chances of a slot that is not the row's first target.
        condition_dropout: chance that a given slot comes without its embedding, and that it comes without its latent.
        given_noise: standard deviation of noise on given latents and embeddings in training, so that the network does
            not come to know its conditions by heart (Ho et al. 2022, arXiv:2106.15282).
        dropout: inside the blocks.
        unseen: pairs of slots that no training sample had both of: one is made for the other through a slot that was
            seen with both (`stages`).
        sampler: a name of SAMPLERS, for those who ask for none.
    """

    feature_set: ClassVar[Literal["latents", "tensors"]] = "latents"

    def __init__(
        self,
        *,
        slots: Mapping[str, Sequence[int]],
        network: str = "residual",
        width: int = 512,
        blocks: int = 6,
        hidden: int | None = None,
        embedding_width: int | None = None,
        joint_share: float = 0.4,
        shared_time: float = 0.9,
        given_share: float = 0.4,
        absent_share: float = 0.3,
        condition_dropout: float = 0.2,
        given_noise: float = 0.4,
        dropout: float = 0.0,
        sampler: str = "euler",
        unseen: Sequence[Sequence[str]] = (),
    ) -> None:
        super().__init__()
        if not slots:
            raise ConfigError("joint_flow: wanted at least one slot, came none")
        self.shapes = {slot: (int(shape[0]), int(shape[1])) for slot, shape in slots.items()}
        self.embedding_width = embedding_width
        self.joint_share, self.shared_time = joint_share, shared_time
        self.given_share, self.absent_share = given_share, absent_share
        self.condition_dropout, self.given_noise, self.sampler = condition_dropout, given_noise, sampler
        never = {frozenset(pair) for pair in unseen}
        self.pairs: Pairs = frozenset(map(frozenset, combinations(self.shapes, 2))) - never
        if network not in FIELDS:
            raise ConfigError(unknown_name("network", network, FIELDS))
        self.field = FIELDS[network](
            self.shapes, width=width, blocks=blocks, hidden=hidden or 2 * width, embedding_width=embedding_width,
            dropout=dropout,
        )  # fmt: skip
        # torch gives this method no types
        self.register_load_state_dict_pre_hook(_named_as_before)  # type: ignore[no-untyped-call]

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the slots, in order."""
        return tuple(self.shapes)

    def velocity(
        self, x_t: Mapping[str, Tensor], t_BS: Tensor, roles_BS: Tensor, embeddings: Mapping[str, Tensor] | None = None
    ) -> State:
        """dx_t of every slot, (B, T, D) float32.

        x_t: slot to (B, T, D); what is ABSENT is not looked at, and a slot that is left out must be ABSENT.
        embeddings: slot to (B, E), zeros where there is none; only looked at where a slot is GIVEN.
        """
        out: State = self.field(x_t, t_BS, roles_BS, embeddings or {})
        return out

    # ------------------------------------------------------------ training

    def loss(self, batch: Batch, rng: torch.Generator | None = None) -> dict[str, Tensor]:
        """Rectified flow's squared error of dx_t over the target slots: `loss`, and each slot's as `loss_<slot>`.

        batch: latents of any of the slots (a slot it does not name is missing), masks (B, T), and, under
        `embedding_key(slot)`, fusion embeddings (B, 1, E). Rows of weight 0 count nothing.
        """
        masks = {slot: batch.masks[slot] for slot in self.slots if slot in batch.values}
        present_BS = batch.presence(self.slots)
        roles_BS = draw_roles(
            present_BS, joint_share=self.joint_share, given_share=self.given_share,
            absent_share=self.absent_share, rng=rng,
        )  # fmt: skip
        t_BS = draw_times(roles_BS, shared_share=self.shared_time, rng=rng)
        x_t, wanted = {}, {}
        for slot, mask_BT in masks.items():
            # a masked token's number must not get in, not even as 0 · NaN
            x_1 = batch.values[slot].float().masked_fill(~mask_BT[..., None], 0.0)
            x_0 = torch.randn(x_1.shape, generator=rng, device=x_1.device)
            t_B11 = t_BS[:, self.slots.index(slot), None, None]
            noise_B11 = torch.where(t_B11 == 1, self.given_noise, 1 - t_B11)
            x_t[slot] = (noise_B11 * x_0 + t_B11 * x_1) * mask_BT[..., None]
            wanted[slot] = x_1 - x_0
        x_t, embeddings = self._disturb(x_t, self._embeddings(batch), roles_BS, rng)
        dx_t = self.velocity(x_t, t_BS, roles_BS, embeddings)
        each = {}
        for slot, mask_BT in masks.items():
            error_BT = (dx_t[slot] - wanted[slot]).square().mean(2)
            mean_B = (error_BT * mask_BT).sum(1) / mask_BT.sum(1).clamp_min(1)
            weight_B = batch.weights_B * (roles_BS[:, self.slots.index(slot)] == TARGET)
            each[slot] = (mean_B * weight_B).sum(), weight_B.sum()
        total = sum((error for error, _ in each.values()), start=torch.zeros((), device=t_BS.device))
        count = sum((weight for _, weight in each.values()), start=torch.zeros((), device=t_BS.device))
        shown = {f"loss_{slot}": (error / weight.clamp_min(1e-8)).detach() for slot, (error, weight) in each.items()}
        return {"loss": total / count.clamp_min(1e-8), **shown}

    def _embeddings(self, batch: Batch) -> State:
        """Slot to (B, E), zeros where a row has none."""
        if self.embedding_width is None:
            return {}
        keys = {slot: embedding_key(slot) for slot in self.slots}
        return {
            slot: batch.values[key][:, 0].float().masked_fill(~batch.masks[key][:, :1], 0.0)
            for slot, key in keys.items() if key in batch.values
        }  # fmt: skip

    def _disturb(
        self, x_t: State, embeddings: State, roles_BS: Tensor, rng: torch.Generator | None
    ) -> tuple[State, State]:
        """Embeddings get their noise, and given slots now and then lose their embedding, or keep only it."""
        draw_BS = torch.rand(roles_BS.shape, generator=rng, device=roles_BS.device)
        given_BS = roles_BS == GIVEN
        no_embedding_BS = given_BS & (draw_BS < self.condition_dropout)
        only_embedding_BS = given_BS & (draw_BS > 1 - self.condition_dropout)
        kept_e, kept_x = {}, dict(x_t)
        for slot, e_BE in embeddings.items():
            number = self.slots.index(slot)
            has_B1 = e_BE.any(1, keepdim=True)
            noisy_BE = e_BE + self.given_noise * has_B1 * torch.randn(e_BE.shape, generator=rng, device=e_BE.device)
            kept_e[slot] = noisy_BE.masked_fill(no_embedding_BS[:, number, None], 0.0)
            if slot in x_t:
                # never both: a row without an embedding of its own keeps its latent
                alone_B11 = (only_embedding_BS[:, number, None] & has_B1)[..., None]
                kept_x[slot] = x_t[slot].masked_fill(alone_B11, 0.0)
        return kept_x, kept_e

    # ------------------------------------------------------------ sampling

    @torch.no_grad()
    def sample(
        self,
        given: Batch,
        to: Sequence[str],
        how: Sampling,
        rng: torch.Generator | None = None,
        steering: Steering | None = None,
    ) -> State:
        """Latents (B, T, D) of the slots `to`, made together from what `given` holds of the others.

        given: latents and fusion embeddings as in `loss`; a row may lack any slot, and B rows without a slot ask for
        unconditional samples. What it holds of the slots in `to` is not looked at. See FlowSampling for the rest.
        """
        led = steering or Steering()
        mix = [(weight, self._condition(batch)) for weight, batch in led.mix]
        negative = None if led.negative is None else self._condition(led.negative)
        return self._sampling.sample(
            self._condition(given), to, how, rng, steering=steering, mix=mix, negative=negative
        )  # fmt: skip

    @torch.no_grad()
    def interpolate(self, one: State, other: State, shares: Sequence[float], given: Batch, how: Sampling) -> State:
        """Latents (N, T, D) at N shares of the way from one to the other, slot → (1, T, D). See FlowSampling."""
        return self._sampling.interpolate(one, other, shares, self._condition(given), how)

    @property
    def _sampling(self) -> FlowSampling:
        return FlowSampling(self.velocity, self.shapes, self.sampler)

    def _condition(self, batch: Batch) -> Condition:
        latents = {
            slot: batch.values[slot].float().masked_fill(~batch.masks[slot][..., None], 0.0)
            for slot in self.slots if slot in batch.values
        }  # fmt: skip
        return Condition(latents, batch.presence(self.slots), self._embeddings(batch))


def _named_as_before(_: nn.Module, state: dict[str, Tensor], prefix: str, *__: object) -> None:
    """Weights of mmgen 0.1's first models, which had one network and no `field`, under today's names."""
    if f"{prefix}frequencies" in state:
        for name in [name for name in state if name.startswith(prefix)]:
            inner = name.removeprefix(prefix)
            state[f"{prefix}field.{'waves.' if inner == 'frequencies' else ''}{inner}"] = state.pop(name)
