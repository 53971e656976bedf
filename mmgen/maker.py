"""Codecs, fusion and generator as one thing that makes values of slots from values of others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from mmgen.agreement import agreement, best, comparable
from mmgen.artifact import Artifact, load_link
from mmgen.batches import Batch
from mmgen.codec_set import CodecSet, load_weights
from mmgen.codecs.text import PAD
from mmgen.errors import ConfigError, unknown_name
from mmgen.fusion.fusion import Fusion
from mmgen.fusion.table import make_fusion
from mmgen.generators.autoregressive import ids_key
from mmgen.generators.joint_flow import JointFlow, embedding_key
from mmgen.generators.sampling import Sampling, Steering
from mmgen.generators.stages import Stage, stages
from mmgen.generators.table import GENERATORS
from mmgen.store import Store
from mmgen.training.loop import seed_of

# rows that go through a network at once
ROWS = 256


def new_fusion(spec: Mapping[str, Any]) -> nn.Module:
    """A fresh fusion model of {"kind", "args"}. Raises ConfigError for an unknown kind."""
    return make_fusion(spec["kind"], **_ordered(spec["args"]))


def new_generator(spec: Mapping[str, Any]) -> nn.Module:
    """A fresh generator of {"kind", "args"}. Raises ConfigError for an unknown kind."""
    if spec["kind"] not in GENERATORS:
        raise ConfigError(unknown_name("generator", spec["kind"], GENERATORS))
    made: nn.Module = GENERATORS[spec["kind"]](**_ordered(spec["args"]))
    return made


def _ordered(args: Any) -> Any:
    """`args` with the keys of all mappings sorted, as a manifest has them: weights lie in the order of the slots."""
    return {key: _ordered(args[key]) for key in sorted(args)} if isinstance(args, Mapping) else args


def load_network(make: Callable[[Mapping[str, Any]], nn.Module], spec: Mapping[str, Any], weights: bytes) -> nn.Module:
    """A trained network from {"kind", "args"} and safetensors bytes, without gradients. Raises IntegrityError."""
    # where an encoder's first weights came from is history by now
    network = make({"kind": spec["kind"], "args": {k: v for k, v in spec["args"].items() if k != "weights"}})
    load_weights(network, weights, spec["kind"])
    return network.eval().requires_grad_(False)


def load_fusion(store: Store, fusion: Artifact, device: torch.device | str = "cpu") -> nn.Module:
    """The network of a model:name-fusion."""
    network = load_network(new_fusion, fusion.facts, store.read(fusion.file("weights").path)).to(device)
    if fusion.facts.get("feature_set") == "latents":
        read_through(network, CodecSet.load(store, load_link(store, fusion.inputs["codecs"])).to(device))
    return network


def read_through(fusion: nn.Module, codecs: CodecSet) -> None:
    """Give a fusion that learned from cached latents the codecs that make them of values."""
    if isinstance(fusion, Fusion) and fusion.cached is not None:
        fusion.cached.encode = codecs.encode


@torch.no_grad()
def embed_slot(fusion: nn.Module, slot: str, value: Tensor) -> Tensor:
    """The fusion embedding (B, E) of one slot's values (B, …) alone."""
    network: Any = fusion
    count, device = len(value), value.device
    present = torch.ones((count, 1), dtype=torch.bool, device=device)
    none, ones = torch.full((count,), -1, device=device), torch.ones(count, device=device)
    batch = Batch({slot: value}, {slot: present}, none, ones, [""] * count)
    embedded: Tensor = network.fuse(network.slot_embeddings(batch), network.mask(batch))
    return embedded.float()


