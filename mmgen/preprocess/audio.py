"""Sound: bytes → log-mel (M, T) → a value in about [-1, 1], and back to WAV by Griffin-Lim.

Griffin & Lim, "Signal estimation from modified short-time Fourier transform", 1984, in torchaudio's fast form.
"""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
import torchaudio
from torch import Tensor

from mmgen.errors import ConfigError, SourceError
from mmgen.modalities.audio import AudioMedia, downmix
from mmgen.preprocess.image import draw
from mmgen.records import Modality

GRIFFIN_LIM_ROUNDS = 32


@functools.lru_cache(maxsize=8)
def _mel(sample_rate_hz: int, mels: int, n_fft: int, hop: int, f_min_hz: float, f_max_hz: float) -> torch.nn.Module:
    transform: torch.nn.Module = torchaudio.transforms.MelSpectrogram(
        sample_rate_hz, n_fft=n_fft, hop_length=hop, f_min=f_min_hz, f_max=f_max_hz, n_mels=mels, power=1.0
    )
    transform.requires_grad_(False)
    return transform


def filters(sample_rate_hz: int, mels: int, n_fft: int, f_min_hz: float, f_max_hz: float) -> Tensor:
    """Triangular mel filters (F, M), F = n_fft // 2 + 1."""
    bank: Tensor = torchaudio.functional.melscale_fbanks(n_fft // 2 + 1, f_min_hz, f_max_hz, mels, sample_rate_hz)
    return bank


@dataclass(frozen=True)
class AudioPreprocess:
    """Downmix, resample, crop or pad to `seconds`, magnitude mel spectrogram, natural log.

    [log_floor, log_ceiling] maps to [-1, 1]; louder is let through, quieter is the floor. With `representation`
    waveform the clip itself is the value, (1, samples) in [-1, 1], kept as float16 (steps 66 dB under each sample).
    """

    sample_rate_hz: int
    seconds: float
    mels: int
    n_fft: int = 1024
    hop: int = 250
    f_min_hz: float = 0.0
    f_max_hz: float | None = None
    crop: Literal["start", "centre", "random"] = "start"
    log_floor: float = -8.0
    log_ceiling: float = 4.0
    representation: Literal["mel", "waveform"] = "mel"

    modality: ClassVar[Modality] = "audio"
    extension: ClassVar[str] = "wav"
    dtype: ClassVar[str] = "float16"

    def __post_init__(self) -> None:
        if self.representation == "waveform":
            return
        if self.log_ceiling <= self.log_floor:
            raise ConfigError(f"log_ceiling: wanted more than log_floor {self.log_floor}, came {self.log_ceiling}")
        if not 0 <= self.f_min_hz < self._top_hz <= self.sample_rate_hz / 2:
            raise ConfigError(
                f"f_min_hz, f_max_hz: wanted 0 ≤ f_min < f_max ≤ {self.sample_rate_hz / 2} (half the sample rate), "
                f"came {self.f_min_hz} and {self._top_hz}"
            )

        if self.hop > self.n_fft // 2:
            raise ConfigError(f"hop: wanted at most half of n_fft {self.n_fft} (frames overlap), came {self.hop}")
        with warnings.catch_warnings():
            # torchaudio warns of empty filters; here they are an error
            warnings.simplefilter("ignore")
            bank_FM = filters(self.sample_rate_hz, self.mels, self.n_fft, self.f_min_hz, self._top_hz)
        if bool((bank_FM.amax(dim=0) == 0).any()):
            raise ConfigError(
                f"mels: wanted bands that each hold a frequency of n_fft {self.n_fft}, came {self.mels} bands, "
                "some of them empty; take fewer, or a larger n_fft"
            )

    @property
    def _top_hz(self) -> float:
        return self.sample_rate_hz / 2 if self.f_max_hz is None else self.f_max_hz

    @property
    def samples(self) -> int:
        """Samples of one clip."""
        return max(self.hop, round(self.seconds * self.sample_rate_hz))

    @property
    def shape(self) -> tuple[int, ...]:
        """(M, T); (1, samples) of a waveform."""
        if self.representation == "waveform":
            return (1, self.samples)
        return (self.mels, self.samples // self.hop)

    def compact(self, data: bytes, key: str) -> np.ndarray:
        """float16 (M, T) or (1, samples) of a sound file; `key` seeds a random crop. Raises SourceError."""
        samples, rate = AudioMedia().decode(data)
        if samples.shape[1] == 0:
            raise SourceError("audio: wanted at least one sample, came none")
        clip = self.clip(torch.from_numpy(downmix(samples)), rate, key)
        found = clip[None] if self.representation == "waveform" else self.log_mel(clip)
        return found.numpy().astype(np.float16)

    def clip(self, wave: Tensor, rate_hz: int, key: str = "") -> Tensor:
        """(samples,) at the slot's rate of (N,) at `rate_hz`: resampled, then cropped or padded with silence."""
        if rate_hz != self.sample_rate_hz:
            wave = torchaudio.functional.resample(wave, rate_hz, self.sample_rate_hz)
        spare = wave.shape[-1] - self.samples
        if spare <= 0:
            return torch.nn.functional.pad(wave, (0, -spare))
        start = {"start": 0, "centre": spare // 2, "random": draw(key, spare + 1)}[self.crop]
        return wave[start : start + self.samples]

    def log_mel(self, wave: Tensor) -> Tensor:
        """Natural-log magnitude mel (M, T) of (samples,), never under the floor."""
        transform = _mel(self.sample_rate_hz, self.mels, self.n_fft, self.hop, self.f_min_hz, self._top_hz)
        # the centred transform gives one frame more than samples / hop
        mel_MT = transform(wave)[..., : self.shape[1]]
        return torch.log(mel_MT.clamp(min=float(np.exp(self.log_floor))))

    def value(self, compact: Tensor) -> Tensor:
        """About [-1, 1], float32 (B, M, T), of log-mels (B, M, T); a waveform as it is."""
        if self.representation == "waveform":
            return compact.float()
        return (compact.float() - self.log_floor) * (2 / (self.log_ceiling - self.log_floor)) - 1

    def waves(self, value: Tensor) -> Tensor:
        """Sound (B, samples) in [-1, 1] of values (B, M, T). The same value gives the same sound."""
        if self.representation == "waveform":
            return value.detach().float().cpu()[:, 0].clamp(-1, 1)
        span = (self.log_ceiling - self.log_floor) / 2
        log_BMT = ((value.detach().float().cpu().clamp(-1, 1.25) + 1) * span + self.log_floor).clamp(min=self.log_floor)
        # the frame that `log_mel` dropped
        mel_BMT = torch.cat([log_BMT, log_BMT[..., -1:]], dim=-1).exp()
        magnitude_BFT = self._magnitudes(mel_BMT)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            wave: Tensor = torchaudio.functional.griffinlim(
                magnitude_BFT, window=torch.hann_window(self.n_fft), n_fft=self.n_fft, hop_length=self.hop,
                win_length=self.n_fft, power=1.0, n_iter=GRIFFIN_LIM_ROUNDS, momentum=0.99,
                length=self.samples, rand_init=True,
            )  # fmt: skip
        return wave.clamp(-1, 1)

    def _magnitudes(self, mel_BMT: Tensor) -> Tensor:
        """Linear magnitudes (B, F, T) ≥ 0 of mel magnitudes: least squares, then multiplicative updates.

        Lee & Seung's rule for a non-negative factor keeps what is positive positive and lowers the squared error.
        """
        bank_FM = filters(self.sample_rate_hz, self.mels, self.n_fft, self.f_min_hz, self._top_hz)
        guess_BFT: Tensor = (torch.linalg.pinv(bank_FM.T) @ mel_BMT).clamp(min=1e-5)
        wanted_BFT = bank_FM @ mel_BMT
        for _ in range(20):
            # bands first: M is far fewer than F
            guess_BFT = guess_BFT * (wanted_BFT + 1e-9) / (bank_FM @ (bank_FM.T @ guess_BFT) + 1e-9)
        return guess_BFT

    def files(self, value: Tensor) -> list[bytes]:
        """One 16-bit WAV for each of (B, M, T)."""
        return [AudioMedia().encode((wave.numpy()[None], self.sample_rate_hz)) for wave in self.waves(value)]
