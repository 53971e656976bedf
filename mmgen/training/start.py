"""Weights of an earlier model into a fresh network: all of them, or its trunk, its adapters or its heads."""

from __future__ import annotations

import safetensors.torch
import torch
from torch import nn

from mmgen.errors import ConfigError

# by the names that modules have here: an adapter after a foreign block; projections and what names classes
_ADAPTER = "adapter"
_HEADS = frozenset({"head", "label_head", "project"})


def belongs(name: str, what: str) -> bool:
    """Whether a tensor is of the part `what`: all, trunk (what is neither adapter nor head), adapters or heads."""
    parts = name.split(".")
    adapter, head = _ADAPTER in parts, not _HEADS.isdisjoint(parts)
    return {"all": True, "adapters": adapter, "heads": head, "trunk": not adapter and not head}[what]


def start(network: nn.Module, weights: bytes, what: str, named: str) -> list[str]:
    """Fill a part of `network` from an earlier one's safetensors; the names of the tensors that were taken.

    named: what the earlier one is called. Tokenizers of text encoders are kept: they belong to the data. Raises
    ConfigError with the first tensor that is missing, of another shape, or (of all) left over.
    """
    found = safetensors.torch.load(weights)
    own = {name: each for name, each in network.state_dict().items() if each.dtype != torch.uint8}
    chosen = [name for name in own if belongs(name, what)]
    if not chosen:
        raise ConfigError(f"init.what: this network has no {what}")
    for name in chosen:
        if name not in found:
            raise ConfigError(f"init: wanted a tensor '{name}' of {tuple(own[name].shape)}, {named} has none; {_HINT}")
        if found[name].shape != own[name].shape:
            raise ConfigError(
                f"init: tensor '{name}': wanted {tuple(own[name].shape)}, {named} has {tuple(found[name].shape)}; "
                f"{_HINT}"
            )
    left = sorted(name for name, each in found.items() if name not in own and each.dtype != torch.uint8)
    if what == "all" and left:
        raise ConfigError(f"init: {named} has a tensor '{left[0]}' that this network has not; {_HINT}")
    network.load_state_dict({name: found[name] for name in chosen}, strict=False)
    return chosen


_HINT = "wanted the same settings of the network, or another `init.what` (trunk, adapters, heads)"
