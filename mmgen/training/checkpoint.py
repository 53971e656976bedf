"""Where a killed training goes on: weights, average, optimiser and counters in one safetensors file, put atomically."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from mmgen.store import Store


@dataclass(frozen=True)
class Checkpoint:
    """A place in the store for one training. identity: what it trains; a checkpoint of another one is not taken."""

    store: Store
    identity: str

    @property
    def path(self) -> str:
        return f"runs/checkpoints/{self.identity[:16]}.safetensors"

    def save(self, groups: Mapping[str, Mapping[str, Tensor]], counters: Mapping[str, Any]) -> None:
        """Write tensors by group and name, and the counters as JSON."""
        # copies, because safetensors refuses tensors that share memory
        tensors = {
            f"{group}|{name}": tensor.detach().cpu().contiguous().clone()
            for group, members in groups.items()
            for name, tensor in members.items()
        }
        about = json.dumps({"identity": self.identity, "counters": counters})
        self.store.write(self.path, safetensors.torch.save(tensors, {"mmgen": about}))

    def load(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]] | None:
        """What `save` wrote, or None if there is nothing of this identity that can be read."""
        try:
            data = self.store.read(self.path)
        except FileNotFoundError:
            return None
        try:
            length = int.from_bytes(data[:8], "little")
            about = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["mmgen"])
            tensors = safetensors.torch.load(data)
        except (ValueError, KeyError, SafetensorError):
            return None
        if about["identity"] != self.identity:
            return None
        groups: dict[str, dict[str, Tensor]] = {}
        for full, tensor in tensors.items():
            group, name = full.split("|", 1)
            groups.setdefault(group, {})[name] = tensor
        return groups, about["counters"]

    def clear(self) -> None:
        """Remove it: what it was for has been committed."""
        self.store.delete(self.path)
