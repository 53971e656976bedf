"""evalset:name: the test keys that every model version is scored on, frozen with the digests of what they hold."""

from __future__ import annotations

import hashlib
import json

from mmgen import artifact as artifacts
from mmgen.artifact import Artifact, Draft, fingerprint
from mmgen.config import Config
from mmgen.extract import read_media
from mmgen.identity import STEP_VERSIONS
from mmgen.runtime import Runtime, circumstance
from mmgen.store import Store
from mmgen.tars import key_of


def fit_evalset(config: Config, dataset: Artifact, runtime: Runtime, judges: Artifact) -> Artifact:
    """The latest evaluation set if its judges and size are the same, else a new one from the dataset's test shards.

    It outlives data versions (law 16): files of role "shard" are the media shards of its keys, "keys" is JSON
    {split: [{"key", "digest", "shard"}]}, at most `evaluate.max_samples` of each split.
    """
    store, limit = runtime.store, config.evaluate.max_samples
    settings = {"judges": judges.fingerprint, "max_samples": limit}
    pin = fingerprint(part="evalset", version=STEP_VERSIONS["fit"], **settings)
    old = artifacts.latest(store, "evalset", config.name)
    if old is not None and old.pin == pin and not runtime.refit and not artifacts.damaged(store, old):
        return old
    held_out = config.validate_.holdout.split if config.validate_.holdout else None
    draft = Draft(store, "evalset", config.name, fingerprint(pin=pin, dataset=dataset.fingerprint))
    chosen: dict[str, list[dict[str, str]]] = {}
    for split in ("test", held_out):
        if split is not None:
            chosen[split] = choose(store, dataset, split, limit)
    named = {row["shard"] for rows in chosen.values() for row in rows}
    for entry in dataset.files:
        base = entry.path.removesuffix(".idx")
        if base in named and entry.role in ("shard", "index"):
            draft.adopt(entry)
    draft.put("keys.json", json.dumps(chosen, indent=1, ensure_ascii=False).encode(), "keys")
    facts = {
        "counts": {split: len(rows) for split, rows in chosen.items()},
        "heldout": held_out,
        "judges": judges.ref,
        "dataset": dataset.ref,
        "slots": dataset.facts["slots"],
        "labels": judges.facts["labels"],
    }
    return draft.commit(
        step="fit", config=settings, inputs={"dataset": dataset.link, "judges": judges.link}, facts=facts, pin=pin,
        circumstance=circumstance(),
    )  # fmt: skip


def choose(store: Store, dataset: Artifact, split: str, limit: int) -> list[dict[str, str]]:
    """At most `limit` samples of a split, {"key", "digest", "shard"}, by the hash of their keys.

    digest: sha256 over the digests of the sample's members, so that content that changed under a key is seen.
    """
    rows: list[tuple[str, dict[str, str]]] = []
    for entry in dataset.by_role("shard"):
        if entry.facts["split"] != split:
            continue
        with read_media(store, entry.path) as reader:
            members: dict[str, list[str]] = {}
            for member in reader.index.members:
                members.setdefault(member.key, []).append(f"{member.suffix} {member.sha256}")
        for safe, lines in members.items():
            key = key_of(safe)
            digest = hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()
            rank = hashlib.sha256(key.encode()).hexdigest()
            rows.append((rank, {"key": key, "digest": digest, "shard": entry.path}))
    return [row for _, row in sorted(rows, key=lambda pair: pair[0])[:limit]]
