"""What is told of versions and taken out of them: diff, trace, export."""

from __future__ import annotations

import gc
import json
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest

import mmgen
from mmgen import artifact, steps
from mmgen.artifact import Artifact
from mmgen.config import Config, build
from mmgen.diff import diff, differing
from mmgen.errors import ConfigError, IntegrityError, StoreError, UnknownReference
from mmgen.export import LAYOUTS, export
from mmgen.forget import forget
from mmgen.runtime import Runtime, Silent
from mmgen.store import Store, sha256
from mmgen.tars import TarReader, web_dataset
from mmgen.trace import trace
from tests.data_sources import picture, read_table, table_config, write_source, write_table

DATA = ("ingest", "validate", "shard")
ROWS = 40


def run(config: Config, store: Store) -> Artifact:
    return list(steps.run(config, Runtime(store), DATA))[-1].artifact


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, list[Artifact]]:
    """Two versions: the second lost s0001, has another caption for s0002, another picture for s0003, and five more.

    The first five samples have no picture or sound in the first shards' place: s0005 to s0009 lack their picture.
    """
    folder = tmp_path_factory.mktemp("versions")
    path, store = write_source(folder / "source", ROWS), Store(folder / "store")
    rows = read_table(path)
    for row in rows[5:10]:
        row["image"] = ""
    rows[11]["image"] = "nowhere.png"
    write_table(path, rows)
    made = [run(table_config(path, shard={"max_samples": 8}), store)]
    later = [row for row in read_table(write_source(folder / "source", ROWS + 5)) if row["id"] != "s0001"]
    for row in later:
        row["image"] = "" if row["id"] in {f"s{number:04d}" for number in range(5, 10)} else row["image"]
        row["image"] = "nowhere.png" if row["id"] == "s0011" else row["image"]
        row["caption"] = "other words" if row["id"] == "s0002" else row["caption"]
        row["image"] = "new.png" if row["id"] == "s0003" else row["image"]
    (folder / "source" / "new.png").write_bytes(picture(900))
    write_table(path, later)
    made.append(run(table_config(path, shard={"max_samples": 8}, validate={"near_radius_bits": 4}), store))
    return store, made


# ---------------------------------------------------------------- diff


def test_a_diff_names_what_changed(line: tuple[Store, list[Artifact]]) -> None:
    store, (one, other) = line
    found = diff(store, one, other)
    assert found["removed"] == ["s0001"]
    assert found["added"] == [f"s{number:04d}" for number in range(ROWS, ROWS + 5)]
    assert found["changed"] == [
        {"key": "s0002", "parts": ["text"]}, {"key": "s0003", "parts": ["image"]},
    ]  # fmt: skip
    assert found["samples"] == {"unchanged": ROWS - 4, "added": 5, "removed": 1, "changed": 2, "moved": 0}
    assert found["counts"]["inputs"] == [ROWS, ROWS + 4]
    assert found["shards"]["shared"] > 0
    assert found["settings"] == ["validate.validate.near_radius_bits"]


def test_a_diff_turned_round_is_the_other_way(line: tuple[Store, list[Artifact]]) -> None:
    store, (one, other) = line
    there, back = diff(store, one, other), diff(store, other, one)
    assert (there["added"], there["removed"]) == (back["removed"], back["added"])
    assert diff(store, one, one)["samples"] == {
        "unchanged": len(mmgen.open(one.ref, store)), "added": 0, "removed": 0, "changed": 0, "moved": 0,
    }  # fmt: skip


def test_shared_shards_are_not_read(line: tuple[Store, list[Artifact]], monkeypatch: pytest.MonkeyPatch) -> None:
    store, (one, other) = line
    shared = {entry.path for entry in one.by_role("facts")} & {entry.path for entry in other.by_role("facts")}
    read: list[str] = []
    real = Store.read
    monkeypatch.setattr(Store, "read", lambda self, path: (read.append(path), real(self, path))[1])
    diff(store, one, other)
    assert read
    assert not shared & set(read)


