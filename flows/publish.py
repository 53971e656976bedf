"""What a run shows in Prefect: links to the data report and the model card, and the scores as a table."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from prefect.artifacts import create_link_artifact, create_markdown_artifact

from flows.summary import score_rows, summarise
from mmgen.store import Store


def publish(store: Store, name: str, outcomes: Sequence[dict[str, Any]]) -> None:
    """Create the Prefect artifacts of what this run made anew. A run without change adds none."""
    ran = {outcome["step"] for outcome in outcomes if outcome["ran"]}
    found = summarise(store, outcomes)
    key = re.sub(r"[^a-z0-9]+", "-", name)
    if ran & {"validate", "shard"} and found["report"]:
        create_link_artifact(
            _link(found["report"]), "data report", key=f"{key}-report", description=str(found["dataset"])
        )
    if "register" in ran and found["card"]:
        model = f"{found['model']['name']}@{found['model']['version']}"
        create_link_artifact(_link(found["card"]), "model card", key=f"{key}-card", description=model)
    if "evaluate" in ran and (rows := score_rows(found["scores"])):
        lines = ["| score | value | 95% interval | n |", "|---|---|---|---|"]
        lines += [f"| {what} | {value} | {interval} | {n} |" for what, value, interval, n in rows]
        create_markdown_artifact("\n".join(lines), key=f"{key}-scores")


def _link(path: str) -> str:
    return path if "://" in path else f"file://{path}"
