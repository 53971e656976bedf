"""What img2dataset writes: per shard a tar, a table with a row per sample, and stats; each sample has a flat JSON.

Its keys and columns are img2dataset 1.47's, filled from facts; what it does not know comes as further columns, as its
own `save_additional_columns` does. Nothing is downloaded or resized here, so original sizes are the sizes.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from mmgen.artifact import Artifact
from mmgen.layouts.numbered import checked, numbered, sizes, slots_of, tar_of, write_json
from mmgen.report.readme import img2dataset_readme
from mmgen.store import Store
from mmgen.tables import parquet
from mmgen.tars import pack, safe_key

SCHEMA: Mapping[str, Any] = {
    "url": pl.String, "caption": pl.String, "key": pl.String, "status": pl.String, "error_message": pl.String,
    "width": pl.Int32, "height": pl.Int32, "original_width": pl.Int32, "original_height": pl.Int32,
    "sha256": pl.String, "label": pl.String, "group": pl.String,
}  # fmt: skip


def img2dataset(store: Store, version: Artifact, folder: Path) -> Iterator[None]:
    """Write it; yields after each shard. Raises IntegrityError."""
    slots = slots_of(version)
    picture, caption = (_first(slots, modality) for modality in ("image", "text"))
    endings: set[str] = set()
    for shard in numbered(version):
        (folder / shard.split).mkdir(exist_ok=True)
        facts = pl.read_parquet(io.BytesIO(checked(store, version, shard.files["facts"])))
        rows = {safe_key(row["key"]): _row(row, picture, caption) for row in facts.iter_rows(named=True)}
        endings |= set(facts[f"{picture}.ext"].drop_nulls()) if picture else set()
        tar, index = tar_of(store, version, shard)
        said = {f"{key}.json": json.dumps(row, ensure_ascii=False).encode() for key, row in rows.items()}
        members = ((each.name, said.get(each.name) or tar[each.offset : each.offset + each.length])
                   for each in index.members)  # fmt: skip
        (folder / f"{shard.stem}.tar").write_bytes(pack(members)[0])
        (folder / f"{shard.stem}.parquet").write_bytes(_table(list(rows.values())))
        write_json(folder / f"{shard.stem}_stats.json", _stats(len(rows)))
        yield
    readme = img2dataset_readme(version.name, version.version, version.facts, sizes(version), sorted(endings))
    (folder / "README.md").write_bytes(readme)


def _first(slots: Mapping[str, str], modality: str) -> str | None:
    """The default slot of a modality, else the first of it."""
    mine = [slot for slot, each in slots.items() if each == modality]
    return modality if modality in mine else next(iter(mine), None)


def _row(facts: Mapping[str, Any], picture: str | None, caption: str | None) -> dict[str, Any]:
    """img2dataset's columns of a sample, then its metadata under names that are still free."""
    texts, meta = json.loads(facts["texts"]), json.loads(facts["meta"])
    said = texts.get(caption) or [None]
    width, height, digest = (
        (facts[f"{picture}.{name}"] for name in ("width", "height", "sha256")) if picture else (None, None, None)
    )
    row = {
        "url": meta.get("url"), "caption": said[0], "key": safe_key(facts["key"]), "status": "success",
        "error_message": None, "width": width, "height": height, "original_width": width, "original_height": height,
        "sha256": digest, "label": facts["label"], "group": facts["group"],
    }  # fmt: skip
    return row | {name: value for name, value in meta.items() if name not in row}


def _table(rows: Sequence[Mapping[str, Any]]) -> bytes:
    further = sorted({name for row in rows for name in row} - SCHEMA.keys())
    return parquet(pl.DataFrame(rows, schema={**SCHEMA, **dict.fromkeys(further, pl.String)}))


def _stats(samples: int) -> dict[str, Any]:
    return {
        "count": samples, "successes": samples, "failed_to_download": 0, "failed_to_resize": 0,
        # times are not in an export: the same version gives the same bytes
        "duration": 0.0, "start_time": 0.0, "end_time": 0.0, "status_dict": {"success": samples},
    }  # fmt: skip
