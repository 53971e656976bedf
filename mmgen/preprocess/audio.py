"""Sound: bytes → log-mel (M, T) → a value in about [-1, 1], and back to WAV by Griffin-Lim or a learned vocoder.

Griffin & Lim, "Signal estimation from modified short-time Fourier transform", 1984, in torchaudio's fast form.
A clip of variable length marks the frames after its end within the value (ABSENT): so its codec, and every generator
that knows nothing of it, makes a length too. Shape suffixes: B batch, M mels, T frames, F frequencies, N samples.
"""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torchaudio
from torch import Tensor

from mmgen.errors import ConfigError, SourceError
from mmgen.modalities.audio import AudioMedia, downmix
from mmgen.preprocess.image import draw
from mmgen.records import Modality

GRIFFIN_LIM_ROUNDS = 32
#: what a value holds in frames after the end of a clip: as far below the floor of -1 as zero is above it
ABSENT = -2.0
#: levels above are taken for this one when sound is made of them
LOUDEST = 1.25
#: rows that a learned vocoder makes at once: bounds memory, and the same on every machine
VOCODER_ROWS = 16


@functools.lru_cache(maxsize=8)
def _mel(
    sample_rate_hz: int, mels: int, n_fft: int, hop: int, f_min_hz: float, f_max_hz: float, device: torch.device
) -> torch.nn.Module:
    transform: torch.nn.Module = torchaudio.transforms.MelSpectrogram(
        sample_rate_hz, n_fft=n_fft, hop_length=hop, f_min=f_min_hz, f_max=f_max_hz, n_mels=mels, power=1.0
    )
    transform.requires_grad_(False)
    return transform.to(device)


