"""Nothing outside a source's root is read, nothing outside the store or an export is written: every kind of source."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict

from mmgen.config import build
from mmgen.errors import ConfigError, SourceError, StoreError, UnknownReference
from mmgen.export import export
from mmgen.forget import forget
from mmgen.ingest import ingest
from mmgen.runtime import Runtime, Silent
from mmgen.shards import shard
from mmgen.staging import read_facts
from mmgen.tars import key_of
from mmgen.validate import validate
from tests.data_sources import picture, rejections_of, sound
from tests.unit.sources.media import png

SECRET = "the secret words"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder for a source; beside it one with a picture and words that no source may name."""
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "s.png").write_bytes(png(9))
    (tmp_path / "secret" / "s.txt").write_text(SECRET)
    (tmp_path / "secret" / "s.json").write_text(json.dumps({"text": SECRET}))
    (tmp_path / "source").mkdir()
    return tmp_path / "source"


def told(runtime: Runtime, **source: Any) -> tuple[dict[str, list[str]], list[str]]:
    """(key → reasons, keys of rows with a picture). The secret is nowhere in the staging."""
    made = ingest(build({"name": "hostile", "source": source}), {}, runtime)
    reasons: dict[str, list[str]] = {}
    for each in rejections_of(runtime.store, made):
        reasons.setdefault(each.key, []).append(each.reason)
    facts = read_facts(runtime.store, made)
    for path in runtime.store.walk():
        data = runtime.store.read(path)
        assert SECRET.encode() not in data
        assert png(9) not in data
    return reasons, facts.filter(facts["image.present"])["key"].to_list()


SCHEMES = ["file:///etc/passwd", "local:///etc/passwd", "memory://x/y.png", "simplecache::http://127.0.0.1/x.png",
           "zip://a.png::file:///x.zip", "http://127.0.0.1:1/x.png", "ftp://127.0.0.1/x", "s3://bucket/x.png",
           "FILE:///etc/passwd", "data://x", "github://a:b@c/x", "reference://x"]  # fmt: skip
OUTSIDE = ["../secret/s.png", "/etc/passwd", "a/../../secret/s.png", "..\\secret\\s.png", "a\0.png", "link.png",
           "folder/s.png", *SCHEMES]  # fmt: skip


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_table(kind: str, root: Path, runtime: Runtime) -> None:
    import polars as pl

    (root / "link.png").symlink_to(root.parent / "secret" / "s.png")
    (root / "folder").symlink_to(root.parent / "secret")
    (root / "loop").symlink_to(root / "loop")
    os.mkfifo(root / "pipe.png")
    (root / "good.png").write_bytes(png(1))
    others = {"loop": "file_unreadable", "loop/x.png": "file_unreadable", "pipe.png": "file_unreadable",
              "good.png/x.png": "file_unreadable", "gone.png": "file_missing"}  # fmt: skip
    cells = [*OUTSIDE, *others, "good.png"]
    rows = [{"key": f"k{number}", "text": "words", "image": cell} for number, cell in enumerate(cells)]
    path = root / f"t.{kind}"
    path.write_text("\n".join(map(json.dumps, rows))) if kind == "jsonl" else pl.DataFrame(rows).write_parquet(path)
    reasons, kept = told(runtime, path=str(path), key="key", text="text", image="image")
    wanted = [*(["path_refused"] for _ in OUTSIDE), *([reason] for reason in others.values())]
    assert reasons == {f"k{number}": each for number, each in enumerate(wanted)}
    assert kept == [f"k{len(cells) - 1}"]


@pytest.mark.parametrize("kind", ["folder", "image_folder"])
def test_a_folder(kind: str, root: Path, runtime: Runtime) -> None:
    secret = root.parent / "secret"
    for name in ("good", "other"):
        (root / f"{name}.png").write_bytes(png(1))
    (root / "good.txt").write_text("words")
    (root / "picture.png").symlink_to(secret / "s.png")
    (root / "words.txt").symlink_to(secret / "s.txt")
    (root / "other.json").symlink_to(secret / "s.json")
    (root / "deep").symlink_to(secret)
    (root / "self").symlink_to(root)
    (root / "round.png").symlink_to(root / "turn.png")
    (root / "turn.png").symlink_to(root / "round.png")
    (root / "back\\slash.png").write_bytes(png(2))
    os.mkfifo(root / "pipe.txt")
    reasons, kept = told(runtime, kind=kind, path=str(root), image="image", text="text")
    assert reasons == {
        "picture": ["path_refused", "no_slots"], "words": ["path_refused", "no_slots"], "other": ["path_refused"],
        "round": ["file_unreadable", "no_slots"], "turn": ["file_unreadable", "no_slots"],
        "back\\slash": ["path_refused", "no_slots"], "pipe": ["file_unreadable", "no_slots"],
    }  # fmt: skip
    assert kept == ["good"]


