from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from mmgen.errors import SourceError
from mmgen.modalities.config import AudioSlot, ImageSlot, SlotConfig, TextSlot
from mmgen.sources.archives import ArchiveSource, expand
from mmgen.sources.config import SourceConfig
from mmgen.sources.rows import Row
from mmgen.tars import pack, safe_key

SLOTS: dict[str, SlotConfig] = {"text": TextSlot(), "image": ImageSlot(), "audio": AudioSlot()}


def tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as stream:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            stream.addfile(info, io.BytesIO(data))
    return path


def read(path: Path | str, slots: dict[str, SlotConfig] = SLOTS, **settings: object) -> list[Row]:
    config = SourceConfig.model_validate({"kind": "webdataset", "path": str(path), **settings})
    return list(ArchiveSource(config, slots).rows())


def keys(rows: list[Row]) -> list[str]:
    return [row.sample.key if row.sample else f"!{row.rejections[0].reason}" for row in rows]


def test_adjacent_members_of_one_stem_are_one_sample_and_media_stay_in_place(tmp_path: Path) -> None:
    path = tar(
        tmp_path / "x.tar", [("d/1.png", b"pixels"), ("d/1.txt", b"one\n"), ("d/1.cls", b"7"), ("2.wav", b"wave")]
    )
    first, second = read(path)
    assert first.sample is not None
    assert second.sample is not None
    assert (first.sample.key, first.sample.texts) == ("d/1", {"text": ("one",)})
    ref = first.sample.media["image"]
    assert ref.span is not None
    assert path.read_bytes()[ref.span[0] : ref.span[0] + ref.span[1]] == b"pixels"
    assert (second.sample.key, list(second.sample.media)) == ("2", ["audio"])


def test_our_own_shards_are_read_back_with_keys_alternatives_and_slots(tmp_path: Path) -> None:
    slots: dict[str, SlotConfig] = {**SLOTS, "answer": TextSlot()}
    key = "a/b.c d"
    said = {"key": key, "label": "7", "group": "g", "texts": {"text": ["one", "eins"]}, "meta": {"voice": "f1"}}
    safe = safe_key(key)
    members = {
        f"{safe}.png": b"",
        f"{safe}.txt": b"one",
        f"{safe}.answer.txt": b"yes",
        f"{safe}.json": json.dumps(said).encode(),
    }
    path = tmp_path / "x.tar"
    path.write_bytes(pack(members)[0])
    sample = read(path, slots)[0].sample
    assert sample is not None
    assert (sample.key, sample.label, sample.group, sample.meta) == (key, "7", "g", {"voice": "f1"})
    assert sample.texts == {"text": ("one", "eins"), "answer": ("yes",)}


def test_patterns_and_folders_name_tars_in_order(tmp_path: Path) -> None:
    for number in range(3):
        tar(tmp_path / f"s-{number:03d}.tar", [(f"{number}.txt", b"x")])
    assert keys(read(tmp_path / "s-{000..002}.tar")) == ["0", "1", "2"]
    assert keys(read(tmp_path / "s-{002,000}.tar")) == ["2", "0"]
    assert keys(read(tmp_path)) == ["0", "1", "2"]


def test_a_tar_that_breaks_off_keeps_what_was_whole_and_counts_the_break(tmp_path: Path) -> None:
    whole = tar(tmp_path / "a.tar", [("1.txt", b"x"), ("2.txt", b"x"), ("2.png", b"y" * 2000)]).read_bytes()
    (tmp_path / "a.tar").write_bytes(whole[:3000])
    tar(tmp_path / "b.tar", [("3.txt", b"x")])
    rows = read(tmp_path)
    assert keys(rows) == ["1", "!broken_archive", "3"]
    assert [row.number for row in rows] == [0, 1, 2]


def test_links_and_devices_in_a_tar_are_ignored(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as stream:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE):
            info = tarfile.TarInfo("1.txt")
            info.type, info.linkname = kind, "/etc/passwd"
            stream.addfile(info)
    assert read(tmp_path / "x.tar") == []


@pytest.mark.parametrize(
    ("path", "message"),
    [("nowhere.tar", "no such file"), ("x.tar.gz", "uncompressed"), ("x-{0..999999}.tar", "names more than")],
)
def test_wrong_paths_are_source_errors(tmp_path: Path, path: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        read(tmp_path / path)


def test_a_folder_without_tars_is_a_source_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="there is none"):
        read(tmp_path)


def test_expand_spells_patterns_out() -> None:
    assert expand("a-{08..10}-{x,y}.tar") == [f"a-{n}-{c}.tar" for n in ("08", "09", "10") for c in "xy"]
    assert expand("{2..0}") == ["2", "1", "0"]
    assert expand("plain.tar") == ["plain.tar"]
