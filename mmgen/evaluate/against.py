"""Any directory of made samples against the evaluation set and judges of a data set: what `mmgen evaluate DIR` does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmgen import artifact as artifacts
from mmgen import promotions
from mmgen.artifact import Artifact
from mmgen.codec_set import CodecSet
from mmgen.errors import ConfigError, IntegrityError, UnknownReference
from mmgen.evaluate import reading, scores
from mmgen.evaluate.config import EvaluateConfig
from mmgen.evaluate.exam import read_exam
from mmgen.evaluate.examples import ExampleFile, pair_files
from mmgen.evaluate.memorisation import Training
from mmgen.evaluate.outputs import Outputs, read_outputs, score_outputs
from mmgen.evaluate.recogniser import listener_for
from mmgen.evaluate.scorer import Scorer
from mmgen.evaluate.scores import Score
from mmgen.evaluate.spaces import Features
from mmgen.evaluate.step import TEST, Court, training_samples
from mmgen.maker import embed_slot, load_fusion
from mmgen.store import Store
from mmgen.training.parallel import pick_device


@dataclass(frozen=True)
class Judged:
    """about: what was judged, against what, what was left out and why: plain data. nearest: files of role "nearest"."""

    about: dict[str, Any]
    rows: list[Score]
    outputs: Outputs
    nearest: list[ExampleFile]


def judge_directory(
    store: Store, folder: Path, against: str | None, settings: EvaluateConfig, device_name: str
) -> Judged:
    """Scores of the files below `folder`; nothing is committed.

    against: a data set, `name[@version|@alias]`; may be left out where the store has codecs of one only. Raises
    ConfigError, UnknownReference, IntegrityError.
    """
    device = pick_device(device_name)
    fitted = fitted_beside(store, against)
    court, codecs = Court.of(store, fitted, device), CodecSet.load(store, fitted).to(device)
    exam = read_exam(store, court.evalset, codecs, TEST, device)
    if exam is None:
        raise IntegrityError(f"{court.evalset.ref}: wanted samples of the {TEST} split, it has none")
    outputs = read_outputs(folder, exam, codecs)
    fusion = _fusion(store, fitted)
    network = load_fusion(store, fusion, device) if fusion else None

    def embed(slot: str, value: Tensor) -> Tensor:
        assert network is not None
        return embed_slot(network, slot, value)

    features, not_run = Features(court.panel, embed if network is not None else None), dict(court.not_judged)
    training = _training(store, fusion, codecs, features, settings, not_run, device)
    scorer = Scorer(
        settings, exam, codecs.preprocesses, codecs.labels, features, listener_for(codecs.labels), reading.reader(),
        training, not_run,
    )  # fmt: skip
    rows = score_outputs(outputs, scorer)
    known = {place.row for places in outputs.places.values() for place in places} - {-1}
    about = {
        "made": str(folder),
        "against": fitted.inputs["dataset"].ref,
        "evalset": court.evalset.ref,
        "judges": court.judges.ref,
        "files": outputs.files,
        "matched": outputs.matched,
        "slots": {slot: len(places) for slot, places in outputs.places.items()},
        "keys": len(known),
        "unmatched": {why: {"count": len(names), "first": names[:5]} for why, names in outputs.unmatched.items()},
        "not_run": not_run,
        "scores": scores.plain(rows),
    }
    pairs = training.pairs.values() if training else ()
    nearest = [each for found in pairs for each in pair_files(codecs.preprocesses[found[0].slot], found)]
    return Judged(about, rows, outputs, nearest)


def fitted_beside(store: Store, against: str | None) -> Artifact:
    """The codecs of a data set, which name its judges and its evaluation set: those of this version, else the newest.

    Raises ConfigError, UnknownReference.
    """
    if against is None:
        known = artifacts.names(store, "codecs")
        if len(known) != 1:
            have = ", ".join(known) or "none"
            raise ConfigError(f"--against: wanted DATASET[@version], the store has judges of {have}")
        name, dataset = known[0], None
    else:
        dataset = promotions.resolve(against if ":" in against else f"dataset:{against}", store)
        if dataset.kind != "dataset":
            raise ConfigError(f"--against: wanted a data set, DATASET[@version], came {dataset.ref}")
        name = dataset.name
    past = artifacts.history(store, "codecs", name)
    mine = [each for each in past if dataset is not None and each.inputs["dataset"].ref == dataset.ref]
    if not past:
        raise UnknownReference(f"--against: {name} has no judges yet; `mmgen fit` makes them")
    return (mine or past)[0]


def _fusion(store: Store, codecs: Artifact) -> Artifact | None:
    """The newest fusion model that was trained beside these codecs."""
    past = artifacts.history(store, "model", f"{codecs.name}-fusion")
    return next((each for each in past if each.inputs["codecs"].fingerprint == codecs.fingerprint), None)


def _training(
    store: Store,
    fusion: Artifact | None,
    codecs: CodecSet,
    features: Features,
    settings: EvaluateConfig,
    not_run: dict[str, str],
    device: torch.device,
) -> Training | None:
    if not settings.training_samples:
        return None
    samples = training_samples(store, fusion) if fusion else None
    if samples is None:
        not_run[scores.MEMORISED] = "not run: the store has no features of the training samples"
        return None
    return Training.read(samples, codecs.preprocesses, features, settings.training_samples, settings.seed, device)
