"""What every encoder is: a value of one modality in, one vector per sample (or a vector per token) out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from mmgen.codecs.text import PAD
from mmgen.errors import ConfigError
from mmgen.records import Modality


class Encoder(nn.Module, ABC):
    """A value to a vector: image (B, C, H, W), audio (B, M, T) or text ids (B, L) → e_BD.

    shape: of one value: image (C, H, W), audio (M, T), with M = 1 a waveform of T samples, text (L, V) with V the size
    of the vocabulary. width: D, the width of the vector.
    """

    #: what it can read
    modalities: ClassVar[frozenset[Modality]]

    def __init__(self, shape: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.shape, self.width = tuple(shape), width

    @property
    def token_count(self) -> int:
        """T of `token_features`: the same for every value."""
        return 1

    @abstractmethod
    def forward(self, value: Tensor) -> Tensor:
        """value (see the class) → e_BD. Every row by itself: what stands in other rows changes nothing."""

    def token_features(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """x_BTD and where it holds something, mask_BT (bool); zeros elsewhere. One that only pools has T = 1."""
        e_BD = self(value)
        return e_BD[:, None], e_BD.new_ones((len(e_BD), 1)).bool()


class TokenEncoder(Encoder, ABC):
    """An encoder of texts that can also say something of each token, before it sums them up."""

    #: ids to vectors of the width that `states` reads
    embed: nn.Embedding
    #: what `states` gives of a token, and of a text, to `width`
    project: nn.Linear
    #: the width of what `states` gives
    state_width: int

    @property
    def token_count(self) -> int:
        return self.shape[0]

    def token_features(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """The projection of every token's state (B, L, D)."""
        keep_BL = value != PAD
        x_BLD: Tensor = self.project(self.states(self.embed(value), keep_BL))
        return x_BLD.masked_fill(~keep_BL[..., None], 0.0), keep_BL

    @abstractmethod
    def tokens(self, value: Tensor) -> Tensor:
        """value (B, L) → states (B, L, H); those of padding mean nothing.

        What a token is and what layers make of it, side by side, for a head to choose from (Peters et al. 2018,
        arXiv:1802.05365): the last layer alone may say of each token what it says of the text.
        """

    @abstractmethod
    def states(self, x_BLW: Tensor, keep_BL: Tensor) -> Tensor:
        """Embedded tokens (B, L, W) to what the encoder makes of each in its text (B, L, state_width).

        keep_BL: False for padding.
        """


def check_rank(shape: tuple[int, ...], wanted: str, rank: int) -> None:
    """Raises ConfigError unless `shape` has `rank` sizes; `wanted` spells them."""
    if len(shape) != rank:
        raise ConfigError(f"encoder shape: wanted {wanted}, came {tuple(shape)}")
