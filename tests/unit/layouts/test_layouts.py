"""What other tools read of a version: its own folder, and exports of every layout; with their own libraries."""

from __future__ import annotations

import gc
import hashlib
import io
import json
import shutil
import sqlite3
import struct
import subprocess
import tarfile
from collections.abc import Mapping
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

import mmgen
from benchmarks.environments import PEERS, environment
from mmgen import steps
from mmgen.artifact import Artifact
from mmgen.config import build
from mmgen.dataset import Dataset
from mmgen.export import LAYOUTS, export
from mmgen.layouts.img2dataset import SCHEMA
from mmgen.runtime import Runtime, Silent
from mmgen.sources.config import SourceConfig
from mmgen.sources.table import open_source
from mmgen.store import Store
from mmgen.tars import TarIndex, TarReader, key_of, safe_key, web_dataset
from tests.data_sources import read_table, table_config, write_source, write_table
from tests.guards.source import ROOT

DATA = ("ingest", "validate", "shard")
ODD_KEYS = ("__hidden", "__meta__", "a.b/c d", "100%", "ünï", "_one", "x" * 120)
ROWS = 60


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Artifact]:
    """Most samples lack their picture, some their sound, one its text; keys are hard on readers of tars."""
    folder = tmp_path_factory.mktemp("layouts")
    path, store = write_source(folder / "source", ROWS), Store(folder / "store")
    rows = read_table(path)
    for number, row in enumerate(rows):
        row["image"] = row["image"] if number >= 45 else ""
        row["audio"] = "" if number % 10 == 3 else row["audio"]
    rows[59]["caption"] = ""
    for row, key in zip(rows[50:], ODD_KEYS, strict=False):
        row["id"] = key
    write_table(path, rows)
    config = table_config(path, shard={"max_samples": 12})
    return store, list(steps.run(config, Runtime(store), DATA))[-1].artifact


def digests(store: Store, version: Artifact, split: str) -> dict[str, dict[str, str]]:
    """Safe key → part → sha256, as the version's own indexes have them."""
    found: dict[str, dict[str, str]] = {}
    for entry in version.by_role("index"):
        if entry.facts["split"] == split:
            for member in TarIndex.from_bytes(store.read(entry.path), entry.path).members:
                found.setdefault(member.key, {})[member.suffix] = member.sha256
    return found


# ---------------------------------------------------------------- Hugging Face


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return pytest.importorskip("datasets")


def load(hub: Any, folder: Path, cache: Path) -> Any:
    """The data set of a folder by its README alone; sounds as they are, for want of the decoder that hub asks for."""
    features = hub.load_dataset_builder(str(folder), cache_dir=str(cache)).info.features
    assert isinstance(features["wav"], hub.Audio)
    features["wav"] = hub.Value("binary")
    return hub.load_dataset(str(folder), cache_dir=str(cache), features=features)


@pytest.mark.parametrize("layout", ["", "plain", "energon"])
def test_hugging_face_reads_tars_by_their_readme(
    layout: str, line: tuple[Store, Artifact], hub: Any, tmp_path: Path
) -> None:
    """The first samples lack a picture: from them alone the reader would take that there are none, or refuse."""
    store, version = line
    folder = Path(store.full(version.folder))
    if layout:
        folder = tmp_path / "out"
        export(store, version, folder, layout, Silent())
    first = version.by_role("index")[0].path
    stems = [member.name for member in TarIndex.from_bytes(store.read(first), first).members]
    lacking = [name.endswith(".json") and name.replace(".json", ".png") not in stems for name in stems]
    data = load(hub, folder, tmp_path / "cache")
    assert sum(lacking) > 5
    assert {split: len(rows) for split, rows in data.items()} == version.facts["splits"]
    assert isinstance(data["train"].features["png"], hub.Image)
    opened, seen = mmgen.open(version.ref, store), 0
    for rows in data.values():
        for row in rows:
            item, seen = opened[row["json"]["key"]], seen + 1
            assert row["__key__"] == safe_key(item.key)
            assert row["wav"] == item.values.get("audio")
            assert (row["png"] is not None) == ("image" in item.values)
            assert row["txt"] == item.values.get("text", (None,))[0]
            assert row["json"]["label"] == item.label
            assert row["json"]["meta"] == item.meta
            assert (row["json"]["texts"]["text"] or []) == list(item.values.get("text", ()))
    assert seen == len(opened)


