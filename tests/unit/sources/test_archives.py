from __future__ import annotations

import gc
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import webdataset

from mmgen.errors import SourceError
from mmgen.modalities.config import AudioSlot, ImageSlot, SlotConfig, TextSlot
from mmgen.sources.archives import ArchiveSource, expand
from mmgen.sources.config import SourceConfig
from mmgen.sources.rows import Row
from mmgen.tars import pack, safe_key, web_dataset

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


# ---------------------------------------------------------------- as others write them


def written(path: Path, samples: Sequence[Mapping[str, Any]]) -> Path:
    """A tar by webdataset's own writer."""
    with webdataset.TarWriter(str(path), encoder=False) as writer:
        for sample in samples:
            writer.write(dict(sample))
    return path


def by_key(rows: list[Row]) -> dict[str, tuple[Mapping[str, Any], list[str], str | None]]:
    """Key → (texts, media slots, label). Every row is a sample, and no key comes twice."""
    samples = [row.sample for row in rows if row.sample is not None]
    found = {each.key: (each.texts, sorted(each.media), each.label) for each in samples}
    assert len(found) == len(rows)
    return found


def test_a_tar_of_img2dataset(tmp_path: Path) -> None:
    """Its JSON says `caption` and `key`, and a failed download is only in its table."""
    samples = []
    for number in range(3):
        said = {"caption": f"c{number}", "url": "http://x/1.jpg", "key": f"{number:09d}", "status": "success",
                "error_message": None, "width": 1, "height": 1, "sha256": "0" * 64}  # fmt: skip
        samples.append({"__key__": f"{number:09d}", "jpg": b"pixels", "txt": f"c{number}".encode(),
                        "json": json.dumps(said, indent=4).encode()})  # fmt: skip
    path = written(tmp_path / "00000.tar", samples)
    rows = read(path, meta="*")
    assert by_key(rows) == {f"{number:09d}": ({"text": (f"c{number}",)}, ["image"], None) for number in range(3)}
    assert rows[0].sample is not None
    assert rows[0].sample.meta["url"] == "http://x/1.jpg"


def test_nested_names_classes_spellings_and_unknown_parts(tmp_path: Path) -> None:
    path = written(tmp_path / "x.tar", [
        {"__key__": "a/b/1", "JPG": b"x", "cls": b"7", "npy": b"array", "seg.png": b"mask"},
        {"__key__": "a/b/2", "jpeg": b"x", "text": b"words", "transcript.vtt": b"no slot"},
        {"__key__": "a/c", "opus": b"x", "cls": b" 8\n"},
    ])  # fmt: skip
    assert by_key(read(path)) == {
        "a/b/1": ({}, ["image"], "7"), "a/b/2": ({"text": ("words",)}, ["image"], None), "a/c": ({}, ["audio"], "8"),
    }  # fmt: skip


def test_keys_with_dots_are_found_once_each(tmp_path: Path) -> None:
    """A reader that ends keys at the first dot makes one sample of them all, or none."""
    samples = [
        {"__key__": f"d.e/img.{number:03d}", "jpg": b"x", "json": b'{"label": "l"}', "txt": f"t{number}".encode()}
        for number in range(20)
    ]
    found = by_key(read(written(tmp_path / "x.tar", samples)))
    assert found == {f"d.e/img.{number:03d}": ({"text": (f"t{number}",)}, ["image"], "l") for number in range(20)}


def test_a_part_that_is_a_slot_of_its_own_stays_with_its_sample(tmp_path: Path) -> None:
    path = written(
        tmp_path / "x.tar", [{"__key__": "1", "mask.png": b"x", "json": b"{}"}, {"__key__": "2", "png": b""}]
    )
    slots: dict[str, SlotConfig] = {**SLOTS, "mask": ImageSlot()}
    assert by_key(read(path, slots)) == {"1": ({}, ["mask"], None), "2": ({}, ["image"], None)}


def test_a_sample_of_unknown_parts_alone_is_counted(tmp_path: Path) -> None:
    path = written(tmp_path / "x.tar", [{"__key__": "1", "npy": b"x", "pth": b"y"}, {"__key__": "2", "png": b"x"}])
    assert by_key(read(path)) == {"1": ({}, [], None), "2": ({}, ["image"], None)}


def test_folders_hidden_names_and_meta_are_no_samples_and_part_none(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as stream:
        folder = tarfile.TarInfo("d")
        folder.type = tarfile.DIRTYPE
        stream.addfile(folder)
        for name in ("./d/1.png", "README", "d/._1.png", "./d/1.txt", "__index__/x.png", "__meta__"):
            info = tarfile.TarInfo(name)
            info.size = 1
            stream.addfile(info, io.BytesIO(b"x"))
    assert by_key(read(path)) == {"d/1": ({"text": ("x",)}, ["image"], None)}


# webdataset leaves its files for the collector to close
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_what_webdataset_finds_in_any_of_these_is_found_here(tmp_path: Path) -> None:
    samples = [{"__key__": f"{folder}/{number}", "png": b"x", "txt": b"t"} for folder in "ab" for number in range(9)]
    path = written(tmp_path / "x.tar", samples)
    theirs = [row["__key__"] for row in web_dataset([path])]
    gc.collect()
    assert [row.sample.key for row in read(path) if row.sample] == theirs == [each["__key__"] for each in samples]


def test_joined_tars_and_zeros_in_the_middle_are_told(tmp_path: Path) -> None:
    """`tarfile` takes the first empty block for the end, and what follows was lost without a word."""
    one = written(tmp_path / "one.tar", [{"__key__": str(n), "txt": b"x"} for n in range(2)]).read_bytes()
    two = written(tmp_path / "two.tar", [{"__key__": str(n), "txt": b"x" * 600} for n in range(40)]).read_bytes()
    (tmp_path / "joined").mkdir()
    (tmp_path / "joined" / "x.tar").write_bytes(one + two)
    assert keys(read(tmp_path / "joined")) == ["0", "!broken_archive"]
    (tmp_path / "zeros").mkdir()
    (tmp_path / "zeros" / "x.tar").write_bytes(two[: 512 * 6] + bytes(1024) + two[512 * 8 :])
    assert keys(read(tmp_path / "zeros"))[-1] == "!broken_archive"
