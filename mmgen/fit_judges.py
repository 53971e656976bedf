"""judges:name: one classifier per modality, trained on real training data; kept until its configuration changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from mmgen import artifact as artifacts
from mmgen.artifact import Artifact, Draft, fingerprint
from mmgen.batches import Samples
from mmgen.codec_set import load_weights, weights_of
from mmgen.config import Config
from mmgen.evaluate.judges import Judge, make_judge
from mmgen.fit_parts import Bench, accuracy, fit_judge, judge_shape
from mmgen.identity import STEP_VERSIONS
from mmgen.preprocess.table import Preprocess
from mmgen.records import Modality
from mmgen.runtime import Runtime, circumstance
from mmgen.store import Store, sha256
from mmgen.training.checkpoint import Checkpoint
from mmgen.training.config import counted


def fit_judges(
    config: Config,
    dataset: Artifact,
    runtime: Runtime,
    bench: Bench,
    hows: Mapping[str, Preprocess],
    by_modality: Mapping[Modality, list[str]],
    labels: tuple[str, ...],
    tokenizer: str | None,
    train: Samples,
    test: Samples | None,
) -> Artifact:
    """The judges of this configuration: earlier ones where their pin is the same (law 16), else new ones.

    Without labels there is an artifact with no classifiers in it. tokenizer: the fingerprint of the text ids.
    """
    plain = config.to_json()
    slots = {slot: {k: v for k, v in plain["slots"][slot].items() if k != "column"} for slot in hows}
    settings: dict[str, Any] = {"judges": counted(plain["judges"]), "slots": slots, "labels": list(labels)}
    settings["tokenizer"] = tokenizer
    pin = fingerprint(part="judges", version=STEP_VERSIONS["fit"], **settings)
    if not runtime.refit:
        for old in artifacts.history(runtime.store, "judges", config.name):
            if old.pin == pin and not artifacts.damaged(runtime.store, old):
                return old
    mine = fingerprint(pin=pin, dataset=dataset.fingerprint)
    draft = Draft(runtime.store, "judges", config.name, mine)
    made: dict[str, dict[str, Any]] = {}
    found: dict[str, dict[str, float]] = {}
    checkpoints = []
    for modality, names in by_modality.items() if labels else ():
        how = hows[names[0]]
        pooled = train.pooled(names, labels)
        if not ((pooled.counts["value"] > 0) & (pooled.labels >= 0)).any():
            continue
        identity = fingerprint(judges=mine, modality=modality)
        checkpoint = Checkpoint(runtime.store, identity, config.judges.train.keep_last)
        judge, _ = fit_judge(bench, config.judges, how, pooled, len(labels), checkpoint)
        data = weights_of(judge)
        draft.put(f"judge-{modality}-{sha256(data)[:8]}.safetensors", data, f"judge:{modality}")
        made[modality] = {"shape": list(judge_shape(how)), "classes": len(labels), "width": config.judges.width}
        checkpoints.append(checkpoint)
        for slot in names:
            score = accuracy(judge, how, test, slot, bench.world.device) if test is not None else {}
            if score:
                found[slot] = score
                runtime.progress.say(f"fit: judge of {slot}: {score['value']:.1%} of {score['n']} real test rows right")
    facts = {"slots": {slot: how.modality for slot, how in hows.items()}, "labels": list(labels) or None,
             "judges": made, "accuracy": found}  # fmt: skip
    result = draft.commit(
        step="fit", config=settings, inputs={"dataset": dataset.link}, facts=facts, pin=pin,
        circumstance=circumstance(device=str(bench.world.device)),
    )  # fmt: skip
    for checkpoint in checkpoints:
        if bench.world.first:
            checkpoint.clear()
    return result


def load_judges(store: Store, judges: Artifact, device: torch.device | str) -> dict[Modality, Judge]:
    """Modality → its judge, in evaluation mode; empty where the data has no labels."""
    loaded: dict[Modality, Judge] = {}
    for name, spec in judges.facts["judges"].items():
        modality: Modality = name
        judge = make_judge(modality, tuple(spec["shape"]), spec["classes"], spec["width"])
        load_weights(judge, store.read(judges.file(f"judge:{modality}").path), f"judge:{modality}")
        loaded[modality] = judge.to(device).eval().requires_grad_(False)
    return loaded
