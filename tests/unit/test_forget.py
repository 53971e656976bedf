"""Forgetting: a version without the samples, a ledger that ingest looks into, and bytes that go for good."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mmgen
from mmgen import artifact, catalog, steps, tombstones
from mmgen.config import Config
from mmgen.errors import StoreError, UnknownReference, UserError
from mmgen.forget import forget
from mmgen.forgotten import Ledger
from mmgen.holders import find_holders
from mmgen.runtime import Runtime
from mmgen.shards import PLANS
from mmgen.store import Store, sha256
from mmgen.tables import read_parquet
from tests.data_sources import read_table, table_config, write_source, write_table

DATA = ("ingest", "validate", "shard")
ROWS = 40


def made_line(folder: Path, **parts: object) -> tuple[Store, Config]:
    config = table_config(
        write_source(folder / "source", ROWS), shard={"max_samples": 8}, ingest={"batch_rows": 10}, **parts
    )
    store = Store(folder / "store")
    run(config, store)
    return store, config


def run(config: Config, store: Store) -> dict[str, steps.Outcome]:
    return {outcome.step: outcome for outcome in steps.run(config, Runtime(store), DATA)}


def test_a_version_without_the_sample_writes_only_the_shards_that_held_it(tmp_path: Path) -> None:
    store, _ = made_line(tmp_path)
    before = mmgen.open("tiny", store)
    found = forget(store, "tiny", ["s0007"])
    assert found.made is not None
    assert found.made.ref == "dataset:tiny@2"
    after = mmgen.open("tiny", store)
    assert set(before.keys()) - set(after.keys()) == {"s0007"}
    assert after["s0008"].values == before["s0008"].values
    old, new = ({entry.path for entry in each.version.by_role("shard")} for each in (before, after))
    assert len(new - old) == 1
    assert found.made.facts["shards"] == {"shared": len(new & old), "written": 1}
    counts = found.made.facts["counts"]
    assert counts["inputs"] == counts["kept"] + counts["quarantined"] + counts["dropped"] == ROWS
    assert counts["dropped"] == 1
    assert artifact.damaged(store, found.made, rehash=True) == []


def test_a_rewritten_shard_is_the_one_that_a_removed_row_leaves(tmp_path: Path) -> None:
    store, _ = made_line(tmp_path / "one")
    other, config = made_line(tmp_path / "other")
    made = forget(store, "tiny", ["s0007"]).made
    table = Path(config.source.path)
    write_table(table, [row for row in read_table(table) if row["id"] != "s0007"])
    removed = run(config, other)["shard"].artifact
    assert made is not None
    assert {entry.sha256 for entry in made.by_role("shard")} == {entry.sha256 for entry in removed.by_role("shard")}


def test_a_shard_from_before_a_slot_came_is_written_anew_without_it(tmp_path: Path) -> None:
    def silent(rows: list[dict[str, str]], _: Path) -> None:
        for row in rows[:ROWS]:
            row["audio"] = ""

    parts: dict[str, object] = {"shard": {"max_samples": 8}, "ingest": {"batch_rows": 10}}
    store, table = Store(tmp_path / "store"), write_source(tmp_path / "source", ROWS, silent)
    run(table_config(table, source={"audio": None}, **parts), store)
    write_source(tmp_path / "source", ROWS + 10, silent)
    grown = run(table_config(table, **parts), store)["shard"].artifact
    assert grown.facts["shards"]["shared"] > 0
    made = forget(store, "tiny", ["s0007"]).made
    assert made is not None
    assert made.facts["slots"]["audio"]["present"] == grown.facts["slots"]["audio"]["present"] == 10
    assert made.facts["shards"]["written"] == 1
    assert set(mmgen.open("tiny", store)["s0008"].values) == {"text", "image"}
    assert artifact.damaged(store, made, rehash=True) == []


def test_the_next_run_does_not_bring_it_back(tmp_path: Path) -> None:
    store, config = made_line(tmp_path)
    forgot = forget(store, "tiny", ["s0007"])
    outcomes = run(config, store)
    again = outcomes["shard"].artifact
    assert forgot.made is not None
    assert "s0007" not in mmgen.open("tiny", store)
    assert outcomes["ingest"].artifact.circumstance["batches_read"] == 1, "only the batch of the row is read again"
    assert {entry.path for entry in again.by_role("shard")} == {entry.path for entry in forgot.made.by_role("shard")}
    verdicts = outcomes["validate"].artifact
    assert verdicts.facts["reasons"]["dropped"] == {"forgotten": 1}
    table = read_parquet(store, verdicts.file("verdicts").path)
    row = table.row(by_predicate=pl.col("row") == 7, named=True)
    assert (row["verdict"], row["reason"]) == ("dropped", "forgotten")
    assert row["key"] == Ledger.read(store, "tiny").token("s0007")
    assert "s0007" not in table["key"].to_list()
    # and nothing is done a third time
    assert not any(outcome.ran for outcome in run(config, store).values())


def test_a_row_that_comes_back_changed_is_left_out_too(tmp_path: Path) -> None:
    store, config = made_line(tmp_path)
    forget(store, "tiny", ["s0007"])
    table = Path(config.source.path)
    rows = read_table(table)
    rows[7] |= {"caption": "other words", "image": rows[9]["image"]}
    write_table(table, [*rows[:5], *rows[6:], rows[5]])
    run(config, store)
    assert "s0007" not in mmgen.open("tiny", store)
    assert "s0005" in mmgen.open("tiny", store)


def test_a_quarantined_key_can_be_forgotten_and_needs_no_version(tmp_path: Path) -> None:
    path = write_source(tmp_path / "source", ROWS, lambda rows, _: rows[3].update(image="nowhere.png"))
    config, store = table_config(path), Store(tmp_path / "store")
    run(config, store)
    found = forget(store, "tiny", ["s0003"])
    assert found.made is None
    assert "s0003" in found.holders.found
    assert run(config, store)["validate"].artifact.facts["reasons"]["dropped"] == {"forgotten": 1}


def test_forgetting_twice_is_done_once(tmp_path: Path) -> None:
    store, _ = made_line(tmp_path)
    forget(store, "tiny", ["s0007"])
    found = forget(store, "tiny", ["s0007", "s0008"])
    assert found.made is not None
    assert found.made.version == 3
    assert forget(store, "tiny", ["s0008"]).made is None
    assert store.names("forgotten/tiny") == ["1.json", "2.json"]


def test_what_nobody_knows_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    store, _ = made_line(tmp_path)
    before = store.walk()
    with pytest.raises(UnknownReference, match=r"'s007': did you mean 's0[0-9]+'.*no version of tiny has it"):
        forget(store, "tiny", ["s0007", "s007"])
    with pytest.raises(UnknownReference, match=r"did you mean 'tiny'"):
        forget(store, "tinny", ["s0007"])
    with pytest.raises(UserError, match=r"nothing is left"):
        forget(store, "tiny", [f"s{number:04d}" for number in range(ROWS)])
    assert store.walk() == before


def holding(store: Store, *needles: bytes) -> list[str]:
    """Files that have any of these bytes in them."""
    return [path for path in store.walk() if any(needle in store.read(path) for needle in needles)]


def test_purge_leaves_no_byte_and_no_name_of_it(tmp_path: Path) -> None:
    store, config = made_line(tmp_path)
    source = Path(config.source.path).parent
    needles = (b"s0007", (source / "7.png").read_bytes()[-200:], (source / "7.wav").read_bytes()[-2000:])
    digest = sha256((source / "7.png").read_bytes()).encode()
    store.write(f"{PLANS}/tiny/dead-000000.plan.parquet", b"s0007, left by a run that was killed")
    assert holding(store, *needles)
    found = forget(store, "tiny", ["s0007"], purge=True)
    assert found.made is not None
    assert not holding(store, *needles, digest)
    run(config, store)
    assert not [path for path in holding(store, *needles, digest) if not path.startswith("cache/")]
    assert mmgen.open("tiny", store).keys() == mmgen.open("tiny@2", store).keys()


def test_a_staging_that_two_data_sets_share_goes_with_either(tmp_path: Path) -> None:
    store, config = made_line(tmp_path)
    run(config.model_copy(update={"name": "other"}), store)
    assert artifact.names(store, "staging") == ["tiny"]
    forget(store, "other", ["s0007"], purge=True)
    picture = (tmp_path / "source" / "7.png").read_bytes()
    # the other data set has it still, in its own shards alone
    assert holding(store, picture)
    assert all(path.startswith("datasets/tiny/shards/") for path in holding(store, picture))
    run(config, store)
    assert "s0007" in mmgen.open("tiny", store)


def test_a_purged_version_says_so_and_is_not_used_again(tmp_path: Path) -> None:
    store, _ = made_line(tmp_path)
    forget(store, "tiny", ["s0007"], purge=True)
    first = artifact.load(store, "dataset", "tiny", 1)
    missing = {line.removesuffix(": missing") for line in artifact.damaged(store, first)}
    assert missing
    assert missing <= tombstones.purged(store, first)
    assert artifact.find(store, "dataset", "tiny", first.fingerprint) is None
    assert not any("purged-" in path for path, _ in catalog.unreferenced(store)), "a tombstone stays"


def test_a_run_whose_base_is_purged_before_it_writes_ends_well_when_it_is_run_again(tmp_path: Path) -> None:
    table, store = write_source(tmp_path / "source", 24), Store(tmp_path / "store")
    config, whole = table_config(table, shard={"max_samples": 10}), read_table(table)
    write_table(table, whole[:-4])
    run(config, store)
    # rows came since; a purge has told the ledger, and not yet made its version when the run judges them
    write_table(table, whole)
    Ledger.read(store, "tiny").add(["s0003"])
    *_, judged = steps.run(config, Runtime(store), ("ingest", "validate"))
    assert judged.artifact.facts["base"] == "dataset:tiny@1"
    forget(store, "tiny", ["s0003"], purge=True)
    made = run(config, store)["shard"]
    assert made.artifact.facts["counts"]["kept"] == 23
    assert not run(config, store)["shard"].ran
    with mmgen.open(made.artifact.ref, store) as dataset:
        assert set(dataset.keys()) == {f"s{number:04d}" for number in range(24)} - {"s0003"}
        assert all(dataset[key].values for key in list(dataset.keys()))


def test_a_purge_beside_another_says_that_it_is_to_be_run_again(tmp_path: Path) -> None:
    store, _ = made_line(tmp_path)
    base = artifact.load(store, "dataset", "tiny", 1)
    first, second, *_ = base.by_role("facts")
    kept = read_parquet(store, second.path)["key"][0]
    # the other one has deleted a shard of the base, and its version is not the newest yet
    tombstones.put(store, base, {first.path})
    store.delete(first.path)
    with pytest.raises(StoreError, match="purged meanwhile; run the same command again"):
        forget(store, "tiny", [kept])
    # what cannot be made leaves no line behind
    assert Ledger.read(store, "tiny").line_of(kept) is None


def test_an_earlier_forgetting_can_be_purged_later(tmp_path: Path) -> None:
    store, _ = made_line(tmp_path)
    forget(store, "tiny", ["s0007"])
    assert holding(store, b"s0007")
    found = forget(store, "tiny", ["s0007"], purge=True)
    assert found.made is None
    assert found.purged
    assert not holding(store, b"s0007")


def test_holders_are_found_in_every_version(tmp_path: Path) -> None:
    store, config = made_line(tmp_path)
    write_source(tmp_path / "source", ROWS + 5)
    run(config, store)
    holders = find_holders(store, "tiny", {"s0007", "s0042"})
    assert [each.ref for each in holders.datasets] == ["dataset:tiny@2", "dataset:tiny@1"]
    assert holders.found == {"s0007", "s0042"}
    assert len(holders.shards) == 2


# ---------------------------------------------------------------- the ledger


@given(keys=st.sets(st.text(min_size=1), max_size=20), others=st.sets(st.text(min_size=1), max_size=20))
def test_a_ledger_knows_what_it_was_told_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, keys: set[str], others: set[str]
) -> None:
    ledger = Ledger.read(Store(tmp_path_factory.mktemp("ledger")), "tiny").add(keys)
    assert all(ledger.line_of(key) == 1 for key in keys)
    assert not any(ledger.line_of(key) for key in others - keys)


def test_a_ledger_does_not_name_what_it_forgot(tmp_path: Path) -> None:
    store = Store(tmp_path)
    Ledger.read(store, "tiny").add(["some-key"])
    line = store.read("forgotten/tiny/1.json")
    assert b"some-key" not in line
    assert sha256(b"some-key").encode() not in line
    other = Ledger.read(store, "other").add(["some-key"])
    assert other.token("some-key") != Ledger.read(store, "tiny").token("some-key"), "salted"


def test_two_that_write_the_ledger_at_once_lose_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    one, other = Ledger.read(store, "tiny"), Ledger.read(store, "tiny")
    one.add(["a"])
    both = other.add(["b"])
    assert (both.line_of("a"), both.line_of("b")) == (1, 2)
    salts = {json.loads(store.read(f"forgotten/tiny/{number}.json"))["salt"] for number in (1, 2)}
    assert len(salts) == 1


# ---------------------------------------------------------------- gc


def test_gc_deletes_what_nothing_names_once_it_is_old(tmp_path: Path) -> None:
    store, _ = made_line(tmp_path)
    named = set(store.walk())
    store.write("datasets/tiny/shards/train-0.tar", b"left by a run that died")
    assert catalog.collect(store, older_than_seconds=3600) == []
    assert [path for path, _ in catalog.collect(store, older_than_seconds=-1)] == ["datasets/tiny/shards/train-0.tar"]
    assert set(store.walk()) == named
