"""README.md of a dataset version: what Hugging Face's readers and people find beside the shards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from mmgen.records import ShardInfo
from mmgen.report.page import number, size

_DTYPES = {"text": {"dtype": "string"}, "image": {"dtype": "image"}, "audio": {"dtype": "audio"}}


def readme(name: str, version: int, facts: Mapping[str, Any], shards: Sequence[ShardInfo]) -> bytes:
    """The README of `dataset:<name>@<version>`. Versions share shards, so a split names its own exactly."""
    splits = list(dict.fromkeys(shard.split for shard in shards))
    paths = {split: [_relative(shard) for shard in shards if shard.split == split] for split in splits}
    slots: Mapping[str, Mapping[str, Any]] = facts["slots"]
    head = {
        "configs": [
            {"config_name": "default", "data_files": [{"split": split, "path": paths[split]} for split in splits]}
        ],
        "dataset_info": {
            "features": [
                {"name": "__key__", "dtype": "string"},
                *({"name": slot, **_DTYPES[about["modality"]]} for slot, about in slots.items()),
                {"name": "json", "dtype": "string"},
            ],
            "splits": [{"name": split, "num_examples": facts["splits"][split]} for split in splits],
        },
    }
    first = {split: paths[split][:1] for split in splits[:1]}
    lines = [
        "---", yaml.safe_dump(head, sort_keys=False, allow_unicode=True).rstrip(), "---", "",
        f"# {name}, version {version}", "",
        "WebDataset tars with the source's own bytes. Per sample: one member for each slot it has, and a `.json`",
        "with its key, label, group, all texts and metadata. Beside each tar: `.parquet` (facts of its rows),",
        "`.tar.idx` (offsets and digests of its members), `_stats.json`.", "",
        "| split | samples | shards |", "| --- | ---: | ---: |",
        *(f"| {split} | {number(facts['splits'][split])} | {len(paths[split])} |" for split in splits), "",
        "| slot | modality | present |", "| --- | --- | ---: |",
        *(f"| {slot} | {about['modality']} | {number(about['present'])} |" for slot, about in slots.items()), "",
        "| shard | samples | size |", "| --- | ---: | ---: |",
        *(f"| {each.split}-{each.digest[:12]}… | {each.samples:,} | {size(each.size_bytes)} |" for each in shards),
        "",
        "From this folder:", "", "```python", "from datasets import load_dataset", "",
        "# the paths of each split, as listed above", f"files = {first}",
        'data = load_dataset("webdataset", data_files=files)', "```", "",
    ]  # fmt: skip
    return "\n".join(lines).encode()


def _relative(shard: ShardInfo) -> str:
    return "../../shards/" + shard.path.rsplit("/", 1)[-1]


def plain_readme(name: str, version: int, facts: Mapping[str, Any]) -> bytes:
    """The README of an export of numbered tars: `<split>/00000.tar`…"""
    splits = facts["splits"]
    files = {split: f"{split}/*.tar" for split in splits}
    return _exported(name, version, facts, files, [
        "WebDataset tars with the source's own bytes. Per sample: one member for each slot it has, and a `.json`",
        "with its key, label, group, all texts and metadata. Beside each tar: `.parquet` (facts of its rows),",
        "`.tar.idx` (offsets and digests of its members), `_stats.json`.", "",
        "```python", "import webdataset", "",
        f'data = webdataset.WebDataset("{next(iter(splits))}/{{00000..00000}}.tar", shardshuffle=False)', "```",
    ])  # fmt: skip


def hf_readme(name: str, version: int, facts: Mapping[str, Any]) -> bytes:
    """The README of an export as Parquet for Hugging Face `datasets`."""
    files = {split: f"{split}-*.parquet" for split in facts["splits"]}
    return _exported(name, version, facts, files, [
        "Parquet with embedded media, their bytes as the source had them. A slot that a sample lacks is null.", "",
        "```python", "from datasets import load_dataset", "", 'data = load_dataset("path/to/this/folder")', "```",
    ])  # fmt: skip


def _exported(
    name: str, version: int, facts: Mapping[str, Any], files: Mapping[str, str], about: Sequence[str]
) -> bytes:
    paths = [{"split": split, "path": path} for split, path in files.items()]
    head = {"configs": [{"config_name": "default", "data_files": paths}]}
    lines = [
        "---", yaml.safe_dump(head, sort_keys=False, allow_unicode=True).rstrip(), "---", "",
        f"# {name}, version {version}", "", *about, "",
        "| split | samples | files |", "| --- | ---: | --- |",
        *(f"| {split} | {number(count)} | `{files[split]}` |" for split, count in facts["splits"].items()), "",
        "| slot | modality | present |", "| --- | --- | ---: |",
        *(f"| {slot} | {each['modality']} | {number(each['present'])} |" for slot, each in facts["slots"].items()), "",
    ]  # fmt: skip
    return "\n".join(lines).encode()
