"""Pair scores: how alike the slots of each staged sample are to a fusion model that was trained before.

What costs time, the embeddings of a staging batch, is made once per batch and model and adopted ever after; the
similarities of all rows are made of them each time, because the samples they are compared with are drawn from all rows.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import polars as pl
import torch

from mmgen import artifact
from mmgen.artifact import Artifact, Draft, FileEntry, Reference, fingerprint
from mmgen.codec_set import read_slots
from mmgen.config import Config
from mmgen.errors import ConfigError, IntegrityError
from mmgen.extract import read_media, tensor_plan
from mmgen.features import FeatureShard, SlotLayout, SlotRows, path_of, to_bytes
from mmgen.maker import ROWS, embed_slot, load_fusion
from mmgen.modalities.table import MODALITIES
from mmgen.pairs import STEP
from mmgen.preprocess.table import Preprocess, preprocesses
from mmgen.preprocess.text import Tokenizer
from mmgen.runtime import Runtime, circumstance
from mmgen.similarities import AMONG, Rows, compare
from mmgen.staging import FOLDER as BATCHES
from mmgen.staging import member_name
from mmgen.store import Store, sha256
from mmgen.tables import parquet, read_parquet
from mmgen.training.parallel import pick_device

VERSION = 1


def score(config: Config, inputs: Mapping[str, Artifact], runtime: Runtime) -> Artifact:
    """pairs:name, the table of `data_schemas/pairs.py` over all staged rows. inputs: staging, fusion.

    Raises ConfigError if the fusion was trained for other slots, IntegrityError if it is damaged.
    """
    store, staging, fusion = runtime.store, inputs["staging"], inputs["fusion"]
    codecs = artifact.load_link(store, fusion.inputs["codecs"])
    _check(store, config, fusion, codecs)
    tensors = tensor_plan(codecs.config["slots"], codecs.by_role("tokenizer"))
    mark = fingerprint(step=STEP, version=VERSION, fusion=fusion.fingerprint, tensors=tensors.fingerprint)
    mine = fingerprint(step=STEP, version=VERSION, staging=staging.fingerprint, embeddings=mark, among=AMONG)
    same = artifact.find(store, "pairs", config.name, mine)
    if same is not None:
        runtime.progress.say(f"pairs: scored before: {same.ref}")
        return same
    entries, fresh = _ensure(runtime, config.name, staging, mark, tensors.recipe, fusion)
    draft = Draft(store, "pairs", config.name, mine)
    for entry in entries:
        draft.adopt(entry)
    modalities = {slot: each.modality for slot, each in read_slots(codecs.config["slots"]).items()}
    table = compare([_rows(store, entry, mark) for entry in entries], modalities)
    draft.put("pairs.parquet", parquet(table), "pairs")
    rows, whole = table["row"].n_unique(), int(staging.facts["rows"])
    facts = {"rows": rows, "unscored": whole - rows, "fusion": fusion.ref, "batches": len(entries)}
    runtime.progress.say(
        f"pairs: {rows:,} of {whole:,} samples scored by {fusion.ref} ({fresh} of {len(entries)} batches are new to it)"
    )
    return draft.commit(
        step=STEP, config={"among": AMONG}, inputs={role: each.link for role, each in inputs.items()}, facts=facts,
        circumstance=circumstance(device=str(pick_device(runtime.device)), batches_embedded=fresh),
    )  # fmt: skip


def _check(store: Store, config: Config, fusion: Artifact, codecs: Artifact) -> None:
    now, then = (_meaning(slots) for slots in (config.to_json()["slots"], codecs.config["slots"]))
    if now != then:
        other = sorted(slot for slot in now.keys() | then.keys() if now.get(slot) != then.get(slot))
        raise ConfigError(
            f"{fusion.ref} was trained with other settings of the slots {', '.join(other)}; train it again"
        )
    for entry in (fusion.file("weights"), *codecs.by_role("tokenizer")):
        # it is read whole anyway
        if bad := artifact.damage(store, entry, rehash=True):
            raise IntegrityError(f"{fusion.ref}: {bad}")


def _meaning(slots: Mapping[str, Any]) -> dict[str, Any]:
    """Slots without the column that they come from."""
    return {name: {key: value for key, value in each.items() if key != "column"} for name, each in slots.items()}


# ---------------------------------------------------------------- embeddings


def _ensure(
    runtime: Runtime, name: str, staging: Artifact, mark: str, recipe: str, fusion: Artifact
) -> tuple[list[FileEntry], int]:
    """A file of embeddings per staging batch, and how many had to be made."""
    store = runtime.store
    known = {entry.path: entry for past in artifact.history(store, "pairs", name) for entry in past.files}
    names = {batch_of(entry): entry.facts["first_row"] for entry in staging.by_role("facts")}
    missing = [
        batch for batch in names
        if (entry := known.get(path_of(mark, batch))) is None or artifact.damage(store, entry, rehash=False)
    ]  # fmt: skip
    work = [(store.uri, batch, mark, recipe, fusion.ref, runtime.device) for batch in missing]
    made = dict(zip(missing, runtime.map("score pairs", embed_batch, work, runtime.workers), strict=True))
    entries = []
    for batch, first in names.items():
        path = path_of(mark, batch)
        size, digest = made[batch] if batch in made else (known[path].size, known[path].sha256)
        entries.append(FileEntry(path, size, digest, "embeddings", {"batch": batch, "first_row": first}))
    return entries, len(missing)


def batch_of(facts: FileEntry) -> str:
    """The name of the staging batch that a table of facts belongs to."""
    return facts.path.rpartition("/")[2].split(".")[0]


def embed_batch(store_uri: str, batch: str, mark: str, recipe: str, fusion_ref: str, device: str) -> tuple[int, str]:
    """Make the file of embeddings of one staging batch in a worker. Returns its size and sha256.

    Slot → (1, D) float16 of unit length: the mean over a text's alternatives. Raises SourceError, IntegrityError.
    """
    store, plan, where = Store(store_uri), json.loads(recipe), pick_device(device)
    reference = Reference.parse(fusion_ref)
    assert reference.version is not None
    network = load_fusion(store, artifact.load(store, "model", reference.name, reference.version), where)
    settings = read_slots(plan["slots"])
    hows = preprocesses(settings, Tokenizer.from_json(store.read(plan["tokenizer"])) if plan["tokenizer"] else None)
    facts = read_parquet(store, f"{BATCHES}/{batch}.parquet")
    layouts, slots = {}, {}
    for slot, how in hows.items():
        counts, vectors = [0] * facts.height, []
        for places, compact in _compacts(store, batch, facts, slot, how):
            e_RD = _unit(embed_slot(network, slot, how.value(torch.from_numpy(compact).to(where))).cpu().numpy())
            for place, rows in itertools.groupby(range(len(places)), key=places.__getitem__):
                vectors.append(_unit(e_RD[list(rows)].mean(axis=0)))
                counts[place] = 1
        width = int(network.width)  # type: ignore[arg-type]
        layouts[slot] = SlotLayout(how.modality, (1, width), "float16")
        stacked = np.stack(vectors)[:, None] if vectors else np.empty((0, 1, width))
        slots[slot] = SlotRows(stacked.astype(np.float16), np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
    data = to_bytes(
        feature_set="embeddings", fingerprint=mark, media_digest=batch, keys=facts["key"].to_list(),
        labels=facts["label"].to_list(), layouts=layouts, slots=slots,
    )  # fmt: skip
    store.write(path_of(mark, batch), data)
    return len(data), sha256(data)


def _compacts(
    store: Store, batch: str, facts: pl.DataFrame, slot: str, how: Preprocess
) -> Iterator[tuple[list[int], np.ndarray]]:
    """(places in `facts`, compact rows) of a slot, about `ROWS` at a time; a sample's alternatives stay together."""
    places: list[int] = []
    rows: list[np.ndarray] = []
    text = how.modality == "text"
    columns = ("row", "key", "texts", f"{slot}.present", f"{slot}.ext")
    with read_media(store, f"{BATCHES}/{batch}.tar") as tar:
        for place, (row, key, texts, present, ext) in enumerate(facts.select(columns).iter_rows()):
            if not present:
                continue
            files = (
                [MODALITIES["text"].encode(each) for each in json.loads(texts)[slot]]
                if text else [tar.read(member_name(row, slot, ext))]
            )  # fmt: skip
            rows += [how.compact(data, f"{key}/{slot}") for data in files]
            places += [place] * len(files)
            if len(rows) >= ROWS:
                yield places, np.stack(rows)
                places, rows = [], []
    if rows:
        yield places, np.stack(rows)


def _unit(e_D: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(e_D, axis=-1, keepdims=True)
    out: np.ndarray = e_D / np.maximum(length, 1e-12)
    return out


def _rows(store: Store, entry: FileEntry, mark: str) -> Rows:
    """A batch's rows with their embeddings. Raises IntegrityError if these are not the batch's own."""
    facts = read_parquet(store, f"{BATCHES}/{entry.facts['batch']}.parquet", ["row", "key"])
    shard, keys = FeatureShard.open(store.local_path(entry.path)), facts["key"].to_list()
    shard.check(fingerprint=mark, media_digest=entry.facts["batch"], keys=keys)
    return Rows(facts["row"].to_numpy(), keys, shard.slots)
