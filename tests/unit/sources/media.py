"""Small media files for tests."""

from __future__ import annotations

import numpy as np

from mmgen.modalities.audio import AudioMedia
from mmgen.modalities.image import ImageMedia


def png(seed: int = 0, side: int = 12) -> bytes:
    """A grey noise image."""
    return ImageMedia().encode(np.random.default_rng(seed).integers(0, 255, (side, side, 1), dtype=np.uint8))


def wav(seed: int = 0, seconds: float = 0.1) -> bytes:
    """A noise clip at 16 kHz."""
    samples = np.random.default_rng(seed).normal(0, 0.1, (1, int(seconds * 16_000))).astype(np.float32)
    return AudioMedia().encode((samples, 16_000))
