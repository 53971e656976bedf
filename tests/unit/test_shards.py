"""Shards: what a version shares with its base, what it writes anew, and the bytes themselves (law 5)."""

from __future__ import annotations

import gc
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from mmgen.artifact import Artifact, damaged
from mmgen.errors import IntegrityError
from mmgen.ingest import ingest
from mmgen.runtime import Runtime, map_local
from mmgen.shards import PLANS, shard
from mmgen.store import Store
from mmgen.tars import TarReader, web_dataset
from mmgen.validate import validate
from tests.data_sources import picture, read_table, table_config, write_source, write_table


def run(table: Path, runtime: Runtime, **parts: Any) -> Artifact:
    """The dataset of a source, through all three steps."""
    config = table_config(table, **parts)
    staging = ingest(config, {}, runtime)
    verdicts = validate(config, {"staging": staging}, runtime)
    return shard(config, {"staging": staging, "verdicts": verdicts}, runtime)


def shards_of(made: Artifact) -> set[str]:
    return {entry.path for entry in made.by_role("shard")}


def rows_of(made: Artifact, runtime: Runtime) -> pl.DataFrame:
    return pl.concat(pl.read_parquet(io.BytesIO(runtime.store.read(e.path))) for e in made.by_role("facts"))


def test_a_shard_holds_the_sources_bytes_and_a_json_about_each_row(tmp_path: Path, runtime: Runtime) -> None:
    source = write_source(tmp_path / "source", 30, lambda records, folder: records[4].update(audio="", id="a/b.c ü"))
    made = run(source, runtime)
    found: dict[str, dict[str, bytes]] = {}
    for entry in made.by_role("shard"):
        with TarReader.open(runtime.store.full(entry.path)) as reader:
            reader.verify()
            found |= {key: reader.sample(key) for key in reader.keys()}  # noqa: SIM118
    assert len(found) == 30
    sample = found["s0007"]
    assert sorted(sample) == ["json", "png", "txt", "wav"]
    assert sample["png"] == picture(7)
    assert sample["txt"].decode() == "sample 7 of class 2"
    assert json.loads(sample["json"]) == {
        "key": "s0007", "label": "2", "group": None, "meta": {"voice": "v0"},
        "texts": {"text": ["sample 7 of class 2"]},
    }  # fmt: skip
    odd = found["a%2Fb%2Ec%20%C3%BC"]
    assert sorted(odd) == ["json", "png", "txt"]
    assert json.loads(odd["json"])["key"] == "a/b.c ü"


def test_each_shard_comes_with_facts_of_exactly_its_rows_in_its_order(tmp_path: Path, runtime: Runtime) -> None:
    made = run(write_source(tmp_path / "source", 30), runtime, shard={"max_samples": 7})
    for tar, facts, stats in zip(made.by_role("shard"), made.by_role("facts"), made.by_role("stats"), strict=True):
        table = pl.read_parquet(io.BytesIO(runtime.store.read(facts.path)))
        with TarReader.open(runtime.store.full(tar.path)) as reader:
            assert reader.keys() == table["key"].to_list()
        assert set(table["split"]) == {tar.facts["split"]}
        assert tar.facts["samples"] == table.height == json.loads(runtime.store.read(stats.path))["count"] <= 7
        assert tar.path.endswith(f"/shards/{tar.facts['split']}-{tar.facts['digest']}.tar")
        assert tar.sha256 == tar.facts["digest"]
    assert rows_of(made, runtime).height == 30 == sum(made.facts["splits"].values())


# the library leaves its last file to the collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset_reads_the_shards(tmp_path: Path, runtime: Runtime) -> None:
    made = run(write_source(tmp_path / "source", 20), runtime)
    samples = list(web_dataset([runtime.store.full(entry.path) for entry in made.by_role("shard")]))
    assert len(samples) == 20
    assert {"png", "wav", "txt", "json"} <= set(samples[0])
    gc.collect()


def test_dropped_slots_are_not_written(tmp_path: Path, runtime: Runtime) -> None:
    source = write_source(tmp_path / "source", 20, lambda _, folder: (folder / "8.png").write_bytes(b"junk"))
    made = run(source, runtime, validate={"on_bad_slot": "drop_slot"})
    assert made.facts["slots"]["image"]["present"] == 19
    row = rows_of(made, runtime).row(by_predicate=pl.col("key") == "s0008", named=True)
    assert (row["image.present"], row["image.sha256"], row["image.width"]) == (False, None, None)


