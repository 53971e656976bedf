"""The data of the comparison through our own line: who is in which split is decided once, judges are trained once."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from benchmarks.models import settings
from mmgen import artifact as artifacts
from mmgen import config as configs
from mmgen import steps
from mmgen.artifact import Artifact
from mmgen.batches import open_samples
from mmgen.codec_set import CodecSet
from mmgen.config import Config
from mmgen.preprocess.text import TextPreprocess
from mmgen.runtime import Runtime
from mmgen.sources import spoken_digits
from mmgen.store import Store

#: of the splits and shards; a cell's own seed is of its trainings
DATA_SEED = 0
#: the columns of a slot's content
SLOT_COLUMNS = ("caption", "image", "audio")


def variant_of(name: str) -> tuple[float, int | None]:
    """Share of missing slots, and pairs to learn from (None: all), of "complete", "half", "most" or "pairs-N"."""
    if name.startswith("pairs-"):
        return 0.0, int(name.removeprefix("pairs-"))
    return settings.MISSING[name], None


def table_of(folder: Path, variant: str, splits: Mapping[str, str], rows: int = settings.ROWS) -> Path:
    """The variant's table beside the data set's own: a split column, training rows dropped, training cells emptied.

    splits: key → split of the complete set; empty for the complete set itself, which has no split column. Rows of
    other splits than train are all kept whole. rows: of the whole data set, where it is not there yet.
    """
    missing, most = variant_of(variant)
    pairs = folder / "pairs.csv"
    if not pairs.exists():
        spoken_digits.build(folder, rows)
    if not splits:
        return pairs
    target = folder / f"{variant}.csv"
    with open(pairs, encoding="utf-8", newline="") as stream:
        lines = [line for line in csv.DictReader(stream) if line["key"] in splits]
    kept, learned = [], 0
    for line in lines:
        split = splits[line["key"]]
        if split == "train":
            learned += 1
            if most is not None and learned > most:
                continue
            line |= dict.fromkeys(_emptied(line["key"], missing), "")
        kept.append(line | {"split": split})
    with open(target, "w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, [*kept[0]])
        writer.writeheader()
        writer.writerows(kept)
    return target


def _emptied(key: str, missing: float) -> list[str]:
    """Columns of a row that are left empty: each with its chance, never all."""
    draws = {column: int.from_bytes(hashlib.sha256(f"{key} {column}".encode()).digest()[:8], "big") / 2**64
             for column in SLOT_COLUMNS}  # fmt: skip
    gone = [column for column in SLOT_COLUMNS if draws[column] < missing]
    # the cell that was nearest to being kept stays
    return gone if len(gone) < len(SLOT_COLUMNS) else sorted(gone, key=draws.__getitem__)[:-1]


def config_of(table: Path, variant: str, seed: int = DATA_SEED, changes: Mapping[str, Any] | None = None) -> Config:
    """The recipe `spoken_digits` over a variant's table."""
    raw: dict[str, Any] = {
        "recipe": "spoken_digits", "name": f"digits-{variant}", "seed": seed, "source": {"path": str(table)},
        **(changes or {}),
    }  # fmt: skip
    if variant != "complete":
        # the splits are the complete set's, and a voice that it holds out is a split of its own there
        raw["source"] |= {"split": "split"}
        raw["validate"] = {"holdout": None}
        # whatever was learned from, the complete set's judges judge it: a variant's own are of no use
        raw["judges"] = {"train": {"steps": 2, "warmup_steps": 0}}
    return configs.build(raw)


def bring(config: Config, store: Store, last: str) -> dict[str, Artifact]:
    """The line up to a step: step → what it made or kept."""
    runtime = Runtime(store, workers=settings.THREADS)
    return {outcome.step: outcome.artifact for outcome in steps.run(config, runtime, steps.select(None, last))}


def splits_of(store: Store, verdicts: Artifact) -> dict[str, str]:
    """Key → split of the kept rows."""
    table = pl.read_parquet(store.read(verdicts.file("verdicts").path))
    kept = table.filter(pl.col("split").is_not_null())
    return dict(zip(kept["key"].to_list(), kept["split"].to_list(), strict=True))


def export(
    store: Store, codecs: Artifact, features: Artifact, split: str, target: Path, keys: list[str] | None = None
) -> int:
    """Values of a split as `value/<slot>` (images and spectrograms float32, texts int32 ids of the complete set's
    tokenizer) and whether they are there as `present/<slot>`, for the peers. keys: which samples, in which order; all
    if None. Returns the rows."""
    said = texts_of(store)
    samples = open_samples(store, features, "tensors", split)
    assert samples is not None
    place = {key: row for row, key in enumerate(samples.keys)}
    rows = np.arange(len(samples)) if keys is None else np.array([place[key] for key in keys])
    arrays: dict[str, np.ndarray] = {}
    for slot, how in CodecSet.load(store, codecs).preprocesses.items():
        compact = samples.gather(slot, rows, np.zeros(len(rows), dtype=np.int64))
        value = how.value(torch.from_numpy(compact))
        arrays[f"value/{slot}"] = retold(value, how, said) if isinstance(how, TextPreprocess) else value.numpy()
        arrays[f"present/{slot}"] = samples.counts[slot][rows] > 0
    np.savez(target, allow_pickle=False, **arrays)
    return len(rows)


def exam_keys(store: Store, split: str) -> list[str]:
    """The samples that contenders are judged on: of the test split those of the evaluation set, of another all."""
    if split == "test":
        evalset = artifacts.latest(store, "evalset", "digits-complete")
        assert evalset is not None
        return [row["key"] for row in json.loads(store.read(evalset.file("keys").path))["test"]]
    features = artifacts.latest(store, "features", "digits-complete")
    assert features is not None
    samples = open_samples(store, features, "tensors", split)
    assert samples is not None
    return samples.keys


def texts_of(store: Store) -> TextPreprocess:
    """The complete set's texts: the judges read ids of its tokenizer, and each variant has learned another."""
    codecs = artifacts.latest(store, "codecs", "digits-complete")
    assert codecs is not None
    how = CodecSet.load(store, codecs).preprocesses["text"]
    assert isinstance(how, TextPreprocess)
    return how


def retold(value: Tensor, have: TextPreprocess, want: TextPreprocess) -> np.ndarray:
    """The same texts (N, L) as int32 ids of another tokenizer."""
    return np.stack([want.compact(text.encode(), "") for text in have.texts(value)])


# two steps of everything that is trained: what is shared by all contenders is made beside it
TINY: dict[str, Any] = {
    "codecs": {modality: {"train": {"steps": 2, "warmup_steps": 0}} for modality in ("image", "audio", "text")},
}


def prepare(store: Store, folder: Path, variant: str, rows: int = settings.ROWS) -> tuple[Path, dict[str, Artifact]]:
    """What no contender is charged for: the dataset, its `tensors`, judges and evaluation set. Returns the table, and
    step → artifact up to `extract`."""
    splits: dict[str, str] = {}
    if variant != "complete":
        _, complete = prepare(store, folder, "complete", rows)
        splits = splits_of(store, complete["validate"])
    table = table_of(folder, variant, splits, rows)
    return table, bring(config_of(table, variant, changes=TINY), store, "extract")
