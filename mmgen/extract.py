"""`extract`: media shards → feature shards, one file for each, made once and adopted ever after.

A file is made from one media shard by one fingerprint, both of which it carries; where it is already in the store it
is checked and named, not made again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mmgen import artifact as artifacts
from mmgen import embeddings
from mmgen.artifact import Artifact, Draft, FileEntry, fingerprint
from mmgen.codec_set import CodecSet, read_slots
from mmgen.config import Config
from mmgen.encoders.config import ExtractConfig
from mmgen.errors import IntegrityError
from mmgen.features import FeatureSet, FeatureShard, SlotLayout, SlotRows, path_of, to_bytes
from mmgen.identity import STEP_VERSIONS, identity
from mmgen.modalities.table import MODALITIES
from mmgen.preprocess.table import preprocesses
from mmgen.preprocess.text import Tokenizer
from mmgen.records import Modality
from mmgen.runtime import Runtime, circumstance
from mmgen.store import Store, sha256
from mmgen.tars import TarReader, key_of, safe_key
from mmgen.training.parallel import pick_device

SETS: tuple[FeatureSet, ...] = ("tensors", "latents")  # the sets that there always are


def extract(config: Config, inputs: Mapping[str, Artifact], runtime: Runtime) -> Artifact:
    """Feature shards of every media shard: `tensors`, `latents`, and `embeddings` of the encoders that are configured.

    inputs: roles dataset, codecs.

    Raises IntegrityError if a media shard or an existing feature file is not what its manifest says.
    """
    store, dataset, codecs = runtime.store, inputs["dataset"], inputs["codecs"]
    what = identity("extract", config, inputs)
    draft = Draft(store, "features", config.name, what.fingerprint)
    tensors = tensor_plan(codecs.config["slots"], codecs.by_role("tokenizer"))
    latents = latent_plan(codecs)
    known = known_files(store, config.name)
    plans = [tensors, latents]
    if config.extract.encoders:
        plans.append(embedding_plan(config.extract, codecs, tensors))
    made = ensure(runtime, dataset, tensors, known)
    sources = {entry.facts["digest"]: entry.path for entry in made}
    for plan in plans[1:]:
        made += ensure(runtime, dataset, plan, known, sources)
    for entry in made:
        draft.adopt(entry)
    facts = {
        "sets": {plan.feature_set: plan.fingerprint for plan in plans},
        "slots": {slot: settings["modality"] for slot, settings in codecs.config["slots"].items()},
        "labels": codecs.facts["labels"],
        "splits": dataset.facts["splits"],
    }
    return draft.commit(
        step="extract",
        config=what.config,
        inputs={role: given.link for role, given in inputs.items()},
        facts=facts,
        pin=what.pin,
        circumstance=circumstance(device=str(pick_device(runtime.device)), workers=runtime.workers),
    )


# ---------------------------------------------------------------- plans


@dataclass(frozen=True)
class Plan:
    """How one feature set is made. fingerprint: its identity. recipe: plain data that a worker needs, as JSON."""

    feature_set: FeatureSet
    fingerprint: str
    recipe: str


def tensor_plan(slots: Mapping[str, Any], tokenizer: Sequence[FileEntry]) -> Plan:
    """Preprocessed tensors of these slots' settings; the tokenizer counts by its bytes."""
    words = tokenizer[0] if tokenizer else None
    declared = {
        slot: {key: value for key, value in settings.items() if key != "column"} for slot, settings in slots.items()
    }
    mine = fingerprint(
        set="tensors", version=STEP_VERSIONS["extract"], slots=declared, tokenizer=words.sha256 if words else None
    )
    return Plan("tensors", mine, json.dumps({"slots": dict(slots), "tokenizer": words.path if words else None}))


def latent_plan(codecs: Artifact) -> Plan:
    """Standardised latents of these codecs, which count by their parts' fingerprints."""
    # what only makes sound of values changes no latent
    others = ("judges", "vocoder")
    parts = {name: part["fingerprint"] for name, part in codecs.facts["parts"].items() if name not in others}
    mine = fingerprint(set="latents", version=STEP_VERSIONS["extract"], parts=parts, slots=codecs.config["slots"])
    return Plan("latents", mine, json.dumps({"codecs": codecs.ref}))


