"""`vqa`: every question of a picture, typed and spoken, with the package's own split."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import soundfile
from PIL import Image

from mmgen.errors import UserError
from mmgen.sources import vqa


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vqa.build(tmp_path_factory.mktemp("vqa"), 20)


def rows_of(table: Path) -> list[dict[str, str]]:
    with open(table, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_pictures_questions_answers_and_speech_belong_together(table: Path) -> None:
    rows = rows_of(table)
    assert len({row["key"] for row in rows}) == len(rows) > 200
    known = dict(rows[0])
    assert (known["question"], known["answer"], known["picture"]) == (
        "what is the blue shape?",
        "rectangle",
        "train-0000",
    )
    for row in rows[::17]:
        with Image.open(table.parent / row["image"]) as picture:
            assert picture.size == (64, 64)
        assert soundfile.info(table.parent / row["speech"]).duration > 0.5
    said: dict[str, set[str]] = {}
    for row in rows:
        said.setdefault(row["speech"].split("-")[0], set()).add(row["question"])
    assert all(len(questions) == 1 for questions in said.values())
    there = {f"{folder}/{path.name}" for folder in ("images", "speech") for path in (table.parent / folder).iterdir()}
    assert there == {row[column] for row in rows for column in ("image", "speech")}, "no file that no row names"


def test_a_picture_is_in_one_split_and_the_packages_test_pictures_are_the_test(table: Path) -> None:
    rows = rows_of(table)
    splits: dict[str, set[str]] = {}
    for row in rows:
        splits.setdefault(row["picture"], set()).add(row["split"])
    assert all(len(found) == 1 for found in splits.values())
    assert {name for name, found in splits.items() if found == {"test"}} == {f"test-{at:04d}" for at in range(5)}
    assert sum(found == {"validation"} for found in splits.values()) == 1


@pytest.mark.parametrize("pictures", [5, 4_001])
def test_a_number_of_pictures_that_there_is_not_is_refused(pictures: int, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="pictures: wanted 20 to 4000"):
        vqa.build(tmp_path, pictures)
