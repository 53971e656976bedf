from __future__ import annotations

import csv
import hashlib
import importlib.util
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from PIL import Image

from mmgen.errors import OutsideError, StoreError, UserError
from mmgen.sources import espeak, spoken_digits
from mmgen.sources.spoken_digits import Manner

needs_demo = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("espeakng_loader", "mlxtend")),
    reason="the extra `demo` is not installed",
)


def digests(root: Path) -> dict[str, str]:
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return spoken_digits.build(tmp_path_factory.mktemp("spoken"), rows=40)


def rows_of(table: Path) -> list[dict[str, str]]:
    with open(table, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@needs_demo
def test_rebuild_is_byte_identical_and_fewer_rows_are_a_prefix(built: Path, tmp_path: Path) -> None:
    again = digests(spoken_digits.build(tmp_path / "again", rows=40).parent)
    assert again == digests(built.parent)
    fewer = digests(spoken_digits.build(tmp_path / "fewer", rows=7).parent)
    fewer.pop("pairs.csv")
    assert fewer.items() <= again.items()


@needs_demo
def test_first_ten_rows_hold_all_classes_and_every_file_is_what_the_table_says(built: Path) -> None:
    rows = rows_of(built)
    assert tuple(rows[0]) == spoken_digits.COLUMNS
    assert {row["label"] for row in rows[:10]} == set("0123456789")
    for row in rows:
        with Image.open(built.parent / row["image"]) as image:
            assert (image.size, image.mode) == ((28, 28), "L")
        samples, rate = soundfile.read(built.parent / row["audio"], dtype="int16")
        assert rate == 16_000
        assert 0.2 < len(samples) / rate <= 1.0
        assert 20_000 < np.abs(samples.astype(int)).max() < 24_000


@needs_demo
def test_captions_say_the_digit_and_the_voice_of_their_row(built: Path) -> None:
    for row in rows_of(built):
        words = row["caption"].split()
        digit = int(row["label"])
        said = [word for word in words if word in spoken_digits.WORDS or word.isdigit()]
        assert said in ([spoken_digits.WORDS[digit]], [str(digit)])
        named = {voice.lower() for voice in spoken_digits.VOICES} & set(words)
        assert named <= {row["voice"].lower()}


def test_caption_attributes_follow_the_measures() -> None:
    upright = np.zeros((28, 28), dtype=np.uint8)
    upright[4:24, 12:14] = 255
    leaning = np.zeros((28, 28), dtype=np.uint8)
    for y in range(4, 24):
        x = 18 - (y - 4) // 2
        leaning[y, x : x + 6] = 255
    slow = Manner("Alex", 120, 40)
    fast = Manner("default", 180, 60)
    assert spoken_digits.caption("{a_stroke} {digit} {leans}", 1, False, upright, slow) == "a thin one stands upright"
    assert spoken_digits.caption("{a_stroke} {digit} {leans}", 1, True, leaning, slow) == "a thick 1 leans right"
    assert spoken_digits.slant(leaning[:, ::-1]) < -spoken_digits.UPRIGHT
    assert spoken_digits.caption("{voice} {pace} {pitch}", 1, True, upright, slow) == "alex slowly low"
    assert spoken_digits.caption("{voice} {pace} {pitch}", 1, True, upright, fast) == "the default speaker quickly high"


def test_trim_cuts_silence_and_never_exceeds_a_second() -> None:
    rng = np.random.default_rng(0)
    word = np.concatenate([np.zeros(8000), rng.normal(0, 0.2, 4000), np.zeros(8000)])
    assert 4000 <= len(spoken_digits.trim(word)) <= 4000 + 2 * 640
    assert len(spoken_digits.trim(rng.normal(0, 0.2, 40_000))) == 16_000


def test_resample_keeps_a_tone_and_removes_what_does_not_fit() -> None:
    time = np.arange(22_050) / 22_050
    low = espeak.resample(np.sin(2 * np.pi * 1000 * time), 22_050, 16_000)
    wanted = np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000)
    assert len(low) == 16_000
    assert np.abs(low - wanted)[500:-500].max() < 0.02
    high = espeak.resample(np.sin(2 * np.pi * 10_000 * time), 22_050, 16_000)
    assert np.abs(high)[500:-500].max() < 0.02


@pytest.mark.parametrize("missing", ["mlxtend", "espeakng_loader"])
def test_missing_extra_says_what_to_install(missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    present = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else present)
    with pytest.raises(UserError, match=rf"'{missing}'.*pip install 'mmgen\[demo\]'"):
        spoken_digits.build(tmp_path / "out", rows=3)


@pytest.mark.parametrize("rows", [0, 5001])
def test_rows_out_of_range_are_refused(rows: int, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="1 to 5000"):
        spoken_digits.build(tmp_path, rows=rows)


@needs_demo
def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="could not write below"):
        spoken_digits.build(tmp_path / "file", rows=1)


def die(root: str, first: int, end: int) -> None:
    os._exit(1)


@needs_demo
def test_a_speaker_that_dies_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spoken_digits, "_write_rows", die)
    with pytest.raises(OutsideError, match="process died"):
        spoken_digits.build(tmp_path, rows=1)


@needs_demo
def test_unknown_voice_is_refused() -> None:
    with espeak.Speaker() as speaker, pytest.raises(UserError, match="no voice 'xx-nobody'"):
        speaker.say("one", voice="xx-nobody", words_per_minute=150, pitch=50)
