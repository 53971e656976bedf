"""Waveforms as networks for spectrograms want them, where a slot's values are waveforms."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torchaudio
from torch import Tensor, nn

from mmgen.errors import ConfigError

# bands are spaced as mels are at 16 kHz; at another rate they keep their places between 0 and half of it
RATE_HZ, N_FFT, HOP, BANDS = 16_000, 512, 256, 64
FLOOR = 1e-3
# what a judge's poolings leave something of
LEAST_FRAMES = 16


def is_waveform(shape: Sequence[int]) -> bool:
    """Whether an audio slot's values of this `shape` are waveforms (1, N): a spectrogram has 8 mels or more."""
    return len(shape) == 2 and shape[0] == 1


class WaveMel(nn.Module):
    """Waveforms (B, 1, N) in [-1, 1] to log-mel spectrograms (B, M, T) in about [-1, 1]. Has no weights.

    Raises ConfigError for clips that are too short.
    """

    def __init__(self, samples: int) -> None:
        super().__init__()
        if samples < LEAST_FRAMES * HOP:
            raise ConfigError(
                f"slots.….seconds: wanted waveforms of {LEAST_FRAMES * HOP} samples or more, came {samples}"
            )
        self.shape = (BANDS, samples // HOP)
        bank_FM = torchaudio.functional.melscale_fbanks(N_FFT // 2 + 1, 0.0, RATE_HZ / 2, BANDS, RATE_HZ)
        self.register_buffer("bank_FM", bank_FM, persistent=False)
        self.register_buffer("window", torch.hann_window(N_FFT), persistent=False)

    def forward(self, value: Tensor) -> Tensor:
        spectrum_BFT = torch.stft(
            value[:, 0].float(), N_FFT, HOP, window=self.get_buffer("window"), return_complex=True
        ).abs()
        mel_BMT = self.get_buffer("bank_FM").T @ spectrum_BFT[..., : self.shape[1]]
        # natural logs from -6.9 (silence) to about 5.3 (a tone of full scale)
        return (mel_BMT.clamp(min=FLOOR).log() + 0.8) / 6.1