def embedding_plan(settings: ExtractConfig, codecs: Artifact, tensors: Plan) -> Plan:
    """Vectors of frozen encoders over these tensors. Raises ConfigError."""
    mine = embeddings.identity_of(settings.encoders, tensors.fingerprint)
    return Plan("embeddings", mine, embeddings.recipe_of(settings.encoders, codecs))


def known_files(store: Store, name: str) -> dict[str, FileEntry]:
    """Path → what earlier versions recorded of it."""
    return {
        entry.path: entry
        for version in reversed(artifacts.history(store, "features", name))
        for entry in version.by_role("features")
    }


# ---------------------------------------------------------------- make or adopt


def ensure(
    runtime: Runtime,
    dataset: Artifact,
    plan: Plan,
    known: Mapping[str, FileEntry],
    sources: Mapping[str, str] | None = None,
    splits: Sequence[str] | None = None,
) -> list[FileEntry]:
    """The feature files of every media shard (of `splits`), made where they are missing.

    sources: media digest → tensors file, for what is made from tensors.
    """
    store = runtime.store
    shards = [shard for shard in dataset.by_role("shard") if splits is None or shard.facts["split"] in splits]
    entries: dict[str, FileEntry] = {}
    missing: list[FileEntry] = []
    for shard in shards:
        found = _adopted(store, plan, shard, known)
        if found is None:
            missing.append(shard)
        else:
            entries[shard.path] = found
    work = [
        (store.uri, shard.path, str(shard.facts["digest"]), (sources or {}).get(str(shard.facts["digest"]), ""),
         plan.feature_set, plan.fingerprint, plan.recipe, runtime.device)
        for shard in missing
    ]  # fmt: skip
    results = runtime.map(f"extract {plan.feature_set}", make_file, work, runtime.workers) if work else []
    for shard, (size, digest) in zip(missing, results, strict=True):
        entries[shard.path] = _entry(plan, shard, size, digest)
    return [entries[shard.path] for shard in shards]


def _entry(plan: Plan, shard: FileEntry, size: int, digest: str) -> FileEntry:
    facts = {
        "set": plan.feature_set,
        "split": shard.facts["split"],
        "samples": shard.facts["samples"],
        "digest": shard.facts["digest"],
        "fingerprint": plan.fingerprint,
    }
    path = path_of(plan.fingerprint, str(shard.facts["digest"]))
    return FileEntry(path, size, digest, "features", facts)


def _adopted(store: Store, plan: Plan, shard: FileEntry, known: Mapping[str, FileEntry]) -> FileEntry | None:
    """The file that an earlier run left, if it is whole and what it should be."""
    path = path_of(plan.fingerprint, str(shard.facts["digest"]))
    size = store.size(path)
    if size is None:
        return None
    recorded = known.get(path)
    if recorded is not None and recorded.size == size:
        return _entry(plan, shard, size, recorded.sha256)
    # its run died before it could commit; the file itself says what it is
    try:
        opened = FeatureShard.open(store.local_path(path))
        opened.check(fingerprint=plan.fingerprint, media_digest=str(shard.facts["digest"]))
        check_keys(store, shard.path, opened)
    except IntegrityError:
        return None
    return _entry(plan, shard, size, sha256(store.read(path)))


def make_file(
    store_uri: str, media: str, digest: str, source: str, feature_set: FeatureSet, mark: str, recipe: str, device: str
) -> tuple[int, str]:
    """Make the feature file of one media shard in a worker. Returns its size and sha256."""
    store, plan = Store(store_uri), json.loads(recipe)
    if feature_set == "tensors":
        data = _tensors(store, media, digest, mark, plan)
    else:
        reference = artifacts.Reference.parse(plan["codecs"])
        assert reference.version is not None
        where = pick_device(device)
        codecs = CodecSet.load(store, artifacts.load(store, "codecs", reference.name, reference.version)).to(where)
        shard = FeatureShard.open(store.local_path(source))
        if feature_set == "latents":
            data = _latents(codecs, shard, digest, mark, where)
        else:
            data = embeddings.embed_file(codecs, shard, mark, digest, plan["encoders"], where)
    store.write(path_of(mark, digest), data)
    return len(data), sha256(data)