def filters(sample_rate_hz: int, mels: int, n_fft: int, f_min_hz: float, f_max_hz: float) -> Tensor:
    """Triangular mel filters (F, M), F = n_fft // 2 + 1."""
    bank: Tensor = torchaudio.functional.melscale_fbanks(n_fft // 2 + 1, f_min_hz, f_max_hz, mels, sample_rate_hz)
    return bank


def ends(votes_BT: Tensor) -> Tensor:
    """Frames (B,) before the end of each sound, at least 1, from a vote for each frame: above 0 that it is there.

    The end is where the votes before it and those after it agree best with it, taken as log-odds of independent frames:
    one blurred or noisy frame ends nothing.
    """
    return votes_BT.detach().float().cumsum(dim=1).argmax(dim=1) + 1


def lengths(value: Tensor) -> Tensor:
    """Frames (B,) of values (B, M, T) before their ends, at least 1.

    A frame's vote is how far it is from halfway to ABSENT on average; whatever is above the floor counts as the floor.
    """
    return ends(value.detach().float().clamp(max=-1.0).mean(dim=1) - (ABSENT - 1) / 2)


def marked(level_BMT: Tensor, end_B: Tensor) -> Tensor:
    """Values with these levels, at least the floor, and ABSENT from each end on."""
    after_BT = torch.arange(level_BMT.shape[2], device=level_BMT.device) >= end_B[:, None]
    return level_BMT.clamp(min=-1.0).masked_fill(after_BT[:, None], ABSENT)


@dataclass(frozen=True)
class AudioPreprocess:
    """Downmix, resample, crop or pad to `seconds`, magnitude mel spectrogram, natural log.

    [log_floor, log_ceiling] maps to [-1, 1]; louder is let through, quieter is the floor. With `representation`
    waveform the clip itself is the value, (1, samples) in [-1, 1], kept as float16 (steps 66 dB under each sample).
    variable: a clip ends where it ends, `seconds` at the latest, and the frames of a value after that hold ABSENT.
    vocoder: levels (B, M, T), values in [-1, LOUDEST] → sound (B, T · hop); None: Griffin-Lim.
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
    variable: bool = False
    vocoder: torch.nn.Module | None = field(default=None, compare=False, repr=False)
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
            bank_FM = self.bank
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
        """Samples of one clip, of the longest if they are variable."""
        return max(self.hop, round(self.seconds * self.sample_rate_hz))

    @property
    def shape(self) -> tuple[int, ...]:
        """(M, T); (1, samples) of a waveform."""
        if self.representation == "waveform":
            return (1, self.samples)
        return (self.mels, self.samples // self.hop)

    @property
    def bank(self) -> Tensor:
        """The mel filters (F, M) of this slot."""
        return filters(self.sample_rate_hz, self.mels, self.n_fft, self.f_min_hz, self._top_hz)

    def compact(self, data: bytes, key: str) -> np.ndarray:
        """float16 (M, T) or (1, samples) of a sound file; `key` seeds a random crop. Raises SourceError."""
        samples, rate = AudioMedia().decode(data)
        if samples.shape[1] == 0:
            raise SourceError("audio: wanted at least one sample, came none")
        wave = self.clip(torch.from_numpy(downmix(samples)), rate, key)
        if self.representation == "waveform":
            return wave[None].numpy().astype(np.float16)
        log_MT = self.log_mel(torch.nn.functional.pad(wave, (0, self.samples - len(wave))))
        log_MT[:, self.frames(len(wave)) :] = self._log(ABSENT)
        return log_MT.numpy().astype(np.float16)

    def clip(self, wave: Tensor, rate_hz: int, key: str = "") -> Tensor:
        """(samples,) at the slot's rate of (N,) at `rate_hz`: resampled, then cropped or padded with silence.

        A variable clip is not padded: it has at most so many samples.
        """
        wave = self.cropped(wave, rate_hz, key)
        return wave if self.variable else torch.nn.functional.pad(wave, (0, self.samples - len(wave)))

    def cropped(self, wave: Tensor, rate_hz: int, key: str = "") -> Tensor:
        """At most `samples` at the slot's rate of (N,) at `rate_hz`."""
        if rate_hz != self.sample_rate_hz:
            wave = torchaudio.functional.resample(wave, rate_hz, self.sample_rate_hz)
        spare = max(0, wave.shape[-1] - self.samples)
        start = {"start": 0, "centre": spare // 2, "random": draw(key, spare + 1)}[self.crop]
        return wave[start : start + self.samples]

    def frames(self, samples: int) -> int:
        """Frames of a clip of so many samples: all that it begins, at least one; T if clips are of fixed length."""
        return min(self.shape[1], max(1, -(-samples // self.hop))) if self.variable else self.shape[1]

    def log_mel(self, wave: Tensor) -> Tensor:
        """Natural-log magnitude mel (…, M, N // hop) of (…, N) samples, never under the floor; differentiable."""
        transform = _mel(self.sample_rate_hz, self.mels, self.n_fft, self.hop, self.f_min_hz, self._top_hz, wave.device)
        # the centred transform gives one frame more than samples / hop
        mel_MT = transform(wave)[..., : wave.shape[-1] // self.hop]
        return torch.log(mel_MT.clamp(min=float(np.exp(self.log_floor))))

    def _log(self, level: Any) -> Any:
        """The natural log that a level of a value stands for."""
        return (level + 1) * ((self.log_ceiling - self.log_floor) / 2) + self.log_floor

    def value(self, compact: Tensor) -> Tensor:
        """About [-1, 1], float32 (B, M, T), of log-mels (B, M, T); a waveform as it is."""
        if self.representation == "waveform":
            return compact.float()
        return (compact.float() - self.log_floor) * (2 / (self.log_ceiling - self.log_floor)) - 1

    def levels(self, log_BMT: Tensor) -> Tensor:
        """What sound is made of: values of log-mels, within what `waves` lets through."""
        return self.value(log_BMT).clamp(-1, LOUDEST)

    def waves(self, value: Tensor) -> Tensor:
        """Sound (B, samples) in [-1, 1] of values (B, M, T), silent after its end. The same value gives the same."""
        if self.representation == "waveform":
            return value.detach().float().cpu()[:, 0].clamp(-1, 1)
        level_BMT = value.detach().float().clamp(-1, LOUDEST)
        wave_BN = self._griffin_lim(level_BMT.cpu()) if self.vocoder is None else self._vocoded(level_BMT)
        if self.variable:
            end_B1 = self.samples_of(value)[:, None]
            wave_BN = wave_BN.masked_fill(torch.arange(self.samples) >= end_B1, 0.0)
        return wave_BN.clamp(-1, 1)

    def samples_of(self, value: Tensor) -> Tensor:
        """Samples (B,) of the sounds of values (B, M, T), on the CPU."""
        if not self.variable:
            return torch.full((len(value),), self.samples)
        return (lengths(value).cpu() * self.hop).clamp(max=self.samples)

    def _vocoded(self, level_BMT: Tensor) -> Tensor:
        assert self.vocoder is not None
        device = next(self.vocoder.parameters()).device
        with torch.no_grad():
            parts = [self.vocoder(part.to(device)).float().cpu() for part in torch.split(level_BMT, VOCODER_ROWS)]
        wave_BN = torch.cat(parts)
        return torch.nn.functional.pad(wave_BN, (0, self.samples - wave_BN.shape[1]))

    def _griffin_lim(self, level_BMT: Tensor) -> Tensor:
        log_BMT = self._log(level_BMT).clamp(min=self.log_floor)
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
        return wave

    def _magnitudes(self, mel_BMT: Tensor) -> Tensor:
        """Linear magnitudes (B, F, T) ≥ 0 of mel magnitudes: least squares, then multiplicative updates.

        Lee & Seung's rule for a non-negative factor keeps what is positive positive and lowers the squared error.
        """
        bank_FM = self.bank
        guess_BFT: Tensor = (torch.linalg.pinv(bank_FM.T) @ mel_BMT).clamp(min=1e-5)
        wanted_BFT = bank_FM @ mel_BMT
        for _ in range(20):
            # bands first: M is far fewer than F
            guess_BFT = guess_BFT * (wanted_BFT + 1e-9) / (bank_FM @ (bank_FM.T @ guess_BFT) + 1e-9)
        return guess_BFT

    def files(self, value: Tensor) -> list[bytes]:
        """One 16-bit WAV for each of (B, M, T), of its own length if clips are variable."""
        return [
            AudioMedia().encode((wave[:end].numpy()[None], self.sample_rate_hz))
            for wave, end in zip(self.waves(value), self.samples_of(value).tolist(), strict=True)
        ]
