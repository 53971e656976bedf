"""Run the line from a command: a server, the flow, and every record of it in the server before this returns."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Iterator
from typing import Any

from flows.prefect_session import PrefectServer, prefect_server
from flows.run_record import RunRecord, bury, recorded_run, recorded_runs
from mmgen.config import Config
from mmgen.runtime import Progress
from mmgen.store import Store

DRAIN_SECONDS = 30.0
# runs among which killed ones are looked for
LOOK_BACK = 20
logger = logging.getLogger("mmgen")


def run_line(
    config: Config, store: Store, options: dict[str, Any], progress: Progress, *, first: str | None, until: str | None
) -> RunRecord:
    """Run the line as a flow. Returns the run's record; raises what its steps raise.

    When it returns or raises, the flow run and all its task runs are recorded and in a final state.
    """
    with recorded_run(store, config.name) as run, prefect_server(store) as server, _current_settings(server):
        from flows.line_run import Options, watching
        from flows.pipeline import mmgen_line

        server.wait_until_up()
        asyncio.run(_bury_the_killed(store))
        token = watching.set(progress)
        try:
            mmgen_line(config.to_json(), store.uri, first, until, Options(**options))
        finally:
            watching.reset(token)
            drain(run)
    return run


@contextlib.contextmanager
def _current_settings(server: PrefectServer) -> Iterator[None]:
    """Prefect's settings for this server, also where Prefect was imported before."""
    import prefect.settings as prefect_settings

    changes: dict[Any, Any] = {prefect_settings.PREFECT_API_URL: server.url}
    if server.own:
        changes[prefect_settings.PREFECT_HOME] = os.environ["PREFECT_HOME"]
        changes[prefect_settings.PREFECT_LOGGING_TO_API_ENABLED] = False
        # nobody listens for them here, and a flow waits up to a second for its heart to stop
        changes[prefect_settings.PREFECT_FLOWS_HEARTBEAT_FREQUENCY] = None
    with prefect_settings.temporary_settings(updates=changes):
        yield


def drain(run: RunRecord) -> None:
    """Wait until Prefect has recorded what became of `run`: task runs reach it as events, after they ended."""
    from prefect.events.worker import EventsWorker

    from flows.batches import started_task_runs

    if run.prefect is None:
        return
    EventsWorker.drain_all(timeout=DRAIN_SECONDS)
    deadline = time.monotonic() + DRAIN_SECONDS
    wanted = set(started_task_runs)
    while wanted and time.monotonic() < deadline:
        wanted -= asyncio.run(_ended(wanted))
        time.sleep(0.05 if wanted else 0)
    started_task_runs.clear()
    if wanted:
        logger.warning("%d task runs were not recorded by Prefect within %.0f s", len(wanted), DRAIN_SECONDS)


async def _bury_the_killed(store: Store) -> None:
    """Runs whose process was killed could not say so: say it for them, in the store and in Prefect."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.objects import State
    from prefect.exceptions import ObjectNotFound
    from prefect.states import Crashed

    for record in recorded_runs(store, newest=LOOK_BACK):
        # a buried one has an end
        if record["state"] == "killed" and record["ended"] is None:
            if record["prefect"]:
                async with get_client() as client:
                    with contextlib.suppress(ObjectNotFound):
                        state: State[Any] = Crashed(message="its process was killed")
                        await client.set_flow_run_state(record["prefect"], state, force=True)
            bury(store, record)


async def _ended(task_runs: set[Any]) -> set[Any]:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import TaskRunFilter, TaskRunFilterId

    found: set[Any] = set()
    async with get_client() as client:
        ids = sorted(task_runs)
        for start in range(0, len(ids), 200):
            only = TaskRunFilter(id=TaskRunFilterId(any_=ids[start : start + 200]))
            found |= {
                each.id
                for each in await client.read_task_runs(task_run_filter=only)
                if each.state and each.state.is_final()
            }
    return found
