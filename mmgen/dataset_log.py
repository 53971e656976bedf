"""A dataset version in MLflow: its report, counts and hashes as a run of the experiment `<name>-data`. A view."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

# first: it settles what MLflow reads from the environment while it is imported
from mmgen.mlflow_client import FINGERPRINT_TAG, client_of, dataset_input, experiment_of, log_metrics

# isort: split
from mlflow.entities import Metric

from mmgen.artifact import Artifact
from mmgen.store import Store

PAGES = ("report.html", "report.json", "shards.html")


def log_version(store: Store, data: Artifact) -> str:
    """Log a dataset version, or the verdicts of one whose gate failed. Returns the run's id.

    Idempotent: a version that is logged already keeps its run. Raises ConfigError, OutsideError.
    """
    with client_of(store) as client:
        experiment = experiment_of(client, store, f"{data.name}-data")
        known = client.search_runs(
            [experiment], f"tags.`{FINGERPRINT_TAG}` = '{data.fingerprint}' and attributes.status = 'FINISHED'"
        )
        if known:
            return str(known[0].info.run_id)
        tags = {
            FINGERPRINT_TAG: data.fingerprint, "mmgen.dataset": data.ref, "mmgen.passed": str(data.passed),
            "mmgen.base": str(data.facts.get("base")), "mmgen.gate": "; ".join(data.facts.get("gate", []))[:5000],
        }  # fmt: skip
        run = str(client.create_run(experiment, run_name=f"{data.name}@{data.version}", tags=tags).info.run_id)
        finished = False
        try:
            now = int(time.time() * 1000)
            numbers = {f"{group}/{name}": count for group in ("counts", "splits")
                       for name, count in data.facts[group].items()}  # fmt: skip
            log_metrics(client, run, [Metric(name, float(count), now, 0) for name, count in numbers.items()])
            client.log_inputs(run, [dataset_input(store, data)])
            with tempfile.TemporaryDirectory(prefix="mmgen-") as folder:
                for page in PAGES:
                    if store.exists(f"{data.folder}/{page}"):
                        (Path(folder) / page).write_bytes(store.read(f"{data.folder}/{page}"))
                client.log_artifacts(run, folder)
            finished = True
        finally:
            client.set_terminated(run, "FINISHED" if finished else "FAILED")
    return run
