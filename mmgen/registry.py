"""`register`: the model's package and card into the store, its line into the ledger, and a view of both into MLflow.

Everything that MLflow is told comes from committed artifacts, so its database can be made again from the store
(`rebuild`).
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

# first: it settles what MLflow reads from the environment while it is imported
from mmgen.mlflow_client import FINGERPRINT_TAG, client_of, dataset_input, experiment_of, log_metrics

# isort: split
import mlflow.pyfunc
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelStatus, Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

from mmgen import artifact as artifacts
from mmgen import generate, promotions, tombstones
from mmgen.artifact import Artifact, Draft, FileEntry
from mmgen.config import Config
from mmgen.identity import identity
from mmgen.pretrained import libraries_of
from mmgen.report import card
from mmgen.report.curves import read_curves
from mmgen.report.score_tables import HELD_OUT, TEST, flat_scores
from mmgen.runtime import Runtime, circumstance
from mmgen.store import Store
from mmgen.tracking import shown, tracking_uri

#: what the served model needs where it is served, in the versions that it was made with
SERVED_WITH = ("mmgen", "torch", "torchaudio", "safetensors", "tokenizers", "soundfile", "pillow", "numpy", "pandas")
_PARAMS_PER_BATCH = 100
_LONGEST_PARAM, _LONGEST_TAG = 6000, 5000


@dataclass(frozen=True)
class _Line:
    """A line of the ledger, as MLflow is told of it. parts: role → the artifacts that it was made from."""

    name: str
    number: int
    fingerprint: str
    parts: Mapping[str, Artifact]
    files: tuple[FileEntry, ...]
    alias: str | None
    why: str
    run: Mapping[str, str]


def register(config: Config, inputs: Mapping[str, Artifact], runtime: Runtime) -> Artifact:
    """Package, describe, log and (if its gate passed) promote the generator. Returns the ledger's new line.

    inputs: roles scores, codecs, fusion, generator. The alias `config.registry.alias` moves to the model when its gate
    passed and `config.registry.promote` says so. Raises ConfigError (a remote store without MLFLOW_TRACKING_URI),
    OutsideError (MLflow is away).
    """
    store, what = runtime.store, identity("register", config, inputs)
    tracking = tracking_uri(store)
    parts = promotions.lineage(store, inputs)
    alias, why = _decide(config, parts["scores"])
    draft = Draft(store, "promotion", config.name, what.fingerprint)
    # what was scored is what is served to those who do not say
    asked = config.evaluate
    defaults = {name: getattr(asked, name) for name in ("guidance", "joint_guidance", "steps", "candidates")}
    package = generate.package_files(store, parts["codecs"], parts["fusion"], parts["generator"], defaults)
    for name, data in sorted(package.items()):
        draft.put(f"{promotions.PACKAGE}/{name}", data, promotions.PACKAGE)
    page, twin = card.render(store, parts, name=config.name, alias=alias, why=why)
    draft.put("card.html", page, "card")
    draft.put("card.json", twin, "card-json")
    line = _Line(config.name, draft.version, what.fingerprint, parts, tuple(draft.files), alias, why, runtime.run)
    with client_of(store) as client:
        if promotions.ledger(store, config.name) and not _known_versions(client, config.name):
            _rebuild(client, store, config.name)
        logged = _log(client, store, line)
    return draft.commit(
        step="register",
        config=what.config,
        inputs={role: part.link for role, part in parts.items()},
        facts={
            "alias": alias,
            "why": why,
            "model": parts["generator"].ref,
            "scores": parts["scores"].ref,
            "mlflow": logged,
        },
        pin=what.pin,
        passed=parts["scores"].passed,
        circumstance=circumstance(mlflow_tracking=shown(tracking), run=dict(runtime.run)),
    )


def _decide(config: Config, scores: Artifact) -> tuple[str | None, str]:
    if not scores.passed:
        return None, "its gate did not pass: " + ("; ".join(scores.facts.get("gate", [])) or "no reason recorded")
    if not config.registry.promote:
        return None, "its gate passed, and registry.promote is off"
    return promotions.check_alias(config.registry.alias), "its gate passed"


# ---------------------------------------------------------------- MLflow


def _log(client: MlflowClient, store: Store, line: _Line) -> dict[str, str]:
    """Tell MLflow of one promotion: a run, a model version, its alias. Returns {"name", "version", "run"}.

    Idempotent: a version that a killed run left behind is found by its fingerprint and kept. The alias is set before
    the ledger's line is committed, so that a rerun mends what a kill between the two leaves.
    """
    found = _logged_version(client, line)
    if found is None:
        experiment = experiment_of(client, store, line.name)
        found = _log_run(client, experiment, store, line)
    if line.alias:
        client.set_registered_model_alias(line.name, line.alias, found["version"])
    return found


def _log_run(client: MlflowClient, experiment: str, store: Store, line: _Line) -> dict[str, str]:
    model_ref, tags = line.parts["generator"].ref, _tags(line)
    run = client.create_run(experiment, run_name=model_ref, tags=tags).info.run_id
    finished = False
    try:
        with tempfile.TemporaryDirectory(prefix="mmgen-") as scratch:
            _log_numbers(client, run, store, line.parts)
            if "dataset" in line.parts:
                client.log_inputs(run, [dataset_input(store, line.parts["dataset"])])
            client.log_artifacts(run, str(_pages(store, line, Path(scratch) / "run")))
            model = _log_model(client, experiment, run, store, line, Path(scratch))
        _ensure_registered(client, line.name)
        made = client.create_model_version(
            line.name, model.artifact_location, run, tags=tags, model_id=model.model_id,
            description=f"{model_ref}: {line.why}",
        )  # fmt: skip
        finished = True
    finally:
        client.set_terminated(run, "FINISHED" if finished else "FAILED")
    return {"name": line.name, "version": str(made.version), "run": run}


def _ensure_registered(client: MlflowClient, name: str) -> None:
    try:
        client.create_registered_model(name, description="An any-to-any generator of mmgen.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _known_versions(client: MlflowClient, name: str) -> list[Any]:
    return list(client.search_model_versions(f"name='{name}'"))


def _logged_version(client: MlflowClient, line: _Line) -> dict[str, str] | None:
    for each in _known_versions(client, line.name):
        if each.tags.get(FINGERPRINT_TAG) == line.fingerprint and each.status == "READY":
            return {"name": line.name, "version": str(each.version), "run": str(each.run_id)}
    return None


def _tags(line: _Line) -> dict[str, str]:
    model = line.parts["generator"]
    tags = {
        FINGERPRINT_TAG: line.fingerprint,
        "mmgen.promotion": str(line.number),
        "mmgen.why": line.why[:_LONGEST_TAG],
    }
    for role, part in line.parts.items():
        tags |= {f"mmgen.{role}": part.ref, f"mmgen.{role}.fingerprint": part.fingerprint}
    tags["mmgen.commit"] = str(model.circumstance.get("commit") or "unknown")
    return tags | {f"mmgen.run.{word}": name for word, name in line.run.items()}


def _log_numbers(client: MlflowClient, run: str, store: Store, parts: Mapping[str, Artifact]) -> None:
    params = [Param(key, value[:_LONGEST_PARAM]) for key, value in _flat(card.settings(parts)).items()]
    for start in range(0, len(params), _PARAMS_PER_BATCH):
        client.log_batch(run, params=params[start : start + _PARAMS_PER_BATCH])
    now = int(time.time() * 1000)
    metrics = [Metric(key, value, now, 0) for key, value in flat_scores(store, parts["scores"]).items()]
    metrics += [
        Metric(f"{role}/{fact}", float(parts[role].facts[fact]), now, 0)
        for role in ("fusion", "generator")
        for fact in ("parameters", "samples")
        if fact in parts[role].facts
    ]
    metrics += [
        Metric(f"{role}/{curve.name}", value, now, step)
        for role in ("codecs", "fusion", "generator")
        for curve in read_curves(store, parts[role])
        for step, value in curve.points
    ]
    log_metrics(client, run, metrics)


def _flat(value: Any, path: str = "") -> dict[str, str]:
    """Dotted path → leaf, as MLflow's parameters want it. Lists stay whole, as JSON."""
    if isinstance(value, Mapping) and value:
        return {key: leaf for name, below in value.items()
                for key, leaf in _flat(below, f"{path}.{name}" if path else str(name)).items()}  # fmt: skip
    return {path: value if isinstance(value, str) else json.dumps(value)}


