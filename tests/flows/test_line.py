"""The line as flows: what Prefect records, what a rerun does, what a failure leaves."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from flows.launch import run_line
from flows.run_record import RunRecord, recorded_runs
from mmgen.config import Config
from mmgen.errors import GateError
from mmgen.runtime import Silent
from mmgen.store import Store
from tests.flows import standins

pytestmark = pytest.mark.usefixtures("api", "idle_line")


class Seen(Silent):
    """Progress that remembers its lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def run(config: Config, store: Store, workers: int = 1, first: str | None = None) -> RunRecord:
    return run_line(config, store, {"workers": workers}, Seen(), first=first, until="shard")


def recorded(run: RunRecord) -> tuple[Any, list[Any], list[Any]]:
    """(flow run, its subflow runs, all their task runs) as the server has them."""

    async def ask() -> tuple[Any, list[Any], list[Any]]:
        from prefect.client.orchestration import get_client
        from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, FlowRunFilterParentFlowRunId

        async with get_client() as client:
            line = await client.read_flow_run(run.prefect)
            below = await client.read_flow_runs(
                flow_run_filter=FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[line.id]))
            )
            ids = FlowRunFilter(id=FlowRunFilterId(any_=[line.id, *(each.id for each in below)]))
            return line, below, await client.read_task_runs(flow_run_filter=ids)

    return asyncio.run(ask())


def test_every_task_run_is_recorded_as_completed_when_the_run_returns(config: Config, store: Store) -> None:
    line, below, tasks = recorded(run(config, store))
    assert line.state.is_completed()
    assert [each.name for each in below]
    assert all(each.state.is_completed() for each in (*below, *tasks))
    names = [each.name for each in tasks]
    assert {"ingest", "validate", "shard"} <= set(names)
    assert sum(name.startswith("squares ") for name in names) == 6


def test_a_rerun_works_on_nothing_and_ends_as_no_change(config: Config, store: Store) -> None:
    assert run(config, store).state == "completed"
    again = run(config, store)
    assert again.state == "no change"
    assert not [each for each in again.steps if each["ran"]]
    line, _, tasks = recorded(again)
    assert line.state.is_completed()
    assert (line.state.name, line.state.type.value) == ("no change", "COMPLETED")
    assert {each.state.name for each in tasks if each.name in ("ingest", "validate", "shard")} == {"unchanged"}


def test_new_rows_redo_the_changed_part_and_say_why(config: Config, store: Store) -> None:
    run(config, store)
    Path(config.source.path).write_text("text\nhello\nworld\n")
    again = {each["step"]: each for each in run(config, store, workers=2).steps}
    assert all(each["ran"] for each in again.values())
    assert "staging is now staging:tiny@2" in again["validate"]["why"]


def test_a_run_begins_where_it_is_told(config: Config, store: Store) -> None:
    run(config, store)
    assert [each["step"] for each in run(config, store, first="validate").steps] == ["validate", "shard"]


def test_a_gate_that_says_no_is_raised_and_recorded(config: Config, store: Store) -> None:
    Path(config.source.path).write_text("text\nrefuse\n")
    with pytest.raises(GateError, match="wanted at most 5% quarantined"):
        run(config, store)
    found = recorded_runs(store)[0]
    assert (found["state"], [each["step"] for each in found["steps"]]) == ("failed", ["ingest"])
    assert "at most 5%" in found["why"]


def test_a_defect_ends_in_the_log_and_not_on_the_terminal(
    config: Config, store: Store, capfd: pytest.CaptureFixture[str]
) -> None:
    Path(config.source.path).write_text("text\nbreak\n")
    with pytest.raises(RuntimeError, match="a defect") as caught:
        run(config, store)
    log = store.full(recorded_runs(store)[0]["log"])
    assert any(log in note for note in caught.value.__notes__)
    assert "Traceback" in Path(log).read_text()
    assert capfd.readouterr() == ("", "")


def test_a_run_leaves_its_record_and_its_log(config: Config, store: Store) -> None:
    made = run(config, store)
    found = json.loads(store.read(f"runs/{made.run}/run.json"))
    assert found == made.to_json()
    assert found["ended"] >= found["started"]
    assert "mmgen-line" in store.read(made.log).decode()


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_keep_their_order_at_any_number_of_workers(config: Config, store: Store, workers: int) -> None:
    run(config, store, workers)
    staging = next(path for path in store.walk("staging") if path.endswith("data.json"))
    assert json.loads(store.read(staging)) == {"squares": [standins.square(number) for number in range(6)]}