@dataclass(frozen=True)
class Maker:
    """Makes values from values. All networks are in evaluation mode on `device`."""

    codecs: CodecSet
    fusion: nn.Module
    generator: nn.Module
    device: torch.device

    def __post_init__(self) -> None:
        read_through(self.fusion, self.codecs)

    @classmethod
    def load(
        cls, store: Store, codecs: Artifact, fusion: Artifact, generator: Artifact, device: torch.device | str = "cpu"
    ) -> Maker:
        """From the committed artifacts."""
        weights = store.read(generator.file("weights").path)
        return cls(
            CodecSet.load(store, codecs).to(device),
            load_fusion(store, fusion, device),
            load_network(new_generator, generator.facts, weights).to(device),
            torch.device(device),
        )

    @property
    def slots(self) -> tuple[str, ...]:
        """All slots, in the order of their names."""
        return tuple(self.codecs.slots)

    @property
    def makes(self) -> tuple[str, ...]:
        """The slots that the generator can make."""
        return tuple(getattr(self.generator, "makes", self.slots))

    def latents(self, given: Batch) -> Batch:
        """The same samples as standardised latents (B, T, D); `given` holds `tensors` values."""
        values, masks = {}, {}
        for slot, value in given.values.items():
            present_B = given.masks[slot].any(dim=1)
            tokens, width = self.codecs.latent_shape(slot)
            z_BTD = value.new_zeros((len(value), tokens, width), dtype=torch.float32)
            if bool(present_B.any()):
                z_BTD[present_B] = self.codecs.encode(slot, value[present_B])
            values[slot], masks[slot] = z_BTD, present_B[:, None].expand(-1, tokens)
        return replace(given, values=values, masks=masks)

    @torch.no_grad()
    def conditions(self, given: Batch) -> Batch:
        """Latents, and beside them each present slot's own fusion embedding, as the generator was trained with."""
        batch = self.latents(given)
        if not getattr(self.generator, "embedding_width", None):
            return batch
        values, masks = dict(batch.values), dict(batch.masks)
        for slot, value in given.values.items():
            key, mask = embedding_key(slot), given.masks[slot].any(dim=1, keepdim=True)
            values[key] = embed_slot(self.fusion, slot, value)[:, None]
            masks[key] = mask
        return replace(batch, values=values, masks=masks)

    @torch.no_grad()
    def make(
        self,
        given: Batch,
        to: tuple[str, ...],
        how: Sampling,
        rng: torch.Generator,
        steering: Steering | None = None,
        prefix: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Values (B, …) of the slots `to`, from the slots present in `given` (`tensors` values on `device`).

        steering: with `tensors` batches and values. prefix: text slot → ids (B, L) that its texts begin with, all pads
        for one that begins with nothing. Raises ConfigError for one of them that the generator cannot follow.
        """
        if how.candidates > 1:
            return self._best(given, to, how, rng, steering, prefix or {})
        generator: Any = self.generator
        led = () if steering is None else (self._read(steering),)
        if getattr(generator, "writes", False):
            return self._written(given, to, how, rng, prefix or {})
        if prefix:
            raise ConfigError("prefix: this model makes whole texts at once; wanted a generator of kind autoregressive")
        if generator.feature_set == "tensors":
            made: dict[str, Tensor] = generator.sample(given, to, how, rng)
            return made
        if steering is None and isinstance(generator, JointFlow):
            return self._staged(given, to, how, rng)
        latents = generator.sample(self.conditions(given), to, how, rng, *led)
        return {slot: self.codecs.decode(slot, latents[slot]) for slot in to}

    def _best(
        self, given: Batch, to: tuple[str, ...], how: Sampling, rng: torch.Generator, steering: Steering | None,
        prefix: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:  # fmt: skip
        """Several samples of each row, of which the one that agrees best is kept: with each mixed condition by its
        weight, where there are some."""
        basis = steering.mix if steering is not None and steering.mix else ((1.0, given),)
        count = how.candidates if any(comparable(batch, to) for _, batch in basis) else 1
        places = torch.arange(len(given), device=self.device).repeat_interleave(count)
        made = self.make(
            given.take(places), to, replace(how, candidates=1), rng,
            None if steering is None else steering.take(places),
            {slot: ids_BL[places] for slot, ids_BL in prefix.items()},
        )  # fmt: skip
        if count == 1:
            return made
        each = [weight * agreement(self.fusion, batch.take(places), made) for weight, batch in basis]
        return best(made, torch.stack(each).sum(0), count)

    def _staged(self, given: Batch, to: tuple[str, ...], how: Sampling, rng: torch.Generator) -> dict[str, Tensor]:
        """In one stage where all slots were seen together; else rows that give the same slots go the same way."""
        flow = self._flow()
        names = [slot for slot in flow.slots if slot in given.values and slot not in to]
        concerned = {*names, *to}
        if all(frozenset(pair) in flow.pairs for pair in combinations(concerned, 2)):
            latents = flow.sample(self.conditions(given), to, how, rng)
            return {slot: self.codecs.decode(slot, latents[slot]) for slot in to}
        there = [given.masks[slot].any(dim=1).tolist() for slot in names]
        ways: dict[tuple[str, ...], list[int]] = {}
        for row in range(len(given)):
            source = tuple(slot for slot, present in zip(names, there, strict=True) if present[row])
            ways.setdefault(source, []).append(row)
        found: dict[str, Tensor] = {}
        for source, rows in ways.items():
            places = torch.tensor(rows, device=self.device)
            made = self._through(given.take(places), stages(source, to, flow.pairs, flow.slots), how, rng)
            for slot in to:
                if slot not in found:
                    found[slot] = made[slot].new_zeros((len(given), *made[slot].shape[1:]))
                found[slot][places] = made[slot]
        return found

    def _through(self, given: Batch, plan: Sequence[Stage], how: Sampling, rng: torch.Generator) -> dict[str, Tensor]:
        """All that the stages make, each from what it names of what is given and was made before it."""
        made: dict[str, Tensor] = {}
        for stage in plan:
            values, masks = {**given.values, **made}, dict(given.masks)
            for slot, value in values.items():
                masks[slot] = torch.full((len(value), 1), slot in stage.given, device=value.device)
            basis = replace(given, values=values, masks=masks)
            latents = self._flow().sample(self.conditions(basis), stage.to, how, rng)
            made |= {slot: self.codecs.decode(slot, latents[slot]) for slot in stage.to}
        return made

    def _written(
        self, given: Batch, to: tuple[str, ...], how: Sampling, rng: torch.Generator, prefix: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Texts one slot after another: what was written of one is given to the next."""
        generator: Any = self.generator
        base = int(torch.randint(2**62, (), generator=rng, device=rng.device))
        masks = {slot: torch.zeros_like(mask) if slot in to else mask for slot, mask in given.masks.items()}
        batch, made = replace(given, masks=masks), {}
        for slot in to:
            # a stream for each slot, so that a row's draws in the second do not depend on how many rows the first has
            mine = torch.Generator(rng.device).manual_seed(seed_of(base, *slot.encode()))
            made[slot] = generator.sample(self._beginning(batch, slot, prefix), (slot,), how, mine)[slot]
            there = torch.ones_like(batch.masks[slot])
            batch = replace(batch, values={**batch.values, slot: made[slot]}, masks={**batch.masks, slot: there})
        return made

    def _beginning(self, given: Batch, slot: str, prefix: Mapping[str, Tensor]) -> Batch:
        """Conditions, and how the text of `slot` begins."""
        batch = self.conditions(given)
        if slot not in prefix:
            return batch
        key, mask = ids_key(slot), (prefix[slot] != PAD).any(dim=1, keepdim=True)
        return replace(batch, values={**batch.values, key: prefix[slot]}, masks={**batch.masks, key: mask})

    @torch.no_grad()
    def log_probability(self, given: Batch, slot: str, ids_BL: Tensor) -> Tensor:
        """Log-probability (B, L) of each id of texts of `slot` from the other slots that are present in `given`.

        0 for bos and pads. Raises ConfigError if the generator has no probabilities of texts.
        """
        generator: Any = self.generator
        if not hasattr(generator, "log_probability"):
            raise ConfigError("log_probability: wanted a generator of kind autoregressive")
        found: Tensor = generator.log_probability(self.conditions(given), slot, ids_BL)
        return found

    @torch.no_grad()
    def interpolate(
        self, one: Batch, other: Batch, shares: Sequence[float], given: Batch, how: Sampling
    ) -> dict[str, Tensor]:
        """Values (N, …) of the slots of `one` and `other` (one row each) at N shares of the way between them.

        given: one row of other slots. Raises ConfigError for a generator without such a way.
        """
        ends = [self.latents(batch).values for batch in (one, other)]
        latents = self._flow().interpolate(ends[0], ends[1], shares, self.conditions(given), how)
        return {slot: self.codecs.decode(slot, z_BTD) for slot, z_BTD in latents.items()}

    def _flow(self) -> JointFlow:
        if not isinstance(self.generator, JointFlow):
            raise ConfigError(
                "mix, negative, strength, in-painting and interpolation: wanted a model whose generator is a "
                f"joint_flow, came {type(self.generator).__name__}"
            )
        return self.generator

    def _read(self, led: Steering) -> Steering:
        """Its values as latents, its conditions with their fusion embeddings."""
        self._flow()
        return replace(
            led,
            mix=tuple((weight, self.conditions(batch)) for weight, batch in led.mix),
            negative=None if led.negative is None else self.conditions(led.negative),
            start={slot: self.codecs.encode(slot, value) for slot, value in led.start.items()},
        )

    @torch.no_grad()
    def embed(self, given: Batch) -> Tensor:
        """Fusion embeddings (B, E) of whatever slots are present in `given` (`tensors` values)."""
        embedded: Tensor = self.fusion(given)
        return embedded
