"""README.md of a dataset version: what Hugging Face's readers and people find beside the shards."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl
import yaml

from mmgen.records import ShardInfo
from mmgen.report.page import number, size
from mmgen.tars import member_suffix

Features = Sequence[Mapping[str, Any]]

_MEMBERS = (
    "WebDataset tars with the source's own bytes. Per sample: one member for each slot it has, and a `.json`",
    "with its key, label, group, all texts and metadata.",
)
_HF = (
    "```python", "from datasets import load_dataset", "", 'data = load_dataset("path/to/this/folder")', "```",
)  # fmt: skip


def tar_features(tables: Iterable[pl.DataFrame], slots: Mapping[str, str]) -> Features:
    """The columns that Hugging Face makes of tars with these rows, as its YAML: one per ending of a member's name.

    tables: facts of the samples, shard by shard. A reader that is not told takes the columns of the first five samples
    for all there are.
    """
    endings: dict[str, set[str]] = {slot: {"txt"} if slots[slot] == "text" else set() for slot in slots}
    meta: set[str] = set()
    for table in tables:
        for slot, modality in slots.items():
            # a shard of an earlier version may not know a slot that was added since
            if modality != "text" and f"{slot}.ext" in table.columns:
                endings[slot] |= set(table.filter(pl.col(f"{slot}.present"))[f"{slot}.ext"].drop_nulls().unique())
        meta |= {name for each in table["meta"].unique().to_list() for name in json.loads(each)}
    said = [
        {"name": member_suffix(slot, ending), "dtype": "string" if modality == "text" else modality}
        for slot, modality in slots.items() for ending in sorted(endings[slot])
    ]  # fmt: skip
    texts = [{"name": slot, "sequence": "string"} for slot, modality in slots.items() if modality == "text"]
    about: list[dict[str, Any]] = [{"name": name, "dtype": "string"} for name in ("key", "label", "group")]
    # a struct without fields is none to Arrow
    about += [{"name": "texts", "struct": texts}] if texts else []
    about += [{"name": "meta", "struct": [{"name": name, "dtype": "string"} for name in sorted(meta)]}] if meta else []
    return [{"name": "__key__", "dtype": "string"}, *said, {"name": "json", "struct": about}]


def readme(name: str, version: int, facts: Mapping[str, Any], shards: Sequence[ShardInfo], features: Features) -> bytes:
    """The README of `dataset:<name>@<version>`. Versions share shards, so a split names its own exactly."""
    splits = list(dict.fromkeys(shard.split for shard in shards))
    paths = {split: [_relative(shard) for shard in shards if shard.split == split] for split in splits}
    slots: Mapping[str, Mapping[str, Any]] = facts["slots"]
    sizes = {split: sum(shard.size_bytes for shard in shards if shard.split == split) for split in splits}
    lines = [
        *_head(facts["splits"], paths, features, sizes), f"# {name}, version {version}", "",
        *_MEMBERS, "Beside each tar: `.parquet` (facts of its rows), `.tar.idx` (offsets and digests of its members),",
        "`_stats.json`.", "",
        "| split | samples | shards |", "| --- | ---: | ---: |",
        *(f"| {split} | {number(facts['splits'][split])} | {len(paths[split])} |" for split in splits), "",
        "| slot | modality | present |", "| --- | --- | ---: |",
        *(f"| {slot} | {about['modality']} | {number(about['present'])} |" for slot, about in slots.items()), "",
        "| shard | samples | size |", "| --- | ---: | ---: |",
        *(f"| {each.split}-{each.digest[:12]}… | {each.samples:,} | {size(each.size_bytes)} |" for each in shards),
        "", "The columns are declared above, so that a sample without a slot has a null there:", "", *_HF, "",
    ]  # fmt: skip
    return "\n".join(lines).encode()


def _head(
    splits: Mapping[str, int], paths: Mapping[str, Any], features: Features, sizes: Mapping[str, int]
) -> list[str]:
    """The YAML that Hugging Face reads: files of each split, their columns, how many samples there are to be."""
    head = {
        "configs": [
            {"config_name": "default", "data_files": [{"split": split, "path": paths[split]} for split in paths]}
        ],
        "dataset_info": {
            "features": [dict(each) for each in features],
            "splits": [
                {"name": split, "num_bytes": sizes[split], "num_examples": splits[split]} for split in paths
            ],
        },
    }  # fmt: skip
    return ["---", yaml.safe_dump(head, sort_keys=False, allow_unicode=True).rstrip(), "---", ""]


def _relative(shard: ShardInfo) -> str:
    return "../../shards/" + shard.path.rsplit("/", 1)[-1]


# ---------------------------------------------------------------- of exports


def plain_readme(
    name: str, version: int, facts: Mapping[str, Any], sizes: Mapping[str, Sequence[int]], features: Features
) -> bytes:
    """The README of an export of numbered tars: `<split>/00000.tar`… sizes: bytes of each tar, by split."""
    split, count = next((split, len(each)) for split, each in sizes.items())
    return _tars_readme(name, version, facts, sizes, features, [
        *_MEMBERS, "Beside each tar: `.parquet` (facts of its rows), `.tar.idx` (offsets and digests of its members),",
        "`_stats.json`.", "",
        "```python", "import webdataset", "",
        f'data = webdataset.WebDataset("{split}/{{00000..{count - 1:05d}}}.tar", shardshuffle=False)', "```", "", *_HF,
    ])  # fmt: skip


def energon_readme(
    name: str, version: int, facts: Mapping[str, Any], sizes: Mapping[str, Sequence[int]], features: Features
) -> bytes:
    """The README of an export for Megatron-Energon."""
    return _tars_readme(name, version, facts, sizes, features, [
        *_MEMBERS, "`.nv-meta` and each `.tar.idx` are what `energon prepare` writes: nothing is left to prepare. The",
        "split `validation` is its `val`. Samples are crude (`CrudeWebdataset`): a cooker makes of each what a task",
        "wants. With `decoder = None` in the task encoder they hold bytes; energon's own decoder wants its extra",
        "`av_decode` for sounds.", "",
        "```python", "from megatron.energon import Cooker, DefaultTaskEncoder, WorkerConfig, get_train_dataset", "",
        "data = get_train_dataset(", '    "path/to/this/folder", worker_config=WorkerConfig.default_worker_config(),',
        "    batch_size=None, shuffle_buffer_size=None, max_samples_per_sequence=None,",
        "    task_encoder=MyTaskEncoder(),  # a DefaultTaskEncoder with `cookers = [Cooker(my_function)]`", ")", "```",
    ])  # fmt: skip


def img2dataset_readme(
    name: str, version: int, facts: Mapping[str, Any], sizes: Mapping[str, Sequence[int]], images: Sequence[str]
) -> bytes:
    """The README of an export as img2dataset writes. images: endings of its pictures' names."""
    files = {split: f"{split}/*.parquet" for split in sizes}
    endings = ", ".join(f"`{each}`" for each in images) or "none"
    return _exported(name, version, facts, files, [
        "As img2dataset writes: `00000.tar` with `<key>.<picture>`, `<key>.txt` and `<key>.json`, `00000.parquet` with",
        "a row for each sample, `00000_stats.json`. The key is the name of the members: bytes other than",
        "`[A-Za-z0-9_-]` stand in it as `%XX`. Slots beside the first text and picture are members of their own.",
        "Label, group and metadata are further columns; `url` is the metadata's, where it has one.", "",
        f"Endings of pictures: {endings}. A reader that asks for one passes over the others.",
    ])  # fmt: skip


