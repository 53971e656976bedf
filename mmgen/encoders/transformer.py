"""A small transformer over the tokens of a text."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from mmgen.codecs.text import PAD, TransformerBlock
from mmgen.encoders.base import TokenEncoder, check_rank
from mmgen.records import Modality

HEAD_WIDTH = 32


class TransformerTextEncoder(TokenEncoder):
    """Token ids → e_BD: a read-out token attends with the text in `depth` bidirectional blocks.

    Padding is never attended to, so an id sequence gives the same vector however far it is padded.
    """

    modalities: ClassVar[frozenset[Modality]] = frozenset({"text"})

    def __init__(self, shape: tuple[int, ...], width: int = 256, hidden: int = 64, depth: int = 2) -> None:
        super().__init__(shape, width)
        check_rank(shape, "text (L, vocabulary)", 2)
        self.embed = nn.Embedding(shape[1], hidden)
        self.positions = nn.Parameter(torch.randn(shape[0], hidden) * 0.02)
        self.read_out = nn.Parameter(torch.randn(hidden) * 0.02)
        self.blocks = nn.ModuleList(TransformerBlock(hidden, max(1, hidden // HEAD_WIDTH)) for _ in range(depth))
        self.norm = nn.LayerNorm(hidden)
        self.project = nn.Linear(hidden, width)
        self.state_width = hidden
        nn.init.normal_(self.embed.weight, std=0.02)

    def forward(self, value: Tensor) -> Tensor:
        e_BD: Tensor = self.project(self.norm(self._layers(self.embed(value), value != PAD)[-1][:, 0]))
        return e_BD

    def tokens(self, value: Tensor) -> Tensor:
        layers = self._layers(self.embed(value), value != PAD)
        return torch.cat([layer_BLH[:, 1:] for layer_BLH in layers], dim=-1)

    def states(self, x_BLW: Tensor, keep_BL: Tensor) -> Tensor:
        """What the last block gives at each token, normalised (B, L, hidden)."""
        out: Tensor = self.norm(self._layers(x_BLW, keep_BL)[-1][:, 1:])
        return out

    def _layers(self, x_BLW: Tensor, keep_BL: Tensor) -> list[Tensor]:
        """The read-out's state and then the tokens', (B, 1 + L, H), before the first block and after each."""
        x_BLW = torch.cat([self.read_out.expand(len(x_BLW), 1, -1), x_BLW + self.positions], dim=1)
        keep_BL = torch.cat([torch.ones_like(keep_BL[:, :1]), keep_BL], dim=1)
        layers = [x_BLW]
        for block in self.blocks:
            layers.append(block(layers[-1], keep_BL))
        return layers
