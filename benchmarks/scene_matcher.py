"""Which things a picture of `scenes` shows, and how they stand: templates of the renderer's own sprites.

Every sprite at several sizes is laid over every place. Its score is the share of the squared difference between the
picture and what is known so far (the ground, then the support on it) that it explains, over the pixels that it covers:
1 where it is drawn, 0 or less where it is not, as in matching pursuit (Mallat & Zhang 1993). Shape suffixes: K
templates, R and C rows and columns of places.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from mmgen.sources.scenes import (
    GROUND_PX,
    SIZE_PX,
    SUPPORTS,
    THINGS,
    WIDEST_PX,
    Fact,
    Placed,
    Scene,
    render,
    sprite,
)  # fmt: skip

HEIGHTS_PX = (15.5, 16.5, 17.5, 18.5, 19.5, 20.5, 21.5, 22.5, 24.0, 25.5, 27.0)
#: score above which a thing, or a support, is there; chosen on rendered pictures of training scenes
THING_FLOOR, SUPPORT_FLOOR = 0.4, 0.4
#: a support stands on the ground, in the middle, this exactly, in pixels
SUPPORT_NEAR_PX = 6.0
#: peaks of other things nearer than this to a taken one are the same thing mistaken, in pixels
NEAR_PX = 12.0
#: a foot this far above the ground stands on the support
RAISED_PX = 9.0
FRAME = (44, 68)
#: of the picture with what goes on beyond its borders (see `_padded`), and of the waves: a row more, for 111 is 3 · 37
PADDED = (SIZE_PX + FRAME[0] + 3, SIZE_PX + FRAME[1] // 2 * 2)
WAVES = (PADDED[0] + 1, PADDED[1])


@dataclass(frozen=True, slots=True)
class Found:
    """A sprite found: its name, the centre of its foot and its height in pixels, and its score."""

    name: str
    x: float
    foot: float
    height: float
    score: float


class Templates:
    """Sprites at several sizes as one bank of kernels, each in the middle of a frame with its foot at the same row."""

    def __init__(self, names: list[str], heights: Mapping[str, tuple[float, ...]]) -> None:
        self.names: list[str] = []
        self.heights: list[float] = []
        kernels, masks = [], []
        for name in names:
            for height in heights[name]:
                picture = sprite(name)
                size = (max(1, round(picture.width * height / picture.height)), max(1, round(height)))
                small = np.asarray(picture.resize(size, Image.Resampling.LANCZOS), dtype=np.float32)
                mask = (small[..., 3] > 160).astype(np.float32)
                framed, covered = np.zeros((*FRAME, 3), np.float32), np.zeros(FRAME, np.float32)
                top, left = FRAME[0] - size[1], (FRAME[1] - size[0]) // 2
                place = (slice(top, FRAME[0]), slice(left, left + size[0]))
                covered[place] = mask
                framed[place] = small[..., :3] * mask[..., None]
                kernels.append(torch.from_numpy(framed).permute(2, 0, 1))
                masks.append(torch.from_numpy(covered).expand(3, -1, -1))
                self.names.append(name)
                self.heights.append(height)
        kernels_KCHW, masks_KCHW = torch.stack(kernels), torch.stack(masks)
        sums_K, squares_K = kernels_KCHW.sum((1, 2, 3)), kernels_KCHW.square().sum((1, 2, 3))
        self.squares_K = squares_K[:, None, None]
        self.variance_K = (squares_K - sums_K.square() / masks_KCHW.sum((1, 2, 3)))[:, None, None]
        self.waves_KCHW, self.mask_waves_KHW = _waves(kernels_KCHW).conj(), _waves(masks_KCHW[:, 0]).conj()

    def scores(self, picture: NDArray[np.uint8], known: NDArray[np.uint8]) -> Tensor:
        """(K, R, C): the place is the foot's row and column; beyond its borders the picture goes on as they are."""
        x_1CHW, known_1CHW = _padded(picture), _padded(known)
        left_HW, here_HW = _waves((x_1CHW - known_1CHW).square().sum(1)), _waves(x_1CHW.square().sum(1))
        left_KRC = _places(left_HW * self.mask_waves_KHW)
        across_KHW = here_HW * self.mask_waves_KHW - 2 * (_waves(x_1CHW) * self.waves_KCHW).sum(1)
        after_KRC = _places(across_KHW)
        # where hardly anything is left to explain, nothing is there
        found: Tensor = (left_KRC - after_KRC - self.squares_K) / left_KRC.clamp(min=0.25 * self.variance_K)
        return found

    def peaks(
        self, picture: NDArray[np.uint8], known: NDArray[np.uint8], where: tuple[float, float] | None = None
    ) -> list[Found]:
        """The best place of every name, best first. known: the picture as far as it is explained. where: (x, foot)
        that places are near."""
        maps_KRC = self.scores(picture, known)
        if where is not None:
            rows, columns = torch.arange(maps_KRC.shape[1]) + 1, torch.arange(maps_KRC.shape[2])
            near_RC = ((rows - where[1]).abs()[:, None] <= SUPPORT_NEAR_PX) & (
                (columns - where[0]).abs() <= SUPPORT_NEAR_PX
            )
            maps_KRC = maps_KRC.masked_fill(~near_RC, -1e9)
        found: dict[str, Found] = {}
        for name, height, map_RC in zip(self.names, self.heights, maps_KRC, strict=True):
            at = int(map_RC.argmax())
            row, column = divmod(at, map_RC.shape[1])
            here = Found(name, column, row + 1, height, float(map_RC.flatten()[at]))
            if name not in found or here.score > found[name].score:
                found[name] = here
        return sorted(found.values(), key=lambda each: -each.score)


