"""What encoders of other libraries share: a trunk, adapters in it, a projection, and what of these is trained.

Shape suffixes: B batch, T tokens, H the trunk's width, D the width given out.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from mmgen.encoders.base import Encoder
from mmgen.errors import ConfigError

TRAINABLE = ("frozen", "head", "adapters", "all")


class Adapter(nn.Module):
    """h + up(gelu(down(norm(h)))), which starts as the identity (Houlsby et al. 2019, arXiv:1902.00751)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.down = nn.Linear(width, hidden)
        self.up = nn.Linear(hidden, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, h_BTH: Tensor) -> Tensor:
        out: Tensor = h_BTH + self.up(F.gelu(self.down(self.norm(h_BTH))))
        return out


class Adapted(nn.Module):
    """A block of a trunk with an adapter after it."""

    def __init__(self, block: nn.Module, adapter: Adapter) -> None:
        super().__init__()
        self.block, self.adapter = block, adapter

    def forward(self, *given: Any, **named: Any) -> Any:
        """What the block gives, its first (or only) tensor adapted."""
        came = self.block(*given, **named)
        return (self.adapter(came[0]), *came[1:]) if isinstance(came, tuple) else self.adapter(came)


@dataclass(frozen=True, slots=True)
class Reading:
    """What a trunk says of values: one vector each (B, H), tokens (B, T, H), and where there is one (B, T) bool."""

    pooled_BH: Tensor
    x_BTH: Tensor
    mask_BT: Tensor

    @classmethod
    def whole(cls, pooled_BH: Tensor, x_BTH: Tensor) -> Self:
        """Of values without padding."""
        return cls(pooled_BH, x_BTH, torch.ones(x_BTH.shape[:2], dtype=torch.bool, device=x_BTH.device))


class ForeignEncoder(Encoder):
    """A trunk that another library made, and a projection to `width` (None: none, the trunk's own width).

    trainable: "frozen", "head" (the projection), "adapters" (and the projection) or "all". A trunk that is not trained
    as a whole is always in evaluation mode: its statistics, dropout and layer drop do not move in training.

    Subclasses make `trunk` and then call `_finish` or `_finish_as_probed`. Raises ConfigError for an unknown
    `trainable`.
    """

    trunk: nn.Module
    project: nn.Module

    def __init__(self, shape: tuple[int, ...], width: int | None, trainable: str, adapter_width: int) -> None:
        super().__init__(shape, width or 0)
        if trainable not in TRAINABLE:
            raise ConfigError(f"encoders.….trainable: wanted {', '.join(TRAINABLE)}, came '{trainable}'")
        self.trainable, self.adapter_width = trainable, adapter_width

    @abstractmethod
    def read(self, value: Tensor) -> Reading:
        """What the trunk says of values (see Encoder)."""

    @abstractmethod
    def _start_trunk(self, weights: Mapping[str, Any]) -> None:
        """Fill the bare trunk from what `weights` names."""

    def blocks(self) -> nn.ModuleList | nn.Sequential | None:
        """The trunk's blocks of one width, after each of which an adapter may stand; None if it has none."""
        return None

    @property
    def token_count(self) -> int:
        return self._tokens

    def _finish_as_probed(self, weights: Mapping[str, Any] | None) -> None:
        """`_finish`, with the sizes in which a value of zeros comes out of the trunk."""
        self.trunk.eval()
        with torch.no_grad():
            x_BTH = self.read(torch.zeros(1, *self.shape)).x_BTH
        self._finish(x_BTH.shape[2], x_BTH.shape[1], weights)

    def _finish(self, hidden: int, tokens: int, weights: Mapping[str, Any] | None) -> None:
        """Weights into the bare trunk, then what is ours around it, and what of it is trained."""
        self.hidden, self._tokens = hidden, tokens
        if weights is not None:
            self._start_trunk(weights)
        if self.trainable == "adapters":
            self._adapt()
        self.project = nn.Linear(hidden, self.width) if self.width else nn.Identity()
        self.width = self.width or hidden
        if self.trainable == "frozen":
            self.requires_grad_(False)
        elif self.trainable != "all":
            for name, weight in self.trunk.named_parameters():
                weight.requires_grad_(".adapter." in name)

    def _adapt(self) -> None:
        blocks = self.blocks()
        if blocks is None:
            raise ConfigError(
                f"encoders.….trainable: {type(self.trunk).__name__} has no blocks of one width for adapters; "
                "wanted head or all"
            )
        for number in range(len(blocks)):
            blocks[number] = Adapted(blocks[number], Adapter(self.hidden, self.adapter_width))

    def train(self, mode: bool = True) -> Self:
        """As of any module, but for a trunk that is not trained as a whole."""
        super().train(mode)
        if self.trainable != "all":
            self.trunk.eval()
        return self

    def forward(self, value: Tensor) -> Tensor:
        e_BD: Tensor = self.project(self._reading(value).pooled_BH)
        return e_BD

    def token_features(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """x_BTD, the projection of every token, and mask_BT; zeros where there is none."""
        found = self._reading(value)
        x_BTD = self.project(found.x_BTH).masked_fill(~found.mask_BT[..., None], 0.0)
        spare = self.token_count - x_BTD.shape[1]
        return F.pad(x_BTD, (0, 0, 0, spare)), F.pad(found.mask_BT, (0, spare))

    def _reading(self, value: Tensor) -> Reading:
        learning = torch.is_grad_enabled() and self.trainable in ("adapters", "all")
        with torch.set_grad_enabled(learning):
            return self.read(value)


def start_from_file(trunk: nn.Module, path: str, heads: tuple[str, ...], what: str) -> None:
    """Fill a trunk from local safetensors of its library's names; those under `heads` are left out.

    Raises ConfigError, with the first tensor that is missing, unknown or of another shape.
    """
    if not Path(path).is_file():
        raise ConfigError(f"encoders.weights: no file at {path}; wanted local safetensors, or null for random")
    try:
        found = {name: tensor for name, tensor in load_file(path).items() if not name.startswith(heads)}
    except SafetensorError as error:
        raise ConfigError(f"encoders.weights: {path}: wanted safetensors: {error}") from error
    # older files lack the counters of batch norms, which only matter without a momentum
    counters = {name for name, _ in trunk.named_buffers() if name.endswith("num_batches_tracked")}
    wanted = {name: tensor for name, tensor in trunk.state_dict().items() if not name.startswith(heads)}
    missing, extra = set(wanted) - counters - set(found), set(found) - set(wanted)
    if missing or extra:
        first = min(missing or extra)
        raise ConfigError(
            f"encoders.weights: {path} is not a {what}: {len(missing)} missing, {len(extra)} unknown tensors, "
            f"first '{first}'"
        )
    for name, tensor in found.items():
        if tensor.shape != wanted[name].shape:
            raise ConfigError(
                f"encoders.weights: {path}: tensor '{name}' of a {what}: wanted {tuple(wanted[name].shape)}, "
                f"came {tuple(tensor.shape)}"
            )
    trunk.load_state_dict(found, strict=False)
