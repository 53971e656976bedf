"""Feature shards to batches: order, padding, slices, alternatives, absent slots, resuming."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmgen.batches import NO_LABEL, VALUE, Batch, Loader, Samples, open_samples
from mmgen.errors import IntegrityError
from mmgen.features import FeatureShard
from mmgen.order import order
from tests.feature_sets import LABELS, latents, samples, shard
from tests.tiny_line import copied

TO_VALUE = {"image": lambda compact: compact.float() / 127.5 - 1, "text": lambda compact: compact.long()}


def loader(count: int = 10, batch_size: int = 4, **more: object) -> Loader:
    return Loader(samples([shard(count)]), batch_size=batch_size, to_value=TO_VALUE, **more)  # type: ignore[arg-type]


def real_keys(batches: list[Batch]) -> list[str]:
    rows = [row for batch in batches for row in zip(batch.keys, batch.weights_B.tolist(), strict=True)]
    return [key for key, weight in rows if weight]


@settings(max_examples=40, deadline=None)
@given(count=st.integers(1, 23), batch_size=st.integers(1, 9), seed=st.integers(0, 5))
def test_every_epoch_gives_each_sample_once_and_pads_the_last_batch(count: int, batch_size: int, seed: int) -> None:
    found = loader(count, batch_size, seed=seed)
    for epoch in range(3):
        assert found.epoch == epoch
        batches = [found.next() for _ in range(found.per_epoch)]
        assert sorted(real_keys(batches)) == sorted(found.samples.keys)
        assert {len(batch) for batch in batches} == {batch_size}
        assert sum(int(batch.weights_B.sum()) for batch in batches) == count == found.consumed // (epoch + 1)


def test_the_order_is_a_function_of_seed_and_epoch_that_never_changes() -> None:
    assert sorted(order(100, 1, 2).tolist()) == list(range(100))
    assert not np.array_equal(order(100, 1, 2), order(100, 1, 3))
    assert not np.array_equal(order(100, 1, 2), order(100, 2, 2))
    # golden: another value means that ORDER_VERSION must go up
    assert hashlib.sha256(order(1000, 7, 3).astype("<i8").tobytes()).hexdigest()[:16] == "3e33a547e942c11f"


def test_shuffling_is_global_across_shards() -> None:
    found = Loader(samples([shard(40, "a"), shard(40, "b")]), batch_size=40, to_value=TO_VALUE)
    first = found.next().keys
    assert 8 < sum(key.startswith("a") for key in first) < 32


def test_a_loader_goes_on_from_its_one_integer() -> None:
    whole = loader(11, 4, seed=3)
    batches = [whole.next() for _ in range(9)]
    for stop in range(9):
        again = loader(11, 4, seed=3)
        for _ in range(stop):
            again.next()
        resumed = loader(11, 4, seed=3)
        resumed.consumed = again.consumed
        batch = resumed.next()
        assert batch.keys == batches[stop].keys
        assert torch.equal(batch.values["text"], batches[stop].values["text"])
        assert torch.equal(batch.weights_B, batches[stop].weights_B)


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_take_slices_of_the_same_global_batch(world: int) -> None:
    alone = loader(11, 6)
    ranks = [loader(11, 6, rank=rank, world=world) for rank in range(world)]
    for _ in range(5):
        wanted, parts = alone.next(), [rank.next() for rank in ranks]
        assert [key for part in parts for key in part.keys] == wanted.keys
        assert torch.equal(torch.cat([part.weights_B for part in parts]), wanted.weights_B)
        assert torch.equal(torch.cat([part.values["image"] for part in parts]), wanted.values["image"])
        assert {rank.consumed for rank in ranks} == {alone.consumed}


def test_a_batch_that_cannot_be_shared_out_is_refused() -> None:
    with pytest.raises(IntegrityError, match="multiple of the 3"):
        loader(10, 4, world=3)


def test_one_alternative_is_drawn_per_epoch_and_all_come_in_time() -> None:
    found, seen = loader(9, 9), {number: set() for number in range(9)}  # type: ignore[var-annotated]
    for _ in range(40):
        batch = found.next()
        for key, row in zip(batch.keys, batch.values["text"].tolist(), strict=True):
            assert int(key[1:]) == row[0]
            seen[row[0]].add(row[1])
    assert {number: len(each) for number, each in seen.items()} == {number: 1 + number % 3 for number in range(9)}


def test_without_shuffling_the_order_and_the_first_alternative_stay() -> None:
    found = loader(5, 2, shuffle=False)
    batches = list(found)
    assert real_keys(batches) == [f"a{number}" for number in range(5)]
    assert all((batch.values["text"][:, 1] == 0).all() for batch in batches)
    assert found.consumed == 0


def test_an_absent_slot_is_zeros_with_a_false_mask() -> None:
    some = samples([shard(6, present=lambda number: number % 2 == 0)])
    batch = Loader(some, batch_size=6, to_value=TO_VALUE, shuffle=False).next()
    assert batch.masks["image"].tolist() == [[True], [False]] * 3
    assert batch.values["image"][1::2].abs().max() == 0
    assert batch.values["image"][0].abs().max() > 0


def test_latents_have_a_mask_for_every_token() -> None:
    batch = Loader(Samples([latents(6)]), batch_size=6, shuffle=False).next()
    assert batch.masks["image"].shape == (6, 2)
    assert batch.masks["image"][:, 0].tolist() == [False, True, True] * 2
    assert batch.values["image"][4].unique().item() == 4
    assert (batch.labels_B == NO_LABEL).all()


def test_labels_are_indices_and_unknown_ones_are_none() -> None:
    assert Samples([shard(6)], LABELS).labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert Samples([shard(6)], ("2",)).labels.tolist() == [-1, -1, 0, -1, -1, 0]
    assert (Samples([shard(6)]).labels == NO_LABEL).all()


def test_a_pooled_set_holds_the_slots_one_after_another() -> None:
    base = shard(3)
    two = FeatureShard(
        base.feature_set, "f", "m", base.keys, base.labels, {**base.layouts, "second": base.layouts["image"]},
        {**base.slots, "second": base.slots["image"]},
    )  # fmt: skip
    pooled = Samples([two], LABELS).pooled(["image", "second"], LABELS)
    assert (len(pooled), list(pooled.layouts)) == (6, [VALUE])
    batch = Loader(pooled, batch_size=6, shuffle=False).next()
    assert torch.equal(batch.values[VALUE][:3], batch.values[VALUE][3:])


def test_what_lies_beside_a_slot_is_drawn_with_it() -> None:
    some = samples([shard(8), shard(5, "b")])
    marks = [each.slots["text"].rows[:, None, :2].astype(np.float32) for each in some.shards]
    found = Loader(some.beside("text", "mark", marks), batch_size=4, to_value=TO_VALUE)
    for _ in range(12):
        batch = found.next()
        assert torch.equal(batch.values["mark"][:, 0].long(), batch.values["text"][:, :2])


def test_shards_of_different_layouts_do_not_mix() -> None:
    with pytest.raises(IntegrityError, match="differ"):
        Samples([shard(2), latents(2)])
    with pytest.raises(IntegrityError, match="came none"):
        Samples([])


def test_a_split_is_opened_from_the_store_and_checked(tmp_path: Path) -> None:
    line = copied(tmp_path)
    features = line.made["extract"]
    found = open_samples(line.store, features, "latents", "train")
    assert found is not None
    assert len(found) == line.made["shard"].facts["splits"]["train"]
    assert open_samples(line.store, features, "latents", "nowhere") is None
    entries = [entry for entry in features.by_role("features") if entry.facts["set"] == "latents"]
    line.store.write(entries[0].path, line.store.read(entries[1].path))
    with pytest.raises(IntegrityError, match="wanted"):
        open_samples(line.store, features, "latents", str(entries[0].facts["split"]))