def test_further_slots_keep_their_name_in_the_member(tmp_path: Path, runtime: Runtime) -> None:
    slots = {"question": {"modality": "text", "column": "label"}, "picture": {"modality": "image", "column": "image"}}
    source = write_source(tmp_path / "source", 20)
    made = run(source, runtime, source={"image": None}, slots=slots)
    with TarReader.open(runtime.store.full(made.by_role("shard")[0].path)) as reader:
        assert sorted(reader.sample(reader.keys()[0])) == ["json", "picture.png", "question.txt", "txt", "wav"]


def test_an_increment_shares_what_did_not_change(tmp_path: Path, runtime: Runtime) -> None:
    parts = {"shard": {"max_samples": 8}}
    source = write_source(tmp_path / "source", 40)
    first = run(source, runtime, **parts)
    write_source(tmp_path / "source", 50)
    more = run(source, runtime, **parts)
    assert shards_of(first) < shards_of(more)
    assert more.facts["base"] == first.ref
    new = [entry for entry in more.by_role("facts") if entry not in first.by_role("facts")]
    keys = pl.concat(pl.read_parquet(io.BytesIO(runtime.store.read(entry.path))) for entry in new)["key"]
    assert sorted(keys) == [f"s{at:04d}" for at in range(40, 50)]
    records = read_table(source)
    records[3]["caption"] = "something else"
    del records[17]
    write_table(source, records)
    less = run(source, runtime, **parts)
    assert rows_of(less, runtime).height == 49
    touched = {path for path in shards_of(more) if path not in shards_of(less)}
    assert 1 <= len(touched) <= 2
    assert less.facts["shards"]["shared"] == len(shards_of(more)) - len(touched)


def test_reordered_rows_change_no_shard(tmp_path: Path, runtime: Runtime) -> None:
    source = write_source(tmp_path / "source", 30)
    first = run(source, runtime)
    write_table(source, read_table(source)[::-1])
    assert shards_of(run(source, runtime)) == shards_of(first)


def test_other_caps_cut_all_shards_anew(tmp_path: Path, runtime: Runtime) -> None:
    source = write_source(tmp_path / "source", 30)
    run(source, runtime)
    made = run(source, runtime, shard={"max_samples": 5})
    assert made.facts["shards"]["shared"] == 0
    assert max(entry.facts["samples"] for entry in made.by_role("shard")) <= 5


def test_the_readme_names_each_splits_shards_and_its_features(tmp_path: Path, runtime: Runtime) -> None:
    made = run(write_source(tmp_path / "source", 30), runtime)
    text = runtime.store.read(made.file("readme").path).decode()
    head = yaml.safe_load(text.split("---")[1])
    folder = Path(runtime.store.full(made.folder))
    listed = {split["split"]: split["path"] for split in head["configs"][0]["data_files"]}
    assert {split: len(paths) for split, paths in listed.items()} == {"train": 1, "validation": 1, "test": 1}
    assert all((folder / path).resolve().is_file() for paths in listed.values() for path in paths)
    names = [feature["name"] for feature in head["dataset_info"]["features"]]
    assert names == ["__key__", "txt", "png", "wav", "json"]


def test_verdicts_that_keep_rows_that_staging_lost_are_refused(tmp_path: Path, runtime: Runtime) -> None:
    config = table_config(write_source(tmp_path / "source", 20))
    staging = ingest(config, {}, runtime)
    verdicts = validate(config, {"staging": staging}, runtime)
    path = staging.file("facts").path
    out = io.BytesIO()
    pl.read_parquet(io.BytesIO(runtime.store.read(path))).head(15).write_parquet(out)
    runtime.store.write(path, out.getvalue())
    with pytest.raises(IntegrityError, match="20 rows are kept, it has facts of 15"):
        shard(config, {"staging": staging, "verdicts": verdicts}, runtime)


