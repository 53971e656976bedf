"""The grammar of easy-vqa's questions, against all that the package asks and answers."""

from __future__ import annotations

import json
from collections import defaultdict

import pytest

from benchmarks.question_truth import Picture, Question, kind_of, parse, pictures
from mmgen.sources.espeak import package_folder


@pytest.mark.parametrize("part", ["train", "test"])
def test_every_answer_of_the_package_is_true_for_a_picture_that_is_mostly_settled(part: str) -> None:
    table = package_folder("easy_vqa", "this test") / "data" / part / "questions.json"
    asked: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for question, answer, number in json.loads(table.read_text(encoding="utf-8")):
        asked[number].append((question, answer))
        read = parse(question)
        assert read is not None, question
        assert read.asks == kind_of(answer)
    possible = [len(pictures(each)) for each in asked.values()]
    assert min(possible) == 1, "no picture contradicts itself"
    assert sum(count == 1 for count in possible) > 0.85 * len(possible)


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("what is the color of the shape?", "teal"), ("what color is the circle?", "teal"),
        ("what color is the triangle?", None), ("what is the teal shape?", "circle"), ("what is the red shape?", None),
        ("what shape is present?", "circle"), ("is there a teal shape?", "yes"), ("is there not a teal shape?", "no"),
        ("is no triangle present?", "yes"), ("is a triangle present?", "no"),
        ("does the image not contain a red shape?", "yes"), ("does the image contain a circle?", "yes"),
    ],
)  # fmt: skip
def test_the_true_answer_for_a_teal_circle(question: str, answer: str | None) -> None:
    read = parse(question)
    assert read is not None
    assert read.answer(Picture("circle", "teal")) == answer


@pytest.mark.parametrize(
    "text", ["", "what?", "is there a teal circle?", "what is the teal shape", "is there is a circle?", "teal"]
)
def test_what_the_package_never_asks_is_no_question(text: str) -> None:
    assert parse(text) is None


def test_what_is_asked_is_told_apart() -> None:
    assert parse("is no red shape present?") == Question("yes/no", None, "red", negated=True)
    assert pictures([("what shape is present?", "circle")]) == [
        Picture("circle", colour)
        for colour in ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")
    ]  # fmt: skip
    assert pictures([("what shape is present?", "circle"), ("is there a red shape?", "yes")]) == [
        Picture("circle", "red")
    ]
    assert pictures([("nonsense", "yes")]) == []
    with pytest.raises(ValueError, match="came 'purple'"):
        kind_of("purple")
