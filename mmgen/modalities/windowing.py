"""From the values of a scan to a picture: which slice is shown, which values are black and white."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Function = Literal["LINEAR", "LINEAR_EXACT", "SIGMOID"]


class Unreadable(Exception):
    """Why a scan cannot become a picture: a reason code, and a message that quotes nothing of its header."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason, self.message = reason, message


@dataclass(frozen=True, slots=True)
class View:
    """What is shown of a scan. pixels: (H, W, 1 or 3) uint8. filled: names of header fields that may name people."""

    pixels: NDArray[np.uint8]
    filled: tuple[str, ...] = ()
    burned_in: bool = False


@dataclass(frozen=True, slots=True)
class Window:
    """The values around `centre` that are told apart, in the units of the rescaled values."""

    centre: float
    width: float
    function: Function = "LINEAR"

    def __call__(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """`values` in 0..1. DICOM PS3.3 C.11.2.1.2 and C.11.2.1.3, for an output range of 0..1."""
        if self.function == "SIGMOID":
            # beyond e^±700 a float overflows, long after 8 bits have ended
            return 1 / (1 + np.exp(np.clip(-4 * (values - self.centre) / self.width, -700, 700)))
        if self.function == "LINEAR" and self.width > 1:
            return np.clip((values - (self.centre - 0.5)) / (self.width - 1) + 0.5, 0, 1)
        if self.function == "LINEAR":
            return np.where(values > self.centre - 0.5, 1.0, 0.0)
        return np.clip((values - self.centre) / self.width + 0.5, 0, 1)


def grey(
    values: NDArray[np.float64],
    wanted: Literal["file", "full"] | tuple[float, float],
    own: Window | None = None,
    *,
    inverted: bool = False,
) -> NDArray[np.uint8]:
    """(H, W, 1) of rescaled values (H, W). own: the file's window. What is not finite is no tissue, and black.

    Raises Unreadable if nothing is finite.
    """
    known = np.isfinite(values)
    if not known.any():
        raise Unreadable("not_finite", "none of its values is a finite number")
    low, high = float(values[known].min()), float(values[known].max())
    finite = np.where(known, values, low)
    if isinstance(wanted, tuple):
        # from half a width below its centre to half a width above, whatever the unit
        unit = Window(*wanted, "LINEAR_EXACT")(finite)
    elif wanted == "file" and own is not None:
        unit = own(finite)
    else:
        unit = (finite - low) / (high - low) if high > low else np.zeros_like(finite)
    shown = np.where(known, 1 - unit if inverted else unit, 0)
    return np.asarray(np.round(shown * 255), dtype=np.uint8)[:, :, None]


def to_8_bit(colour: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """(H, W, 3) of unsigned whole numbers of so many bits as uint8."""
    if bits <= 8 and colour.dtype == np.uint8:
        return colour
    return np.asarray(np.clip(np.round(colour.astype(np.float64) * (255 / (2**bits - 1))), 0, 255), dtype=np.uint8)


def place(count: int, position: float) -> int:
    """Which of `count` slices lies at `position` (0..1); the middle one of an even number is the later."""
    return int((count - 1) * position + 0.5)
