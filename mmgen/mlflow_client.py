"""MLflow's client, with its chatter off and its failures told as ours, and the experiment of a name.

Only MlflowClient is used: MLflow's global state, which belongs to the caller's own runs, stays untouched.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import warnings
from collections.abc import Iterator, Sequence

# read while mlflow is imported: no telemetry, no progress bars, no advertisements; what the caller set stays
os.environ.update(
    {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "MLFLOW_PRINT_MODEL_URLS_ON_CREATION": "false",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
        "GIT_PYTHON_REFRESH": "quiet",
    }
    | dict(os.environ)
)

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric
from mlflow.exceptions import MlflowException

from mmgen.artifact import Artifact
from mmgen.errors import OutsideError
from mmgen.store import Store
from mmgen.tracking import embedded_files, set_moved_aside, shown, tracking_uri

FINGERPRINT_TAG = "mmgen.fingerprint"
_METRICS_PER_BATCH = 1000


@contextlib.contextmanager
def client_of(store: Store) -> Iterator[MlflowClient]:
    """A client of the tracking server. Raises ConfigError (`tracking_uri`), OutsideError for what MLflow refuses."""
    uri = tracking_uri(store)
    loggers = [logging.getLogger(name) for name in ("mlflow", "alembic")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if embedded_files(store):
                set_moved_aside(store)
            with _alone(store):
                client = MlflowClient(uri, uri)
                # the first question makes the tables
                client.search_experiments(max_results=1)
            yield client
    except MlflowException as error:
        raise OutsideError(f"MLflow at {shown(uri)} said no: {' '.join(str(error).split())[:500]}") from error
    except OSError as error:
        raise OutsideError(f"MLflow at {shown(uri)} did not take the files: {error}") from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def _alone(store: Store) -> Iterator[None]:
    """Within this no other process makes the tables of a store's own database: two at once break each other's."""
    if not embedded_files(store):
        yield
        return
    with open(store.full("mlflow.lock"), "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def experiment_of(client: MlflowClient, store: Store, name: str) -> str:
    """The id of the experiment `name`, made or restored if it has to be."""
    found = client.get_experiment_by_name(name)
    if found is None:
        # beside the embedded database the files stay in the store too; a server has its own place for them
        inside = embedded_files(store)
        try:
            return str(client.create_experiment(name, artifact_location=inside.as_uri() if inside else None))
        except MlflowException:
            # another run was faster
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def log_metrics(client: MlflowClient, run: str, metrics: Sequence[Metric]) -> None:
    """Many metrics in few requests: one at a time costs 20 ms each."""
    for start in range(0, len(metrics), _METRICS_PER_BATCH):
        client.log_batch(run, metrics=metrics[start : start + _METRICS_PER_BATCH])


def dataset_input(store: Store, data: Artifact) -> DatasetInput:
    """A dataset version (or the verdicts that allot it) as MLflow shows what a run was made from."""
    source = json.dumps({"store": store.uri, "ref": data.ref, "fingerprint": data.fingerprint})
    profile = json.dumps({"counts": dict(data.facts["counts"]), "splits": dict(data.facts["splits"])})
    # MLflow shows at most 36 characters of a digest
    found = Dataset(f"{data.name}@{data.version}", data.fingerprint[:36], "mmgen", source, profile=profile)
    return DatasetInput(found, [InputTag("mlflow.data.context", "training")])
