"""What every page shares: the Jinja environment, data URIs, numbers for people. Pages are files that need nothing else.

Templates extend `base.html.j2`, which brings the style; `parts.html.j2` has macros. Everything is escaped; only what
`plots` and the functions here return is marked safe.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

import jinja2
import numpy as np
import soundfile
from markupsafe import Markup
from PIL import Image, UnidentifiedImageError

#: a picture on a page is at most this large, a clip this long: a page stays a few MB whatever the data is
PICTURE_SIDE_PX = 160
#: a PNG beyond it (a photograph, noise) is shown as JPEG
PICTURE_BYTES = 24 << 10
CLIP_SECONDS = 8.0
CLIP_RATE_HZ = 16_000

_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("mmgen.report", "templates"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(template: str, context: Mapping[str, Any]) -> bytes:
    """The page of `template` ("data_report.html.j2") over `context`, UTF-8. An undefined name raises."""
    return _ENVIRONMENT.get_template(template).render(context).encode()


def number(value: float | int | None) -> str:
    """A number for people: thousands apart, else four significant digits; '–' for none.

    >>> number(12345), number(0.123456), number(None)
    ('12,345', '0.1235', '–')
    """
    if value is None:
        return "–"
    if isinstance(value, int) or (float(value).is_integer() and abs(value) < 1e15):
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.4g}"


def share(part: float, whole: float) -> str:
    """`part` of `whole` in percent; '–' of nothing.

    >>> share(1, 3), share(1, 0)
    ('33.3%', '–')
    """
    return f"{part / whole:.1%}" if whole else "–"


def size(count: int) -> str:
    """Bytes for people, in binary units.

    >>> size(1536)
    '1.5 KiB'
    """
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:,.0f} {unit}" if unit == "B" else f"{value:,.1f} {unit}"
        value /= 1024
    return f"{value:,.1f} TiB"


def data_uri(data: bytes, mime: str) -> Markup:
    """`data` as a URI that an `src` attribute takes."""
    return Markup(f"data:{mime};base64,{base64.b64encode(data).decode()}")


def picture(data: bytes | np.ndarray[Any, Any]) -> Markup | None:
    """A data URI, shrunk to fit 160 px, of an image file's bytes or of a uint8 array (H, W) or (H, W, 3): PNG or JPEG.

    None if the bytes cannot be read.
    """
    try:
        image = Image.fromarray(data) if isinstance(data, np.ndarray) else Image.open(io.BytesIO(data))
        image = image.convert("L" if image.mode in ("1", "L") else "RGB")
        image.thumbnail((PICTURE_SIDE_PX, PICTURE_SIDE_PX))
    except (OSError, UnidentifiedImageError, ValueError, Image.DecompressionBombError):
        return None
    out = io.BytesIO()
    image.save(out, "PNG", optimize=False)
    if out.tell() <= PICTURE_BYTES:
        return data_uri(out.getvalue(), "image/png")
    out = io.BytesIO()
    image.save(out, "JPEG", quality=80)
    return data_uri(out.getvalue(), "image/jpeg")


def clip(data: bytes, limit_bytes: int | None = None) -> Markup | None:
    """A playable data URI of an audio file's bytes: mono 16-bit WAV of at most 8 s and 16 kHz. None if unreadable.

    limit_bytes: what the URI may take; the sound is cut to it.
    """
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as stream:
            rate = int(stream.samplerate)
            seconds = CLIP_SECONDS
            if limit_bytes is not None:
                # two bytes a sample, four characters for three bytes, and the file's head
                seconds = min(seconds, max(0, limit_bytes - 100) * 3 / 8 / min(rate, CLIP_RATE_HZ))
            wave_NC = stream.read(int(rate * seconds), dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, RuntimeError, ValueError):
        return None
    if not len(wave_NC):
        return None
    return clip_of(*_slower(wave_NC.mean(axis=1), rate))


def _slower(wave_N: np.ndarray[Any, Any], rate_hz: int) -> tuple[np.ndarray[Any, Any], int]:
    """A sound at 16 kHz at most: what lies above 8 kHz is cut from its spectrum."""
    count = round(len(wave_N) * CLIP_RATE_HZ / rate_hz)
    if rate_hz <= CLIP_RATE_HZ or count < 2:
        return wave_N, rate_hz
    spectrum = np.fft.rfft(wave_N)[: count // 2 + 1]
    return np.fft.irfft(spectrum, count) * (count / len(wave_N)), CLIP_RATE_HZ


def clip_of(wave_N: np.ndarray[Any, Any], rate_hz: int) -> Markup:
    """A playable data URI of samples in [-1, 1] at `rate_hz`."""
    out = io.BytesIO()
    soundfile.write(out, np.clip(wave_N[: int(rate_hz * CLIP_SECONDS)], -1, 1), rate_hz, format="WAV", subtype="PCM_16")
    return data_uri(out.getvalue(), "audio/wav")


def shorten(text: str, limit: int = 240) -> str:
    """`text` in at most `limit` characters."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


_ENVIRONMENT.filters.update(number=number, size=size, shorten=shorten)
_ENVIRONMENT.globals.update(share=share)
