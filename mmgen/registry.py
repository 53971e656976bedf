"""`register`: the model's package and card into the store, its line into the ledger, and a view of both into MLflow.

With served_model.py the only door to MLflow. Everything that MLflow is told comes from committed artifacts, so its
database can be made again from the store (`rebuild`). Only MlflowClient is used: MLflow's global state, which
belongs to the user's own runs, stays untouched.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

# read when mlflow is imported: no telemetry, no traces, no progress bars, no advertisements on the terminal
for _name, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_PRINT_MODEL_URLS_ON_CREATION": "false",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "GIT_PYTHON_REFRESH": "quiet",
}.items():
    os.environ.setdefault(_name, _value)

import mlflow.pyfunc  # noqa: E402
from mlflow import MlflowClient  # noqa: E402
from mlflow.entities import LoggedModel, LoggedModelStatus, Metric, Param  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402
from mlflow.models import Model, ModelSignature  # noqa: E402
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema  # noqa: E402

from mmgen import artifact as artifacts  # noqa: E402
from mmgen import generate, promotions  # noqa: E402
from mmgen.artifact import Artifact, Draft, Link  # noqa: E402
from mmgen.config import Config  # noqa: E402
from mmgen.errors import OutsideError  # noqa: E402
from mmgen.identity import identity  # noqa: E402
from mmgen.report import card  # noqa: E402
from mmgen.report.curves import read_curves  # noqa: E402
from mmgen.runtime import Runtime, circumstance  # noqa: E402
from mmgen.store import Store  # noqa: E402

FINGERPRINT_TAG = "mmgen.fingerprint"
SERVED = ("mmgen", "torch", "torchaudio", "safetensors", "tokenizers", "soundfile", "pillow", "numpy", "pandas")
_METRICS_PER_BATCH, _PARAMS_PER_BATCH = 1000, 100
_LONGEST_PARAM, _LONGEST_TAG = 6000, 5000


# ---------------------------------------------------------------- the step


def register(config: Config, inputs: Mapping[str, Artifact], runtime: Runtime) -> Artifact:
    """Package, describe, log and (if its gate passed) promote the generator. Returns the ledger's new line.

    inputs: roles scores, codecs, fusion, generator. The alias `config.registry.alias` moves to the model when its gate
    passed and `config.registry.promote` says so. Raises ConfigError (a remote store without MLFLOW_TRACKING_URI),
    OutsideError (MLflow is away).
    """
    store, what = runtime.store, identity("register", config, inputs)
    promotions.tracking_uri(store)
    parts = lineage(store, inputs)
    draft = Draft(store, "promotion", config.name, what.fingerprint)
    alias, why = _decide(config, parts["scores"])
    with tempfile.TemporaryDirectory(prefix="mmgen-") as scratch:
        package = Path(scratch) / promotions.PACKAGE
        generate.save_package(store, parts["codecs"], parts["fusion"], parts["generator"], package)
        for path in sorted(each for each in package.rglob("*") if each.is_file()):
            draft.put(f"{promotions.PACKAGE}/{path.relative_to(package).as_posix()}", path.read_bytes(), promotions.PACKAGE)
    page, twin = card.render(store, parts, name=config.name, alias=alias, why=why)
    draft.put("card.html", page, "card")
    draft.put("card.json", twin, "card-json")
    logged = _log(store, config.name, draft.version, what.fingerprint, parts, tuple(draft.files), alias, why)
    facts = {"alias": alias, "why": why, "model": parts["generator"].ref, "scores": parts["scores"].ref, "mlflow": logged}
    return draft.commit(
        step="register",
        config=what.config,
        inputs={role: part.link for role, part in parts.items()},
        facts=facts,
        pin=what.pin,
        passed=parts["scores"].passed,
        circumstance=circumstance(tracking_uri=promotions.tracking_uri(store)),
    )


def _decide(config: Config, scores: Artifact) -> tuple[str | None, str]:
    if not scores.passed:
        return None, "its gate did not pass: " + "; ".join(scores.facts.get("gate", [])) or "no reason recorded"
    if not config.registry.promote:
        return None, "its gate passed, and registry.promote is off"
    return config.registry.alias, "its gate passed"


def lineage(store: Store, inputs: Mapping[str, Artifact]) -> dict[str, Artifact]:
    """`inputs` and the data that they were made from: roles dataset and features as well, where the manifests name them."""
    found = dict(inputs)
    for role in ("generator", "fusion", "codecs", "features"):
        for upstream, link in (found[role].inputs if role in found else {}).items():
            if upstream in ("features", "dataset") and upstream not in found:
                found[upstream] = artifacts.load_link(store, link)
    return found


# ---------------------------------------------------------------- MLflow


@contextlib.contextmanager
def _client(store: Store) -> Iterator[MlflowClient]:
    """A client of the tracking server, with its chatter off and its failures told as ours."""
    uri = promotions.tracking_uri(store)
    loggers = [logging.getLogger(name) for name in ("mlflow", "alembic")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield MlflowClient(uri, uri)
    except MlflowException as error:
        raise OutsideError(f"MLflow at {_shown(uri)} said no: {' '.join(str(error).split())[:500]}") from error
    except OSError as error:
        raise OutsideError(f"MLflow at {_shown(uri)} did not take the files: {error}") from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _shown(uri: str) -> str:
    """`uri` without a password."""
    scheme, separator, rest = uri.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}" if separator else uri


def _log(
    store: Store,
    name: str,
    number: int,
    fingerprint: str,
    parts: Mapping[str, Artifact],
    files: tuple[artifacts.FileEntry, ...],
    alias: str | None,
    why: str,
) -> dict[str, str]:
    """Tell MLflow of one promotion: a run, a model version, its alias. Returns {"name", "version", "run"}.

    Idempotent: a version that a killed run left behind is found by its fingerprint and kept. The alias is set before
    the ledger's line is committed, so that a rerun mends what a kill between the two leaves.
    """
    with _client(store) as client, tempfile.TemporaryDirectory(prefix="mmgen-") as scratch:
        _ensure_registered(client, name)
        found = _logged_version(client, name, fingerprint)
        if found is None:
            tags = _tags(fingerprint, number, parts, why)
            experiment = _experiment(client, store, name)
            run = client.create_run(experiment, run_name=parts["generator"].ref, tags=tags).info.run_id
            try:
                _log_numbers(client, run, store, parts)
                client.log_artifacts(run, str(_pages(store, parts, files, Path(scratch) / "run")))
                model = _log_model(client, experiment, run, name, store, parts, files, Path(scratch))
                made = client.create_model_version(
                    name, model.artifact_location, run, tags=tags, model_id=model.model_id, description=f"{parts['generator'].ref}: {why}"
                )
                found = {"name": name, "version": str(made.version), "run": run}
            except BaseException:
                client.set_terminated(run, "FAILED")
                raise
            client.set_terminated(run, "FINISHED")
        if alias:
            client.set_registered_model_alias(name, alias, found["version"])
        return found


def _ensure_registered(client: MlflowClient, name: str) -> None:
    if not client.search_registered_models(f"name='{name}'"):
        client.create_registered_model(name, description="An any-to-any generator of mmgen.")


def _logged_version(client: MlflowClient, name: str, fingerprint: str) -> dict[str, str] | None:
    for each in client.search_model_versions(f"name='{name}'"):
        if each.tags.get(FINGERPRINT_TAG) == fingerprint and each.status == "READY":
            return {"name": name, "version": str(each.version), "run": str(each.run_id)}
    return None


def _experiment(client: MlflowClient, store: Store, name: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    # beside the embedded database the files stay in the store too; a server has its own place for them
    inside = Path(store.full("mlflow-artifacts")).as_uri() if not os.environ.get("MLFLOW_TRACKING_URI") else None
    return str(client.create_experiment(name, artifact_location=inside))


def _tags(fingerprint: str, number: int, parts: Mapping[str, Artifact], why: str) -> dict[str, str]:
    model = parts["generator"]
    tags = {FINGERPRINT_TAG: fingerprint, "mmgen.promotion": str(number), "mmgen.why": why[:_LONGEST_TAG]}
    for role, part in parts.items():
        tags[f"mmgen.{role}"] = part.ref
        tags[f"mmgen.{role}.fingerprint"] = part.fingerprint
    tags["mmgen.commit"] = str(model.circumstance.get("commit") or "unknown")
    flow_run = model.circumstance.get("flow_run") or os.environ.get("PREFECT__FLOW_RUN_ID")
    return tags | ({"mmgen.flow_run": str(flow_run)} if flow_run else {})


def _log_numbers(client: MlflowClient, run: str, store: Store, parts: Mapping[str, Artifact]) -> None:
    params = [Param(key, value[:_LONGEST_PARAM]) for key, value in _flat(card.settings(parts)).items()]
    for start in range(0, len(params), _PARAMS_PER_BATCH):
        client.log_batch(run, params=params[start : start + _PARAMS_PER_BATCH])
    now = int(time.time() * 1000)
    metrics = [Metric(key, value, now, 0) for key, value in card.flat_scores(store, parts["scores"]).items()]
    metrics += [
        Metric(f"{role}/{curve.name}", value, now, step)
        for role in ("codecs", "fusion", "generator")
        for curve in read_curves(store, parts[role])
        for step, value in curve.points
    ]
    for start in range(0, len(metrics), _METRICS_PER_BATCH):
        client.log_batch(run, metrics=metrics[start : start + _METRICS_PER_BATCH])


def _flat(value: Any, path: str = "") -> dict[str, str]:
    """Dotted path → leaf, as MLflow's parameters want it. Lists stay whole, as JSON."""
    if isinstance(value, Mapping) and value:
        return {key: leaf for name, below in value.items()
                for key, leaf in _flat(below, f"{path}.{name}" if path else str(name)).items()}  # fmt: skip
    return {path: value if isinstance(value, str) else json.dumps(value)}


