"""From a source to a dataset version: ingest, validate, shard."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.runtime import flow_run

from flows.line_run import Options, one_lease, perform_steps
from flows.publish import publish_data
from flows.run_record import recorded_run
from mmgen import artifact
from mmgen.store import Store

STEPS = ("ingest", "validate", "shard")


@flow(name="prepare", persist_result=False)
def prepare(
    config: dict[str, Any], store: str, steps: list[str], options: Options, made: dict[str, str]
) -> list[dict[str, Any]]:
    """Perform those of `steps` that are this flow's, on what the run `made` so far (step → reference)."""
    with recorded_run(Store(store), config["name"], str(flow_run.id)), one_lease():
        opened, name = Store(store), str(config["name"])
        before = max(artifact.versions(opened, "verdicts", name), default=0)
        try:
            return perform_steps([each for each in STEPS if each in steps], config, store, options, made)
        finally:
            # a version whose gate failed is shown too
            publish_data(opened, name, before)
