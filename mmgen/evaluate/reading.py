"""What an independent reader sees written in pictures: Tesseract, where its program is installed.

It is no part of mmgen and of no extra (`apt install tesseract-ocr`); without it its scores are counted as not run.
"""

from __future__ import annotations

import io
import shutil
import subprocess
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mmgen.errors import OutsideError
from mmgen.evaluate import scores
from mmgen.evaluate.exam import Exam
from mmgen.evaluate.intervals import wilson
from mmgen.evaluate.measure import Made, having, labels_of
from mmgen.evaluate.scores import Score, score
from mmgen.preprocess.image import ImagePreprocess

NAME = "tesseract"
#: fewest pixels of a picture's side: Tesseract wants letters of 20 and more
SIDE_PX = 128
MARGIN_PX = 24
SECONDS = 30
#: pictures of a split read at most: a process for each, about 0.1 s
PICTURES = 100


class Reader(Protocol):
    """Reads what is written in a picture."""

    def read(self, pixels_HWC: NDArray[np.uint8]) -> str:
        """The text seen; empty if none is."""
        ...


class Tesseract:
    """The program `tesseract`, told that a picture holds one line (page segmentation 7)."""

    def __init__(self, program: str) -> None:
        self.program = program

    def read(self, pixels_HWC: NDArray[np.uint8]) -> str:
        """See Reader. Raises OutsideError if the program fails."""
        command = [self.program, "stdin", "stdout", "--psm", "7"]
        try:
            done = subprocess.run(command, input=page(pixels_HWC), capture_output=True, timeout=SECONDS, check=True)
        except (OSError, subprocess.SubprocessError) as error:
            raise OutsideError(f"{self.program}: wanted a text, it failed: {error}") from error
        return done.stdout.decode("utf-8", "replace").strip()


def page(pixels_HWC: NDArray[np.uint8]) -> bytes:
    """A picture as Tesseract reads best: a PNG of dark on light, enlarged, with a margin."""
    image = Image.fromarray(pixels_HWC[:, :, 0] if pixels_HWC.shape[2] == 1 else pixels_HWC).convert("L")
    grey = np.asarray(image)
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    if np.median(border) < 128:
        image = Image.fromarray(255 - grey)
    scale = -(-SIDE_PX // min(image.size))
    image = image.resize((image.width * scale, image.height * scale), Image.Resampling.BICUBIC)
    ground = int(np.median(np.asarray(image)[0]))
    sheet = Image.new("L", (image.width + 2 * MARGIN_PX, image.height + 2 * MARGIN_PX), ground)
    sheet.paste(image, (MARGIN_PX, MARGIN_PX))
    sink = io.BytesIO()
    sheet.save(sink, "PNG")
    return sink.getvalue()


def reader() -> Reader | str:
    """The reader that is installed, or why there is none, as "not run: …"."""
    program = shutil.which(NAME)
    return "not run: not installed" if program is None else Tesseract(program)


def reads_as(seen: str, label: str) -> bool:
    """Whether a text seen is the label, but for case and spaces."""
    return "".join(seen.split()).casefold() == "".join(label.split()).casefold()


def read_made(reader: Reader, how: ImagePreprocess, labels: tuple[str, ...], exam: Exam, made: Made) -> list[Score]:
    """Share of made pictures in which the reader sees the label of their condition."""
    hits, count = _seen(reader, how, made.value, labels_of(exam.real, made.rows), labels)
    return [score(scores.READ, [made.given], [made.slot], NAME, wilson(hits, count))] if count else []


def read_real(reader: Reader, how: ImagePreprocess, labels: tuple[str, ...], exam: Exam, slot: str) -> list[Score]:
    """The same on real pictures, as the model sees them: the reader's own ceiling."""
    rows = having(exam.real, slot)
    hits, count = _seen(reader, how, exam.real.values[slot][rows], exam.real.labels_B[rows], labels)
    return [score(scores.READ_REAL, [], [slot], NAME, wilson(hits, count))] if count else []


def _seen(
    reader: Reader, how: ImagePreprocess, value: Tensor, asked_N: Tensor, labels: tuple[str, ...]
) -> tuple[int, int]:
    """(pictures read as their label, pictures with a label) of the first ones."""
    places = (asked_N >= 0).nonzero().squeeze(1)[:PICTURES]
    pictures = how.pixels(value[places].detach().cpu()).permute(0, 2, 3, 1).numpy()
    wanted = [labels[label] for label in asked_N[places].tolist()]
    return sum(reads_as(reader.read(each), label) for each, label in zip(pictures, wanted, strict=True)), len(wanted)