def _pages(
    store: Store, parts: Mapping[str, Artifact], files: tuple[artifacts.FileEntry, ...], folder: Path
) -> Path:
    """A folder of what people read of a run: the data report, the card, the table of scores, the sample grids."""
    wanted = {Path(entry.path).name: entry.path for entry in files if entry.role in ("card", "card-json")}
    wanted |= {Path(entry.path).name: entry.path for role in ("scores", "grid") for entry in parts["scores"].by_role(role)}
    if "dataset" in parts and store.exists(f"{parts['dataset'].folder}/report.html"):
        wanted["data-report.html"] = f"{parts['dataset'].folder}/report.html"
    folder.mkdir()
    for name, path in wanted.items():
        (folder / name).write_bytes(store.read(path))
    return folder


def _log_model(
    client: MlflowClient,
    experiment: str,
    run: str,
    name: str,
    store: Store,
    parts: Mapping[str, Artifact],
    files: tuple[artifacts.FileEntry, ...],
    scratch: Path,
) -> LoggedModel:
    """Log the package with the code that serves it."""
    package = scratch / promotions.PACKAGE
    for entry in files:
        if entry.role == promotions.PACKAGE:
            target = package / entry.path.split(f"/{promotions.PACKAGE}/", 1)[1]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(store.read(entry.path))
    model = client.create_logged_model(experiment, name=name, source_run_id=run, model_type="any-to-any generator")
    mlflow.pyfunc.save_model(
        path=str(scratch / "model"),
        python_model=str(Path(generate.__file__).with_name("served_model.py")),
        artifacts={promotions.PACKAGE: str(package)},
        pip_requirements=[f"{package}=={installed(package)}" for package in SERVED],
        signature=signature(parts["codecs"].facts["slots"]),
        mlflow_model=Model(run_id=run, model_id=model.model_id),
    )
    client.log_model_artifacts(model.model_id, str(scratch / "model"))
    return client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)


