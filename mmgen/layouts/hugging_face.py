"""Parquet with embedded media and Hugging Face's own features, so that a sample without an image has a null there."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mmgen.artifact import Artifact
from mmgen.dataset import Dataset
from mmgen.errors import ConfigError
from mmgen.layouts.numbered import numbered, sizes
from mmgen.report.readme import hf_readme
from mmgen.store import Store

#: rows of a Parquet row group, so that a reader of one sample does not read a shard
GROUP_ROWS = 100

_TYPES: Mapping[str, tuple[dict[str, Any], pa.DataType]] = {
    "text": ({"dtype": "string", "_type": "Value"}, pa.string()),
    "image": ({"_type": "Image"}, pa.struct({"bytes": pa.binary(), "path": pa.string()})),
    "audio": ({"_type": "Audio"}, pa.struct({"bytes": pa.binary(), "path": pa.string()})),
}


def hugging_face(store: Store, version: Artifact, folder: Path) -> Iterator[None]:
    """Write `<split>-00000-of-00003.parquet`; yields after each. Raises IntegrityError, and ConfigError for a slot with
    the name of a column."""
    with Dataset(store, version) as dataset:
        clash = sorted(dataset.slots.keys() & {"key", "label", "group", "texts", "meta"})
        if clash:
            raise ConfigError(f"--layout hf: slot '{clash[0]}' has the name of a column of its own")
        schema = _schema(dataset.slots)
        for shard in numbered(version):
            rows = [_row(dataset, key) for key in dataset.shard_keys(str(shard.files["shard"].facts["digest"]))]
            out = io.BytesIO()
            pq.write_table(pa.Table.from_pylist(rows, schema=schema), out, row_group_size=GROUP_ROWS)
            name = f"{shard.split}-{shard.number:05d}-of-{shard.count:05d}.parquet"
            (folder / name).write_bytes(out.getvalue())
            yield
    (folder / "README.md").write_bytes(hf_readme(version.name, version.version, version.facts, sizes(version)))


def _schema(slots: Mapping[str, str]) -> pa.Schema:
    """Columns key, label, group, the slots, all texts (JSON) and meta (JSON), with Hugging Face's description."""
    plain = dict.fromkeys(("key", "label", "group"), _TYPES["text"])
    columns = plain | {slot: _TYPES[modality] for slot, modality in slots.items()}
    columns |= dict.fromkeys(("texts", "meta"), _TYPES["text"])
    described = {"info": {"features": {name: feature for name, (feature, _) in columns.items()}}}
    return pa.schema(
        [(name, kind) for name, (_, kind) in columns.items()], metadata={"huggingface": json.dumps(described)}
    )


def _row(dataset: Dataset, key: str) -> dict[str, Any]:
    item = dataset[key]
    texts = {slot: value for slot, value in item.values.items() if dataset.slots[slot] == "text"}
    row: dict[str, Any] = {
        "key": key, "label": item.label, "group": item.group, "texts": json.dumps(texts, ensure_ascii=False),
        "meta": json.dumps(item.meta, ensure_ascii=False),
    }  # fmt: skip
    for slot, value in item.values.items():
        row[slot] = value[0] if slot in texts else {"bytes": value, "path": f"{slot}.{item.exts[slot]}"}
    return row
