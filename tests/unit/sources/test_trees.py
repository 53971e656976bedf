"""ImageFolder trees and saved Hugging Face data sets."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from mmgen import config as configs
from mmgen.errors import ConfigError, SourceError
from mmgen.ingest import ingest
from mmgen.records import Sample
from mmgen.runtime import Runtime
from mmgen.sources.rows import Row
from mmgen.sources.table import open_source
from mmgen.staging import read_facts
from mmgen.store import Store
from tests.unit.sources.media import png, wav


def rows_of(path: Path, **source: Any) -> list[Row]:
    made = configs.build({"name": "x", "source": {"path": str(path), **source}})
    return list(open_source(made.source, made.slots).rows())


def samples_of(path: Path, **source: Any) -> dict[str, Sample]:
    return {row.sample.key: row.sample for row in rows_of(path, **source) if row.sample is not None}


def tree(folder: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number))
    return folder


# ---------------------------------------------------------------- ImageFolder


def test_classes_are_labels(tmp_path: Path) -> None:
    tree(tmp_path, "cat/1.png", "cat/2.jpg", "images/deep/3.png", "top.png")
    found = samples_of(tmp_path, kind="image_folder")
    assert {key: sample.label for key, sample in found.items()} == {
        "cat/1": "cat", "cat/2": "cat", "images/deep/3": "images", "top": None,
    }  # fmt: skip
    assert {sample.split for sample in found.values()} == {None}


def test_first_folders_are_splits_if_all_have_a_splits_name(tmp_path: Path) -> None:
    tree(tmp_path, "train/cat/1.png", "val/cat/1.png", "test/dog/1.png")
    found = samples_of(tmp_path, kind="image_folder")
    assert {key: (sample.split, sample.label) for key, sample in found.items()} == {
        "train/cat/1": ("train", "cat"), "val/cat/1": ("val", "cat"), "test/dog/1": ("test", "dog"),
    }  # fmt: skip
    tree(tmp_path, "extra/cat/1.png")
    assert {sample.label for sample in samples_of(tmp_path, kind="image_folder").values()} == {
        "train", "val", "test", "extra",
    }  # fmt: skip


def test_captions_sounds_and_json_beside_a_picture_belong_to_it(tmp_path: Path) -> None:
    tree(tmp_path, "cat/1.png", "cat/2.png")
    (tmp_path / "cat" / "1.txt").write_text("a cat")
    (tmp_path / "cat" / "1.wav").write_bytes(wav(1))
    (tmp_path / "cat" / "2.json").write_text(json.dumps({"label": "lynx", "text": "a lynx"}))
    found = samples_of(tmp_path, kind="image_folder")
    assert found["cat/1"].texts == {"text": ("a cat",)}
    assert set(found["cat/1"].media) == {"image", "audio"}
    assert (found["cat/2"].label, found["cat/2"].texts["text"]) == ("lynx", ("a lynx",))


def test_the_tree_goes_through_the_line_with_its_splits(tmp_path: Path) -> None:
    tree(tmp_path / "source", "train/a/1.png", "train/b/2.png", "valid/a/3.png", "test/a/4.png")
    made = configs.build({"name": "x", "source": {"kind": "image_folder", "path": str(tmp_path / "source")}})
    store = Store(tmp_path / "store")
    facts = read_facts(store, ingest(made, {}, Runtime(store)))
    assert facts.select("key", "split", "label").rows() == [
        ("test/a/4", "test", "a"), ("train/a/1", "train", "a"), ("train/b/2", "train", "b"),
        ("valid/a/3", "valid", "a"),
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["folder", "image_folder"])
def test_folders_that_link_in_a_circle_or_out_are_not_followed(kind: str, tmp_path: Path) -> None:
    tree(tmp_path / "outside", "secret.png")
    inside = tree(tmp_path / "in", "cat/1.png")
    os.symlink(inside, inside / "cat" / "again")
    os.symlink(tmp_path / "outside", inside / "out")
    os.symlink(tmp_path / "outside" / "secret.png", inside / "cat" / "2.png")
    rows = rows_of(inside, kind=kind)
    assert [row.sample.key for row in rows if row.sample is not None and row.sample.media] == ["cat/1"]
    refused = [each.reason for row in rows for each in row.rejections]
    assert refused == ["path_refused"]


# ---------------------------------------------------------------- saved by Hugging Face datasets

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "hf-cache"))


def hf_rows(count: int, start: int = 0) -> Any:
    numbers = range(start, start + count)
    features = datasets.Features({
        "name": datasets.Value("string"), "caption": datasets.List(datasets.Value("string")),
        "picture": datasets.Image(), "class": datasets.ClassLabel(names=["cat", "dog"]),
        "score": datasets.Value("float32"),
    })  # fmt: skip
    return datasets.Dataset.from_dict({
        "name": [f"k{number}" for number in numbers],
        "caption": [[f"first {number}", f"second {number}"] for number in numbers],
        "picture": [None if number == 1 else {"bytes": png(number), "path": None} for number in numbers],
        "class": [-1 if number == 2 else number % 2 for number in numbers],
        "score": [float("nan") if number == 3 else number / 2 for number in numbers],
    }, features=features)  # fmt: skip


COLUMNS = {"kind": "hf_dataset", "key": "name", "text": "caption", "image": "picture", "label": "class", "meta": "*"}


def test_a_saved_data_set_is_read_with_its_bytes_names_and_captions(tmp_path: Path) -> None:
    hf_rows(5).save_to_disk(str(tmp_path / "saved"))
    found = samples_of(tmp_path / "saved", **COLUMNS)
    assert list(found) == [f"k{number}" for number in range(5)]
    assert found["k0"].texts["text"] == ("first 0", "second 0")
    assert found["k0"].media["image"].data == png(0)
    assert not found["k1"].media
    assert [found[f"k{number}"].label for number in range(4)] == ["cat", "dog", None, "dog"]
    assert (found["k4"].meta, found["k3"].meta) == ({"score": "2"}, {})


def test_the_splits_of_a_saved_dict_rule(tmp_path: Path) -> None:
    datasets.DatasetDict({"train": hf_rows(3), "test": hf_rows(2, 10)}).save_to_disk(str(tmp_path / "saved"))
    rows = rows_of(tmp_path / "saved", **COLUMNS)
    assert [row.number for row in rows] == list(range(5))
    assert [row.sample.split for row in rows if row.sample] == ["train"] * 3 + ["test"] * 2
    assert all("__split__" not in row.sample.meta for row in rows if row.sample)


def test_many_files_are_read_in_order(tmp_path: Path) -> None:
    hf_rows(30).save_to_disk(str(tmp_path / "saved"), num_shards=4)
    assert list(samples_of(tmp_path / "saved", **COLUMNS)) == [f"k{number}" for number in range(30)]


def test_a_path_out_of_the_saved_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(png(1))
    rows = datasets.Dataset.from_dict({"name": ["a"], "picture": [str(tmp_path / "secret.png")]})
    rows.save_to_disk(str(tmp_path / "saved"))
    (row,) = rows_of(tmp_path / "saved", kind="hf_dataset", key="name", image="picture")
    assert [each.reason for each in row.rejections] == ["path_refused"]


def test_what_is_no_saved_data_set_says_so(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"save_to_disk.*dataset_info.json is not there"):
        rows_of(tmp_path, **COLUMNS)
    hf_rows(3).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(ConfigError, match=r"did you mean 'caption'"):
        rows_of(tmp_path / "saved", **{**COLUMNS, "text": "captoin"})
    file = next((tmp_path / "saved").glob("*.arrow"))
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(SourceError, match=r"broken Arrow file"):
        rows_of(tmp_path / "saved", **COLUMNS)
    file.unlink()
    with pytest.raises(SourceError, match=r"state.json names it"):
        rows_of(tmp_path / "saved", **COLUMNS)