def member(
    name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = ""
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, len(data)
    return info, data


def test_tars_are_read_in_place_whatever_their_members_are_called(root: Path, runtime: Runtime) -> None:
    members = [
        member("../../up.png", png(1)), member("/abs.png", png(2)), member("a/../../b.png", png(3)),
        member("soft.png", kind=tarfile.SYMTYPE, link=str(root.parent / "secret" / "s.png")),
        member("hard.png", kind=tarfile.LNKTYPE, link="/etc/passwd"), member("dev.png", kind=tarfile.CHRTYPE),
        member("pipe.txt", kind=tarfile.FIFOTYPE), member("dir.png", kind=tarfile.DIRTYPE),
        member("con.json", json.dumps({"key": "../../evil", "image": "/etc/passwd"}).encode()),
        member("con.png", png(4)), member(".png", png(5)),
    ]  # fmt: skip
    with tarfile.open(root / "t.tar", "w") as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    before = sorted(root.parent.rglob("*"))
    reasons, kept = told(runtime, kind="webdataset", path=str(root / "t.tar"), image="image")
    assert kept == ["../../up", "/abs", "a/../../b", "con"]
    assert reasons == {}
    made = {path for path in root.parent.rglob("*") if not path.is_relative_to(root.parent / "store")}
    assert sorted(made) == [path for path in before if not path.is_relative_to(root.parent / "store")]


def test_a_saved_data_set(root: Path, runtime: Runtime) -> None:
    cells = [*OUTSIDE[:4], *SCHEMES]
    rows = {"key": [f"k{number}" for number in range(len(cells))], "text": ["x"] * len(cells), "image": cells}
    columns = {"kind": "hf_dataset", "key": "key", "text": "text", "image": "image"}
    Dataset.from_dict(rows).save_to_disk(root / "good")
    DatasetDict({"train": Dataset.from_dict(rows)}).save_to_disk(root / "dict")
    reasons, kept = told(runtime, path=str(root / "good"), **columns)
    assert (reasons, kept) == ({f"k{number}": ["path_refused"] for number in range(len(cells))}, [])

    state = root / "good" / "state.json"
    whole = json.loads(state.read_text())
    for name in ("../dict/train/data-00000-of-00001.arrow", "file:///etc/passwd", "a\0b", "a\\b", "http://127.0.0.1/x"):
        state.write_text(json.dumps({**whole, "_data_files": [{"filename": name}]}))
        with pytest.raises(SourceError, match=r"source\.path: .*names '"):
            told(runtime, path=str(root / "good"), **columns)
    for broken in ({}, {"_data_files": 7}, {"_data_files": [{"filename": 7}]}, []):
        state.write_text(json.dumps(broken))
        with pytest.raises(SourceError, match="wanted"):
            told(runtime, path=str(root / "good"), **columns)
    for splits in (["../good"], ["/etc"], 7, [], [7]):
        (root / "dict" / "dataset_dict.json").write_text(json.dumps({"splits": splits}))
        with pytest.raises(SourceError, match=r"source\.path"):
            told(runtime, path=str(root / "dict"), **columns)


# ---------------------------------------------------------------- what is written

KEYS = ["../../evil", "/abs/olute", "a/../../b", "..", ".", "a.b.c", "C:\\x", "sp ace", "ü/数", "-rf", "%2e%2e", "A",
        "a", "x" * 300, "~/.ssh/id", "a\tb", "aux", "nl\nkey", "key.png", "q?*|<>"]  # fmt: skip


def test_keys_that_try_to_leave_stay_in_the_store_and_in_exports(root: Path, runtime: Runtime) -> None:
    rows = []
    for number, key in enumerate(KEYS):
        (root / f"{number}.png").write_bytes(picture(number))
        (root / f"{number}.wav").write_bytes(sound(number))
        rows.append({"key": key, "text": f"words {number}", "image": f"{number}.png", "audio": f"{number}.wav"})
    (root / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = {"path": str(root / "t.jsonl"), "key": "key", "text": "text", "image": "image", "audio": "audio"}
    config = build({"name": "hostile", "source": source})
    staging = ingest(config, {}, runtime)
    verdicts = validate(config, {"staging": staging}, runtime)
    version = shard(config, {"staging": staging, "verdicts": verdicts}, runtime)
    assert verdicts.facts["counts"]["kept"] == len(KEYS)
    for layout in ("plain", "hf"):
        export(runtime.store, version, root.parent / layout, layout, Silent())
    mine = ("store", "plain", "hf", "source", "secret")
    assert {path.name for path in root.parent.iterdir()} == set(mine)
    named = []
    for path in [*(root.parent / "plain").rglob("*.tar"), *(root.parent / "store").rglob("shards/*.tar")]:
        with tarfile.open(path) as tar:
            for info in tar:
                assert info.isreg()
                assert not {"/", "\\", ".."} & set(info.name)
                named.append(key_of(info.name.split(".")[0]))
                # what unpacks it is asked by Python itself to stay in the folder
                assert tarfile.data_filter(info, str(root)).name == info.name
    # three members of each sample, in the store and in the export
    assert sorted(set(named)) == sorted(KEYS)
    assert {named.count(key) for key in KEYS} <= {6, 8}


@pytest.mark.parametrize(
    "part",
    [{"name": "../x"}, {"name": "a/b"}, {"name": ".."}, {"slots": {"../x": {"modality": "text", "column": "text"}}},
     {"slots": {"a/b": {"modality": "image", "column": "image"}}},
     {"validate": {"holdout": {"column": "c", "values": ["v"], "split": "../x"}}},
     {"validate": {"holdout": {"column": "c", "values": ["v"], "split": "a/b"}}}],
)  # fmt: skip
def test_names_that_become_paths_are_plain(part: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        build({"name": "x", "source": {"path": "t.csv", "text": "text"}, **part})


@pytest.mark.parametrize("key", ["../../evil", "/etc/passwd", "a\0b", ""])
def test_forgetting_what_was_never_there_writes_nothing(key: str, tmp_path: Path, runtime: Runtime) -> None:
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UnknownReference):
        forget(runtime.store, "hostile", [key])
    with pytest.raises(StoreError, match="leaves the store"):
        forget(runtime.store, "../hostile", [key])
    assert sorted(tmp_path.rglob("*")) == before
