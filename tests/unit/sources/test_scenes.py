"""`scenes`: what captions say is what pictures show, and training never sees what is held out."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from mmgen.errors import UserError
from mmgen.sources import scenes
from mmgen.sources.scenes import ASKED, FONT, SIZE_PX, THINGS, Fact

needs_font = pytest.mark.skipif(not Path(FONT).is_file(), reason="the emoji font is not installed")


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_every_scene_is_there_once_and_some_are_held_out() -> None:
    every = scenes.combinations()
    assert len(every) == len(set(every)) == 60 + 90 + 45 * 3 * 4
    assert ASKED in every
    held = [scene for scene in every if scenes.held_out(scene)]
    assert ASKED in held
    assert 0.1 < len(held) / len(every) < 0.3
    # every thing and support is seen in training, alone or with others
    seen = {name for scene in every if not scenes.held_out(scene) for name in scenes.things_of(scene)}
    assert seen == {*THINGS, *scenes.SUPPORTS}


def test_both_languages_say_the_same_and_the_asked_sentence_is_among_them() -> None:
    said = {scenes.captions(ASKED, rng(seed)) for seed in range(40)}
    assert ("a cat sits on the table, an apple is on the table", "一只猫坐在桌子上，桌子上有一个苹果") in said
    for scene in scenes.combinations():
        en, zh = scenes.captions(scene, rng(1))
        for name in scenes.things_of(scene):
            known = THINGS.get(name) or scenes.SUPPORTS[name]
            assert known.en in en
            assert known.zh in zh
    # one English way of saying a clause has one Chinese way
    pairs = {scenes.captions((Fact("cat", "left of", "dog"),), rng(seed)) for seed in range(20)}
    assert pairs == {
        ("a cat is to the left of a dog", "一只猫在一只狗的左边"),
        ("a dog is to the right of a cat", "一只狗在一只猫的右边"),
    }


@needs_font
@pytest.mark.parametrize("scene", scenes.combinations()[::23], ids=lambda scene: "; ".join(map(str, scene)))
def test_things_stand_where_the_relation_says(scene: scenes.Scene) -> None:
    placed = {each.name: each for each in scenes.layout(scene, rng(4))}
    for fact in scene:
        thing, other = placed[fact.thing], placed[fact.to]
        match fact.relation:
            case "on":
                assert thing.foot < other.foot - 10
            case "under":
                assert thing.foot > other.foot - 5
            case "left of":
                assert thing.x < other.x
    picture = scenes.render(list(placed.values()), (250, 250, 250))
    assert picture.shape == (SIZE_PX, SIZE_PX, 3)
    without = scenes.render([each for each in placed.values() if each.name != scene[0].thing], (250, 250, 250))
    assert (picture != without).any(axis=2).sum() > 60, "each thing shows"


@needs_font
def test_a_rebuild_is_byte_identical_and_the_test_split_has_what_training_has_not(tmp_path: Path) -> None:
    first, second = (scenes.build(tmp_path / name, 24) for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()
    with open(first, encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    for row in rows:
        for column in ("image", "audio"):
            assert (tmp_path / "a" / row[column]).read_bytes() == (tmp_path / "b" / row[column]).read_bytes()
    by_name = {"; ".join(map(str, scene)): scene for scene in scenes.combinations()}
    assert all(scenes.held_out(by_name[row["scene"]]) == (row["split"] == "test") for row in rows)
    assert {row["split"] for row in rows} == {"train", "validation", "test"}
    assert next(row for row in rows if row["split"] == "test")["scene"] == "apple on table; cat on table"
    with Image.open(tmp_path / "a" / rows[0]["image"]) as picture:
        assert picture.size == (SIZE_PX, SIZE_PX)
    assert 0.5 < soundfile.info(tmp_path / "a" / rows[0]["audio"]).duration < 6


def test_too_few_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least 20"):
        scenes.build(tmp_path, 3)