def test_bytes_that_changed_in_staging_are_not_written(tmp_path: Path, runtime: Runtime) -> None:
    config = table_config(write_source(tmp_path / "source", 20))
    staging = ingest(config, {}, runtime)
    verdicts = validate(config, {"staging": staging}, runtime)
    path = staging.file("tar").path
    data = runtime.store.read(path)
    at = data.index(picture(7)[-40:])
    runtime.store.write(path, data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    with pytest.raises(IntegrityError, match=r"are not what was recorded"):
        shard(config, {"staging": staging, "verdicts": verdicts}, runtime)
    assert not runtime.store.walk("datasets/tiny/shards")
    runtime.store.write(path, data[:at])
    with pytest.raises(IntegrityError, match=r"are not what was recorded"):
        shard(config, {"staging": staging, "verdicts": verdicts}, runtime)
    assert not runtime.store.walk(PLANS), "a run that fails takes its plans away"


@pytest.mark.parametrize("role", ["facts", "index", "tar"])
def test_a_lost_file_of_staging_is_named(role: str, tmp_path: Path, runtime: Runtime) -> None:
    config = table_config(write_source(tmp_path / "source", 20))
    staging = ingest(config, {}, runtime)
    verdicts = validate(config, {"staging": staging}, runtime)
    path = staging.file(role).path
    runtime.store.delete(path)
    with pytest.raises(IntegrityError, match=f"{path}: missing; restore it, or run ingest again"):
        shard(config, {"staging": staging, "verdicts": verdicts}, runtime)


def test_an_increment_reads_only_the_batches_of_what_it_writes(tmp_path: Path, runtime: Runtime) -> None:
    parts = {"shard": {"max_samples": 8}, "ingest": {"batch_rows": 10}}
    config = table_config(write_source(tmp_path / "source", 40), **parts)
    run(Path(config.source.path), runtime, **parts)
    write_source(tmp_path / "source", 45)
    staging = ingest(config, {}, runtime)
    verdicts = validate(config, {"staging": staging}, runtime)
    for entry in (*staging.by_role("facts")[:4], *staging.by_role("tar")[:4]):
        runtime.store.delete(entry.path)
    made = shard(config, {"staging": staging, "verdicts": verdicts}, runtime)
    assert made.facts["counts"]["kept"] == 45
    assert made.facts["slots"]["image"]["present"] == 45
    assert damaged(runtime.store, made, rehash=True) == []


def test_two_runs_that_write_the_same_shards_at_once_both_end_well(tmp_path: Path, runtime: Runtime) -> None:
    config = table_config(write_source(tmp_path / "source", 20))
    staging = ingest(config, {}, runtime)
    inputs = {"staging": staging, "verdicts": validate(config, {"staging": staging}, runtime)}
    other: list[Artifact] = []

    def late(what: str, function: Any, arguments: Any, workers: int) -> list[Any]:
        """The other run does all of its work between this one's plans and its tasks."""
        other.append(shard(config, inputs, runtime))
        return map_local(what, function, arguments, workers)

    made = shard(config, inputs, replace(runtime, map=late))
    assert made == other[0]
    assert damaged(runtime.store, made, rehash=True) == []
    assert not runtime.store.walk(PLANS)


def test_a_lost_shard_of_the_base_is_written_anew_in_its_place(tmp_path: Path, runtime: Runtime) -> None:
    parts = {"shard": {"max_samples": 8}}
    first = run(write_source(tmp_path / "source", 40), runtime, **parts)
    lost = first.by_role("shard")[1]
    runtime.store.delete(lost.path)
    second = run(write_source(tmp_path / "source", 45), runtime, **parts)
    assert shards_of(first) < shards_of(second)
    assert damaged(runtime.store, first, rehash=True) == []
    assert second.facts["shards"]["shared"] == len(shards_of(first)) - 1


def test_a_base_whose_facts_are_lost_is_an_error_and_not_new_splits(tmp_path: Path, runtime: Runtime) -> None:
    first = run(write_source(tmp_path / "source", 20), runtime)
    runtime.store.delete(first.by_role("facts")[0].path)
    with pytest.raises(IntegrityError, match="--rebuild"):
        run(write_source(tmp_path / "source", 25), runtime)


def test_another_version_never_changes_the_bytes_of_a_shard_it_shares(tmp_path: Path, store: Store) -> None:
    """Built without a base from reordered rows: the same tars, whose facts an earlier version names by their bytes."""
    source = write_source(tmp_path / "source", 30)
    first = run(source, Runtime(store))
    write_table(source, read_table(source)[::-1])
    second = run(source, Runtime(store, rebuild=True))
    assert shards_of(first) == shards_of(second)
    assert damaged(store, first, rehash=True) == []
    assert damaged(store, second, rehash=True) == []


def test_an_object_store_holds_the_same_version(tmp_path: Path, runtime: Runtime) -> None:
    source = write_source(tmp_path / "source", 20)
    remote = Runtime(Store("memory://bucket/store"))
    assert shards_of(run(source, remote)) == shards_of(run(source, runtime))
