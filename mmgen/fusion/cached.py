"""Fusion over cached features: what frozen networks made of the values once, read in training instead of the values.

Shape suffixes: B batch, T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from mmgen.encoders.base import Encoder
from mmgen.errors import ConfigError


class Cached(nn.Module):
    """What frozen networks make of the values of each slot.

    Args:
        shapes: slot to (T, D) of what they make of one value.
        fronts: slot to its frozen encoder, for cached embeddings: it travels with the fusion's weights.
    """

    def __init__(self, shapes: Mapping[str, Sequence[int]], fronts: Mapping[str, Encoder]) -> None:
        super().__init__()
        self.shapes = dict(shapes)
        self.fronts = nn.ModuleDict(fronts).requires_grad_(False)
        #: (slot, value (B, …)) → (B, T, D), for cached latents: the codecs are beside every loaded fusion
        self.encode: Callable[[str, Tensor], Tensor] | None = None

    def train(self, mode: bool = True) -> Cached:
        """Frozen: always in evaluation mode."""
        assert isinstance(mode, bool)
        return super().train(False)

    def shape(self, slot: str) -> tuple[int, int]:
        """(T, D) of a slot. Raises ConfigError if nothing of it is cached."""
        if slot not in self.shapes:
            raise ConfigError(
                f"fusion.features: wanted cached features of the slot '{slot}', there are those of "
                f"{', '.join(self.shapes) or 'none'}; name an encoder for it in extract.encoders"
            )
        tokens, width = self.shapes[slot]
        return tokens, width

    def of(self, slot: str, value: Tensor) -> Tensor:
        """Features (B, T, D) of `tensors` values (B, …), as they were cached."""
        if slot in self.fronts:
            e_BD: Tensor = self.fronts[slot](value)
            return e_BD[:, None]
        assert self.encode is not None, "a fusion over latents is loaded with its codecs"
        return self.encode(slot, value)


class CachedTokens(nn.Module):
    """Cached features (B, T, D) to tokens (B, T, W), each by itself; those of zeros hold nothing."""

    def __init__(self, shape: tuple[int, int], width: int) -> None:
        super().__init__()
        self.token_count, wide = shape
        self.project = nn.Linear(wide, width)

    def token_features(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """x_BTW and mask_BT, as of an encoder."""
        mask_BT = value.any(-1)
        x_BTW: Tensor = self.project(value)
        return x_BTW.masked_fill(~mask_BT[..., None], 0.0), mask_BT


class CachedEncoder(nn.Module):
    """Cached features (B, T, D) to e_BW: all tokens side by side, one hidden layer."""

    def __init__(self, shape: tuple[int, int], width: int) -> None:
        super().__init__()
        tokens, wide = shape
        self.layers = nn.Sequential(nn.Linear(tokens * wide, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, value: Tensor) -> Tensor:
        """(B, T, D) to (B, W)."""
        e_BW: Tensor = self.layers(value.flatten(1))
        return e_BW