def hf_readme(name: str, version: int, facts: Mapping[str, Any], splits: Iterable[str]) -> bytes:
    """The README of an export as Parquet for Hugging Face `datasets`."""
    files = {split: f"{split}-*.parquet" for split in splits}
    return _exported(name, version, facts, files, [
        "Parquet with embedded media, their bytes as the source had them. A slot that a sample lacks is null.", "",
        *_HF,
    ])  # fmt: skip


def _tars_readme(
    name: str,
    version: int,
    facts: Mapping[str, Any],
    sizes: Mapping[str, Sequence[int]],
    features: Features,
    about: Sequence[str],
) -> bytes:
    files = {split: f"{split}/*.tar" for split in sizes}
    head = _head(facts["splits"], files, features, {split: sum(each) for split, each in sizes.items()})
    return _page(head, name, version, facts, files, about)


def _exported(
    name: str, version: int, facts: Mapping[str, Any], files: Mapping[str, str], about: Sequence[str]
) -> bytes:
    paths = [{"split": split, "path": path} for split, path in files.items()]
    head = {"configs": [{"config_name": "default", "data_files": paths}]}
    said = ["---", yaml.safe_dump(head, sort_keys=False, allow_unicode=True).rstrip(), "---", ""]
    return _page(said, name, version, facts, files, about)


def _page(
    head: Sequence[str],
    name: str,
    version: int,
    facts: Mapping[str, Any],
    files: Mapping[str, str],
    about: Sequence[str],
) -> bytes:
    lines = [
        *head, f"# {name}, version {version}", "", *about, "",
        "| split | samples | files |", "| --- | ---: | --- |",
        *(f"| {split} | {number(facts['splits'][split])} | `{path}` |" for split, path in files.items()), "",
        "| slot | modality | present |", "| --- | --- | ---: |",
        *(f"| {slot} | {each['modality']} | {number(each['present'])} |" for slot, each in facts["slots"].items()), "",
    ]  # fmt: skip
    return "\n".join(lines).encode()
