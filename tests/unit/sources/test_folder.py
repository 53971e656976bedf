from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmgen.errors import SourceError
from mmgen.modalities.config import AudioSlot, ImageSlot, SlotConfig, TextSlot
from mmgen.sources.config import SourceConfig
from mmgen.sources.folder import FolderSource
from mmgen.sources.rows import Row

SLOTS: dict[str, SlotConfig] = {"text": TextSlot(), "image": ImageSlot(), "audio": AudioSlot()}


def folder(root: Path, files: dict[str, bytes | str]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    return root


def read(root: Path, slots: dict[str, SlotConfig] = SLOTS, **settings: object) -> list[Row]:
    return list(
        FolderSource(SourceConfig.model_validate({"kind": "folder", "path": str(root), **settings}), slots).rows()
    )


def told(rows: list[Row]) -> dict[str, tuple[list[str], list[str]]]:
    """key → (filled slots, reasons)."""
    return {
        row.sample.key if row.sample else row.rejections[0].key: (
            sorted([*row.sample.texts, *row.sample.media]) if row.sample else [],
            [each.reason for each in row.rejections],
        )
        for row in rows
    }


def test_files_of_one_stem_are_one_sample_and_any_slot_may_be_missing(tmp_path: Path) -> None:
    files = {"b/2.JPEG": b"x", "b/2.txt": "two\n", "b/1.png": b"x", "b/1.wav": b"x", "b/1.txt": "one", "c.flac": b"x"}
    rows = read(folder(tmp_path, files))
    assert told(rows) == {"b/1": (["audio", "image", "text"], []), "b/2": (["image", "text"], []), "c": (["audio"], [])}
    assert [row.number for row in rows] == [0, 1, 2]
    assert rows[1].sample is not None
    assert rows[1].sample.texts["text"] == ("two",)


def test_folders_named_for_a_modality_pair_their_files(tmp_path: Path) -> None:
    rows = read(
        folder(tmp_path, {"images/001.png": b"", "audio/001.wav": b"", "captions/001.txt": "x", "images/002.png": b""})
    )
    assert told(rows) == {"001": (["audio", "image", "text"], []), "002": (["image"], [])}


def test_named_slots_are_told_apart(tmp_path: Path) -> None:
    slots: dict[str, SlotConfig] = {
        "question": TextSlot(),
        "answer": TextSlot(),
        "before": ImageSlot(),
        "after": ImageSlot(),
    }
    files = {"1.question.txt": "q", "1.answer.txt": "a", "1.before.png": b"", "after/1.png": b"", "1.txt": "whose?"}
    rows = read(folder(tmp_path, files), slots)
    assert told(rows) == {"1": (["after", "answer", "before", "question"], [])}


def test_the_only_slot_of_a_modality_needs_no_name(tmp_path: Path) -> None:
    rows = read(folder(tmp_path, {"1.txt": "hello"}), {"caption_en": TextSlot()})
    assert told(rows) == {"1": (["caption_en"], [])}


def test_a_json_sidecar_gives_captions_label_group_and_metadata(tmp_path: Path) -> None:
    said = {"caption": ["one", "eins"], "label": 1, "speaker": "ann", "part": "test", "camera": "x"}
    root = folder(tmp_path, {"1.png": b"", "1.json": json.dumps(said)})
    row = read(root, text="caption", group="speaker", split="part", meta=["camera"])[0]
    assert row.sample is not None
    assert row.sample.texts == {"text": ("one", "eins")}
    assert (row.sample.label, row.sample.group, row.sample.split, row.sample.meta) == (
        "1",
        "ann",
        "test",
        {"camera": "x"},
    )


def test_a_key_field_names_the_sample_and_must_be_there(tmp_path: Path) -> None:
    root = folder(tmp_path, {"1.png": b"", "1.json": '{"id": "first"}', "2.png": b"", "2.json": "{}"})
    assert told(read(root, key="id")) == {"first": (["image"], []), "2": ([], ["missing_key"])}


@pytest.mark.parametrize("sidecar", ["{broken", "[]", "7", b"\xff\xfe"])
def test_a_broken_sidecar_rejects_its_row_only(tmp_path: Path, sidecar: str | bytes) -> None:
    rows = read(folder(tmp_path, {"1.png": b"", "1.json": sidecar, "2.png": b""}))
    assert told(rows) == {"1": ([], ["malformed_sidecar"]), "2": (["image"], [])}


@pytest.mark.parametrize("sidecar", ['{"label": "a", "label": "b"}', '{"label": Infinity}'])
def test_json_that_says_two_things_rejects_its_row_as_in_a_table(tmp_path: Path, sidecar: str) -> None:
    assert told(read(folder(tmp_path, {"a.png": b"x", "a.json": sidecar})))["a"] == ([], ["malformed_sidecar"])


def test_a_number_that_is_none_in_json_is_missing(tmp_path: Path) -> None:
    (row,) = read(folder(tmp_path, {"a.png": b"x", "a.json": '{"label": NaN}'}))
    assert row.sample is not None
    assert row.sample.label is None


def test_a_text_file_over_the_cap_is_rejected_and_not_cut(tmp_path: Path) -> None:
    rows = read(folder(tmp_path, {"a.png": b"x", "a.txt": "ü" * (1 << 19) + "x", "b.txt": "ü" * (1 << 19)}))
    assert told(rows) == {"a": (["image"], ["too_long"]), "b": (["text"], [])}


def test_two_files_for_one_slot_reject_the_slot(tmp_path: Path) -> None:
    rows = read(folder(tmp_path, {"1.png": b"", "1.jpg": b"", "1.txt": "x"}))
    assert told(rows) == {"1": (["text"], ["ambiguous_slot"])}


def test_text_that_is_not_utf8_rejects_the_slot(tmp_path: Path) -> None:
    rows = read(folder(tmp_path, {"1.png": b"", "1.txt": "grüß".encode("latin-1")}))
    assert told(rows) == {"1": (["image"], ["not_utf8"])}


def test_hidden_and_foreign_files_are_no_inputs(tmp_path: Path) -> None:
    files = {"1.png": b"", "README.md": "hi", ".cache/2.png": b"", ".3.png": b"", "Makefile": "x"}
    assert told(read(folder(tmp_path, files))) == {"1": (["image"], [])}


def test_links_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    root = folder(tmp_path / "data", {"1.txt": "x"})
    folder(tmp_path, {"secret.png": b"", "secret.txt": "password", "secret.json": '{"text": "password"}'})
    (root / "1.png").symlink_to(tmp_path / "secret.png")
    (root / "2.txt").symlink_to(tmp_path / "secret.txt")
    assert told(read(root)) == {"1": (["text"], ["path_refused"]), "2": ([], ["path_refused"])}
    (root / "1.json").symlink_to(tmp_path / "secret.json")
    assert all(row.sample is None or "password" not in str(row.sample.texts) for row in read(root))


def test_a_missing_folder_is_a_source_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such folder"):
        read(tmp_path / "nowhere")
