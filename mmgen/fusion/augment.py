"""Disturbances of training values that leave their meaning alone. Shapes as in `batches.Batch`."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mmgen.preprocess.wave_mel import is_waveform
from mmgen.records import Modality

TURN, SHEAR, SCALE, MOVE = 0.15, 0.15, 0.12, 0.1
MEL_NOISE, BAND_SHARE = 0.05, 8


def augment(modality: Modality, value: Tensor, rng: torch.Generator | None) -> Tensor:
    """`value` disturbed in the way of its modality; text stays as it is."""
    match modality:
        case "image":
            return warp(value, rng)
        case "audio":
            return smudge(value, rng)
        case _:
            return value


def warp(value: Tensor, rng: torch.Generator | None) -> Tensor:
    """Images (B, C, H, W), each turned and sheared (radians), scaled and moved (shares of the size) a little."""
    draws = torch.rand((5, len(value)), generator=rng, device=value.device) * 2 - 1
    turn_B, shear_B, scale_B = draws[0] * TURN, draws[1] * SHEAR, 1 + draws[2] * SCALE
    cos_B, sin_B = turn_B.cos() * scale_B, turn_B.sin() * scale_B
    across = torch.stack([cos_B, shear_B - sin_B, draws[3] * 2 * MOVE], dim=1)
    down = torch.stack([sin_B, cos_B, draws[4] * 2 * MOVE], dim=1)
    places = F.affine_grid(torch.stack([across, down], dim=1), list(value.shape), align_corners=False)
    return F.grid_sample(value.float(), places, padding_mode="border", align_corners=False)


def smudge(value: Tensor, rng: torch.Generator | None) -> Tensor:
    """Spectrograms (B, M, T) with one band of mels and one of frames per row at the row's minimum, and some noise.

    Bands as in SpecAugment (Park et al. 2019, arXiv:1904.08779), at most an eighth of the size wide. A waveform
    (B, 1, N) has no bands: it stays as it is.
    """
    if is_waveform(value.shape[1:]):
        return value
    hidden = torch.zeros(value.shape, dtype=torch.bool, device=value.device)
    for axis in (1, 2):
        size = value.shape[axis]
        draws = torch.rand((2, len(value), 1), generator=rng, device=value.device)
        start_B1 = (draws[0] * size).long()
        stop_B1 = start_B1 + (draws[1] * (size / BAND_SHARE)).long()
        places = torch.arange(size, device=value.device)
        band = (places >= start_B1) & (places < stop_B1)
        hidden |= band.unsqueeze(3 - axis)
    noisy = value + MEL_NOISE * torch.randn(value.shape, generator=rng, device=value.device)
    # a hidden band is silence; lower still is the mark of what comes after the end of a clip (preprocess.audio.ABSENT)
    return torch.where(hidden, value.amin((1, 2), keepdim=True).clamp(min=-1.0), noisy)
