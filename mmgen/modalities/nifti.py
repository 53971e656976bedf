"""NIfTI: from a file's bytes, plain or gzipped, to a view of it, through nibabel."""

from __future__ import annotations

import gzip
import io
import logging
import math
import zlib
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mmgen.modalities.config import CheckConfig, ScanConfig
from mmgen.modalities.windowing import Unreadable, View, grey, place

#: size of the header → its magic word and where that stands
MAGIC = {348: (b"n+1\0", 344), 540: (b"n+2\0", 4)}
_CHUNK_BYTES = 1 << 20
#: fields of free text, of which NIfTI-2 has some
_TEXTS = ("descrip", "db_name", "aux_file", "intent_name")
#: axis of the cut → of right (0), front (1) and head (2) the one it runs along, those of its rows and its columns.
#: Rows start at the head or the front, columns at the patient's right or the front: as radiologists look
_SHOWN = {"z": (2, 1, 0), "y": (1, 2, 0), "x": (0, 2, 1)}


def is_nifti(data: bytes) -> bool:
    """By the magic word of NIfTI-1 or NIfTI-2, also within gzip."""
    return _size(_start(data)) is not None


def view(data: bytes, scan: ScanConfig, limits: CheckConfig) -> View:
    """What `scan` asks to see. Caps are checked on the header, before anything but it is unpacked.

    Of more than three dimensions the first volume is shown. Raises Unreadable; ImportError without nibabel.
    """
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    # its remarks on headers come as findings, where they matter
    logging.getLogger("nibabel").setLevel(logging.CRITICAL + 1)
    start = _start(data)
    size = _size(start) or 348
    kind: Any = Nifti2Header if size == 540 else Nifti1Header
    header = kind.from_fileobj(io.BytesIO(start[:size]), check=False)
    shape = tuple(int(side) for side in header.get_data_shape())
    if not shape or min(shape) < 1:
        raise Unreadable("undecodable", f"a NIfTI of {shape} values")
    # the first four bytes after the header say whether others follow before the values
    offset = max(int(header["vox_offset"]), size + 4)
    dtype = header.get_data_dtype()
    ends = offset + math.prod(shape) * dtype.itemsize
    _check_caps(shape, ends, header, scan, limits)
    volume = offset + math.prod(shape[:3]) * dtype.itemsize
    whole = _unpacked(data, volume, ends) if data[:2] == b"\x1f\x8b" else data
    if len(whole) < volume or (whole is data and len(data) < ends):
        raise Unreadable("truncated", f"a NIfTI of {ends} bytes, came {len(whole)}")
    three = (*shape, 1, 1)[:3]
    values = np.frombuffer(whole, dtype, math.prod(three), offset).reshape(three, order="F")
    pixels = _picture(values, header, scan)
    return View(pixels, _filled(header, extended=len(whole) > size and whole[size] != 0))


def _start(data: bytes) -> bytes:
    """The header's bytes, unpacked if they are gzipped."""
    if data[:2] != b"\x1f\x8b":
        return data[:544]
    try:
        return zlib.decompressobj(31).decompress(data[: 1 << 16], 544)
    except zlib.error:
        return b""


def _size(start: bytes) -> int | None:
    """The header's size if `start` is one of a single file (.hdr/.img pairs hold no picture of their own)."""
    orders: tuple[Literal["little", "big"], ...] = ("little", "big")
    for order in orders:
        size = int.from_bytes(start[:4], order)
        word, at = MAGIC.get(size, (b"", 0))
        if word and start[at : at + 4] == word and len(start) >= size:
            return size
    return None


def _check_caps(shape: tuple[int, ...], ends: int, header: Any, scan: ScanConfig, limits: CheckConfig) -> None:
    dtype = header.get_data_dtype()
    if dtype.kind not in "iufV" or (dtype.kind == "V" and dtype.names is None):
        raise Unreadable("unsupported_encoding", f"wanted numbers or RGB, came values of type {dtype}")
    if ends > scan.max_volume_bytes:
        raise Unreadable("too_many_bytes", f"wanted at most {scan.max_volume_bytes} bytes unpacked, came {ends}")
    sides = sorted((*shape, 1, 1)[:3])
    if sides[1] * sides[2] > limits.max_image_pixels:
        wanted = f"wanted at most {limits.max_image_pixels} pixels"
        raise Unreadable("too_many_pixels", f"{wanted}, came a slice of {sides[1]}×{sides[2]}")


def _unpacked(data: bytes, keep: int, ends: int) -> bytes:
    """The first `keep` bytes of a gzip; the rest is unpacked to see that it is whole, and not held."""
    kept, came = bytearray(), 0
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                came += len(chunk)
                kept += chunk[: max(0, keep - len(kept))]
                if came > ends + _CHUNK_BYTES:
                    raise Unreadable("undecodable", f"a NIfTI of {ends} bytes, unpacks to more")
    except EOFError:
        raise Unreadable("truncated", f"gzip that ends after {came} bytes of {ends}") from None
    if came < ends:
        raise Unreadable("truncated", f"a NIfTI of {ends} bytes, came {came}")
    return bytes(kept)


def _picture(volume: NDArray[Any], header: Any, scan: ScanConfig) -> NDArray[np.uint8]:
    """A slice of a volume (I, J, K)."""
    axes, ahead = _orientation(header)
    cut, rows, columns = _SHOWN[scan.axis]
    count = volume.shape[axes[cut]]
    at = place(count, scan.position)
    turned = volume.transpose(axes[cut], axes[rows], axes[columns])[at if ahead[cut] else count - 1 - at]
    shown = turned[:: -1 if ahead[rows] else 1, :: -1 if ahead[columns] else 1]
    if shown.dtype.names is not None:
        return np.stack([shown[name] for name in shown.dtype.names[:3]], axis=2)
    slope, intercept = header.get_slope_inter()
    # NIfTI-1: a slope of zero is none
    values = shown.astype(np.float64) * (1 if slope is None else slope) + (intercept or 0)
    return grey(values, scan.window)


def _orientation(header: Any) -> tuple[list[int], list[bool]]:
    """For right, front and head: the volume's axis that runs along it most, and whether towards it.

    The axes as they are, where the affine does not tell.
    """
    from nibabel import orientations

    tell: Any = orientations.io_orientation
    affine = header.get_best_affine()
    if not np.isfinite(affine).all():
        return [0, 1, 2], [True] * 3
    found = tell(affine)
    if np.isnan(found).any():
        return [0, 1, 2], [True] * 3
    axes = [int(np.flatnonzero(found[:, 0] == world)[0]) for world in range(3)]
    return axes, [found[axis, 1] > 0 for axis in axes]


def _filled(header: Any, *, extended: bool) -> tuple[str, ...]:
    """Names of the fields of free text that are not empty; extensions may hold a whole DICOM header."""
    mine = [name for name in _TEXTS if name in header]
    texts = tuple(name for name in mine if header[name].tobytes().strip(b" \0"))
    return (*texts, "header extensions") if extended else texts
