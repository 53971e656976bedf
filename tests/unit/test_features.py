"""Feature shards: one Arrow file per media shard, mapped, checked against it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmgen.errors import IntegrityError, StoreError
from mmgen.features import FeatureShard, SlotLayout, SlotRows, path_of, to_bytes

LAYOUTS = {
    "image": SlotLayout("image", (1, 2, 3), "uint8"),
    "sound": SlotLayout("audio", (2, 2), "float16"),
    "text": SlotLayout("text", (4,), "int32"),
    "latent": SlotLayout("image", (2, 5), "float32"),
}


def rows(slot: str, counts: list[int]) -> SlotRows:
    layout, rng = LAYOUTS[slot], np.random.default_rng(len(slot))
    samples = [[rng.integers(0, 99, layout.shape).astype(layout.dtype) for _ in range(count)] for count in counts]
    return SlotRows.stack(samples, layout)


def shard(slots: dict[str, SlotRows], keys: list[str] | None = None) -> bytes:
    return to_bytes(
        feature_set="tensors", fingerprint="f" * 64, media_digest="m" * 64, keys=keys or ["a", "ä/b", "c"],
        labels=["1", None, "2"], layouts={slot: LAYOUTS[slot] for slot in slots}, slots=slots,
    )  # fmt: skip


def opened(tmp_path: Path, data: bytes) -> FeatureShard:
    path = tmp_path / "x.arrow"
    path.write_bytes(data)
    return FeatureShard.open(path)


def test_what_was_written_is_read_with_missing_slots_and_alternatives(tmp_path: Path) -> None:
    wanted = {slot: rows(slot, counts) for slot, counts in
              {"image": [1, 0, 1], "sound": [0, 0, 0], "text": [2, 1, 3], "latent": [1, 1, 1]}.items()}  # fmt: skip
    found = opened(tmp_path, shard(wanted))
    assert (found.keys, found.labels, len(found)) == (["a", "ä/b", "c"], ["1", None, "2"], 3)
    assert found.layouts == LAYOUTS
    for slot, each in wanted.items():
        assert np.array_equal(found.slots[slot].rows, each.rows)
        assert found.slots[slot].rows.dtype == LAYOUTS[slot].dtype
        assert found.slots[slot].counts.tolist() == each.counts.tolist()


def test_rows_are_views_of_the_mapped_file(tmp_path: Path) -> None:
    found = opened(tmp_path, shard({"image": rows("image", [1, 1, 1])}))
    assert not found.slots["image"].rows.flags.owndata
    assert not found.slots["image"].rows.flags.writeable


def test_the_same_rows_are_the_same_bytes() -> None:
    assert shard({"image": rows("image", [1, 0, 1])}) == shard({"image": rows("image", [1, 0, 1])})


def test_a_shard_of_other_media_or_another_making_is_refused(tmp_path: Path) -> None:
    found = opened(tmp_path, shard({"image": rows("image", [1, 1, 1])}))
    found.check(fingerprint="f" * 64, media_digest="m" * 64, keys=["a", "ä/b", "c"])
    for wrong in ({"fingerprint": "e" * 64}, {"media_digest": "e" * 64}, {"keys": ["a", "c", "ä/b"]}, {"keys": ["a"]}):
        with pytest.raises(IntegrityError, match="wanted"):
            found.check(**{"fingerprint": "f" * 64, "media_digest": "m" * 64, **wrong})  # type: ignore[arg-type]


def test_rows_of_another_shape_are_refused() -> None:
    with pytest.raises(IntegrityError, match=r"\(1, 2, 3\)"):
        SlotRows.stack([[np.zeros((1, 3, 2), np.uint8)]], LAYOUTS["image"])


def test_broken_files_are_integrity_errors_and_missing_ones_store_errors(tmp_path: Path) -> None:
    data = shard({"image": rows("image", [1, 1, 1])})
    for broken in (b"", b"ARROW1", data[:100], data[: len(data) // 2], data[:-20]):
        with pytest.raises(IntegrityError):
            opened(tmp_path, broken)
    with pytest.raises(StoreError):
        FeatureShard.open(tmp_path / "none.arrow")


def test_an_arrow_file_of_others_is_refused(tmp_path: Path) -> None:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    table = pa.table({"key": ["a"]})
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(IntegrityError, match="format None"):
        opened(tmp_path, bytes(sink.getvalue()))


def test_files_lie_below_their_fingerprint() -> None:
    assert path_of("0123456789abcdef" * 4, "d" * 64) == f"features/0123456789abcdef/{'d' * 64}.arrow"