def _pages(store: Store, line: _Line, folder: Path) -> Path:
    """A folder of what people read of a run: the data report, the card, the table of scores, the sample grids."""
    entries = [entry for entry in line.files if entry.role in ("card", "card-json")]
    scores = line.parts["scores"]
    gone = tombstones.purged(store, scores)
    entries += [entry for role in (TEST, HELD_OUT, "grid") for entry in scores.by_role(role) if entry.path not in gone]
    wanted = {Path(entry.path).name: entry.path for entry in entries}
    if "dataset" in line.parts:
        report = f"{line.parts['dataset'].folder}/report.html"
        wanted |= {"data-report.html": report} if store.exists(report) else {}
    folder.mkdir()
    for name, path in wanted.items():
        (folder / name).write_bytes(store.read(path))
    return folder


def _log_model(
    client: MlflowClient, experiment: str, run: str, store: Store, line: _Line, scratch: Path
) -> LoggedModel:
    """Log the package with the code that serves it."""
    package = scratch / promotions.PACKAGE
    package.mkdir()
    for entry in line.files:
        if entry.role == promotions.PACKAGE:
            (package / Path(entry.path).name).write_bytes(store.read(entry.path))
    needed = libraries_of({role: line.parts[role].facts for role in ("codecs", "fusion", "generator")})
    model = client.create_logged_model(experiment, name=line.name, source_run_id=run, model_type="any-to-any generator")
    mlflow.pyfunc.save_model(
        path=str(scratch / "model"),
        python_model=str(Path(__file__).with_name("served_model.py")),
        artifacts={promotions.PACKAGE: str(package)},
        pip_requirements=[f"{each}=={installed(each)}" for each in (*SERVED_WITH, *sorted(needed))],
        signature=signature(line.parts["codecs"].facts["slots"]),
        mlflow_model=Model(run_id=run, model_id=model.model_id),
    )
    client.log_model_artifacts(model.model_id, str(scratch / "model"))
    return client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)


