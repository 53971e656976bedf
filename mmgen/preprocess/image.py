"""Images: bytes → uint8 (C, H, W) → normalised float, and back to PNG."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmgen.modalities.image import ImageMedia
from mmgen.records import Modality


def draw(key: str, choices: int) -> int:
    """A number in [0, choices) that depends on `key` only, so that a random crop is the same on every machine."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % max(1, choices)


@dataclass(frozen=True)
class ImagePreprocess:
    """Decode, resize and crop to a square of `size_px`, then (x/255 - mean) / std.

    resize: stretch to the square; fit the shorter side, then crop; pad after fitting the longer side.
    """

    size_px: int
    channels: Literal[1, 3] = 3
    resize: Literal["stretch", "fit", "pad"] = "fit"
    crop: Literal["centre", "random"] = "centre"
    mean: float = 0.5
    std: float = 0.5

    modality: ClassVar[Modality] = "image"
    extension: ClassVar[str] = "png"
    dtype: ClassVar[str] = "uint8"

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W)."""
        return (self.channels, self.size_px, self.size_px)

    def compact(self, data: bytes, key: str) -> np.ndarray:
        """uint8 (C, H, W) of an image file; `key` seeds a random crop. Raises SourceError."""
        decoded = ImageMedia().decode(data)
        image = Image.fromarray(decoded[:, :, 0] if decoded.shape[2] == 1 else decoded)
        image = image.convert("L" if self.channels == 1 else "RGB")
        pixels = np.asarray(self._square(image, key))
        return np.array(pixels[None] if self.channels == 1 else pixels.transpose(2, 0, 1), order="C")

    def _square(self, image: Image.Image, key: str) -> Image.Image:
        side, (width, height) = self.size_px, image.size
        if self.resize == "stretch":
            return _resized(image, side, side)
        scale = side / (min(width, height) if self.resize == "fit" else max(width, height))
        width, height = (max(1, round(length * scale)) for length in (width, height))
        image = _resized(image, width, height)
        if self.resize == "pad":
            square = Image.new(image.mode, (side, side))
            square.paste(image, ((side - width) // 2, (side - height) // 2))
            return square
        spare_x, spare_y = width - side, height - side
        if self.crop == "random":
            left, top = draw(f"{key}/x", spare_x + 1), draw(f"{key}/y", spare_y + 1)
        else:
            left, top = spare_x // 2, spare_y // 2
        return image.crop((left, top, left + side, top + side))

    def value(self, compact: Tensor) -> Tensor:
        """Normalised float32 (B, C, H, W) of uint8 (B, C, H, W)."""
        return compact.float().div_(255).sub_(self.mean).div_(self.std)

    def pixels(self, value: Tensor) -> Tensor:
        """uint8 (B, C, H, W) of normalised (B, C, H, W): the inverse of `value`, clipped."""
        return (value.float() * self.std + self.mean).mul(255).round().clamp(0, 255).to(torch.uint8)

    def files(self, value: Tensor) -> list[bytes]:
        """One PNG for each of (B, C, H, W)."""
        return [ImageMedia().encode(each) for each in self.pixels(value.detach()).permute(0, 2, 3, 1).cpu().numpy()]


def _resized(image: Image.Image, width: int, height: int) -> Image.Image:
    return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BICUBIC)
