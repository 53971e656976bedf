"""What the benches of scenes and vqa count, on samples and answers made by hand."""

from __future__ import annotations

import math
from pathlib import Path

import polars as pl
import pytest

from benchmarks import scenes, vqa
from benchmarks.demo_line import keep, share, tell
from benchmarks.question_truth import Picture
from mmgen.dataset import Item
from mmgen.evaluate import scores
from mmgen.evaluate.scores import Score
from mmgen.sources.scenes import ASKED, Fact

TEAL_CIRCLE, RED_SQUARE = "test-0000", "test-0001"


def asked(number: int, group: str, question: str, answer: str) -> Item:
    return Item(f"vqa-{number}", "test", {"question": (question,), "answer": (answer,)}, {}, None, group, {})


ASKED_OF_TWO = [
    asked(0, TEAL_CIRCLE, "what shape is present?", "circle"),
    asked(1, TEAL_CIRCLE, "what color is the shape?", "teal"),
    asked(2, RED_SQUARE, "is there a red shape?", "yes"),
    asked(3, RED_SQUARE, "is there a circle?", "no"),
]


def values(rows: list[Score]) -> dict[tuple[str, str], float]:
    return {(row.metric, row.given): row.value for row in rows}


def test_answers_are_counted_by_kind() -> None:
    rows = vqa.exact_matches("exact_match", ("image",), ["circle", "red", " yes ", "yes"], ASKED_OF_TWO)
    assert values(rows) == {
        ("exact_match", "image"): 0.5, ("exact_match, yes/no", "image"): 0.5, ("exact_match, colour", "image"): 0.0,
        ("exact_match, shape", "image"): 1.0,
    }  # fmt: skip
    assert [row.n for row in rows] == [4, 2, 1, 1]


def test_the_commonest_answer_is_that_of_training_over_all_and_to_each_question() -> None:
    training = [
        asked(9, "a", "is there a circle?", "no"), asked(8, "b", "is there a circle?", "no"),
        asked(7, "c", "what shape is present?", "circle"),
    ]  # fmt: skip
    found = values(vqa.commonest(training, ASKED_OF_TWO))
    assert found["commonest_answer", ""] == 0.25
    assert found["commonest_answer", "question"] == 0.5


def test_a_made_question_is_right_if_the_given_answer_is_its_true_one() -> None:
    shown = {TEAL_CIRCLE: Picture("circle", "teal"), RED_SQUARE: Picture("rectangle", "red")}
    made = ["what is the teal shape?", "what color is the triangle?", "is no circle present?", "is a is?"]
    found = values(vqa.question_scores(made, ASKED_OF_TWO, shown, ("image", "answer"), resamples=10))
    given = "image+answer"
    assert found["is_question", given] == 0.75
    assert found["question_right", given] == 0.5
    assert found["question_right, yes/no", given] == 0.5
    assert found["question_right, colour", given] == 0.0
    assert found["question_right, shape", given] == 1.0
    assert found["distinct", given] == found["distinct_real", given] == 1.0
    nonsense = vqa.question_scores(["?", "", "no", "no"], ASKED_OF_TWO, shown, ("answer",), resamples=10)
    assert {row.value for row in nonsense} == {0.0}, "nonsense is not distinct either"
    row = vqa.distinct("distinct", (), ["a", "a", "b", "a"], 10)
    assert row.value == 0.5
    assert 0 <= row.low <= row.high <= 1


def test_only_pictures_that_their_questions_settle_are_judged() -> None:
    assert vqa.settled(ASKED_OF_TWO) == {TEAL_CIRCLE: Picture("circle", "teal")}
    more = [*ASKED_OF_TWO, asked(4, RED_SQUARE, "what shape is present?", "rectangle")]
    assert vqa.settled(more)[RED_SQUARE] == Picture("rectangle", "red")


def test_things_and_relations_of_a_picture_are_counted_apart() -> None:
    swapped = (Fact("apple", "under", "table"), Fact("cat", "on", "table"))
    rows = scenes.picture_scores([ASKED, swapped, ()], [ASKED] * 3, "audio", "_asked")
    assert values(rows) == {
        ("things_right_asked", "audio"): pytest.approx(2 / 3), ("scene_right_asked", "audio"): pytest.approx(1 / 3)
    }  # fmt: skip
    assert scenes.picture_scores([], [], "audio") == []


def test_a_caption_that_tells_the_scene_otherwise_is_no_exact_match() -> None:
    said = {"caption_zh": ("一只猫坐在桌子上，桌子上有一个苹果",)}
    item = Item("scene-0", "test", said, {}, None, None, {"scene": "apple on table; cat on table", "language": "zh"})
    other = "桌子上有一个苹果，一只猫坐在桌子上"
    found = values(scenes.caption_scores([other, said["caption_zh"][0]], [item] * 2, "image", "caption_zh", 10))
    assert found["exact_match", "image"] == 0.5
    assert found["scene_told", "image"] == 1.0
    assert 50 < found["chrf", "image"] < 100


def test_a_kept_table_says_by_what_it_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/some/where/benchmarks/vqa.py", "--quick"])
    rows = share("question_right", ("answer",), "question", "question_truth", [True])
    path = tmp_path / "results" / "vqa.parquet"
    keep(path, rows, "model:vqa@1", split="test")
    (row,) = pl.read_parquet(path).to_dicts()
    assert (row["command"], row["model"], row["split"]) == ("python -m benchmarks.vqa --quick", "model:vqa@1", "test")
    assert row["machine"]
    assert [each.name for each in path.parent.iterdir()] == ["vqa.parquet"]


def test_rows_keep_the_contract_and_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = share("scene_right", (), "image", "scene_matcher", [True, False])
    assert scores.to_parquet(rows)
    tell(rows, tmp_path / "x.parquet", as_json=False)
    told = capsys.readouterr().out
    assert "— → image" in told
    assert "0.500" in told
    tell(rows, tmp_path / "x.parquet", as_json=True)
    assert '"metric": "scene_right"' in capsys.readouterr().out
    assert math.isclose(rows[0].low, 0.0945, abs_tol=1e-3)