def signature(slots: Mapping[str, str]) -> ModelSignature:
    """What the served model takes: an optional column per slot (slot → modality), and the parameters of `generate`."""
    columns: list[Any] = [
        ColSpec(DataType.string if modality == "text" else DataType.binary, slot, required=False)
        for slot, modality in slots.items()
    ]
    whole, real = DataType.long, DataType.double
    params = [
        ParamSpec("to", DataType.string, ""),
        ParamSpec("num", whole, 1),
        ParamSpec("guidance", real, -1.0),
        ParamSpec("steps", whole, -1),
        ParamSpec("seed", whole, 0),
        ParamSpec("sampler", DataType.string, ""),
        ParamSpec("pairs", DataType.string, ""),
        ParamSpec("negative", DataType.string, ""),
        ParamSpec("strength", real, -1.0),
        ParamSpec("shift", real, 1.0),
        ParamSpec("temperature", real, -1.0),
        ParamSpec("top_k", whole, -1),
        ParamSpec("top_p", real, -1.0),
        ParamSpec("beams", whole, -1),
        ParamSpec("prefix", DataType.string, ""),
        ParamSpec("candidates", whole, -1),
    ]
    return ModelSignature(inputs=Schema(columns), params=ParamSchema(params))


# ---------------------------------------------------------------- the view, made again


def rebuild(store: Store) -> list[str]:
    """Tell MLflow again what the ledger says: missing runs, versions, aliases. Returns a line per promotion.

    For a database that was lost or replaced by a server. Version numbers come back as the ledger has them, unless
    MLflow already gave them to something else, which the line then says. Raises OutsideError.
    """
    with client_of(store) as client:
        return [told for name in artifacts.names(store, "promotion") for told in _rebuild(client, store, name)]


def _rebuild(client: MlflowClient, store: Store, name: str) -> list[str]:
    told = []
    for promotion in reversed(promotions.ledger(store, name)):
        facts = promotion.facts
        parts = {role: artifacts.load_link(store, link) for role, link in promotion.inputs.items()}
        line = _Line(
            name, promotion.version, promotion.fingerprint, parts, promotion.files, facts["alias"], facts["why"],
            promotion.circumstance.get("run", {}),
        )  # fmt: skip
        wanted = facts["mlflow"]["version"]
        if _logged_version(client, line) is None:
            _skip_to(client, name, int(wanted))
        version = _log(client, store, line)["version"]
        told.append(f"{promotion.ref}: models:/{name}/{version}" + ("" if version == wanted else f", was {wanted}"))
    return told


def _skip_to(client: MlflowClient, name: str, number: int) -> None:
    """Use up version numbers below `number` that no line of the ledger has (a killed run's), so that they match."""
    _ensure_registered(client, name)
    taken = max((int(each.version) for each in _known_versions(client, name)), default=0)
    while taken < number - 1:
        made = client.create_model_version(name, "unused", await_creation_for=0)
        client.delete_model_version(name, made.version)
        taken = int(made.version)
