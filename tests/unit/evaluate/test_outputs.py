"""A directory of outputs: what names say, that every file is counted once, and what is scored of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mmgen.codec_set import CodecSet
from mmgen.errors import ConfigError, UnknownReference
from mmgen.evaluate.against import fitted_beside, judge_directory
from mmgen.evaluate.config import EvaluateConfig
from mmgen.evaluate.exam import Exam, read_exam
from mmgen.evaluate.outputs import NO_KEY, NO_MEDIA, NO_SLOT, REPEATED, UNREADABLE, Place, named, read_outputs
from mmgen.evaluate.step import Court
from mmgen.records import Modality
from mmgen.tars import safe_key
from tests.tiny_line import Line, copied

ROWS = {"k1": 0, "a%2Fb": 1, "007-000": 2}
SLOTS: dict[str, Modality] = {"text": "text", "image": "image", "sketch": "image", "audio": "audio"}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("k1.png", Place("k1", "image", 0)),
        ("k1.sketch.png", Place("k1", "sketch", 0)),
        ("a%2Fb-text.txt", Place("a%2Fb", "text", 1)),
        ("k1-003-audio.wav", Place("k1-003", "audio", 0)),
        ("k1-004-audio.WAV", Place("k1-004", "audio", 0)),
        # as `generate` writes them, whatever keys look like
        ("007-000-image.png", Place("007-000", "image", -1)),
        ("007-000.image.png", Place("007-000", "image", 2)),
        ("1234-000-text.txt", Place("1234-000", "text", -1)),
        ("k2-000-image.png", NO_KEY),
        ("k2.png", NO_KEY),
        ("k1-000-video.png", NO_SLOT),
        ("000-000-text.png", NO_SLOT),
        ("notes.json", NO_MEDIA),
        (".txt", NO_MEDIA),
    ],
)
def test_a_name_says_sample_slot_and_row_or_why_not(name: str, said: Place | str) -> None:
    assert named(name, ROWS, SLOTS) == said


def test_the_only_slot_of_a_modality_needs_no_name() -> None:
    assert named("k1.png", ROWS, {"picture": "image"}) == Place("k1", "picture", 0)
    assert named("k1.png", ROWS, {"one": "image", "other": "image"}) == NO_SLOT


@pytest.fixture
def line(tmp_path: Path) -> Line:
    return copied(tmp_path)


def examined(line: Line) -> tuple[Exam, CodecSet]:
    codecs = CodecSet.load(line.store, line.made["fit"])
    court = Court.of(line.store, line.made["fit"], torch.device("cpu"))
    exam = read_exam(line.store, court.evalset, codecs, "test", "cpu")
    assert exam is not None
    return exam, codecs


def real_files(exam: Exam, folder: Path) -> Path:
    """The exam's own samples as a directory: what a perfect generator would write."""
    folder.mkdir()
    for slot, ending in (("text", "txt"), ("image", "png"), ("audio", "wav")):
        for key, data in zip(exam.real.keys, exam.files[slot], strict=True):
            assert data is not None
            (folder / f"{safe_key(key)}.{ending}").write_bytes(data)
    return folder


def test_every_file_is_judged_or_counted_with_a_reason(line: Line, tmp_path: Path) -> None:
    exam, codecs = examined(line)
    folder = real_files(exam, tmp_path / "made")
    (folder / "deeper").mkdir()
    key = safe_key(exam.real.keys[0])
    for name in (f"deeper/{key}.png", f"{key}-text.txt", "config.json", "nobody.png", "000-000-audio.wav"):
        (folder / name).write_bytes(b"" if name.endswith("wav") else exam.files["image"][0] or b"")
    found = read_outputs(folder, exam, codecs)
    assert found.files == found.matched + sum(map(len, found.unmatched.values())) == 3 * 3 + 5
    counts = {reason: len(names) for reason, names in found.unmatched.items()}
    # of the text, the one that is no text is unreadable or comes second
    assert counts == {REPEATED: 2, NO_MEDIA: 1, NO_KEY: 1, UNREADABLE: 1} or counts == {
        REPEATED: 1, NO_MEDIA: 1, NO_KEY: 1, UNREADABLE: 2
    }  # fmt: skip


def test_real_samples_as_a_directory_reach_the_judges_ceiling(line: Line, tmp_path: Path) -> None:
    exam, _ = examined(line)
    folder = real_files(exam, tmp_path / "made")
    judged = judge_directory(line.store, folder, "tiny", EvaluateConfig(), "cpu")
    rows = {(row.metric, row.made): row for row in judged.rows}
    for slot in ("text", "image", "audio"):
        assert rows["coherence", slot].value == rows["judge_accuracy", slot].value
        assert rows["coherence", slot].given == ""
    assert rows["exact_match", "text"].value == 1.0
    assert rows["chrf", "text"].value == pytest.approx(100)
    assert judged.about["keys"] == 3
    assert judged.about["evalset"] == "evalset:tiny@1"


def test_what_generate_writes_has_no_class_and_its_slots_are_held_against_each_other(
    line: Line, tmp_path: Path
) -> None:
    exam, _ = examined(line)
    folder = tmp_path / "made"
    folder.mkdir()
    for number in range(8):
        for slot, ending in (("text", "txt"), ("image", "png")):
            (folder / f"{number:03d}-000-{slot}.{ending}").write_bytes(exam.files[slot][number % 3] or b"")
    judged = judge_directory(line.store, folder, None, EvaluateConfig(), "cpu")
    metrics = {row.metric for row in judged.rows}
    assert not metrics & {"coherence", "exact_match"}
    (agreement,) = [row for row in judged.rows if row.metric == "joint_coherence"]
    assert (set(agreement.made.split("+")), agreement.n) == ({"text", "image"}, 8)
    assert judged.about["slots"] == {"image": 8, "text": 8}


def test_a_directory_of_nothing_that_fits_says_what_would(line: Line, tmp_path: Path) -> None:
    exam, codecs = examined(line)
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "picture.png").write_bytes(b"x")
    with pytest.raises(UnknownReference, match=r"000-000-\w+\.\w+ or .*1 × no such key \(picture.png\)"):
        read_outputs(tmp_path / "made", exam, codecs)


def test_whose_judges_is_said_or_follows_from_the_store(line: Line) -> None:
    assert fitted_beside(line.store, None) == fitted_beside(line.store, "tiny@1") == line.made["fit"]
    with pytest.raises(UnknownReference, match="tinny"):
        fitted_beside(line.store, "tinny")
    with pytest.raises(ConfigError, match="wanted a data set"):
        fitted_beside(line.store, "model:tiny")