def signature(slots: Mapping[str, str]) -> ModelSignature:
    """What the served model takes: an optional column per slot (slot → modality), and the parameters of `generate`."""
    columns = [
        ColSpec(DataType.string if modality == "text" else DataType.binary, slot, required=False)
        for slot, modality in slots.items()
    ]
    whole, real = DataType.long, DataType.double
    return ModelSignature(
        inputs=Schema(columns),
        params=ParamSchema(
            [
                ParamSpec("to", DataType.string, ",".join(slots)),
                ParamSpec("num", whole, 1),
                ParamSpec("guidance", real, -1.0),
                ParamSpec("steps", whole, -1),
                ParamSpec("seed", whole, 0),
            ]
        ),
    )


# ---------------------------------------------------------------- the view, made again


def rebuild(store: Store, names: tuple[str, ...] | None = None) -> list[str]:
    """Tell MLflow again what the ledger says: the missing runs, versions and aliases. Returns a line per promotion.

    For a database that was lost, emptied or replaced by a server. Version numbers come back as the ledger has them.
    """
    lines = []
    for name in artifacts.names(store, "promotion") if names is None else names:
        for promotion in reversed(promotions.ledger(store, name)):
            parts = {role: artifacts.load_link(store, link) for role, link in promotion.inputs.items()}
            wanted = promotion.facts["mlflow"]["version"]
            _skip_to(store, name, int(wanted))
            logged = _log(
                store, name, promotion.version, promotion.fingerprint, parts, promotion.files,
                promotion.facts["alias"], promotion.facts["why"],
            )  # fmt: skip
            note = "" if logged["version"] == wanted else f", the ledger has {wanted}"
            lines.append(f"{promotion.ref}: models:/{name}/{logged['version']}{note}")
    return lines


def _skip_to(store: Store, name: str, number: int) -> None:
    """Use up version numbers below `number` that the ledger never named (a killed run's), so that they match again."""
    with _client(store) as client:
        _ensure_registered(client, name)
        taken = max((int(each.version) for each in client.search_model_versions(f"name='{name}'")), default=0)
        while taken < number - 1:
            made = client.create_model_version(name, "unused", await_creation_for=0)
            client.delete_model_version(name, made.version)
            taken = int(made.version)
