"""Holes in what is given: which values and latent tokens are made anew, and the known ones back where they were.

Shape suffixes: B batch, C channels, H, W pixels, M mels, T latent tokens (N frames of a spectrogram).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mmgen.codec_set import CodecSet
from mmgen.errors import ConfigError
from mmgen.modalities.audio import AudioMedia, downmix
from mmgen.modalities.image import ImageMedia
from mmgen.preprocess.audio import AudioPreprocess
from mmgen.preprocess.image import ImagePreprocess

# [start, stop) in seconds
Span = tuple[float, float]
# above it (of 255) a mask's pixel belongs to the hole
WHITE = 127


@dataclass(frozen=True)
class Hole:
    """What of one given value is made anew. value: (1, …), the hole filled with the mean of what is around it, so that
    nothing of what stood there is looked at. keep_T: latent tokens that lie wholly outside the hole.
    """

    how: ImagePreprocess | AudioPreprocess
    data: bytes
    value: Tensor
    keep_T: Tensor
    #: (H, W) of an image, (N,) frames of a sound: True where it is made anew
    made: Tensor
    span: Span | None = None

    def files(self, value: Tensor) -> list[bytes]:
        """One file for each of the made values (B, …): outside the hole what was given, its very pixels or samples."""
        if isinstance(self.how, ImagePreprocess):
            known = self.how.value(torch.from_numpy(self.how.compact(self.data, ""))[None])
            return self.how.files(torch.where(self.made, value.cpu(), known))
        assert self.span is not None
        clip = _clip(self.how, self.data)
        inside = _fade(self.how, self.span)
        waves = inside * self.how.waves(value) + (1 - inside) * clip
        return [AudioMedia().encode((wave.numpy()[None], self.how.sample_rate_hz)) for wave in waves]


def hole_of(codecs: CodecSet, slot: str, data: bytes, hole: bytes | Span) -> Hole:
    """A hole in the value that `data` (a file's bytes) is of a slot.

    hole: of an image the bytes of a mask of its size, white where it is made anew; of a sound (start, stop) in seconds
    of the clip that the slot makes of it. Raises ConfigError (a text slot, a codec whose latents are no grid, a hole
    that does not fit or is none), SourceError.
    """
    how = codecs.preprocesses[slot]
    grid = getattr(codecs.codec(slot), "grid", None)
    if not isinstance(how, ImagePreprocess | AudioPreprocess) or grid is None:
        raise ConfigError(f"in-painting: wanted an image or sound with a grid of latents, '{slot}' is none")
    if isinstance(how, ImagePreprocess):
        if not isinstance(hole, bytes):
            raise ConfigError(f"hole: '{slot}' is an image; wanted the file of a mask, came {hole!r}")
        filled, mask = _cut_out(data, hole)
        # a pixel of the slot that a part of the hole falls into is made anew
        made_HW = torch.from_numpy(how.compact(mask, "")).amax(0) > 0
        return Hole(how, data, codecs.value(slot, filled), _outside(made_HW, grid), made_HW)
    if isinstance(hole, bytes):
        raise ConfigError(f"hole: '{slot}' is a sound; wanted (start, stop) in seconds, came a file")
    made_N = _frames(how, hole)
    made_MN = made_N.expand(how.mels, -1)
    value, known_N = codecs.value(slot, data), (~made_N).float()
    mean_1M1 = (value * known_N).sum(2, keepdim=True) / known_N.sum().clamp_min(1)
    return Hole(how, data, torch.where(made_N, mean_1M1, value), _outside(made_MN, grid), made_N, hole)


def _cut_out(data: bytes, mask: bytes) -> tuple[bytes, bytes]:
    """The image with the mean colour of what is known in its hole, and the hole in white on black; in its own size."""
    image_HWC, mask_HWC = (ImageMedia().decode(each) for each in (data, mask))
    if image_HWC.shape[:2] != mask_HWC.shape[:2]:
        wanted, came = (f"{array.shape[1]} × {array.shape[0]}" for array in (image_HWC, mask_HWC))
        raise ConfigError(f"hole: wanted a mask of the image's size, {wanted} pixels, came {came}")
    hole_HW = mask_HWC.max(axis=2) > WHITE
    if not hole_HW.any():
        raise ConfigError("hole: wanted a mask that is white where the image is made anew, came one without white")
    filled = image_HWC.copy()
    filled[hole_HW] = 0 if hole_HW.all() else image_HWC[~hole_HW].mean(axis=0).round()
    return ImageMedia().encode(filled), ImageMedia().encode(hole_HW[..., None].astype(np.uint8) * 255)


def _frames(how: AudioPreprocess, span: Span) -> Tensor:
    """(N,) bool: frames whose window touches the span."""
    start, stop = span
    if not 0 <= start < stop <= how.seconds:
        raise ConfigError(f"hole: wanted 0 ≤ start < stop ≤ {how.seconds} seconds, came {start} and {stop}")
    centres = torch.arange(how.shape[1]) * how.hop
    reach, rate = how.n_fft / 2, how.sample_rate_hz
    return (centres + reach > start * rate) & (centres - reach < stop * rate)


def _outside(made_HW: Tensor, grid: tuple[int, int]) -> Tensor:
    """(T,) bool, row by row as a grid's tokens are: cells of the grid in which nothing is made anew."""
    height, width = made_HW.shape
    cells = F.max_pool2d(made_HW[None, None].float(), (height // grid[0], width // grid[1]))
    return cells.flatten() == 0


def _clip(how: AudioPreprocess, data: bytes) -> Tensor:
    samples, rate = AudioMedia().decode(data)
    return how.clip(torch.from_numpy(downmix(samples)), rate)


def _fade(how: AudioPreprocess, span: Span) -> Tensor:
    """(samples,) in [0, 1]: 1 within the span, 0 outside, with ramps of one hop inside it, lest it click."""
    at = torch.arange(how.samples)
    start, stop = (round(each * how.sample_rate_hz) for each in span)
    ramp = max(1, min(how.hop, (stop - start) // 2))
    # no ramp where there is nothing to fade from
    rise = (at - start + 1) / ramp if start > 0 else torch.ones(how.samples)
    fall = (stop - at) / ramp if stop < how.samples else torch.ones(how.samples)
    inside = torch.minimum(rise, fall).clamp(0, 1)
    return inside * ((at >= start) & (at < stop))


def shares(num: int) -> list[float]:
    """`num` even shares of the way from 0 to 1, both ends among them. Raises ConfigError for fewer than 2."""
    if num < 2:
        raise ConfigError(f"num: wanted at least 2, both ends among them, came {num}")
    return [step / (num - 1) for step in range(num)]
