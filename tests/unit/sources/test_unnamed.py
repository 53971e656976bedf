"""Files beside a source that no row names: counted, bounded, told, and no part of any version."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmgen.config import build
from mmgen.forget import forget
from mmgen.ingest import ingest
from mmgen.runtime import Runtime
from mmgen.shards import shard
from mmgen.sources import unnamed
from mmgen.sources.unnamed import NamedFiles, Unnamed, sentence
from mmgen.store import Store
from mmgen.validate import validate
from tests.data_sources import picture, sound, table_config, write_source
from tests.unit.sources.media import png

IMAGES = frozenset(("png", "jpg"))


def files(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def test_what_was_not_named_is_counted_in_order(tmp_path: Path) -> None:
    files(tmp_path, "b/2.png", "a/1.PNG", "a/x.jpg", "notes.md", "t.csv", ".cache/h.png", "a/.thumb.png", "s.wav")
    (tmp_path / "other").symlink_to(tmp_path / "b")
    named = NamedFiles()
    named.add(f"{tmp_path}/a/x.jpg")
    assert named.others(str(tmp_path), IMAGES) == Unnamed(2, ["a/1.PNG", "b/2.png"])
    named.add(f"{tmp_path}/other/2.png")
    assert named.others(str(tmp_path), IMAGES).first == ["a/1.PNG"]


def test_an_object_store_is_looked_at_too() -> None:
    store = Store("memory://unnamed")
    for name in ("a.png", "deep/b.png", "t.csv", ".hidden/c.png"):
        store.write(name, b"x")
    named = NamedFiles()
    named.add("memory://unnamed/a.png")
    assert named.others("memory://unnamed", IMAGES).first == ["deep/b.png"]


def test_names_of_any_bytes_are_listed(tmp_path: Path) -> None:
    (tmp_path / "caf\udce9.png").write_bytes(b"x")
    assert NamedFiles().others(str(tmp_path), IMAGES).first == ["caf\\udce9.png"]


def test_the_list_and_the_look_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files(tmp_path, *(f"{number:03d}.png" for number in range(120)))
    found = NamedFiles().others(str(tmp_path), IMAGES)
    assert (found.files, len(found.first), found.first[:2], found.complete) == (120, 100, ["000.png", "001.png"], True)
    assert found.first == sorted(found.first)
    monkeypatch.setattr(unnamed, "LOOKED_AT", 50)
    assert NamedFiles().others(str(tmp_path), IMAGES).files == 50
    assert not NamedFiles().others(str(tmp_path), IMAGES).complete


def test_one_line_for_a_person() -> None:
    assert sentence(None) is None
    assert sentence({"files": 0, "first": []}) is None
    one = {"files": 1, "first": ["a.png"]}
    assert sentence(one) == "1 file lies beside the source that no row names: a.png"
    many = {"files": 1200, "first": ["a", "b", "c", "d"]}
    assert sentence(many) == "1,200 files lie beside the source that no row names: a, b, c, …"


def test_the_line_tells_them_and_makes_no_new_version(tmp_path: Path, runtime: Runtime) -> None:
    config = table_config(write_source(tmp_path / "source", 40))
    (tmp_path / "source" / "deep").mkdir()
    (tmp_path / "source" / "deep" / "stray.png").write_bytes(png(1))
    (tmp_path / "source" / "stray.wav").write_bytes(sound(99))
    (tmp_path / "source" / "README.md").write_text("no medium")
    staging = ingest(config, {}, runtime)
    told = {"files": 2, "first": ["deep/stray.png", "stray.wav"], "complete": True}
    assert staging.circumstance["unnamed"] == told
    assert staging.facts["inputs"] == 40
    made = validate(config, {"staging": staging}, runtime)
    assert json.loads(runtime.store.read(made.file("report-json").path))["unnamed"] == told
    assert b"deep/stray.png" in runtime.store.read(made.file("report").path)
    (tmp_path / "source" / "stray.wav").unlink()
    assert ingest(config, {}, runtime).ref == staging.ref
    fresh = ingest(config, {}, Runtime(Store(tmp_path / "other")))
    assert fresh.circumstance["unnamed"]["files"] == 1
    assert fresh.fingerprint == staging.fingerprint


def test_looking_can_be_left_out_and_is_no_identity(tmp_path: Path, runtime: Runtime) -> None:
    path = write_source(tmp_path / "source", 5)
    (tmp_path / "source" / "stray.png").write_bytes(picture(77))
    looked = ingest(table_config(path), {}, runtime)
    spared = ingest(table_config(path, source={"list_unnamed": False}), {}, Runtime(Store(tmp_path / "other")))
    assert "unnamed" not in spared.circumstance
    assert spared.fingerprint == looked.fingerprint


def test_a_forgotten_rows_files_are_not_told(tmp_path: Path, runtime: Runtime) -> None:
    config = table_config(write_source(tmp_path / "source", 40))
    staging = ingest(config, {}, runtime)
    verdicts = validate(config, {"staging": staging}, runtime)
    shard(config, {"staging": staging, "verdicts": verdicts}, runtime)
    forget(runtime.store, "tiny", ["s0003"])
    again = ingest(config, {}, runtime)
    assert again.facts["reasons"] == {"forgotten": 1}
    assert again.circumstance["unnamed"]["files"] == 0


def test_files_that_a_folder_has_no_use_for_are_counted(tmp_path: Path, runtime: Runtime) -> None:
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(png(number))
    files(tmp_path, "README.md", "LICENSE", ".hidden")
    config = build({"name": "f", "source": {"kind": "folder", "path": str(tmp_path), "image": "image"}})
    assert ingest(config, {}, runtime).circumstance["unnamed"] == {
        "files": 2, "first": ["LICENSE", "README.md"], "complete": True,
    }  # fmt: skip
