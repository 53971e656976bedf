"""In which order samples come: a pure function of (seed, epoch, count), and which of them a batch takes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# goes up when the same (seed, epoch) would give another order
ORDER_VERSION = 1


def noise(seed: int, epoch: int, stream: int, count: int) -> np.ndarray:
    """`count` 64-bit numbers; numpy promises that a bit generator's raw stream stays the same."""
    words = np.random.SeedSequence([seed, epoch, ORDER_VERSION, stream])
    return np.random.PCG64(words).random_raw(count)


def order(count: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation of range(count), the same on every machine."""
    return np.argsort(noise(seed, epoch, 0, count), kind="stable")


@dataclass(frozen=True, slots=True)
class Window:
    """A rank's slice of a global batch. places_B: positions in the epoch's order. weights_B: float32, 0 for padding.

    real: samples of the global batch that are no padding: what all ranks together consume.
    """

    epoch: int
    places_B: np.ndarray
    weights_B: np.ndarray
    real: int


def window(count: int, batch_size: int, consumed: int, rank: int = 0, world: int = 1) -> Window:
    """The slice of rank `rank` of `world` of the global batch that begins after `consumed` samples.

    Every global batch has `batch_size` rows; the last of an epoch is padded with rows from the epoch's start, of
    weight 0, so every sample comes exactly once an epoch and every rank takes equal steps. The only state is
    `consumed`, so a run goes on exactly with another number of ranks.
    """
    epoch, offset = divmod(consumed, count)
    real = min(batch_size, count - offset)
    part = batch_size // world
    mine = slice(rank * part, (rank + 1) * part)
    places = np.arange(offset, offset + batch_size)[mine] % count
    return Window(epoch, places, (np.arange(batch_size) < real).astype(np.float32)[mine], real)
