"""What a run shows in Prefect: links to the data report and the model card, and the scores as a table."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from prefect.artifacts import create_link_artifact, create_markdown_artifact

from flows.line_run import LogProgress, watching
from flows.summary import score_rows, summarise
from mmgen import artifact
from mmgen.errors import ConfigError, OutsideError
from mmgen.store import Store


def publish(store: Store, name: str, outcomes: Sequence[dict[str, Any]]) -> None:
    """Create the Prefect artifacts of what this run made anew. A run without change adds none."""
    ran = {outcome["step"] for outcome in outcomes if outcome["ran"]}
    found = summarise(store, outcomes)
    key = re.sub(r"[^a-z0-9]+", "-", name)
    if "register" in ran and found["card"]:
        model = f"{found['model']['name']}@{found['model']['version']}"
        create_link_artifact(_link(found["card"]), "model card", key=f"{key}-card", description=model)
    if "evaluate" in ran and (rows := score_rows(found["scores"])):
        lines = ["| score | value | 95% interval | n |", "|---|---|---|---|"]
        lines += [f"| {what} | {value} | {interval} | {n} |" for what, value, interval, n in rows]
        create_markdown_artifact("\n".join(lines), key=f"{key}-scores")


def publish_data(store: Store, name: str, before: int) -> None:
    """Link the report of a dataset version later than `before` in Prefect and log it to MLflow, gate passed or not.

    MLflow is a view: that it is away, or not installed where data are prepared alone, stops nothing, and is said.
    """
    verdicts = artifact.latest(store, "verdicts", name)
    if verdicts is None or verdicts.version <= before or not verdicts.by_role("report"):
        return
    made = artifact.latest(store, "dataset", name)
    data = made if made is not None and made.version == verdicts.version else verdicts
    said = data.ref if data.passed else f"{data.ref}: its gate said no: {'; '.join(data.facts['gate'])}"
    key = re.sub(r"[^a-z0-9]+", "-", name)
    create_link_artifact(_link(store.full(f"{data.folder}/report.html")), "data report", key=f"{key}-report",
                         description=said)  # fmt: skip
    say = watching.get(LogProgress()).say
    try:
        from mmgen.dataset_log import log_version  # MLflow takes seconds to import: only when there is something to log

        log_version(store, data)
    except (OutsideError, ConfigError) as error:
        say(f"the data report was not logged to MLflow: {error}")
    except ModuleNotFoundError as error:
        if error.name != "mlflow":
            raise
        say("the data report was not logged to MLflow, which is not installed here")


def _link(path: str) -> str:
    return path if "://" in path else f"file://{path}"
