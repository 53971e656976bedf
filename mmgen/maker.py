"""Codecs, fusion and generator as one thing that makes values of slots from values of others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmgen.artifact import Artifact
from mmgen.batches import Batch, Samples
from mmgen.codec_set import CodecSet, load_weights
from mmgen.errors import IntegrityError, unknown_name
from mmgen.fusion.table import FUSIONS
from mmgen.generators.joint_flow import embedding_key
from mmgen.generators.table import GENERATORS
from mmgen.store import Store


def load_network(table: Mapping[str, Any], spec: Mapping[str, Any], weights: bytes, what: str) -> nn.Module:
    """A trained network from {"kind", "args"} and safetensors bytes, without gradients. Raises IntegrityError."""
    if spec["kind"] not in table:
        raise IntegrityError(f"{what}: {unknown_name('kind', spec['kind'], table)}")
    # where an encoder's first weights came from is history by now
    args = {name: value for name, value in spec["args"].items() if name != "weights"}
    made: nn.Module = table[spec["kind"]](**args)
    load_weights(made, weights, what)
    return made.eval().requires_grad_(False)


def load_fusion(store: Store, fusion: Artifact, device: torch.device | str = "cpu") -> nn.Module:
    """The network of a model:name-fusion."""
    return load_network(FUSIONS, fusion.facts, store.read(fusion.file("weights").path), fusion.ref).to(device)


@torch.no_grad()
def embed_slot(fusion: nn.Module, slot: str, z_BTD: Tensor) -> Tensor:
    """The fusion embedding (B, E) of one slot's latents alone."""
    network: Any = fusion
    count, tokens = z_BTD.shape[:2]
    present = torch.ones((count, tokens), dtype=torch.bool, device=z_BTD.device)
    none, ones = torch.full((count,), -1, device=z_BTD.device), torch.ones(count, device=z_BTD.device)
    batch = Batch({slot: z_BTD}, {slot: present}, none, ones, [""] * count)
    e_BSD = network.slot_embeddings(batch)
    mask_BS = torch.zeros(e_BSD.shape[:2], dtype=torch.bool, device=z_BTD.device)
    mask_BS[:, list(network.slots).index(slot)] = True
    embedded: Tensor = network.fuse(e_BSD, mask_BS)
    return embedded.float()


def with_embeddings(samples: Samples, fusion: nn.Module, device: torch.device) -> Samples:
    """`samples` (latents) with each slot's own fusion embedding (1, E) beside it, for every alternative."""
    for slot in list(samples.layouts):
        found = []
        for shard in samples.shards:
            rows = shard.slots[slot].rows
            made = [embed_slot(fusion, slot, torch.from_numpy(np.array(rows[at : at + 1024])).to(device)).cpu().numpy()
                    for at in range(0, len(rows), 1024)]  # fmt: skip
            found.append(np.concatenate(made)[:, None] if made else None)
        samples = samples.beside(slot, embedding_key(slot), found)
    return samples


@dataclass(frozen=True)
class Maker:
    """Makes values from values. All networks are in evaluation mode on `device`."""

    codecs: CodecSet
    fusion: nn.Module
    generator: nn.Module
    device: torch.device

    @classmethod
    def load(
        cls, store: Store, codecs: Artifact, fusion: Artifact, generator: Artifact, device: torch.device | str = "cpu"
    ) -> Maker:
        """From the committed artifacts."""
        weights = store.read(generator.file("weights").path)
        return cls(
            CodecSet.load(store, codecs).to(device),
            load_fusion(store, fusion, device),
            load_network(GENERATORS, generator.facts, weights, generator.ref).to(device),
            torch.device(device),
        )

    @property
    def slots(self) -> tuple[str, ...]:
        """All slots, in the order of the configuration."""
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
        values, masks = dict(batch.values), dict(batch.masks)
        for slot in batch.values:
            values[embedding_key(slot)] = embed_slot(self.fusion, slot, batch.values[slot])[:, None]
            masks[embedding_key(slot)] = batch.masks[slot][:, :1]
        return replace(batch, values=values, masks=masks)

    @torch.no_grad()
    def make(
        self, given: Batch, to: tuple[str, ...], *, guidance: float, steps: int, rng: torch.Generator
    ) -> dict[str, Tensor]:
        """Values (B, …) of the slots `to`, from the slots present in `given` (`tensors` values on `device`)."""
        generator: Any = self.generator
        if generator.feature_set == "tensors":
            made: dict[str, Tensor] = generator.sample(given, to, steps=steps, guidance=guidance, rng=rng)
            return made
        latents = generator.sample(self.conditions(given), to, steps=steps, guidance=guidance, rng=rng)
        return {slot: self.codecs.decode(slot, latents[slot]) for slot in to}

    @torch.no_grad()
    def embed(self, given: Batch) -> Tensor:
        """Fusion embeddings e_BD of whatever slots are present in `given` (`tensors` values)."""
        fusion: Any = self.fusion
        batch = self.latents(given)
        embedded: Tensor = fusion.fuse(fusion.slot_embeddings(batch), batch.mask_BS)
        return embedded
