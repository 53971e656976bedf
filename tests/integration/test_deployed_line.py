"""The line deployed for real: a Prefect server, a worker per pool, a schedule that fires on 50 rows."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import pytest
import yaml

from flows.run_record import recorded_runs
from mmgen import artifact
from mmgen.sources import spoken_digits
from mmgen.store import Store

pytestmark = pytest.mark.slow

T = TypeVar("T")
ROWS, MORE = 50, 60
INTERVAL_SECONDS = 30
WAIT_SECONDS = 600.0
FEW = {"steps": 4, "batch_size": 16}
SETTINGS = {
    "name": "digits",
    "recipe": "spoken_digits",
    "ingest": {"batch_rows": 25},
    "shard": {"max_samples": 20},
    "codecs": {"image": {"train": FEW}, "audio": {"train": FEW}, "text": {"train": FEW}},
    "judges": {"train": FEW},
    "fusion": {"train": FEW},
    "generator": {"kind": "joint_flow", "train": FEW},
    "evaluate": {
        "max_samples": 10,
        "steps": 2,
        "floors": {"mean_coherence": 0, "each_coherence": 0, "joint_coherence": 0, "retrieval": 0},
    },
}


class Site:
    """A server, its workers, and what is asked of them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.processes = folder, []  # type: ignore[var-annotated]
        self.store = Store(folder / "store")
        self.url = ""

    @property
    def environment(self) -> dict[str, str]:
        mine = {
            "PREFECT_HOME": str(self.folder / "prefect"),
            "PREFECT_SERVER_UI_ENABLED": "false",
            "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            # devices that do not exist: the lease is real, and torch finds no CUDA behind it
            "MMGEN_DEVICES": "0",
            "MMGEN_LEASES": str(self.folder / "leases"),
        }
        return {**os.environ, **mine, **({"PREFECT_API_URL": self.url} if self.url else {})}

    def start(self, name: str, *command: str) -> None:
        with open(self.folder / f"{name}.log", "wb") as log:
            self.processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", *command],
                    stdout=log,
                    stderr=log,
                    env=self.environment,
                    start_new_session=True,
                )
            )

    def stop(self) -> None:
        """End each process and what it started, workers first."""
        for how in (signal.SIGTERM, signal.SIGKILL):
            for process in reversed(self.processes):
                try:
                    os.killpg(process.pid, how)
                    process.wait(timeout=20)
                except (ProcessLookupError, subprocess.TimeoutExpired):
                    continue

    def ask(self, path: str, body: Any | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}{path}", data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read() or b"null")

    def wait(self, what: str, ask: Callable[[], T | None]) -> T:
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            # a busy machine's server may take its time to answer
            with contextlib.suppress(urllib.error.URLError, OSError):
                if (found := ask()) is not None:
                    return found
            time.sleep(0.5)
        tails = {path.name: path.read_text(errors="replace")[-3000:] for path in self.folder.glob("*.log")}
        pytest.fail(f"no {what} within {WAIT_SECONDS:.0f} s; {tails}")

    def line_runs(self) -> list[dict[str, Any]]:
        """Runs of the line, in the order in which they ended."""
        named = {"flows": {"name": {"any_": ["mmgen-line"]}}, "limit": 200}
        ended = [run for run in self.ask("/flow_runs/filter", named) if run["end_time"]]
        return sorted(ended, key=lambda run: run["end_time"])

    def next_run(self, after: datetime) -> dict[str, Any]:
        """The first run that began after a time and was not cancelled for another one's sake."""

        def ended() -> dict[str, Any] | None:
            mine = (
                run
                for run in self.line_runs()
                if run["start_time"] and datetime.fromisoformat(run["start_time"]) > after
            )
            return next((run for run in mine if run["state_type"] != "CANCELLED"), None)

        return self.wait("run of the line", ended)

    def steps_of(self, run: dict[str, Any]) -> dict[str, dict[str, Any]]:
        record = next(each for each in recorded_runs(self.store) if each["prefect"] == run["id"])
        return {each["step"]: each for each in record["steps"]}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    try:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        made.start("server", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port))
        made.url = f"http://127.0.0.1:{port}/api"
        made.wait("answer of the server", lambda: made.ask("/health") or None)
        yield made
    finally:
        made.stop()


