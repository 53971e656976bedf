"""Captions of `scenes` read backwards."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.scene_captions import scene_of
from mmgen.sources.scenes import ASKED, Fact, captions, combinations


@pytest.mark.parametrize("language", [0, 1], ids=["en", "zh"])
def test_every_scene_is_told_by_each_way_of_saying_it(language: int) -> None:
    for number, scene in enumerate(combinations()):
        said = {captions(scene, np.random.default_rng([number, draw]))[language] for draw in range(8)}
        assert {scene_of(caption) for caption in said} == {scene}


def test_the_order_of_clauses_and_the_spaces_between_words_tell_nothing() -> None:
    assert scene_of("一只猫坐在桌子上，桌子上有一个苹果") == ASKED
    assert scene_of("桌子上有一个苹果，一只猫坐在桌子上") == ASKED
    assert scene_of(" an apple is on the  table, a cat sits on the table") == ASKED
    assert scene_of("a dog is to the right of a cat") == (Fact("cat", "left of", "dog"),)


@pytest.mark.parametrize(
    "caption",
    ["", "a cat", "a cat sits on the table,", "a cat sits on the table, an apple", "an apple sits on the table",
     "一只猫坐在桌子上，一个苹果", "桌子下有一只猫坐"],
)  # fmt: skip
def test_what_is_not_said_so_is_no_scene(caption: str) -> None:
    assert scene_of(caption) is None
