"""Phantoms for tests: DICOM and NIfTI files that name a patient, and videos whose colours and tones tell the time."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import nibabel
import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage

from mmgen.artifact import Artifact
from mmgen.records import Rejection
from mmgen.store import Store


def rejections_of(store: Store, staging: Artifact) -> list[Rejection]:
    """The rejections and flags of a staging, in row order."""
    tables = [pl.read_parquet(store.local_path(entry.path)) for entry in staging.by_role("rejections")]
    return [Rejection(**row) for table in tables for row in table.iter_rows(named=True)]


#: in every header, and in nothing else
PATIENT = "Zaphodine^Beeblebroxia"


def ramp(height: int = 12, width: int = 16, dtype: str = "int16") -> NDArray[Any]:
    """Values that are all different: 0, 1, 2… row by row."""
    return np.arange(height * width).reshape(height, width).astype(dtype)


def dicom(
    pixels: NDArray[Any],
    *,
    syntax: UID = ExplicitVRLittleEndian,
    frames: list[bytes] | None = None,
    preamble: bytes = b"\0" * 128,
    **attributes: Any,
) -> bytes:
    """A DICOM of (H, W), (F, H, W) or, with SamplesPerPixel=3, (H, W, 3). frames: its pixels, compressed already."""
    from pydicom.encaps import encapsulate

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax if frames else ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = MRImageStorage
    meta.MediaStorageSOPInstanceUID = UID("1.2.3.4")
    made = FileDataset("", {}, file_meta=meta, preamble=preamble)
    colour = attributes.get("SamplesPerPixel", 1) == 3
    made.SOPClassUID, made.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    made.PatientName, made.PatientID, made.InstitutionName = PATIENT, PATIENT, PATIENT
    made.add_new((0x0011, 0x0010), "LO", "VENDOR")
    made.add_new((0x0011, 0x1001), "LO", PATIENT)
    made.Rows, made.Columns = pixels.shape[-3:-1] if colour else pixels.shape[-2:]
    if pixels.ndim - colour == 3:
        made.NumberOfFrames = len(pixels)
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    if colour:
        made.PlanarConfiguration = 0
    made.BitsAllocated = made.BitsStored = pixels.dtype.itemsize * 8
    made.HighBit, made.PixelRepresentation = made.BitsStored - 1, int(pixels.dtype.kind == "i")
    for name, value in attributes.items():
        setattr(made, name, value)
    made.PixelData = encapsulate(frames) if frames else pixels.tobytes()
    if frames is None and syntax != ExplicitVRLittleEndian:
        made.compress(syntax)
    out = io.BytesIO()
    made.save_as(out, enforce_file_format=True)
    return out.getvalue()


def nifti(
    values: NDArray[Any],
    affine: NDArray[Any] | None = None,
    *,
    version: int = 1,
    slope: float = 1,
    intercept: float = 0,
) -> bytes:
    """A NIfTI of (I, J, K, …), by default with axes towards right, front and head."""
    kind: Any = nibabel.Nifti1Image if version == 1 else nibabel.Nifti2Image
    made = kind(values, np.eye(4) if affine is None else affine)
    made.header["descrip"] = PATIENT.encode()
    made.header.set_slope_inter(slope, intercept)
    data: bytes = made.to_bytes()
    # nibabel writes what gives these values back; here they are stored as they are
    start = bytearray(data)
    where = 112 if version == 1 else 176
    start[where : where + (8 if version == 1 else 16)] = np.array(
        [slope, intercept], "f4" if version == 1 else "f8"
    ).tobytes()
    return bytes(start)


# ---------------------------------------------------------------- videos


def colour_at(second: int) -> tuple[int, int, int]:
    """What a video shows in this second, but for a white corner."""
    return (40 * second % 240, 240 - 40 * second % 240, 100 + 7 * (second // 6))


def tone_at(second: int) -> int:
    """What it sounds like, in Hz."""
    return 300 + 100 * second


def video(
    path: Path, seconds: float = 4, *, codec: str = "mpeg4", sound: str | None = "aac", rate_hz: int = 16_000,
    fps: int = 10, key_every: int = 25, sound_seconds: float | None = None, size: tuple[int, int] = (64, 48),
    first: int = 0,
) -> Path:  # fmt: skip
    """A video in the container that its name says. first: the second whose colour and tone it begins with."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        pictures: Any = container.add_stream(codec, rate=fps)
        pictures.width, pictures.height = size
        pictures.pix_fmt, pictures.gop_size, pictures.bit_rate = "yuv420p", key_every, 2_000_000
        voice: Any = container.add_stream(sound, rate=rate_hz, layout="stereo") if sound else None
        for number in range(round(seconds * fps)):
            shown = np.full((size[1], size[0], 3), colour_at(number // fps + first), np.uint8)
            # a picture of one colour alone is blank
            shown[: size[1] // 4, : size[0] // 4] = 255
            frame = av.VideoFrame.from_ndarray(shown, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(pictures.encode(frame))
        container.mux(pictures.encode())
        if voice is not None:
            _speak(container, voice, sound_seconds or seconds, rate_hz, first)
    return path


def _speak(container: Any, voice: Any, seconds: float, rate_hz: int, first: int) -> None:
    time = np.arange(round(seconds * rate_hz)) / rate_hz
    pitch = np.array([tone_at(second + first) for second in range(int(seconds) + 1)])[time.astype(int)]
    wave = (0.4 * np.sin(2 * np.pi * np.cumsum(pitch) / rate_hz)).astype(np.float32)
    # a voice on the left, half as loud on the right
    both = np.stack([wave, wave / 2])
    for start in range(0, both.shape[1], 960):
        piece = np.ascontiguousarray(both[:, start : start + 960])
        frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout="stereo")
        frame.sample_rate, frame.pts, frame.time_base = rate_hz, start, Fraction(1, rate_hz)
        container.mux(voice.encode(frame))
    container.mux(voice.encode())
