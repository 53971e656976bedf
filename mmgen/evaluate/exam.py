"""The evaluation set as values: frozen keys read back from their media shards, and checked against their digests."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from mmgen.artifact import Artifact
from mmgen.batches import NO_LABEL, Batch
from mmgen.codec_set import CodecSet
from mmgen.errors import IntegrityError
from mmgen.extract import alternatives, read_media
from mmgen.modalities.audio import AudioMedia
from mmgen.preprocess.audio import AudioPreprocess
from mmgen.store import Store
from mmgen.tars import TarReader, safe_key


@dataclass(frozen=True)
class Exam:
    """One split of an evaluation set. real: all its samples as one batch. files: slot → each sample's own bytes.

    texts: text slot → each sample's alternatives, none if it lacks the slot. labels: as the source says them.
    """

    split: str
    real: Batch
    files: Mapping[str, list[bytes | None]]
    texts: Mapping[str, list[tuple[str, ...]]] = field(default_factory=dict)
    labels: Sequence[str | None] = ()


def read_exam(store: Store, evalset: Artifact, codecs: CodecSet, split: str, device: torch.device | str) -> Exam | None:
    """The samples of `split`, first alternatives; None if it has none.

    Raises IntegrityError if a sample's members are not those that were frozen.
    """
    chosen: list[dict[str, str]] = json.loads(store.read(evalset.file("keys").path)).get(split, [])
    if not chosen:
        return None
    files: dict[str, list[bytes | None]] = {slot: [None] * len(chosen) for slot in codecs.slots}
    texts: dict[str, list[tuple[str, ...]]] = {
        slot: [()] * len(chosen) for slot in codecs.slots if codecs.modality(slot) == "text"
    }
    said: list[str | None] = [None] * len(chosen)
    index = {name: number for number, name in enumerate(codecs.labels)}
    by_shard: dict[str, list[int]] = {}
    for place, row in enumerate(chosen):
        by_shard.setdefault(row["shard"], []).append(place)
    for shard, places in by_shard.items():
        with read_media(store, shard) as reader:
            digests = _digests(reader)
            for place in places:
                key, wanted = chosen[place]["key"], chosen[place]["digest"]
                if digests.get(safe_key(key)) != wanted:
                    raise IntegrityError(f"{evalset.ref}: sample '{key}' in {shard} is not what was frozen")
                members = reader.sample(safe_key(key))
                about: dict[str, Any] = json.loads(members["json"])
                said[place] = about.get("label") or None
                for slot in files:
                    found = alternatives(members, slot, codecs.modality(slot), about)
                    files[slot][place] = found[0] if found else None
                    if slot in texts:
                        texts[slot][place] = tuple(each.decode() for each in found)
    keys = [row["key"] for row in chosen]
    labels = torch.tensor([index.get(str(label), NO_LABEL) for label in said])
    return Exam(split, _batch(codecs, files, labels, keys).to(device), files, texts, said)


def recording(how: AudioPreprocess, data: bytes, key: str = "") -> torch.Tensor:
    """A real clip (samples,) at the slot's rate and length: the recording itself, not its spectrogram's sound."""
    samples, rate = AudioMedia().decode(data)
    return how.clip(torch.from_numpy(samples.mean(axis=0)), rate, key)


def _digests(reader: TarReader) -> dict[str, str]:
    """Safe key → the digest over its members that `evalset.choose` froze."""
    members: dict[str, list[str]] = {}
    for member in reader.index.members:
        members.setdefault(member.key, []).append(f"{member.suffix} {member.sha256}")
    return {safe: hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest() for safe, lines in members.items()}


def _batch(codecs: CodecSet, files: Mapping[str, list[bytes | None]], labels: torch.Tensor, keys: list[str]) -> Batch:
    values, masks = {}, {}
    for slot, how in codecs.preprocesses.items():
        present = torch.tensor([data is not None for data in files[slot]])
        compact = np.zeros((len(keys), *how.shape), dtype=how.dtype)
        for row, data in enumerate(files[slot]):
            if data is not None:
                compact[row] = how.compact(data, f"{keys[row]}/{slot}")
        value = how.value(torch.from_numpy(compact))
        values[slot] = value * present.view(-1, *[1] * (value.dim() - 1)).to(value.dtype)
        masks[slot] = present[:, None]
    return Batch(values, masks, labels, torch.ones(len(keys)), keys)
