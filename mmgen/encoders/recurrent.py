"""Bidirectional LSTM encoders: over the tokens of a text, over the rows of an image or the frames of a sound."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from mmgen.codecs.text import PAD
from mmgen.encoders.base import Encoder, TokenEncoder, check_rank
from mmgen.preprocess.wave_mel import WaveMel, is_waveform
from mmgen.records import Modality


def _last_states(h_n: Tensor) -> Tensor:
    """(layers × 2, B, hidden) → the last layer's two directions side by side (B, 2 × hidden)."""
    return torch.cat([h_n[-2], h_n[-1]], dim=-1)


class TextEncoder(TokenEncoder):
    """Token ids → e_BD: embedding, 2-layer bidirectional LSTM of `hidden`, its last states projected to `width`.

    Padding is left out by packing, so an id sequence gives the same vector however far it is padded.
    """

    modalities: ClassVar[frozenset[Modality]] = frozenset({"text"})

    def __init__(self, shape: tuple[int, ...], width: int = 256, hidden: int = 128, layers: int = 2) -> None:
        super().__init__(shape, width)
        check_rank(shape, "text (L, vocabulary)", 2)
        self.embed = nn.Embedding(shape[1], hidden, padding_idx=PAD)
        self.lstm = nn.LSTM(hidden, hidden, num_layers=layers, batch_first=True, bidirectional=True)
        self.project = nn.Linear(2 * hidden, width)
        self.state_width = 2 * hidden

    def forward(self, value: Tensor) -> Tensor:
        _, (h_n, _) = self._read(self.embed(value), value != PAD)
        projected: Tensor = self.project(_last_states(h_n))
        return projected

    def tokens(self, value: Tensor) -> Tensor:
        x_BLW = self.embed(value)
        return torch.cat([x_BLW, self.states(x_BLW, value != PAD)], dim=-1)

    def states(self, x_BLW: Tensor, keep_BL: Tensor) -> Tensor:
        """The last layer's two directions at each token (B, L, 2 × hidden); zeros for padding."""
        read, _ = self._read(x_BLW, keep_BL)
        return pad_packed_sequence(read, batch_first=True, total_length=x_BLW.shape[1])[0]

    def _read(self, x_BLW: Tensor, keep_BL: Tensor) -> tuple[PackedSequence, tuple[Tensor, Tensor]]:
        # an absent text is all padding; packing wants at least one step
        lengths_B = keep_BL.sum(dim=1).clamp(min=1).cpu()
        read: tuple[PackedSequence, tuple[Tensor, Tensor]] = self.lstm(
            pack_padded_sequence(x_BLW, lengths_B, batch_first=True, enforce_sorted=False)
        )
        return read


class RowsEncoder(Encoder):
    """Rows of an image (top to bottom), or frames of a mel spectrogram (a waveform's own), as a sequence → e_BD.

    2-layer bidirectional LSTM of `hidden`, its last states projected to `width`.
    """

    modalities: ClassVar[frozenset[Modality]] = frozenset({"image", "audio"})

    def __init__(self, shape: tuple[int, ...], width: int = 256, hidden: int = 128, layers: int = 2) -> None:
        super().__init__(shape, width)
        if len(shape) != 2:
            check_rank(shape, "image (C, H, W) or audio (M, T)", 3)
        self.spectrum = WaveMel(shape[1]) if is_waveform(shape) else None
        mels = self.spectrum.shape[0] if self.spectrum is not None else shape[0]
        step_width = shape[0] * shape[2] if len(shape) == 3 else mels
        self.lstm = nn.LSTM(step_width, hidden, num_layers=layers, batch_first=True, bidirectional=True)
        self.project = nn.Linear(2 * hidden, width)

    def forward(self, value: Tensor) -> Tensor:
        _, (h_n, _) = self.lstm(self._steps(value))
        projected: Tensor = self.project(_last_states(h_n))
        return projected

    @property
    def token_count(self) -> int:
        shape = self.spectrum.shape if self.spectrum is not None else self.shape
        return shape[1]

    def token_features(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """The projection of the last layer's two directions at each row or frame."""
        x_BTD: Tensor = self.project(self.lstm(self._steps(value))[0])
        return x_BTD, torch.ones(x_BTD.shape[:2], dtype=torch.bool, device=x_BTD.device)

    def _steps(self, value: Tensor) -> Tensor:
        """Image (B, C, H, W) → (B, H, C·W); mel (B, M, T), a waveform's too → (B, T, M)."""
        if self.spectrum is not None:
            value = self.spectrum(value)
        return value.permute(0, 2, 1, 3).flatten(2) if value.dim() == 4 else value.transpose(1, 2)
