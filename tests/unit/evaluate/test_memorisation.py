"""Memorisation: copies are found, new samples are not taken for copies, and the nearest pairs are the nearest."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from mmgen.batches import Samples
from mmgen.evaluate.examples import pair_files
from mmgen.evaluate.measure import Made, Panel
from mmgen.evaluate.memorisation import PAIRS, Training, nearest, shrunk
from mmgen.evaluate.spaces import Features
from mmgen.features import FeatureShard, SlotLayout, SlotRows
from mmgen.preprocess.image import ImagePreprocess
from mmgen.preprocess.text import TextPreprocess, Tokenizer

HOW = ImagePreprocess(8, channels=1)
WORDS = TextPreprocess(Tokenizer.fit(["a"], 262), 6)
NOBODY = Features(Panel({"image": "image", "text": "text"}, {}, {}), None)
FUSED = Features(NOBODY.panel, lambda slot, value: value.flatten(1)[:, :5])


def pixels(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 1, 8, 8), dtype=np.uint8)


def samples(count: int = 60, shards: int = 2) -> Samples:
    made = []
    for number in range(shards):
        rows = pixels(count, number)
        texts = np.zeros((count, 6), dtype=np.int32)
        each = np.arange(count + 1, dtype=np.int32)
        slots = {"image": SlotRows(rows, each), "text": SlotRows(texts, each)}
        layouts = {"image": SlotLayout("image", (1, 8, 8), "uint8"), "text": SlotLayout("text", (6,), "int32")}
        keys = [f"s{number}-{row}" for row in range(count)]
        made.append(FeatureShard("tensors", "f", f"digest{number}", keys, [None] * count, layouts, slots))
    return Samples(made)


def training(limit: int = 1_000, features: Features = NOBODY) -> Training:
    return Training.read(samples(), {"image": HOW, "text": WORDS}, features, limit, 0, "cpu")


def value(rows: np.ndarray) -> Tensor:
    return HOW.value(torch.from_numpy(rows))


def measured(found: Training, made: Tensor, features: Features = NOBODY) -> dict[tuple[str, str], float]:
    real = value(pixels(80, 9))
    rows = found.rows(Made("text", "image", torch.full((len(made),), -1), made), real, features, 50, 0)
    return {(row.metric, row.judge): row.value for row in rows}


def test_copies_of_training_samples_are_memorised_and_new_samples_are_not() -> None:
    copies = value(np.concatenate([pixels(60, 0)[:30], pixels(60, 20)[:30]]))
    found = measured(training(), copies)
    assert found["memorised", "pixels"] == pytest.approx(0.5, abs=0.05)
    assert found["training_distance", "pixels"] < 0.9
    new = measured(training(), value(pixels(60, 20)))
    assert new["memorised", "pixels"] < 0.05
    assert new["training_distance", "pixels"] == pytest.approx(1, abs=0.05)


def test_it_is_looked_for_among_features_too_and_never_among_texts() -> None:
    found = measured(training(features=FUSED), value(pixels(60, 0)), FUSED)
    assert {judge for _, judge in found} == {"fusion", "pixels"}
    assert found["memorised", "fusion"] > 0.9
    assert set(training().spaces) == {"image"}
    texts = torch.zeros((9, 6), dtype=torch.long)
    assert training().rows(Made("image", "text", torch.arange(9), texts), texts, NOBODY, 5, 0) == []


def test_the_nearest_pairs_name_their_training_sample_and_its_shard_once() -> None:
    there = training()
    rows = pixels(60, 1)
    measured(there, value(np.concatenate([rows[7:8], rows[7:8], pixels(20, 30)])))
    measured(there, value(np.concatenate([rows[3:4], pixels(20, 31)])))
    pairs = there.pairs["image"]
    assert len(pairs) == PAIRS
    assert {pair.key for pair in pairs[:2]} == {"s1-7", "s1-3"}
    assert pairs[0].shard == "digest1"
    assert len({pair.key for pair in pairs}) == PAIRS
    files = pair_files(HOW, pairs)
    assert [each.role for each in files] == ["nearest"] * 2 * PAIRS
    assert files[0].data == files[1].data
    assert {each.facts["side"] for each in files} == {"made", "training"}
    assert files[0].facts["shard"] == "digest1"


def test_copies_of_one_training_sample_are_shown_once_and_others_beside_it() -> None:
    there = training()
    measured(there, value(np.concatenate([np.repeat(pixels(60, 1)[7:8], 20, axis=0), pixels(20, 30)])))
    keys = [pair.key for pair in there.pairs["image"]]
    assert (keys[0], len(set(keys))) == ("s1-7", PAIRS)


def test_no_more_training_samples_than_asked_for_are_held() -> None:
    found = training(limit=10)
    assert {len(each) for each in found.spaces["image"].values()} == {10}
    assert np.array_equal(found.places["image"], training(limit=10).places["image"])


def test_values_are_compared_at_32_pixels_and_the_nearest_is_the_nearest() -> None:
    assert shrunk(torch.zeros(2, 3, 64, 48)).shape == (2, 3 * 32 * 32)
    assert shrunk(torch.zeros(2, 80, 20)).shape == (2, 32 * 20)
    distance, place = nearest(torch.tensor([[0.0, 0.0], [5.0, 5.0]]), torch.tensor([[3.0, 4.0], [0.0, 1.0]]))
    assert place.tolist() == [1, 0]
    assert distance.tolist() == pytest.approx([1.0, 5**0.5])
