"""Small transformers of our own: over the tokens of a text, over the frames of a sound."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from mmgen.codecs.text import PAD, TransformerBlock
from mmgen.encoders.base import Encoder, TokenEncoder, check_rank
from mmgen.preprocess.wave_mel import WaveMel, is_waveform
from mmgen.records import Modality

HEAD_WIDTH = 32
#: frames of a sound that are one step of its transformer
STRIDE = 4


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


class TransformerMelEncoder(Encoder):
    """Mel spectrogram (B, M, T), or a waveform's own, → e_BD: for sounds that say something, such as sentences.

    Two convolutions of stride 2 over the frames, then a read-out token attends with what they give in `depth` blocks,
    as in speech transformers (Dong et al. 2018; Radford et al. 2022, arXiv:2212.04356, figure 1).
    """

    modalities: ClassVar[frozenset[Modality]] = frozenset({"audio"})

    def __init__(self, shape: tuple[int, ...], width: int = 256, hidden: int = 128, depth: int = 3) -> None:
        super().__init__(shape, width)
        check_rank(shape, "audio (M, T)", 2)
        self.spectrum = WaveMel(shape[1]) if is_waveform(shape) else None
        mels, frames = self.spectrum.shape if self.spectrum is not None else shape
        self.steps = -(-frames // STRIDE)
        self.shorten = nn.Sequential(
            nn.Conv1d(mels, hidden, 5, stride=2, padding=2), nn.GELU(),
            nn.Conv1d(hidden, hidden, 5, stride=2, padding=2), nn.GELU(),
        )  # fmt: skip
        self.positions = nn.Parameter(torch.randn(self.steps, hidden) * 0.02)
        self.read_out = nn.Parameter(torch.randn(hidden) * 0.02)
        self.blocks = nn.ModuleList(TransformerBlock(hidden, max(1, hidden // HEAD_WIDTH)) for _ in range(depth))
        self.norm = nn.LayerNorm(hidden)
        self.project = nn.Linear(hidden, width)

    def forward(self, value: Tensor) -> Tensor:
        e_BD: Tensor = self.project(self._states(value)[:, 0])
        return e_BD

    @property
    def token_count(self) -> int:
        return self.steps

    def token_features(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """The projection of what the last block gives at each fourth frame."""
        x_BTD: Tensor = self.project(self._states(value)[:, 1:])
        return x_BTD, torch.ones(x_BTD.shape[:2], dtype=torch.bool, device=x_BTD.device)

    def _states(self, value: Tensor) -> Tensor:
        """The read-out's state and then every step's, normalised (B, 1 + steps, hidden)."""
        mel_BMT = value if self.spectrum is None else self.spectrum(value)
        x_BSH = self.shorten(mel_BMT).transpose(1, 2) + self.positions
        x_BSH = torch.cat([self.read_out.expand(len(x_BSH), 1, -1), x_BSH], dim=1)
        for block in self.blocks:
            x_BSH = block(x_BSH)
        out: Tensor = self.norm(x_BSH)
        return out
