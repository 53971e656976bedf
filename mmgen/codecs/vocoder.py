"""A learned vocoder: levels of a mel spectrogram to sound, through the inverse of a short-time Fourier transform.

After Vocos (Siuzdak 2023, arXiv:2306.00814): nothing is upsampled, a network that stays at the rate of the frames says
magnitude and phase of each, and the transform makes sound of them. Unlike there the magnitudes start from those that
the mels imply, which saves most of the steps of a short training. Its losses are those of Parallel WaveGAN (Yamamoto et
al. 2020, arXiv:1910.11480) and the distance of mels; no discriminator.
Shape suffixes: B batch, M mels, T frames, F frequencies, D width, N samples.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmgen.preprocess.audio import AudioPreprocess

KERNEL = 7
#: width of a block's hidden layer, in its own width
EXPANSION = 3


class ConvNextBlock(nn.Module):
    """ConvNeXt (Liu et al. 2022, arXiv:2201.03545) over time. scale: what a block's share starts with."""

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.over_time = nn.Conv1d(width, width, KERNEL, padding=KERNEL // 2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, EXPANSION * width)
        self.narrow = nn.Linear(EXPANSION * width, width)
        self.scale = nn.Parameter(torch.full((width,), scale))

    def forward(self, x_BDT: Tensor) -> Tensor:
        h_BTD = self.norm(self.over_time(x_BDT).transpose(1, 2))
        h_BTD = self.scale * self.narrow(F.gelu(self.widen(h_BTD)))
        out: Tensor = x_BDT + h_BTD.transpose(1, 2)
        return out


class IstftVocoder(nn.Module):
    """Levels (B, M, T), normalised to about [-1, 1], to sound (B, T · hop) in about [-1, 1].

    Args:
        mels: M.
        n_fft, hop: of the spectrogram, in samples; hop at most half of n_fft.
        width: channels of each frame.
        depth: blocks.
    """

    window: Tensor

    def __init__(self, *, mels: int, n_fft: int, hop: int, width: int, depth: int) -> None:
        super().__init__()
        self.n_fft, self.hop = n_fft, hop
        self.embed = nn.Conv1d(mels, width, KERNEL, padding=KERNEL // 2)
        self.norm_in = nn.LayerNorm(width)
        self.blocks = nn.Sequential(*(ConvNextBlock(width, 1 / depth) for _ in range(depth)))
        self.norm_out = nn.LayerNorm(width)
        frequencies = n_fft // 2 + 1
        self.implied = nn.Linear(mels, frequencies)
        self.to_spectrum = nn.Linear(width, 2 * frequencies)
        with torch.no_grad():
            # of the magnitudes it says how they differ from what is implied
            self.to_spectrum.weight[:frequencies] = 0
            self.to_spectrum.bias[:frequencies] = 0
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    @torch.no_grad()
    def start_from(self, bank_FM: Tensor, log_floor: float, log_ceiling: float) -> None:
        """Let the magnitudes begin as those that levels imply: log-mels over the filters' areas, interpolated.

        bank_FM: mel filters ≥ 0. log_floor, log_ceiling: the natural logs that -1 and 1 stand for.
        """
        half = (log_ceiling - log_floor) / 2
        share_FM = bank_FM / bank_FM.sum(dim=1, keepdim=True).clamp(min=1e-9)
        log_F = log_floor + half - share_FM @ bank_FM.sum(dim=0).log()
        # a frequency that no filter lets through stays at the floor
        self.implied.bias.copy_(torch.where(share_FM.sum(dim=1) > 0, log_F, log_floor))
        self.implied.weight.copy_(half * share_FM)

    def forward(self, level_BMT: Tensor) -> Tensor:
        # the frame that `AudioPreprocess.log_mel` dropped
        frames = torch.cat([level_BMT, level_BMT[..., -1:]], dim=-1)
        h_BTD = self.norm_in(self.embed(frames).transpose(1, 2))
        h_BTD = self.norm_out(self.blocks(h_BTD.transpose(1, 2)).transpose(1, 2))
        more_BFT, phase_BFT = self.to_spectrum(h_BTD).float().transpose(1, 2).chunk(2, dim=1)
        log_BFT = self.implied(frames.transpose(1, 2)).float().transpose(1, 2) + more_BFT
        # no magnitude of sound in [-1, 1] is above n_fft / 2
        magnitude_BFT = log_BFT.clamp(max=math.log(self.n_fft)).exp()
        spectrum_BFT = torch.complex(magnitude_BFT * phase_BFT.cos(), magnitude_BFT * phase_BFT.sin())
        wave_BN: Tensor = torch.istft(
            spectrum_BFT, self.n_fft, self.hop, window=self.window, length=level_BMT.shape[-1] * self.hop
        )
        return wave_BN


def vocoder_loss(vocoder: nn.Module, how: AudioPreprocess, wave_BN: Tensor, mel_weight: float) -> dict[str, Tensor]:
    """`loss` of making sounds (B, N), N a multiple of the hop, anew from their own mels; its parts `spectra`, `mels`.

    spectra: `spectral_distance`. mels: mean distance of log-mels in nats.
    """
    # the transforms have no bfloat16, and mels of it would be off by a percent
    with torch.autocast(wave_BN.device.type, enabled=False):
        log_BMT = how.log_mel(wave_BN)
    made_BN = vocoder(how.levels(log_BMT))
    with torch.autocast(wave_BN.device.type, enabled=False):
        sizes = [size for size in (how.n_fft // 2, how.n_fft, 2 * how.n_fft) if size // 2 < wave_BN.shape[1]]
        spectra = spectral_distance(made_BN, wave_BN, sizes, math.exp(how.log_floor))
        mels = (how.log_mel(made_BN) - log_BMT).abs().mean()
    return {"loss": spectra + mel_weight * mels, "spectra": spectra.detach(), "mels": mels.detach()}


def spectral_distance(made_BN: Tensor, real_BN: Tensor, sizes: list[int], floor: float) -> Tensor:
    """Mean over resolutions of spectral convergence plus the distance of log magnitudes (arXiv:1910.11480, eq. 3–6).

    sizes: window lengths in samples; hops are a quarter. floor: magnitudes below count as this one, as what no mel
    shows cannot be made from it.
    """
    total = made_BN.new_zeros(())
    for size in sizes:
        window = torch.hann_window(size, device=made_BN.device)
        how: dict[str, Any] = {"n_fft": size, "hop_length": size // 4, "window": window, "return_complex": True}
        made_BFT, real_BFT = (torch.stft(wave, **how).abs() for wave in (made_BN, real_BN))
        # of a batch of silence: never divided by nothing
        convergence = (real_BFT - made_BFT).norm() / real_BFT.norm().clamp(min=1.0)
        logs = (real_BFT.clamp(min=floor).log() - made_BFT.clamp(min=floor).log()).abs().mean()
        total = total + convergence + logs
    return total / len(sizes)
