"""Trials of a search in MLflow: a run of the experiment `<name>-tune` for the study, and in it one for each. A view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmgen.mlflow_client import client_of, experiment_of
from mmgen.store import Store

_STUDY, _TRIAL, _PARENT = "mmgen.study", "mmgen.trial", "mlflow.parentRunId"


def log_trials(store: Store, name: str, study: str, metric: str, trials: Sequence[Mapping[str, Any]]) -> None:
    """Log those finished trials that are not yet. trials: as `Tried.to_json` gives them.

    A run that was being written when its process died is written anew. Raises ConfigError, OutsideError.
    """
    with client_of(store) as client:
        experiment = experiment_of(client, store, f"{name}-tune")
        known = client.search_runs([experiment], f"tags.`{_STUDY}` = '{study}'", max_results=1000)
        parents = [run.info.run_id for run in known if _TRIAL not in run.data.tags]
        parent = parents[0] if parents else None
        if parent is None:
            made = client.create_run(experiment, run_name=f"study {study}", tags={_STUDY: study})
            parent = made.info.run_id
        ended = {run.data.tags[_TRIAL] for run in known if _TRIAL in run.data.tags and run.info.status == "FINISHED"}
        for run in known:
            if _TRIAL in run.data.tags and run.info.status != "FINISHED":
                client.delete_run(run.info.run_id)
        for trial in trials:
            if str(trial["number"]) not in ended:
                tags = {
                    _STUDY: study, _TRIAL: str(trial["number"]), _PARENT: parent, "mmgen.state": trial["state"],
                    "mmgen.why": trial["why"],
                }  # fmt: skip
                run = client.create_run(experiment, run_name=f"trial {trial['number']}", tags=tags).info.run_id
                for path, value in trial["params"].items():
                    client.log_param(run, path, value)
                for step, value in trial["looks"]:
                    client.log_metric(run, metric, value, step=step)
                client.set_terminated(run)
        client.set_terminated(parent)