def test_without_its_readme_hugging_face_refuses_the_same_tars(
    line: tuple[Store, Artifact], hub: Any, tmp_path: Path
) -> None:
    """What the README is for: if this passes one day, it has one reason less."""
    export(*line, tmp_path / "out", "plain", Silent())
    (tmp_path / "out" / "README.md").unlink()
    files = {"train": str(tmp_path / "out" / "train" / "*.tar")}
    with pytest.raises(ValueError, match="same types"):
        hub.load_dataset("webdataset", data_files=files, cache_dir=str(tmp_path / "cache"))


# ---------------------------------------------------------------- energon


def test_the_offsets_of_energon_cut_a_tar_into_its_samples(line: tuple[Store, Artifact], tmp_path: Path) -> None:
    store, version = line
    export(store, version, tmp_path / "out", "energon", Silent())
    meta = tmp_path / "out" / ".nv-meta"
    counts = json.loads((meta / ".info.json").read_text())["shard_counts"]
    splits = yaml.safe_load((meta / "split.yaml").read_text())["split_parts"]
    assert yaml.safe_load((meta / ".info.yaml").read_text())["shard_counts"] == counts
    assert list(splits) == ["train", "val", "test"]
    assert sorted(name for names in splits.values() for name in names) == sorted(counts)
    assert sum(counts.values()) == len(mmgen.open(version.ref, store))
    with closing(sqlite3.connect(meta / "index.sqlite")) as index:
        parts = index.execute(
            "SELECT tar_file_id, sample_key, part_name, content_byte_offset, content_byte_size FROM samples "
            "JOIN sample_parts USING (tar_file_id, sample_index)"
        ).fetchall()
    bytes_of = [(tmp_path / "out" / name).read_bytes() for name in counts]
    found: dict[str, dict[str, str]] = {}
    for tar, key, part, offset, length in parts:
        found.setdefault(key, {})[part] = hashlib.sha256(bytes_of[tar][offset : offset + length]).hexdigest()
    assert found == {key: each for split in version.facts["splits"]
                     for key, each in digests(store, version, split).items()}  # fmt: skip


def test_between_two_offsets_of_energon_lies_one_whole_sample(line: tuple[Store, Artifact], tmp_path: Path) -> None:
    store, version = line
    export(store, version, tmp_path / "out", "energon", Silent())
    counts = json.loads((tmp_path / "out" / ".nv-meta" / ".info.json").read_text())["shard_counts"]
    with closing(sqlite3.connect(tmp_path / "out" / ".nv-meta" / "index.sqlite")) as index:
        for number, (name, count) in enumerate(counts.items()):
            tar = tmp_path / "out" / name
            raw = tar.with_suffix(".tar.idx").read_bytes()
            offsets = struct.unpack(f"<{len(raw) // 8}Q", raw)
            rows = index.execute(
                "SELECT sample_key, byte_offset, byte_size FROM samples WHERE tar_file_id = ? ORDER BY sample_index",
                (number,),
            ).fetchall()
            assert [(start, stop - start) for start, stop in pairwise(offsets)] == [row[1:] for row in rows]
            assert len(rows) == count
            for key, start, length in rows:
                piece = io.BytesIO(tar.read_bytes()[start : start + length] + bytes(1024))
                with tarfile.open(fileobj=piece, mode="r:") as members:
                    names = members.getnames()
                assert names
                assert {name.split(".")[0] for name in names} == {key}


