"""`evaluate`: the scores of a generator on the frozen evaluation set, its gate, and examples to look at.

The gate decides nothing here but `passed` and its reasons: `register` gives no alias to what did not pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from mmgen import artifact as artifacts
from mmgen.artifact import Artifact, Draft, Reference
from mmgen.batches import Samples, open_samples
from mmgen.codec_set import codec_names, read_slots
from mmgen.config import Config
from mmgen.errors import IntegrityError, UnknownReference
from mmgen.evaluate import gate, reading, scores
from mmgen.evaluate.exam import read_exam
from mmgen.evaluate.examiner import Examiner
from mmgen.evaluate.measure import Panel
from mmgen.evaluate.memorisation import Training
from mmgen.evaluate.recogniser import listener_for
from mmgen.evaluate.scores import Score
from mmgen.fit_judges import load_judges
from mmgen.identity import identity
from mmgen.maker import Maker
from mmgen.records import Modality
from mmgen.runtime import Runtime, circumstance
from mmgen.store import Store
from mmgen.training.parallel import pick_device

TEST = "test"


def evaluate(config: Config, inputs: Mapping[str, Artifact], runtime: Runtime) -> Artifact:
    """Scores of the generator. inputs: roles codecs, fusion, generator. Commits scores:name, passed or not.

    Files: "scores" (data_schemas.scores), "scores:heldout" where a split is held out, "grid", "example" and "nearest".
    Raises IntegrityError if the evaluation set or the judges are not what was frozen.
    """
    store, what = runtime.store, identity("evaluate", config, inputs)
    device = pick_device(runtime.device)
    court = Court.of(store, inputs["codecs"], device)
    maker = Maker.load(store, inputs["codecs"], inputs["fusion"], inputs["generator"], device)
    examiner = Examiner(
        config.evaluate, maker, court.panel, listener_for(maker.codecs.labels), reading.reader(), runtime,
        dict(court.not_judged),
    )  # fmt: skip
    training = _training(store, inputs["generator"], examiner)
    held_out = court.evalset.facts.get("heldout")
    tables: dict[str, list[Score]] = {}
    draft = Draft(store, "scores", config.name, what.fingerprint)
    for split in (TEST, *([str(held_out)] if held_out else [])):
        exam = read_exam(store, court.evalset, maker.codecs, split, device)
        if exam is None:
            continue
        # what is held out is no nearer to the training data than the test split is, and costs as much again
        seen = training if split == TEST else None
        tables[split] = examiner.table(exam, seen)
        draft.put(f"scores-{split}.parquet", scores.to_parquet(tables[split]), _role(split), split=split)
        for each in examiner.files(exam, seen) if split == TEST else ():
            draft.put(each.name, each.data, each.role, **each.facts)
    if TEST not in tables:
        raise IntegrityError(f"{court.evalset.ref}: wanted samples of the {TEST} split, it has none")
    runtime.progress.say("evaluate: {all:.1f} s, {made:.1f} s of them making samples".format_map(examiner.seconds))
    passed, reasons = gate.check(tables[TEST], config.evaluate.floors)
    facts = {
        "gate": reasons,
        "scores": scores.plain(scores.told(tables[TEST])),
        "heldout": scores.plain(scores.told(tables[held_out])) if held_out in tables else None,
        "not_run": examiner.not_run,
        "evalset": court.evalset.ref,
        "judges": court.judges.ref,
    }
    return draft.commit(
        step="evaluate",
        config=what.config,
        inputs={role: given.link for role, given in inputs.items()},
        facts=facts,
        pin=what.pin,
        passed=passed,
        circumstance=circumstance(device=str(device)),
    )


def _role(split: str) -> str:
    return "scores" if split == TEST else "scores:heldout"


@dataclass(frozen=True)
class Court:
    """The evaluation set and the judges that codecs were fitted beside.

    not_judged: "coherence of <slot>" → why its modality's judge cannot look at it.
    """

    evalset: Artifact
    judges: Artifact
    panel: Panel
    not_judged: dict[str, str]

    @classmethod
    def of(cls, store: Store, codecs: Artifact, device: torch.device) -> Court:
        """Read and checked. Raises IntegrityError if either is not what was frozen."""
        evalset, judges = (_named(store, codecs, role) for role in ("evalset", "judges"))
        slots: dict[str, Modality] = codecs.facts["slots"]
        names = codec_names(read_slots(codecs.config["slots"]))
        judged = judges.facts["judges"]
        # slots of another size than their modality's judge looks at
        others = [slot for slot, modality in slots.items() if modality in judged and names[slot] != modality]
        panel = Panel(
            {slot: modality for slot, modality in slots.items() if slot not in others},
            dict(load_judges(store, judges, device)),
            {modality: f"{modality}@{judges.version}" for modality in judged},
        )
        why = "not run: the {} judge looks at slots of another size"
        return cls(evalset, judges, panel, {f"coherence of {slot}": why.format(slots[slot]) for slot in others})


def _training(store: Store, generator: Artifact, examiner: Examiner) -> Training | None:
    """The training samples of a generator, to look for what it memorised; None, and counted, where they are gone."""
    settings = examiner.settings
    if not settings.training_samples:
        return None
    samples = training_samples(store, generator)
    if samples is None:
        examiner.not_run[scores.MEMORISED] = "not run: features of the training samples are not there any more"
        return None
    how, device = examiner.codecs.preprocesses, examiner.maker.device
    return Training.read(samples, how, examiner.features, settings.training_samples, settings.seed, device)


def training_samples(store: Store, made: Artifact) -> Samples | None:
    """The training split that an artifact was made of, as `tensors`; None where some of it is not there any more."""
    link = made.inputs.get("features")
    try:
        features = artifacts.load_link(store, link) if link else None
    except UnknownReference:
        return None
    if features is None:
        return None
    wanted = [each for each in features.by_role("features") if each.facts["split"] == "train"]
    if not all(store.exists(each.path) for each in wanted):
        return None
    return open_samples(store, features, "tensors", "train")


def _named(store: Store, codecs: Artifact, role: str) -> Artifact:
    """The judges or the evaluation set that the codecs were fitted beside."""
    reference = Reference.parse(str(codecs.facts[role]))
    assert reference.kind is not None
    assert reference.version is not None
    found = artifacts.load(store, reference.kind, reference.name, reference.version)
    if lines := artifacts.damaged(store, found, rehash=True):
        raise IntegrityError(f"{found.ref}: {lines[0]}")
    return found


def summary(scored: Artifact) -> dict[str, Any]:
    """The few numbers that a last screen shows, from a scores artifact: {"mean_coherence": …, "joint_coherence": …}."""
    heads = (scores.MEAN_COHERENCE, scores.JOINT_COHERENCE, scores.MEAN_RETRIEVAL, scores.RECOGNISED)
    return {str(row["metric"]): row["value"] for row in scored.facts["scores"] if row["metric"] in heads}