# ---------------------------------------------------------------- tensors


def read_media(store: Store, path: str) -> TarReader:
    """Open a media shard with its index, from the cache if the store is remote."""
    store.local_path(f"{path}.idx")
    return TarReader.open(store.local_path(path))


def alternatives(members: Mapping[str, bytes], slot: str, modality: Modality, about: Mapping[str, Any]) -> list[bytes]:
    """The files of one slot of a sample: none if it is missing, several for a text with alternatives."""
    if modality == "text":
        return [text.encode() for text in about.get("texts", {}).get(slot, [])]
    prefix = "" if slot == modality else f"{slot}."
    names = [f"{prefix}{ending}" for ending in MODALITIES[modality].extensions]
    return [members[name] for name in names if name in members][:1]


def _tensors(store: Store, media: str, digest: str, mark: str, plan: Mapping[str, Any]) -> bytes:
    settings = read_slots(plan["slots"])
    words = Tokenizer.from_json(store.read(plan["tokenizer"])) if plan["tokenizer"] else None
    how = preprocesses(settings, words)
    layouts = {slot: SlotLayout(each.modality, each.shape, each.dtype) for slot, each in how.items()}
    rows: dict[str, list[list[np.ndarray]]] = {slot: [] for slot in how}
    keys: list[str] = []
    labels: list[str | None] = []
    with read_media(store, media) as reader:
        for safe in reader.keys():  # noqa: SIM118
            members = reader.sample(safe)
            about = json.loads(members["json"])
            key = str(about.get("key", key_of(safe)))
            keys.append(key)
            labels.append(about.get("label"))
            for slot, each in how.items():
                files = alternatives(members, slot, each.modality, about)
                rows[slot].append([each.compact(data, f"{key}/{slot}") for data in files])
    return to_bytes(
        feature_set="tensors", fingerprint=mark, media_digest=digest, keys=keys, labels=labels, layouts=layouts,
        slots={slot: SlotRows.stack(found, layouts[slot]) for slot, found in rows.items()},
    )  # fmt: skip


# ---------------------------------------------------------------- latents


def _latents(codecs: CodecSet, shard: FeatureShard, digest: str, mark: str, where: torch.device) -> bytes:
    layouts, slots = {}, {}
    for slot, rows in shard.slots.items():
        layouts[slot] = SlotLayout(shard.layouts[slot].modality, codecs.latent_shape(slot), "float32")
        slots[slot] = SlotRows(encode_rows(codecs, slot, rows.rows, where), rows.offsets)
    return to_bytes(
        feature_set="latents", fingerprint=mark, media_digest=digest, keys=shard.keys, labels=shard.labels,
        layouts=layouts, slots=slots,
    )  # fmt: skip


def encode_rows(codecs: CodecSet, slot: str, compact: np.ndarray, device: torch.device) -> np.ndarray:
    """Standardised latents (R, T, D) float32 of compact rows (R, …)."""
    made = [np.empty((0, *codecs.latent_shape(slot)), dtype=np.float32)]
    for start in range(0, len(compact), 256):
        part = torch.from_numpy(np.array(compact[start : start + 256])).to(device)
        made.append(codecs.encode(slot, codecs.preprocesses[slot].value(part)).cpu().numpy())
    return np.concatenate(made)


def check_keys(store: Store, media: str, shard: FeatureShard) -> None:
    """Raise IntegrityError unless a feature shard has exactly its media shard's keys, in order."""
    with read_media(store, media) as reader:
        wanted = reader.keys()
    if [safe_key(key) for key in shard.keys] != wanted:
        raise IntegrityError(f"features of {media}: wanted its {len(wanted)} keys in order, came others")
