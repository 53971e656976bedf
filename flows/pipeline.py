"""The whole line: what `mmgen run` calls and what a schedule fires.

prepare    ingest ─▶ validate ─▶ shard
train                              └▶ fit ──────────────┐
extract                                 └▶ extract      │
train                                        └▶ train-fusion ─▶ train-generator
register                                                               └▶ evaluate ─▶ register
"""

from __future__ import annotations

from typing import Any, Literal

from prefect import flow
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.runtime import flow_run
from prefect.states import Completed
from prefect.task_runners import ThreadPoolTaskRunner

from flows.extract import extract
from flows.line_run import Options, one_lease, pause_lease, read_config
from flows.prepare import prepare
from flows.publish import publish
from flows.register import register
from flows.run_record import current_run, note_step, recorded_run, recorded_runs
from flows.train import train
from mmgen import steps
from mmgen.errors import OutsideError
from mmgen.store import Store

Group = Literal["extract", "train"]

# each flow with the steps that it does at this place of the line
ORDER = (
    (prepare, ("ingest", "validate", "shard")),
    (train, ("fit",)),
    (extract, ("extract",)),
    (train, ("train-fusion", "train-generator")),
    (register, ("evaluate", "register")),
)


def _run_name() -> str:
    run = current_run()
    return run.run if run else str(flow_run.id)


@flow(name="mmgen-line", flow_run_name=_run_name, persist_result=False)
def mmgen_line(
    config: dict[str, Any] | str,
    store: str,
    first: str | None = None,
    until: str | None = None,
    options: Options = Options(),  # noqa: B008  frozen
    elsewhere: dict[Group, str] | None = None,
) -> Any:
    """Bring what is made of one source up to date, step by step.

    config: path of a CONFIG.yaml or its content. store: folder or URL. first, until: the steps to begin and end with.
    elsewhere: flow → deployment that runs it, on another pool. Ends Completed; as "no change" if no step had work.
    """
    settings = read_config(config)
    with recorded_run(Store(store), settings.name, str(flow_run.id)) as run, one_lease():
        whole, names = settings.to_json(), steps.select(first, until)
        there = {str(name): deployment for name, deployment in (elsewhere or {}).items()}
        threads: Any = ThreadPoolTaskRunner(max_workers=options.workers)
        for group, all_names in ORDER:
            wanted = [name for name in all_names if name in names]
            if not wanted:
                continue
            made = {outcome["step"]: outcome["artifact"] for outcome in run.steps}
            deployment = there.get(group.name)
            if deployment is None:
                group.with_options(task_runner=threads)(whole, store, wanted, options, made)
            else:
                parameters = {"config": whole, "store": store, "steps": wanted, "options": options, "made": made}
                for outcome in _run_elsewhere(deployment, parameters):
                    note_step(outcome)
        publish(Store(store), settings.name, run.steps)
        run.finish()
        return Completed(name="no change" if run.state == "no change" else "Completed", message=run.why)


def _run_elsewhere(deployment: str, parameters: dict[str, Any]) -> list[dict[str, Any]]:
    """Run a deployed flow to its end and return its outcomes, from the record that it left in the store."""
    pause_lease()
    there: FlowRun = run_deployment(  # type: ignore[assignment]
        deployment, parameters=parameters, as_subflow=True
    )
    if there.state is None or not there.state.is_completed():
        raise OutsideError(f"{deployment}: its run '{there.name}' ended as {there.state}; its log is in Prefect")
    for record in recorded_runs(Store(parameters["store"])):
        if record["prefect"] == str(there.id):
            return list(record["steps"])
    raise OutsideError(
        f"{deployment}: its run '{there.name}' left no record in {parameters['store']}: is it another store?"
    )
