"""Images: sniffed, checked before they are decoded, measured, decoded to arrays, encoded as PNG."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from mmgen.errors import SourceError
from mmgen.modalities.config import CheckConfig
from mmgen.modalities.containers import cut_image
from mmgen.modalities.probing import THUMB_SIDE, Facts, Finding, Probe, Rule, Thumb, active_content, findings, hash64
from mmgen.records import Modality

# the only decoders that foreign bytes reach
FORMATS = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP", "gif": "GIF", "bmp": "BMP", "tif": "TIFF"}
_LEVELS = np.arange(256) / 255

RULES = (
    Rule("zero_bytes", "reject", lambda f, c: "wanted an image, came 0 bytes" if f["bytes"] == 0 else None),
    Rule(
        "too_many_bytes", "reject",
        lambda f, c: f"wanted at most {c.max_image_bytes} bytes, came {f['bytes']}"
        if f["bytes"] > c.max_image_bytes else None,
    ),
    Rule(
        "active_content", "reject",
        lambda f, c: f"wanted an image, came {f['active']}, which can execute or fetch" if f["active"] else None,
    ),
    Rule(
        "not_an_image", "reject",
        lambda f, c: f"wanted one of {', '.join(FORMATS)}, its bytes are none" if f["ext"] is None else None,
    ),
)  # fmt: skip
HEADER_RULES = (
    Rule(
        "too_many_pixels", "reject",
        lambda f, c: f"wanted at most {c.max_image_pixels} pixels, came {f['width']}×{f['height']}"
        if f["width"] * f["height"] > c.max_image_pixels else None,
    ),
    Rule(
        "too_small", "reject",
        lambda f, c: f"wanted sides of at least {c.min_image_side_px} px, came {f['width']}×{f['height']}"
        if min(f["width"], f["height"]) < c.min_image_side_px else None,
    ),
)  # fmt: skip
CONTENT_RULES = (
    Rule(
        "blank", "reject",
        lambda f, c: f"every pixel is alike (standard deviation {f['spread']:.4f} of full scale)"
        if f["spread"] < c.blank_image_std else None,
    ),
    Rule("animated", "flag", lambda f, c: f"{f['frames']} frames, the first is used" if f["frames"] > 1 else None),
)  # fmt: skip


class ImageMedia:
    """Still images. Decoded: (H, W, C) uint8, C = 1 for grey and 3 for colour, upright, transparency over white."""

    name: ClassVar[Modality] = "image"
    extensions: ClassVar[tuple[str, ...]] = tuple(FORMATS)
    facts: ClassVar[Mapping[str, type]] = {
        "width": int, "height": int, "mode": str, "channels": int, "mean": float, "std": float, "phash": str,
    }  # fmt: skip

    def sniff(self, data: bytes) -> str | None:
        """By magic numbers."""
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            return "png"
        if data.startswith(b"\xff\xd8\xff"):
            return "jpg"
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return "webp"
        if data[:6] in (b"GIF87a", b"GIF89a"):
            return "gif"
        if data[:2] == b"BM" and len(data) >= 26:
            return "bmp"
        # the second pair is BigTIFF's
        return "tif" if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+") else None

    def refuse_size(self, size_bytes: int, limits: CheckConfig) -> Finding | None:
        """A finding if so many bytes are more than the cap."""
        found = findings(RULES[1:2], {"bytes": size_bytes}, limits)
        return found[0] if found else None

    def probe(self, data: bytes, limits: CheckConfig) -> Probe:
        """Caps are checked on the header, before any pixel is decoded."""
        ext = self.sniff(data)
        if found := findings(RULES, {"bytes": len(data), "ext": ext, "active": active_content(data)}, limits):
            return Probe(ext, {}, tuple(found[:1]))
        try:
            with _opened(data) as image:
                if found := findings(HEADER_RULES, {"width": image.width, "height": image.height}, limits):
                    return Probe(ext, {}, tuple(found[:1]))
                frames, mode = int(getattr(image, "n_frames", 1)), image.mode
                if cut := cut_image(data, ext):
                    return Probe(ext, {}, (Finding("truncated", "reject", cut),))
                upright = _upright(image)
                facts = _measure(upright) | {"mode": mode}
                # grey that is flat may hide colours of one luminance
                flat = facts["std"] < limits.blank_image_std
                measured = facts | {"frames": frames, "spread": _spread(upright) if flat else facts["std"]}
        except _NotFinite as error:
            return Probe(ext, {}, (Finding("not_finite", "reject", str(error)),))
        except Image.DecompressionBombError as error:
            return Probe(ext, {}, (Finding("too_many_pixels", "reject", str(error)),))
        except UnidentifiedImageError:
            return Probe(ext, {}, (Finding("undecodable", "reject", f"starts like {ext}, but cannot be read as one"),))
        except _Undecodable as error:
            reason = "truncated" if "truncated" in str(error).lower() else "undecodable"
            return Probe(ext, {}, (Finding(reason, "reject", f"{ext} that cannot be decoded: {error}"),))
        return Probe(ext, facts, tuple(findings(CONTENT_RULES, measured, limits)))

    def decode(self, data: bytes) -> NDArray[np.uint8]:
        """(H, W, C) uint8. Raises SourceError."""
        with _decoded(data) as upright:
            pixels = np.array(upright)
        return pixels[:, :, None] if pixels.ndim == 2 else pixels

    def encode(self, value: NDArray[np.uint8]) -> bytes:
        """PNG of (H, W, 1 or 3) uint8."""
        if value.dtype != np.uint8 or value.ndim != 3 or value.shape[2] not in (1, 3):
            raise ValueError(f"image: wanted uint8 (H, W, 1 or 3), came {value.dtype} {value.shape}")
        buffer = io.BytesIO()
        Image.fromarray(value[:, :, 0] if value.shape[2] == 1 else value).save(buffer, format="PNG")
        return buffer.getvalue()

    def thumbnail(self, data: bytes) -> Thumb | None:
        """Grey, in 0..1."""
        with _decoded(data) as upright:
            return _thumb(upright.convert("L"))


class _Undecodable(Exception):
    """Whatever a decoder raised for broken bytes: Pillow's readers let escape nearly any exception (TypeError for a
    TIFF without sides, RuntimeError, struct.error, …), and a list of them is only complete until the next file."""


class _NotFinite(_Undecodable):
    """Pixels that are no numbers."""


@contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    with warnings.catch_warnings():
        # our own cap is checked on the header; Pillow's warnings say nothing that the findings do not
        warnings.simplefilter("ignore")
        try:
            with Image.open(io.BytesIO(data), formats=tuple(FORMATS.values())) as image:
                yield image
        except (MemoryError, UnidentifiedImageError, Image.DecompressionBombError, _Undecodable):
            raise
        except Exception as error:
            raise _Undecodable(f"{error}" or type(error).__name__) from error


@contextmanager
def _decoded(data: bytes) -> Iterator[Image.Image]:
    """What `_upright` gives. Raises SourceError."""
    try:
        with _opened(data) as image:
            yield _upright(image)
    except (_Undecodable, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise SourceError(f"image: wanted one that can be decoded, came {len(data)} bytes: {error}") from error


def _upright(image: Image.Image) -> Image.Image:
    """The picture as it is meant to be seen, grey ("L") or colour ("RGB"); decodes it."""
    image.load()
    # what needs no turning is not copied
    turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    upright = ImageOps.exif_transpose(image) if turned else image
    if upright.mode in ("I;16", "I;16B", "I;16L", "I", "F"):
        wide = np.asarray(upright, dtype=np.float64)
        if not np.isfinite(wide).all():
            raise _NotFinite(f"{int(wide.size - np.isfinite(wide).sum())} pixels are NaN or infinite")
        highest = wide.max(initial=0)
        top = 1.0 if upright.mode == "F" and highest <= 1 else 255.0 if highest <= 255 else 65535.0
        return Image.fromarray(np.clip(np.round(wide * (255 / top)), 0, 255).astype(np.uint8))
    if upright.mode in ("1", "L"):
        return upright.convert("L")
    if "A" in upright.mode or "transparency" in upright.info:
        colour = upright.convert("RGBA")
        white = Image.new("RGBA", colour.size, (255, 255, 255, 255))
        upright = Image.alpha_composite(white, colour)
    return upright if upright.mode == "RGB" else upright.convert("RGB")


def _measure(upright: Image.Image) -> Facts:
    """mean, std: of the luminance of all pixels (ITU-R BT.601, in 0..1), from its histogram: exact, and quick."""
    grey = upright.convert("L")
    mean, std = _moments(grey)
    return {
        "width": upright.width, "height": upright.height, "channels": len(upright.getbands()), "mean": round(mean, 6),
        "std": round(std, 6), "phash": hash64(_thumb(grey)),
    }  # fmt: skip


def _moments(band: Image.Image) -> tuple[float, float]:
    counts = np.array(band.histogram(), dtype=np.float64)
    shares = counts / counts.sum()
    mean = float(shares @ _LEVELS)
    return mean, math.sqrt(float(shares @ (_LEVELS - mean) ** 2))


def _spread(upright: Image.Image) -> float:
    """The largest standard deviation of a band, in 0..1."""
    return max(_moments(band)[1] for band in upright.split())


def _thumb(grey: Image.Image) -> Thumb:
    small = grey.resize((THUMB_SIDE, THUMB_SIDE), Image.Resampling.BOX, reducing_gap=2.0)
    return np.asarray(small, dtype=np.float32) / np.float32(255)
