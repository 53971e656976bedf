"""A dataset version to read: by key, and in batches whose order and resuming depend on nothing but the version."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mmgen
from mmgen import artifact, steps
from mmgen.dataset import Dataset, ItemLoader
from mmgen.errors import ConfigError, IntegrityError, UnknownReference
from mmgen.order import window
from mmgen.runtime import Runtime
from mmgen.store import Store
from tests.data_sources import picture, table_config, write_source

ROWS = 60


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Two versions of a small table; the second has further rows, and lacks the first picture."""
    folder = tmp_path_factory.mktemp("dataset")
    made = Store(folder / "store")
    for rows in (ROWS - 10, ROWS):
        path = write_source(folder / "source", rows, lambda records, _: records[0].update(image=""))
        for _ in steps.run(
            table_config(path, shard={"max_samples": 7}), Runtime(made), ("ingest", "validate", "shard")
        ):
            pass
    return made


@pytest.fixture
def dataset(store: Store) -> Dataset:
    return mmgen.open("tiny", store)


def taken(loader: ItemLoader, batches: int) -> list[tuple[str, float]]:
    found = []
    for _ in range(batches):
        batch = loader.next()
        found += list(zip((item.key for item in batch.items), batch.weights_B.tolist(), strict=True))
    return found


def test_the_newest_version_is_opened_and_older_ones_by_number(store: Store) -> None:
    assert mmgen.open("tiny", store).version.version == 2
    assert len(mmgen.open("dataset:tiny@1", store)) < len(mmgen.open("tiny@2", store))
    with pytest.raises(UnknownReference, match="did you mean 'tiny'"):
        mmgen.open("tinny", store)


def test_a_sample_is_found_by_its_key_with_the_bytes_of_its_source(dataset: Dataset) -> None:
    item = dataset["s0007"]
    assert item.values["image"] == picture(7)
    assert item.values["text"] == ("sample 7 of class 2",)
    assert (item.label, item.exts) == ("2", {"image": "png", "audio": "wav"})
    assert "image" not in dataset["s0000"].values
    assert "nobody" not in dataset
    assert sorted(dataset.keys()) == sorted(key for split in dataset.splits for key in dataset.keys(split))
    assert len(dataset.keys()) == len(dataset)


def test_every_sample_comes_once_an_epoch_in_an_order_of_its_own(dataset: Dataset) -> None:
    loader = dataset.loader("train", batch_size=8, seed=3)
    epochs = [taken(loader, len(loader)) for _ in range(2)]
    for rows in epochs:
        real = [key for key, weight in rows if weight]
        assert Counter(real) == Counter(dataset.keys("train"))
        assert len(rows) == len(loader) * 8
    assert epochs[0] != epochs[1]
    assert epochs[0] == taken(dataset.loader("train", batch_size=8, seed=3), len(loader))
    assert epochs[0] != taken(dataset.loader("train", batch_size=8, seed=4), len(loader))


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_share_the_same_global_batches(dataset: Dataset, world: int) -> None:
    whole = dataset.loader("train", batch_size=8)
    ranks = [dataset.loader("train", batch_size=8, rank=rank, world=world) for rank in range(world)]
    for _ in range(2 * len(whole) + 1):
        batch = whole.next()
        parts = [rank.next() for rank in ranks]
        assert [item.key for part in parts for item in part.items] == [item.key for item in batch.items]
        assert np.concatenate([part.weights_B for part in parts]).tolist() == batch.weights_B.tolist()
        assert {rank.consumed for rank in ranks} == {whole.consumed}


@pytest.mark.parametrize("before", [1, 2, 4])
@pytest.mark.parametrize("after", [1, 2, 4])
def test_a_run_goes_on_in_mid_epoch_with_another_number_of_ranks(dataset: Dataset, before: int, after: int) -> None:
    whole = dataset.loader("train", batch_size=8)
    ranks = [dataset.loader("train", batch_size=8, rank=rank, world=before) for rank in range(before)]
    for each in (whole, *ranks):
        taken(each, 4)
    state = ranks[0].state_dict()
    resumed = [dataset.loader("train", batch_size=8, rank=rank, world=after) for rank in range(after)]
    for each in resumed:
        each.load_state_dict(state)
    for _ in range(len(whole)):
        assert taken(whole, 1) == [row for each in resumed for row in taken(each, 1)]


def test_a_state_of_another_version_is_refused(store: Store, dataset: Dataset) -> None:
    state = mmgen.open("tiny@1", store).loader("train", batch_size=4).state_dict()
    with pytest.raises(ConfigError, match=r"dataset:tiny@1.*wanted dataset:tiny@2"):
        dataset.loader("train", batch_size=4).load_state_dict(state)


def test_iterating_gives_the_rest_of_an_epoch(dataset: Dataset) -> None:
    loader = dataset.loader("train", batch_size=8, decode=True)
    loader.next()
    batches = list(loader)
    assert len(batches) == len(loader) - 1
    shapes = {item.values["image"].shape for batch in batches for item in batch.items if "image" in item.values}
    assert shapes == {(28, 28, 1)}
    assert len(list(loader)) == len(loader)


def test_a_damaged_sample_is_not_given_out(store: Store, dataset: Dataset) -> None:
    item = dataset["s0007"]
    path = next(Path(store.full(entry.path)) for entry in dataset.version.by_role("shard")
                if item.values["image"] in Path(store.full(entry.path)).read_bytes())  # fmt: skip
    whole = path.read_bytes()
    try:
        place = whole.index(item.values["image"]) + 60
        os.chmod(path, 0o644)
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(IntegrityError, match="not what its index recorded"):
            mmgen.open("tiny", store)["s0007"]
    finally:
        path.write_bytes(whole)
    assert artifact.damaged(store, dataset.version, rehash=True) == []


@pytest.mark.parametrize(("batch_size", "rank", "world"), [(7, 0, 2), (8, 2, 2), (0, 0, 1)])
def test_uneven_shares_are_refused(dataset: Dataset, batch_size: int, rank: int, world: int) -> None:
    with pytest.raises(ConfigError, match="wanted a batch_size that the ranks share evenly"):
        dataset.loader("train", batch_size=batch_size, rank=rank, world=world)


@settings(max_examples=200)
@given(st.integers(1, 50), st.integers(1, 12), st.sampled_from([1, 2, 3]))
def test_windows_cover_an_epoch_exactly(count: int, part: int, world: int) -> None:
    consumed, seen, batch_size = 0, Counter[int](), part * world
    while consumed < count:
        windows = [window(count, batch_size, consumed, rank, world) for rank in range(world)]
        for each in windows:
            assert len(each.places_B) == part
            seen.update(place for place, weight in zip(each.places_B.tolist(), each.weights_B, strict=True) if weight)
        assert len({each.real for each in windows}) == 1
        consumed += windows[0].real
    assert seen == Counter(range(count))
