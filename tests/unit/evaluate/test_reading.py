"""The independent reader: what it is given, what counts as read, and the real program where it is installed."""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from mmgen.batches import Batch
from mmgen.errors import OutsideError
from mmgen.evaluate import reading
from mmgen.evaluate.exam import Exam
from mmgen.evaluate.measure import Made
from mmgen.preprocess.image import ImagePreprocess

HOW = ImagePreprocess(48, channels=1)
LABELS = ("4", "7")
# answers like the program, through the same pipe: what it reads is how dark the picture is
STAND_IN = f"""#!{sys.executable}
import io, sys
from PIL import Image, ImageStat
assert sys.argv[1:] == ["stdin", "stdout", "--psm", "7"], sys.argv
image = Image.open(io.BytesIO(sys.stdin.buffer.read()))
print({{True: " 7", False: "4 "}}[ImageStat.Stat(image).mean[0] > 128])
"""


def written(text: str, paper: int = 0) -> np.ndarray:
    image = Image.new("L", (48, 48), paper)
    ImageDraw.Draw(image).text((14, 4), text, fill=255 - paper, font=ImageFont.load_default(36))
    return np.asarray(image)[:, :, None]


def test_a_page_is_dark_on_light_large_and_has_a_margin() -> None:
    for paper in (0, 255):
        sheet = np.asarray(Image.open(io.BytesIO(reading.page(written("7", paper)))))
        assert min(sheet.shape) >= reading.SIDE_PX + 2 * reading.MARGIN_PX
        assert (sheet[0] == 255).all()
        assert sheet.min() < 64


def test_case_and_spaces_do_not_count() -> None:
    assert reading.reads_as(" Se Ven\n", "seven")
    assert not reading.reads_as("", "7")


def exam(values: torch.Tensor) -> Exam:
    labels = torch.tensor([1, 0, 1, -1])
    masks = {"image": torch.ones(4, 1, dtype=torch.bool)}
    return Exam("test", Batch({"image": values}, masks, labels, torch.ones(4), list("abcd")), {"image": [None] * 4})


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "tesseract"
    path.write_text(STAND_IN)
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    return path


def test_labels_read_are_counted_of_those_that_are_known(program: Path) -> None:
    reader = reading.reader()
    assert not isinstance(reader, str)
    light = torch.full((4, 1, 48, 48), 1.0)
    (real,) = reading.read_real(reader, HOW, LABELS, exam(light), "image")
    assert (real.metric, real.judge, real.value, real.n) == ("read_real", "tesseract", pytest.approx(2 / 3), 3)
    made = Made("text", "image", torch.tensor([1, 0, -1]), light[:3])
    (row,) = reading.read_made(reader, HOW, LABELS, exam(light), made)
    assert (row.metric, row.given, row.value, row.n) == ("read", "text", 0.5, 2)


def test_a_program_that_fails_is_a_fault_outside(program: Path) -> None:
    reader = reading.reader()
    assert not isinstance(reader, str)
    program.write_text("#!/bin/sh\nexit 3\n")
    with pytest.raises(OutsideError, match="tesseract: wanted a text"):
        reader.read(written("7"))


def test_without_the_program_it_is_not_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert reading.reader() == "not run: not installed"


@pytest.mark.skipif(shutil.which("tesseract") is None, reason="tesseract is not installed")
def test_the_real_program_reads_a_digit() -> None:
    reader = reading.reader()
    assert not isinstance(reader, str)
    assert reading.reads_as(reader.read(written("7")), "7")
