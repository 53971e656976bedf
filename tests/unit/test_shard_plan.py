"""What a version shares with its base and what it writes anew: the rules of `plan`."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmgen import shard_plan
from mmgen.decision import split_rank
from mmgen.shard_config import ShardConfig
from mmgen.shard_plan import BaseShard, Plan, plan

ROWS: dict[str, Any] = {"key": pl.String, "split": pl.String, "digest": pl.String, "size": pl.Int64}


def rows(count: int, *, size: int = 100, split: str = "train", start: int = 0) -> pl.DataFrame:
    numbers = range(start, start + count)
    return pl.DataFrame(
        {"key": [f"k{at}" for at in numbers], "split": split, "digest": [f"d{at}" for at in numbers], "size": size},
        schema=ROWS,
    )


def planned(rows: pl.DataFrame, base: list[BaseShard], config: ShardConfig, seed: int) -> Plan:
    return plan(rows, base, config, seed, lambda places_M: rows["size"].to_numpy()[places_M])


def written(made: Plan, rows: pl.DataFrame) -> list[tuple[str, set[str]]]:
    """Split and keys of each shard to write."""
    return [(split, set(rows["key"].gather(places_M)))
            for split, places_M in zip(made.splits, made.places(), strict=True)]  # fmt: skip


def as_base(made: Plan, rows: pl.DataFrame) -> list[BaseShard]:
    return [
        BaseShard(f"shard{number}", split, rows.filter(pl.col("key").is_in(list(keys))).select("key", "digest"))
        for number, (split, keys) in enumerate(written(made, rows))
    ]


def keys_of(made: Plan, rows: pl.DataFrame) -> list[str]:
    return [key for _, keys in written(made, rows) for key in keys]


def test_every_row_is_written_once_within_both_caps() -> None:
    given_rows = pl.concat([rows(1_000), rows(10, split="test", start=1_000)])
    made = planned(given_rows, [], ShardConfig(max_samples=300, max_bytes=25_000), 0)
    assert sorted(keys_of(made, given_rows)) == sorted(given_rows["key"])
    assert max(len(keys) for _, keys in written(made, given_rows)) <= 250
    assert list(made.splits) == ["train"] * 4 + ["test"]


def test_a_row_above_the_byte_cap_stands_alone() -> None:
    given_rows = pl.concat([rows(1, size=999, start=99), rows(4)])
    made = planned(given_rows, [], ShardConfig(max_bytes=250), 0)
    assert ("train", {"k99"}) in written(made, given_rows)
    assert sorted(keys_of(made, given_rows)) == sorted(given_rows["key"])


def test_splits_have_their_least_number_of_shards_where_rows_suffice() -> None:
    given_rows = pl.concat([rows(20), rows(2, split="test", start=20)])
    made = planned(given_rows, [], ShardConfig(min_shards_per_split=4), 0)
    assert list(made.splits) == ["train"] * 4 + ["test"] * 2


def test_the_order_is_shuffled_by_seed_and_by_nothing_else() -> None:
    one, config = rows(100), ShardConfig(max_samples=25)
    other = one.reverse()
    found = written(planned(one, [], config, 0), one)
    assert found == written(planned(other, [], config, 0), other)
    assert found != written(planned(one, [], config, 1), one)
    assert found[0][1] != {f"k{at}" for at in range(25)}


def test_only_new_rows_make_new_shards() -> None:
    old, now, config = rows(100), rows(130), ShardConfig(max_samples=25)
    base = as_base(planned(old, [], config, 0), old)
    measured: list[int] = []

    def measure(places_M: np.ndarray) -> np.ndarray:
        measured.extend(places_M.tolist())
        return np.full(len(places_M), 100)

    made = plan(now, base, config, 0, measure)
    assert made.shared == tuple(shard.digest for shard in base)
    assert sorted(keys_of(made, now)) == sorted(rows(30, start=100)["key"])
    assert measured == list(range(100, 130)), "what stays where it is is not looked at"


def test_a_shard_with_a_changed_or_removed_row_is_written_anew_and_no_other() -> None:
    old, config = rows(100), ShardConfig(max_samples=25)
    base = as_base(planned(old, [], config, 0), old)
    changed, removed = base[0].rows["key"][3], base[2].rows["key"][5]
    now = old.filter(pl.col("key") != removed).with_columns(
        digest=pl.when(pl.col("key") == changed).then(pl.lit("other")).otherwise("digest")
    )
    made = planned(now, base, config, 0)
    assert made.shared == (base[1].digest, base[3].digest)
    assert sorted(keys_of(made, now)) == sorted(key for at in (0, 2) for key in base[at].rows["key"] if key != removed)


def test_a_row_that_moves_to_another_split_leaves_its_shard() -> None:
    old = rows(10)
    base = as_base(planned(old, [], ShardConfig(), 0), old)
    now = old.with_columns(split=pl.when(pl.col("key") == "k3").then(pl.lit("test")).otherwise("split"))
    made = planned(now, base, ShardConfig(), 0)
    assert made.shared == ()
    assert ("test", {"k3"}) in written(made, now)


def test_a_base_of_many_shards_is_looked_up_in_waves(monkeypatch: pytest.MonkeyPatch) -> None:
    old, config = rows(100), ShardConfig(max_samples=10)
    base = as_base(planned(old, [], config, 0), old)
    now = old.filter(pl.col("key") != base[7].rows["key"][0])
    whole = planned(now, base, config, 0)
    monkeypatch.setattr(shard_plan, "WAVE_ROWS", 25)
    assert whole.shared == tuple(each.digest for each in base if each is not base[7])
    for made in (planned(now, base, config, 0), planned(now, list(base), config, 0)):
        assert (made.shared, made.splits) == (whole.shared, whole.splits)
        assert made.shard_N.tolist() == whole.shard_N.tolist()


def plainly(rows: pl.DataFrame, base: list[BaseShard], config: ShardConfig, seed: int) -> tuple[Any, Any]:
    """The rules of `plan`, row by row: what stays, and what is written where."""
    by_key = {row["key"]: row for row in rows.to_dicts()}
    shared, groups, placed = [], [], set[str]()

    def cut(keys: list[str], least: int) -> list[list[str]]:
        order = sorted(keys, key=lambda key: hashlib.sha256(f"{seed}\0shard\0{key}".encode()).digest())
        size = sum(by_key[key]["size"] for key in order)
        count = min(max(-(-len(order) // config.max_samples), -(-size // config.max_bytes), least), len(order))
        found: list[list[str]] = []
        for number in range(count):
            found.append([])
            for key in order[number * len(order) // count : (number + 1) * len(order) // count]:
                if found[-1] and sum(by_key[each]["size"] for each in (*found[-1], key)) > config.max_bytes:
                    found.append([])
                found[-1].append(key)
        return found

    for each in base:
        mine = [(key, by_key[key]) for key in each.rows["key"] if key in by_key and by_key[key]["split"] == each.split]
        placed.update(key for key, _ in mine)
        if each.whole and [(key, row["digest"]) for key, row in mine] == list(each.rows.iter_rows()):
            shared.append(each.digest)
        else:
            groups += cut([key for key, _ in mine], 1)
    for split in sorted({row["split"] for row in by_key.values()}, key=split_rank):
        first = not any(each.split == split for each in base)
        new = [key for key, row in by_key.items() if row["split"] == split and key not in placed]
        groups += cut(new, config.min_shards_per_split if first else 1)
    groups.sort(key=lambda group: split_rank(by_key[group[0]]["split"]))
    return tuple(shared), [(by_key[group[0]]["split"], set(group)) for group in groups]


some_rows = st.dictionaries(
    st.integers(0, 40),
    st.tuples(st.sampled_from(["train", "test", "validation", "other"]), st.integers(0, 2), st.integers(1, 300)),
    max_size=40,
)


@given(
    before=some_rows, after=some_rows, broken=st.sets(st.integers(0, 5)), seed=st.integers(0, 3),
    caps=st.tuples(st.integers(1, 12), st.integers(1, 900), st.integers(1, 4)), order=st.randoms(),
)  # fmt: skip
def test_a_plan_follows_its_rules_in_any_order_and_takes_every_row_once(
    before: dict[int, Any], after: dict[int, Any], broken: set[int], seed: int, caps: tuple[int, int, int], order: Any
) -> None:
    def table(given_rows: dict[int, Any]) -> pl.DataFrame:
        listed = [(f"k{at}", split, f"d{at}-{digest}", size) for at, (split, digest, size) in given_rows.items()]
        return pl.DataFrame(order.sample(listed, len(listed)), schema=ROWS, orient="row")

    config = ShardConfig(max_samples=caps[0], max_bytes=caps[1], min_shards_per_split=caps[2])
    old, now = table(before), table({**before, **after})
    base = [
        BaseShard(each.digest, each.split, each.rows, number not in broken)
        for number, each in enumerate(as_base(planned(old, [], config, 0), old))
    ]
    made = planned(now, base, config, seed)
    assert (made.shared, written(made, now)) == plainly(now, base, config, seed)
    staying = [key for each in base if each.digest in made.shared for key in each.rows["key"]]
    assert sorted(keys_of(made, now) + staying) == sorted(now["key"])
