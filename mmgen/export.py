"""Export: a version as a folder that other tools read, with numbered files, every byte checked on its way.

`plain`: `<split>/00000.tar`, `.parquet`, `.tar.idx` and `_stats.json`, as webdataset and img2dataset's readers want.
`hf`: `<split>-00000-of-00003.parquet` with Hugging Face's own features, so that a sample without an image is a null.
"""

from __future__ import annotations

import io
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mmgen.artifact import Artifact, FileEntry
from mmgen.dataset import Dataset
from mmgen.errors import ConfigError, IntegrityError, unknown_name
from mmgen.report.readme import hf_readme, plain_readme
from mmgen.runtime import Progress
from mmgen.store import Store, sha256

#: rows of a Parquet row group, so that a reader of one sample does not read a shard
GROUP_ROWS = 100


def export(
    store: Store, version: Artifact, folder: Path, layout: str, progress: Progress, *, force: bool = False
) -> list[Path]:
    """Write a data set version into `folder`; the files that were written.

    All or nothing: the folder gets its name when it is whole. Raises ConfigError for an unknown layout or a folder that
    has something in it (unless `force`, which replaces it), IntegrityError for bytes that are not as recorded.
    """
    if layout not in LAYOUTS:
        raise ConfigError(f"--layout: {unknown_name('layout', layout, LAYOUTS)}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())) and not force:
        raise ConfigError(f"'{folder}': wanted a new or empty folder; give another one, or --force to replace it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    making = folder.with_name(f".{folder.name}-{secrets.token_hex(4)}")
    try:
        making.mkdir()
        with progress.bar(f"export {version.ref}", len(version.by_role("shard"))) as bar:
            for _ in LAYOUTS[layout](store, version, making):
                bar.advance(1)
        if folder.exists():
            old = folder.with_name(f"{making.name}-old")
            os.replace(folder, old)
            os.replace(making, folder)
            shutil.rmtree(old)
        else:
            os.replace(making, folder)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _numbered(version: Artifact) -> Iterator[tuple[str, int, int, FileEntry]]:
    """(split, number within it, shards of it, tar), in the version's order."""
    shards = version.by_role("shard")
    counts: dict[str, int] = {}
    for tar in shards:
        counts[tar.facts["split"]] = counts.get(tar.facts["split"], 0) + 1
    seen: dict[str, int] = {}
    for tar in shards:
        split = str(tar.facts["split"])
        yield split, seen.get(split, 0), counts[split], tar
        seen[split] = seen.get(split, 0) + 1


def _plain(store: Store, version: Artifact, folder: Path) -> Iterator[None]:
    names = {"shard": ".tar", "facts": ".parquet", "index": ".tar.idx", "stats": "_stats.json"}
    for split, number, _, tar in _numbered(version):
        (folder / split).mkdir(exist_ok=True)
        for role, ending in names.items():
            entry = next(each for each in version.by_role(role) if each.facts["digest"] == tar.facts["digest"])
            (folder / split / f"{number:05d}{ending}").write_bytes(_checked(store, version, entry))
        yield
    (folder / "README.md").write_bytes(plain_readme(version.name, version.version, version.facts))


def _checked(store: Store, version: Artifact, entry: FileEntry) -> bytes:
    try:
        data = store.read(entry.path)
    except FileNotFoundError:
        raise IntegrityError(f"{version.ref}: {entry.path} is missing; `mmgen verify` tells all") from None
    if sha256(data) != entry.sha256:
        raise IntegrityError(f"{version.ref}: {entry.path} is not what was written; `mmgen verify` tells all")
    return data


# ---------------------------------------------------------------- Hugging Face

_HF_TYPES: Mapping[str, tuple[dict[str, Any], pa.DataType]] = {
    "text": ({"dtype": "string", "_type": "Value"}, pa.string()),
    "image": ({"_type": "Image"}, pa.struct({"bytes": pa.binary(), "path": pa.string()})),
    "audio": ({"_type": "Audio"}, pa.struct({"bytes": pa.binary(), "path": pa.string()})),
}


def _hf_schema(slots: Mapping[str, str]) -> pa.Schema:
    """Columns key, label, group, the slots, all texts (JSON) and meta (JSON), with Hugging Face's description."""
    plain = dict.fromkeys(("key", "label", "group"), _HF_TYPES["text"])
    columns = plain | {slot: _HF_TYPES[modality] for slot, modality in slots.items()}
    columns |= dict.fromkeys(("texts", "meta"), _HF_TYPES["text"])
    described = {"info": {"features": {name: feature for name, (feature, _) in columns.items()}}}
    return pa.schema(
        [(name, kind) for name, (_, kind) in columns.items()], metadata={"huggingface": json.dumps(described)}
    )


def _hf(store: Store, version: Artifact, folder: Path) -> Iterator[None]:
    with Dataset(store, version) as dataset:
        clash = sorted(dataset.slots.keys() & {"key", "label", "group", "texts", "meta"})
        if clash:
            raise ConfigError(f"--layout hf: slot '{clash[0]}' has the name of a column of its own")
        schema = _hf_schema(dataset.slots)
        for split, number, count, tar in _numbered(version):
            keys = dataset.shard_keys(str(tar.facts["digest"]))
            rows = [_hf_row(dataset, key) for key in keys]
            out = io.BytesIO()
            pq.write_table(pa.Table.from_pylist(rows, schema=schema), out, row_group_size=GROUP_ROWS)
            (folder / f"{split}-{number:05d}-of-{count:05d}.parquet").write_bytes(out.getvalue())
            yield
    (folder / "README.md").write_bytes(hf_readme(version.name, version.version, version.facts))


def _hf_row(dataset: Dataset, key: str) -> dict[str, Any]:
    item = dataset[key]
    texts = {slot: value for slot, value in item.values.items() if dataset.slots[slot] == "text"}
    row: dict[str, Any] = {
        "key": key, "label": item.label, "group": item.group, "texts": json.dumps(texts, ensure_ascii=False),
        "meta": json.dumps(item.meta, ensure_ascii=False),
    }  # fmt: skip
    for slot, value in item.values.items():
        row[slot] = value[0] if slot in texts else {"bytes": value, "path": f"{slot}.{item.exts[slot]}"}
    return row


LAYOUTS: Mapping[str, Callable[[Store, Artifact, Path], Iterator[None]]] = {"plain": _plain, "hf": _hf}
