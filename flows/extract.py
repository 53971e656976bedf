"""A dataset version's features, shard by shard. Deployed alone, it runs on the `gpu` pool under a device lease."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.runtime import flow_run

from flows.line_run import Options, one_lease, perform_steps
from flows.run_record import recorded_run
from mmgen.store import Store

STEPS = ("extract",)


@flow(name="extract", persist_result=False)
def extract(
    config: dict[str, Any], store: str, steps: list[str], options: Options, made: dict[str, str]
) -> list[dict[str, Any]]:
    """Perform those of `steps` that are this flow's, on what the run `made` so far (step → reference)."""
    with recorded_run(Store(store), config["name"], str(flow_run.id)), one_lease():
        return perform_steps([name for name in STEPS if name in steps], config, store, options, made)
