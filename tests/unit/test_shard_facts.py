"""Rows on their way from batches into shards: dealt out by way of the disk, in the order of the tar."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmgen import shard_facts
from mmgen.errors import StoreError
from mmgen.shard_facts import by_shard
from mmgen.tars import safe_key


@given(shards=st.lists(st.integers(0, 6), min_size=1, max_size=60), parts=st.integers(1, 5), held=st.integers(1, 20))
def test_rows_are_dealt_to_their_shards_in_the_order_of_the_tar(shards: list[int], parts: int, held: int) -> None:
    number = {each: at for at, each in enumerate(sorted(set(shards)))}
    keys = [f"k{at % 7}{'-._ é'[at % 5]}{at}" for at in range(len(shards))]
    table = pl.DataFrame({"key": keys, "shard": [number[each] for each in shards], "value": range(len(shards))})
    tables = [table[at::parts] for at in range(parts) if table[at::parts].height]
    counts_S = np.bincount(table["shard"].to_numpy())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shard_facts, "HELD_ROWS", held)
        dealt = list(by_shard(tables, counts_S, None))
    for at, found in enumerate(dealt):
        mine = [key for key, shard in zip(keys, shards, strict=True) if number[shard] == at]
        assert found["key"].to_list() == sorted(mine, key=lambda key: safe_key(key) + ".")
        assert found["value"].to_list() == [keys.index(key) for key in found["key"]]
    assert len(dealt) == len(number)


def test_a_full_disk_where_rows_wait_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    table = pl.DataFrame({"key": ["a"], "shard": [0]})
    with pytest.raises(StoreError, match=r"could not keep rows in a temporary file in .*file"):
        list(by_shard([table], np.ones(1, np.int64), tmp_path / "file"))
