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
        self.hidden = hidden
        self.embed = nn.Embedding(shape[1], hidden)
        self.positions = nn.Parameter(torch.randn(shape[0], hidden) * 0.02)
        self.read_out = nn.Parameter(torch.randn(hidden) * 0.02)
        self.blocks = nn.ModuleList(TransformerBlock(hidden, max(1, hidden // HEAD_WIDTH)) for _ in range(depth))
        self.norm = nn.LayerNorm(hidden)
        self.project = nn.Linear(hidden, width)
        nn.init.normal_(self.embed.weight, std=0.02)

    def forward(self, value: Tensor) -> Tensor:
        e_BD: Tensor = self.project(self.norm(self._states(value)[:, 0]))
        return e_BD

    def tokens(self, value: Tensor) -> Tensor:
        normed_BLH: Tensor = self.norm(self._states(value)[:, 1:])
        return normed_BLH

    def _states(self, value: Tensor) -> Tensor:
        """The read-out's state and then the tokens', (B, 1 + L, H)."""
        count = len(value)
        x_BLW = torch.cat([self.read_out.expand(count, 1, -1), self.embed(value) + self.positions], dim=1)
        keep_BL = torch.cat([torch.ones_like(value[:, :1], dtype=torch.bool), value != PAD], dim=1)
        for block in self.blocks:
            x_BLW = block(x_BLW, keep_BL)
        return x_BLW