@cache
def _things() -> Templates:
    return Templates([*THINGS], dict.fromkeys(THINGS, HEIGHTS_PX))


@cache
def _supports() -> Templates:
    heights = {}
    for name, support in SUPPORTS.items():
        picture = sprite(name)
        shown = support.surface * SIZE_PX if not support.emoji else min(40, WIDEST_PX * picture.height / picture.width)
        heights[name] = (shown * 0.96, shown, shown * 1.04)
    return Templates([*SUPPORTS], heights)


def match(picture: NDArray[np.uint8]) -> Scene:
    """The scene that a picture (SIZE_PX, SIZE_PX, 3) shows; facts as `scenes.combinations` orders them. May be ()."""
    frame = np.concatenate([picture[:6].reshape(-1, 3), picture[:, :3].reshape(-1, 3), picture[:, -3:].reshape(-1, 3)])
    red, green, blue = (int(value) for value in np.median(frame, axis=0))
    known = render([], (red, green, blue))
    supports = _supports().peaks(picture, known, (SIZE_PX / 2, GROUND_PX))
    support = supports[0] if supports[0].score >= SUPPORT_FLOOR else None
    if support is not None:
        known = render([Placed(support.name, support.x, support.foot, support.height)], (red, green, blue))
    taken: list[Found] = []
    for each in _things().peaks(picture, known):
        clear = all(abs(each.x - other.x) + abs(each.foot - other.foot) > NEAR_PX for other in taken)
        if each.score >= THING_FLOOR and clear and len(taken) < 2:
            taken.append(each)
    if support is not None and taken:
        return tuple(sorted(
            Fact(each.name, "on" if each.foot < GROUND_PX - RAISED_PX else "under", support.name) for each in taken
        ))  # fmt: skip
    if len(taken) == 2:
        left, right = sorted(taken, key=lambda each: each.x)
        return (Fact(left.name, "left of", right.name),)
    return ()


def _waves(values: Tensor) -> Tensor:
    """Frequencies of values (…, H, W) by which all their places are looked at in one go."""
    waves: Tensor = torch.fft.rfft2(values.double(), WAVES)
    return waves


def _places(waves: Tensor) -> Tensor:
    """The sums of products at every place that a whole frame fits: (…, R, C)."""
    found: Tensor = torch.fft.irfft2(waves, WAVES)
    return found[..., : PADDED[0] - FRAME[0] + 1, : PADDED[1] - FRAME[1] + 1].float()


def _padded(picture: NDArray[np.uint8]) -> Tensor:
    x_1CHW = torch.from_numpy(picture.copy()).permute(2, 0, 1).float()[None]
    return F.pad(x_1CHW, (FRAME[1] // 2, FRAME[1] // 2, FRAME[0] - 1, 4), mode="replicate")
