"""Where a killed training goes on: weights, average, optimiser and counters in one safetensors file, put atomically."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from mmgen.store import Store

FOLDER = "runs/checkpoints"


@dataclass(frozen=True)
class Saved:
    """What a checkpoint holds. damaged: names of newer ones that could not be read, for a line to say so."""

    groups: dict[str, dict[str, Tensor]]
    counters: dict[str, Any]
    damaged: tuple[str, ...] = ()


@dataclass(frozen=True)
class Checkpoint:
    """A place in the store for one training. identity: what it trains; a checkpoint of another one is not taken.

    keep_last: how many of the newest stay. A name holds its step and a checksum of the bytes.
    """

    store: Store
    identity: str
    keep_last: int = 1

    def paths(self) -> list[str]:
        """Those that are there, oldest first."""
        mine = f"{self.identity[:16]}-"
        return [f"{FOLDER}/{name}" for name in self.store.names(FOLDER) if name.startswith(mine)]

    def save(self, step: int, groups: Mapping[str, Mapping[str, Tensor]], counters: Mapping[str, Any]) -> None:
        """Write tensors by group and name, and the counters as JSON; then remove what is older than `keep_last`."""
        # copies, because safetensors refuses tensors that share memory
        tensors = {
            f"{group}|{name}": tensor.detach().cpu().contiguous().clone()
            for group, members in groups.items()
            for name, tensor in members.items()
        }
        about = json.dumps({"identity": self.identity, "counters": counters})
        data = safetensors.torch.save(tensors, {"mmgen": about})
        name = f"{self.identity[:16]}-{step:010d}-{zlib.crc32(data):08x}.safetensors"
        self.store.write(f"{FOLDER}/{name}", data)
        for old in self.paths()[: -self.keep_last]:
            self.store.delete(old)

    def load(self) -> Saved | None:
        """The newest that can be read, or None if there is none of this identity."""
        damaged: list[str] = []
        for path in reversed(self.paths()):
            try:
                groups, about = _parsed(self.store.read(path), path)
            except FileNotFoundError:
                continue
            except (ValueError, KeyError, SafetensorError):
                damaged.append(path)
                continue
            if about["identity"] == self.identity:
                return Saved(groups, about["counters"], tuple(damaged))
        return None

    def clear(self) -> None:
        """Remove them: what they were for has been committed."""
        for path in self.paths():
            self.store.delete(path)


def _parsed(data: bytes, path: str) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Tensors by group and name, and what stands beside them. Raises ValueError, KeyError, SafetensorError."""
    if f"{zlib.crc32(data):08x}" != path.removesuffix(".safetensors").rpartition("-")[2]:
        raise ValueError(f"{path}: its bytes are not those that were written")
    length = int.from_bytes(data[:8], "little")
    about = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["mmgen"])
    groups: dict[str, dict[str, Tensor]] = {}
    for full, tensor in safetensors.torch.load(data).items():
        group, name = full.split("|", 1)
        groups.setdefault(group, {})[name] = tensor
    return groups, about
