"""`mmgen run` as a person and a program meet it: real processes, real data steps, 50 rows."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.run_record import recorded_runs
from mmgen.artifact import history
from mmgen.sources import spoken_digits
from mmgen.store import Store

ROWS = 50


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    pairs = spoken_digits.build(folder, ROWS)
    path = folder / "digits.yaml"
    path.write_text(yaml.safe_dump({"name": "digits", "recipe": "spoken_digits", "source": {"path": str(pairs)}}))
    return path


def start(*arguments: str, api: str | None = None) -> subprocess.Popen[str]:
    environment = {**os.environ, **({"PREFECT_API_URL": api} if api else {})}
    program = "import sys; from flows.cli import main; main(sys.argv[1:])"
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=180)
    return process.returncode, out, err


@pytest.fixture(scope="module")
def first(config: Path, server: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Any]:
    """A run up to shard, and what it printed."""
    store = Store(tmp_path_factory.mktemp("run") / "store")
    arguments = ("run", str(config), "--until", "shard", "--store", store.uri, "--workers", "1")
    return store, finish(start(*arguments, api=server))


def test_a_person_sees_the_counts_and_where_to_look(first: tuple[Store, Any]) -> None:
    store, (code, out, err) = first
    assert code == 0, err
    assert f"{ROWS} inputs = " in out
    assert store.full("datasets/digits/versions/1/report.html") in out
    log = store.full(recorded_runs(store)[0]["log"])
    assert log in out
    assert Path(log).stat().st_size > 0
    foreign = [
        line for line in err.splitlines() if any(word in line for word in ("prefect", "Traceback", "WARN", "INFO"))
    ]
    assert not foreign
    assert "\x1b" not in out + err


def test_a_program_gets_one_object_on_the_last_line_and_nothing_is_done_twice(
    first: tuple[Store, Any], config: Path, server: str
) -> None:
    store, _ = first
    code, out, err = finish(start("run", str(config), "--until", "shard", "--store", store.uri, "--json", api=server))
    assert code == 0, err
    answer = json.loads(out.splitlines()[-1])
    assert answer["dataset"] == "dataset:digits@1"
    counts = answer["counts"]
    assert counts["inputs"] == ROWS == counts["kept"] + counts["quarantined"] + counts["dropped"]
    assert [(each["step"], each["ran"]) for each in answer["steps"]] == [
        ("ingest", False), ("validate", False), ("shard", False),
    ]  # fmt: skip
    assert all("unchanged" in each["why"] for each in answer["steps"])
    assert sum(each["seconds"] for each in answer["steps"]) < 5
    assert {"scores", "model", "report", "card"} <= answer.keys()


def test_a_plan_does_nothing(first: tuple[Store, Any], config: Path) -> None:
    store, _ = first
    before = store.walk()
    code, out, err = finish(start("run", str(config), "--plan", "--store", store.uri, "--json"))
    assert code == 0, err
    answer = json.loads(out)
    planned = {each["step"]: each["run"] for each in answer["steps"]}
    assert [name for name, would in planned.items() if not would] == ["ingest", "validate", "shard"]
    assert answer["rows"]["inputs"] == answer["rows"]["before"] > 0
    assert answer["rows"]["to_read"] == answer["disk_needed_bytes"] == 0
    assert answer["disk_free_bytes"] > 0
    assert store.walk() == before


@pytest.mark.parametrize("how", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_an_interrupted_run_says_how_to_continue_and_does(how: int, config: Path, tmp_path: Path, server: str) -> None:
    store = Store(tmp_path / "store")
    arguments = ["run", str(config), "--until", "shard", "--store", store.uri, "--workers", "2"]
    process = start(*arguments, api=server)
    _wait_for(lambda: "ingest" in _log(store), process)
    # a terminal sends Ctrl-C to the whole group
    os.killpg(process.pid, how)
    code, out, err = finish(process)
    assert code == 130, err
    assert err.splitlines()[-1] == f"mmgen: interrupted; to continue: mmgen {' '.join(arguments)}"
    assert "Traceback" not in out + err
    assert recorded_runs(store)[0]["state"] == "interrupted"
    code, _, err = finish(start(*arguments, api=server))
    assert code == 0, err


@pytest.mark.slow
def test_two_runs_on_one_store_at_once_both_end_well(config: Path, tmp_path: Path) -> None:
    arguments = [
        "run",
        str(config),
        "--until",
        "validate",
        "--store",
        str(tmp_path / "store"),
        "--json",
        "--workers",
        "1",
    ]
    both = [start(*arguments), start(*arguments)]
    answers = [finish(process) for process in both]
    assert [code for code, _, _ in answers] == [0, 0], answers
    made = {artifact.fingerprint for artifact in history(Store(tmp_path / "store"), "verdicts", "digits")}
    assert len(made) == 1, "both made, or found, the same"


@pytest.mark.slow
def test_a_killed_run_is_told_by_the_next_and_its_work_goes_on(config: Path, tmp_path: Path, server: str) -> None:
    store = Store(tmp_path / "store")
    arguments = ["run", str(config), "--until", "validate", "--store", store.uri, "--workers", "1"]
    process = start(*arguments, api=server)
    _wait_for(lambda: "ingest" in _log(store), process)
    os.killpg(process.pid, signal.SIGKILL)
    finish(process)
    assert recorded_runs(store)[0]["state"] == "killed"
    code, _, err = finish(start(*arguments, api=server))
    assert code == 0, err
    newest, killed = recorded_runs(store)
    assert (newest["state"], killed["state"]) == ("completed", "killed")
    assert killed["ended"]


def _log(store: Store) -> str:
    runs = [path for path in store.walk("runs") if path.endswith("log.txt")] if store.names("runs") else []
    return "".join(Path(store.full(path)).read_text() for path in runs)


def _wait_for(ready: Any, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not ready():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