@pytest.mark.slow
def test_energon_reads_every_sample_and_byte_of_an_export(line: tuple[Store, Artifact], tmp_path: Path) -> None:
    try:
        python = environment(ROOT / ".venv-energon", PEERS / "energon.lock")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no environment for energon: {error}")
    store, version = line
    out = tmp_path / "out"
    export(store, version, out, "energon", Silent())
    splits = {"train": "train", "validation": "val", "test": "test"}
    script = Path(__file__).with_name("energon_reader.py")
    done = subprocess.run([python, script, out, *splits.values()], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert {split: told[name] for split, name in splits.items()} == {
        split: digests(store, version, split) for split in splits
    }
    assert told["train, shuffled"] == dict.fromkeys(told["train"], 3)
    # and what its own tool would write is what is there
    shutil.copytree(out, tmp_path / "own", ignore=shutil.ignore_patterns(".nv-meta", "*.idx"))
    parts = [f"--split-parts={name}:{split}/.*" for split, name in splits.items()]
    prepare = [python.with_name("energon"), "prepare", tmp_path / "own", "--non-interactive", "--no-progress",
               "--num-workers=1", "--sample-type=CrudeWebdataset", *parts]  # fmt: skip
    subprocess.run(prepare, capture_output=True, check=True)
    for path in (tmp_path / "own").rglob("*.idx"):
        assert path.read_bytes() == (out / path.relative_to(tmp_path / "own")).read_bytes()
    assert _prepared(tmp_path / "own") == _prepared(out)


def _prepared(folder: Path) -> tuple[Mapping[str, int], str, set[tuple[Any, ...]]]:
    meta = folder / ".nv-meta"
    counts = json.loads((meta / ".info.json").read_text())["shard_counts"]
    with closing(sqlite3.connect(meta / "index.sqlite")) as index:
        rows = index.execute(
            "SELECT sample_key, sample_index, byte_offset, byte_size, part_name, content_byte_offset, "
            "content_byte_size FROM samples JOIN sample_parts USING (tar_file_id, sample_index)"
        ).fetchall()
    return counts, (meta / "dataset.yaml").read_text(), set(rows)


# ---------------------------------------------------------------- img2dataset


# webdataset leaves its files for the collector to close
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_img2dataset_export_has_its_keys_columns_and_stats(line: tuple[Store, Artifact], tmp_path: Path) -> None:
    store, version = line
    export(store, version, tmp_path / "out", "img2dataset", Silent())
    seen = set()
    with Dataset(store, version) as opened:
        for tar in sorted((tmp_path / "out").rglob("*.tar")):
            table = pl.read_parquet(tar.with_suffix(".parquet"))
            stats = json.loads(tar.with_name(f"{tar.stem}_stats.json").read_text())
            rows = {row["key"]: row for row in table.iter_rows(named=True)}
            assert list(table.columns) == [*SCHEMA, "voice"]
            assert stats["count"] == stats["successes"] == table.height
            assert stats["status_dict"] == {"success": table.height}
            for sample in web_dataset([tar]):
                said, item = json.loads(sample["json"]), opened[key_of(sample["__key__"])]
                assert {**rows[sample["__key__"]], **said} == said | {"voice": item.meta["voice"]}
                assert said["key"] == sample["__key__"]
                assert said["caption"] == item.values.get("text", (None,))[0]
                assert sample.get("png") == item.values.get("image")
                assert sample.get("wav") == item.values.get("audio")
                assert (said["width"], said["original_height"]) == ((28, 28) if "png" in sample else (None, None))
                seen.add(item.key)
            gc.collect()
    assert seen == set(mmgen.open(version.ref, store).keys())


def test_an_export_is_the_same_every_time(line: tuple[Store, Artifact], tmp_path: Path) -> None:
    for layout in LAYOUTS:
        folders = [tmp_path / f"{layout}-{number}" for number in range(2)]
        for folder in folders:
            export(*line, folder, layout, Silent())
        one, other = ({path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
                      for folder in folders)  # fmt: skip
        assert one == other


def test_numbers_in_the_readme_of_a_plain_export_are_those_of_its_tars(
    line: tuple[Store, Artifact], tmp_path: Path
) -> None:
    export(*line, tmp_path / "out", "plain", Silent())
    tars = sorted((tmp_path / "out" / "train").glob("*.tar"))
    assert len(tars) > 1
    assert f'"train/{{00000..{len(tars) - 1:05d}}}.tar"' in (tmp_path / "out" / "README.md").read_text()
    for tar in tars:
        with TarReader.open(tar) as reader:
            reader.verify()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_version_of_texts_or_of_pictures_alone_goes_into_every_layout(layout: str, tmp_path: Path) -> None:
    store, path = Store(tmp_path / "store"), write_source(tmp_path / "source", 12)
    for name, columns in {"texts": {"text": "caption"}, "pictures": {"image": "image"}}.items():
        config = build({"name": name, "source": {"path": str(path), "key": "id", **columns}})
        version = list(steps.run(config, Runtime(store), DATA))[-1].artifact
        export(store, version, tmp_path / name, layout, Silent())
        assert f"# {name}, version 1" in (tmp_path / name / "README.md").read_text()


@pytest.mark.parametrize("layout", ["plain", "energon", "img2dataset"])
def test_an_export_of_tars_is_a_source(layout: str, line: tuple[Store, Artifact], tmp_path: Path) -> None:
    store, version = line
    export(store, version, tmp_path / "out", layout, Silent())
    source = {"kind": "webdataset", "path": str(tmp_path / "out"), "image": "image", "audio": "audio", "text": "text"}
    rows = list(open_source(SourceConfig.model_validate(source), build({"name": "x", "source": source}).slots).rows())
    opened, seen = mmgen.open(version.ref, store), set()
    for row in rows:
        assert row.sample is not None
        # img2dataset's keys are the names of members
        item = opened[key_of(row.sample.key) if layout == "img2dataset" else row.sample.key]
        assert {*row.sample.media, *row.sample.texts} == set(item.values)
        assert row.sample.label == item.label
        seen.add(item.key)
    assert len(seen) == len(rows) == len(opened)