def test_a_diff_counts_in_the_order_of_the_line_and_knows_no_settings_of_forget(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    run(table_config(write_source(tmp_path / "source", 20)), store)
    one = artifact.load(store, "dataset", "tiny", 1)
    other = forget(store, "tiny", ["s0002"]).made
    assert other is not None
    found = diff(store, one, other)
    assert list(found["counts"]) == ["inputs", "kept", "quarantined", "dropped"]
    assert list(found["splits"]) == ["train", "validation", "test"]
    assert (found["removed"], found["settings"]) == (["s0002"], [])


def test_other_alternatives_of_a_text_are_a_change_of_its_slot(tmp_path: Path) -> None:
    store, path = Store(tmp_path / "store"), tmp_path / "t.jsonl"
    made = []
    for also in ("zwei", "deux"):
        rows = [{"id": f"s{number}", "text": [f"one of {number}", f"{also} {number}"]} for number in range(20)]
        path.write_text("\n".join(json.dumps(row) for row in rows))
        made.append(run(build({"name": "t", "source": {"path": str(path), "key": "id", "text": "text"}}), store))
    assert {tuple(each["parts"]) for each in diff(store, *made)["changed"]} == {("text",)}


def test_settings_differ_by_dotted_path() -> None:
    assert differing({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}, "d": 0}) == ["a.c", "d"]