def mmgen(site: Site, *arguments: str) -> dict[str, Any]:
    program = "from flows.cli import main; main()"
    run = subprocess.run(
        [sys.executable, "-c", program, *arguments, "--json"],
        env=site.environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    answer: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return answer


def test_the_schedule_makes_everything_then_nothing_then_only_what_changed(site: Site) -> None:
    source = site.folder / "source"
    pairs = spoken_digits.build(source, ROWS)
    config = site.folder / "digits.yaml"
    config.write_text(yaml.safe_dump({**SETTINGS, "source": {"path": str(pairs)}}))
    deployed = mmgen(site, "deploy", str(config), "--gpu", "--store", site.store.uri, "--workers", "1")
    assert deployed["deployments"][0] == "mmgen-line/digits"
    for pool in deployed["pools"]:
        site.start(f"worker-{pool}", "prefect", "worker", "start", "--pool", pool, "--type", "process")
    deployment = site.ask("/deployments/name/mmgen-line/digits")
    assert deployment["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"
    assert deployment["global_concurrency_limit"]["limit"] == 1

    start = datetime.now(UTC)
    schedule = [{"schedule": {"interval": INTERVAL_SECONDS}, "active": True}]
    site.ask(f"/deployments/{deployment['id']}/schedules", schedule)

    first = site.next_run(start)
    assert (first["state_type"], first["state_name"]) == ("COMPLETED", "Completed"), first["state"]
    steps = site.steps_of(first)
    assert all(each["ran"] for each in steps.values())
    assert len(steps) == 9

    second = site.next_run(datetime.fromisoformat(first["end_time"]))
    assert (second["state_type"], second["state_name"]) == ("COMPLETED", "no change"), second["state"]
    assert not any(each["ran"] for each in site.steps_of(second).values())

    before = {entry.path for entry in _dataset(site).by_role("shard")}
    more = spoken_digits.build(site.folder / "more", MORE)
    for folder in ("images", "audio"):
        shutil.copytree(more.parent / folder, source / folder, dirs_exist_ok=True)
    os.replace(more, pairs)
    changed = datetime.now(UTC)

    third = site.next_run(changed)
    assert (third["state_type"], third["state_name"]) == ("COMPLETED", "Completed"), third["state"]
    steps = site.steps_of(third)
    assert [name for name, each in steps.items() if each["ran"]] == ["ingest", "validate", "shard", "extract"]
    assert steps["fit"]["why"].startswith("pinned: codecs:digits@1")
    after = {entry.path for entry in _dataset(site).by_role("shard")}
    assert before < after, "shards of unchanged rows are shared"
    staging = artifact.history(site.store, "staging", "digits")[0]
    assert (staging.circumstance["batches"], staging.circumstance["batches_read"]) == (3, 1)

    keys = {each["key"] for each in site.ask("/artifacts/latest/filter", {})}
    assert keys >= {"digits-report", "digits-card", "digits-scores"}
    assert _pools_of(site) >= {("extract", "gpu"), ("train", "gpu"), ("mmgen-line", "cpu")}
    assert "device 0 leased" in "".join(site.store.read(path).decode() for path in site.store.walk("runs"))


def _dataset(site: Site) -> artifact.Artifact:
    found = artifact.latest(site.store, "dataset", "digits")
    assert found is not None
    return found


def _pools_of(site: Site) -> set[tuple[str, str]]:
    """(flow, work pool) of every run that a worker took."""
    names = {each["id"]: each["name"] for each in site.ask("/flows/filter", {})}
    runs = site.ask("/flow_runs/filter", {"limit": 200})
    return {(names[run["flow_id"]], run["work_pool_name"]) for run in runs if run["work_pool_name"]}