def test_a_purged_version_is_said_to_be_one(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    one = run(table_config(write_source(tmp_path / "source", 20)), store)
    other = forget(store, "tiny", ["s0002"], purge=True).made
    assert other is not None
    with pytest.raises(IntegrityError, match=r"tiny@1: samples of it were purged"):
        diff(store, one, other)


# ---------------------------------------------------------------- trace


def test_a_trace_leads_to_the_very_bytes(line: tuple[Store, list[Artifact]], tmp_path: Path) -> None:
    store, (one, other) = line
    (found,) = trace(store, "s0003", ["tiny"])
    assert [each["ref"] for each in found["versions"]] == [other.ref, one.ref]
    for told, seed in zip(found["versions"], (900, 3), strict=True):
        assert told["verdict"] == "kept"
        member = next(each for each in told["members"] if each["name"].endswith(".png"))
        data = store.read_range(told["shard"], member["offset"], member["length"])
        assert data == picture(seed)
        assert sha256(data) == member["sha256"]
        assert store.exists(told["batch"])
    assert found["versions"][1]["row"] == 3


def test_a_quarantined_sample_is_traced_to_its_reason(line: tuple[Store, list[Artifact]]) -> None:
    store, _ = line
    (found,) = trace(store, "s0011", ["tiny"])
    assert {(each["verdict"], each["reason"]) for each in found["versions"]} == {("quarantined", "file_missing")}
    assert found["versions"][0]["shard"] is None


def test_a_trace_tells_of_further_rows_with_the_key_and_of_the_ledger(tmp_path: Path) -> None:
    store, path = Store(tmp_path / "store"), write_source(tmp_path / "source", 20)
    rows = read_table(path)
    rows[7]["id"] = "s0002"
    write_table(path, rows)
    run(table_config(path), store)
    (found,) = trace(store, "s0002", ["tiny"])
    (version,) = found["versions"]
    assert (version["row"], version["verdict"], found["forgotten"]) == (2, "kept", False)
    assert [(each["row"], each["reason"]) for each in version["others"]] == [(7, "duplicate_key")]
    forget(store, "tiny", ["s0002"])
    assert trace(store, "s0002", ["tiny"])[0]["forgotten"]
    forget(store, "tiny", ["s0002"], purge=True)
    with pytest.raises(UnknownReference, match=r"'s0002' was forgotten .* nothing of it any more"):
        trace(store, "s0002", ["tiny"])


def test_what_nobody_knows_is_answered_with_the_nearest(line: tuple[Store, list[Artifact]]) -> None:
    with pytest.raises(UnknownReference, match=r"'s003': did you mean 's00\d\d'"):
        trace(line[0], "s003", ["tiny"])


def test_a_version_that_forgot_is_traced_without_verdicts(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    run(table_config(write_source(tmp_path / "source", 20)), store)
    forget(store, "tiny", ["s0002"])
    (found,) = trace(store, "s0003", ["tiny"])
    assert [(each["verdict"], each["row"]) for each in found["versions"]] == [("kept", None), ("kept", 3)]
    (found,) = trace(store, "s0002", ["tiny"])
    assert [each["ref"] for each in found["versions"]] == ["dataset:tiny@1"]


# ---------------------------------------------------------------- export


# webdataset leaves its files for the collector to close
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_plain_export_is_read_by_webdataset_and_by_us(line: tuple[Store, list[Artifact]], tmp_path: Path) -> None:
    store, (_, version) = line
    export(store, version, tmp_path / "out", "plain", Silent())
    assert {path.name for path in tmp_path.iterdir()} == {"out"}
    keys = []
    for split in version.facts["splits"]:
        tars = sorted((tmp_path / "out" / split).glob("*.tar"))
        assert [tar.name for tar in tars] == [f"{number:05d}.tar" for number in range(len(tars))]
        keys += [json.loads(row["json"])["key"] for row in web_dataset(tars)]
        gc.collect()
        for tar in tars:
            with TarReader.open(tar) as reader:
                reader.verify()
            stats = json.loads(tar.with_name(f"{tar.stem}_stats.json").read_text())
            assert stats["successes"] == pl.read_parquet(tar.with_suffix(".parquet")).height
    assert sorted(keys) == sorted(mmgen.open(version.ref, store).keys())


def test_hugging_face_reads_an_export_whose_first_samples_lack_a_picture(
    line: tuple[Store, list[Artifact]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    datasets = pytest.importorskip("datasets")
    store, (_, version) = line
    export(store, version, tmp_path / "out", "hf", Silent())
    data = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert {split: len(rows) for split, rows in data.items()} == version.facts["splits"]
    assert isinstance(data["train"].features["image"], datasets.Image)
    assert isinstance(data["train"].features["audio"], datasets.Audio)
    opened = mmgen.open(version.ref, store)
    plain = data["train"].cast_column("audio", datasets.Audio(decode=False))
    lacking = 0
    for row in plain:
        item = opened[row["key"]]
        assert row["text"] == item.values["text"][0]
        assert row["audio"]["bytes"] == item.values["audio"]
        lacking += row["image"] is None
        assert (row["image"] is None) == ("image" not in item.values)
        if row["image"] is not None:
            assert row["image"].size == (28, 28)
    assert lacking


def test_a_parquet_export_keeps_every_byte(line: tuple[Store, list[Artifact]], tmp_path: Path) -> None:
    store, (one, _) = line
    export(store, one, tmp_path / "out", "hf", Silent())
    opened, seen = mmgen.open(one.ref, store), 0
    for path in sorted((tmp_path / "out").glob("*.parquet")):
        for row in pq.read_table(path).to_pylist():
            item, seen = opened[row["key"]], seen + 1
            assert row["label"] == item.label
            assert (row["image"] or {}).get("bytes") == item.values.get("image")
            assert json.loads(row["meta"]) == item.meta
    assert seen == len(opened)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_damaged_shard_leaves_no_folder(layout: str, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    version = run(table_config(write_source(tmp_path / "source", 20), shard={"max_samples": 5}), store)
    tar = Path(store.full(version.by_role("shard")[-1].path))
    with TarReader.open(tar) as reader:
        largest = max(reader.index.members, key=lambda member: member.length)
    data = bytearray(tar.read_bytes())
    data[largest.offset + largest.length // 2] ^= 1
    tar.write_bytes(bytes(data))
    with pytest.raises(IntegrityError):
        export(store, version, tmp_path / "out", layout, Silent())
    assert {path.name for path in tmp_path.iterdir()} == {"store", "source"}


def test_what_is_in_a_folder_stays_unless_forced(line: tuple[Store, list[Artifact]], tmp_path: Path) -> None:
    store, (one, other) = line
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"--force"):
        export(store, one, tmp_path / "out", "plain", Silent())
    with pytest.raises(ConfigError, match=r"did you mean 'plain'"):
        export(store, one, tmp_path / "new", "plan", Silent())
    export(store, other, tmp_path / "out", "plain", Silent(), force=True)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*other.facts["splits"], "README.md"}
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


def test_an_export_never_takes_the_place_of_a_file_the_store_or_where_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    store = Store(home / "store")
    version = run(table_config(write_source(home / "source", 20)), store)
    (home / "file").write_text("mine")
    (home / "deep" / "er").mkdir(parents=True)
    monkeypatch.chdir(home / "deep" / "er")
    before = sorted(tmp_path.rglob("*"))
    for place in (home / "file", home, home / "store", home / "store" / "datasets" / "new", home / "deep", Path("..")):
        with pytest.raises(ConfigError):
            export(store, version, place, "plain", Silent(), force=True)
    with pytest.raises(StoreError, match="could not be written"):
        export(store, version, home / "file" / "below", "plain", Silent())
    assert sorted(tmp_path.rglob("*")) == before
    with pytest.raises(ConfigError, match="would be replaced"):
        export(store, version, Path(), "plain", Silent())
    export(store, version, Path("new"), "plain", Silent())
    assert (home / "deep" / "er" / "new" / "README.md").exists()


def test_an_export_of_what_was_purged_says_so(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    one = run(table_config(write_source(tmp_path / "source", 20)), store)
    forget(store, "tiny", ["s0002"], purge=True)
    with pytest.raises(IntegrityError, match=r"was purged"):
        export(store, one, tmp_path / "out", "plain", Silent())


# ---------------------------------------------------------------- verify


def test_one_changed_byte_in_any_file_is_found(tmp_path: Path) -> None:
    from flows.version_answers import verified

    store = Store(tmp_path / "store")
    run(table_config(write_source(tmp_path / "source", 20)), store)
    clean = verified(store.uri, None, everything=True)
    assert clean["damaged"] == []
    paths = {entry.path for kind in ("staging", "verdicts", "dataset")
             for each in artifact.history(store, kind, "tiny") for entry in each.files}  # type: ignore[arg-type]  # fmt: skip
    assert clean["files"] == len(paths)
    for path in paths:
        data = bytearray(store.read(path))
        data[len(data) // 2] ^= 1
        Path(store.full(path)).write_bytes(bytes(data))
    found = verified(store.uri, None, everything=True)["damaged"]
    assert {line.split(":")[0] for line in found} == paths
    assert any("dataset:tiny@1" in line for line in found)


def test_a_broken_manifest_is_named_beside_all_else(tmp_path: Path) -> None:
    from flows.version_answers import verified

    store = Store(tmp_path / "store")
    one = run(table_config(write_source(tmp_path / "source", 20)), store)
    Path(store.full(one.manifest)).write_text("{")
    verdicts = artifact.load(store, "verdicts", "tiny", 1)
    report = verdicts.file("report")
    store.delete(report.path)
    found = verified(store.uri, None, everything=True)
    assert [line.split(":")[0] for line in found["damaged"]] == [one.manifest, report.path]
    assert (found["artifacts"], found["files"]) == (3, 1 + len(verdicts.files) + len(
        artifact.history(store, "staging", "tiny")[0].files))  # fmt: skip


def test_an_empty_store_is_not_called_whole(tmp_path: Path) -> None:
    from flows.version_answers import traced, verified

    for ask in (lambda uri: verified(uri, None, everything=True), lambda uri: traced(uri, "s0001", None)):
        with pytest.raises(UnknownReference, match=r"wanted a store with .* has none"):
            ask(str(tmp_path / "nowhere"))
    assert not (tmp_path / "nowhere").exists()
