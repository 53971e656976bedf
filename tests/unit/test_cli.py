"""The command line as others rely on it: its commands and options, its exit codes, its one line per mistake."""

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
import typer.main

from flows import cli
from flows.endings import ending
from mmgen import steps
from mmgen.errors import ConfigError, GateError, StoreError

LINE = {"--store", "--workers", "--device", "--json"}
STEP = LINE | {"--verify", "--rehash", "--refit", "--rebuild"}
INIT = {"--init-from", "--init"}
# stable: what is here may be added to, and nothing may go
OPTIONS = {
    "demo": LINE | {"--rows", "--quick"},
    "run": STEP | INIT | {"--from", "--until", "--plan", "--profile"},
    **dict.fromkeys(steps.NAMES, STEP),
    **dict.fromkeys(("train-fusion", "train-generator"), STEP | INIT),
    "evaluate": STEP | {"--against", "--out"},
    "tune": LINE | {"--trials", "--out"},
    "init": {"--out", "--force", "--json"},
    "generate": {
        "--text", "--image", "--audio", "--slot", "--to", "--num", "--guidance", "--negative", "--mix", "--strength",
        "--sampler", "--shift", "--steps", "--seed", "--out", "--store", "--device", "--json", "--temperature",
        "--top-k", "--top-p", "--beams", "--prefix", "--candidates",
    },
    "head": {
        "--head", "--column", "--slot", "--separator", "--steps", "--seed", "--store", "--device", "--json",
    },
    "inpaint": {
        "--hole", "--slot", "--num", "--guidance", "--sampler", "--steps", "--seed", "--out", "--store", "--device",
        "--json",
    },
    "interpolate": {"--from", "--to", "--slot", "--num", "--steps", "--out", "--store", "--device", "--json"},
    "checks": {"--json"},
    "ls": {"--store", "--json"},
    "show": {"--store", "--json"},
    "diff": {"--store", "--json"},
    "trace": {"--dataset", "--store", "--json"},
    "export": {"--layout", "--force", "--store", "--json"},
    "verify": {"--all", "--store", "--json"},
    "report": {"--store", "--json"},
    "runs": {"--store", "--json"},
    "forget": {"--dataset", "--list", "--purge", "--dry-run", "--store", "--json"},
    "gc": {"--dry-run", "--older-than", "--store", "--json"},
    "deploy": {"--cron", "--gpu", "--workers", "--store", "--json"},
}  # fmt: skip
ARGUMENTS = {
    "tune": ["config"],
    "run": ["config"], "init": ["file"], "generate": ["model"],
    "demo": ["name"], "head": ["model"],
    "inpaint": ["model", "value"], "interpolate": ["model"],
    "ls": ["kind"], "show": ["ref"], "verify": ["ref"],
    "report": ["ref"], "forget": ["keys"], "diff": ["one", "other"], "trace": ["key"],
    "export": ["ref", "folder"], "deploy": ["config"], **{name: ["config"] for name in steps.NAMES},
    "evaluate": ["target"],
}  # fmt: skip


def commands() -> dict[str, Any]:
    group: Any = typer.main.get_command(cli.app)
    return dict(group.commands)


def test_the_commands_are_these() -> None:
    assert set(commands()) == set(OPTIONS)


@pytest.mark.parametrize("name", OPTIONS)
def test_options_and_arguments_are_these(name: str) -> None:
    parameters = commands()[name].params
    options = {option for each in parameters if each.param_type_name == "option" for option in each.opts}
    assert options - {"--help"} == OPTIONS[name]
    arguments = [each.name for each in parameters if each.param_type_name == "argument"]
    assert arguments == ARGUMENTS.get(name, [])


def test_every_step_of_the_line_is_a_command() -> None:
    assert tuple(cli.STEPS) == steps.NAMES


@pytest.mark.parametrize("name", OPTIONS)
def test_every_command_and_option_says_what_it_is(name: str) -> None:
    command = commands()[name]
    assert (command.help or "").strip().endswith(".")
    assert all(each.help for each in command.params if each.name != "help")


# ---------------------------------------------------------------- exit codes


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = ending(cli.app, list(arguments))
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rnu"], ["rnu", "run"]),
        (["run"], ["CONFIG.yaml"]),
        (["run", "there.yaml", "--stor", "x"], ["--stor", "--store"]),
        (["run", "nowhere.yaml"], ["nowhere.yaml", "no such configuration file"]),
        (["run", "nowhere.yaml", "--from", "shrad"], ["shrad", "did you mean 'shard'"]),
        (["run", "nowhere.yaml", "--from", "fit", "--until", "ingest"], ["comes after"]),
        (["demo", "--rows", "many"], ["--rows", "valid integer"]),
        (["show", "nothing@1"], ["nothing"]),
        (["ls", "datasets"], ["did you mean 'dataset'"]),
        (["report", "a:b:c"], ["[kind:]name[@version|@alias]"]),
        (["gc", "--older-than", "soon"], ["--older-than", "valid"]),
        (["forget"], ["KEY", "--list"]),
        (["verify"], ["REF", "--all"]),
        (["diff", "nothing@1", "nothing@2"], ["nothing"]),
        (["trace", "k", "--dataset", "nothing"], ["--dataset", "nothing"]),
        (["export", "nothing", "there"], ["nothing"]),
        (["forget", "k", "--list", "nowhere.txt"], ["--list", "nowhere.txt"]),
        (["generate", "m", "--to", "text", "--image", "no.png"], ["--image", "no.png"]),
        (["generate", "m", "--to", "text", "--slot", "question"], ["NAME=VALUE"]),
        (["generate", "m", "--to", "text", "--guidance", "text=3"], ["--guidance", "GIVEN:MADE=NUMBER", "text=3"]),
        (["generate", "m", "--to", "text", "--guidance", "much"], ["--guidance", "wanted a number", "much"]),
        (["generate", "m", "--to", "text", "--mix", "text=red"], ["--mix", "WEIGHT:NAME=VALUE", "text=red"]),
        (["generate", "m", "--to", "text", "--negative", "red"], ["--negative", "NAME=VALUE"]),
        (["inpaint", "m", "image=a.png", "--hole", "0.2-0.5"], ["--hole", "START:STOP", "0.2-0.5"]),
        (["inpaint", "m", "image", "--hole", "0:1"], ["NAME=FILE", "image"]),
        (["interpolate", "m", "--from", "image=a.png"], ["--to"]),
        (["generate", "m", "--to", "text", "--prefix", "a cat"], ["--prefix", "NAME=VALUE", "a cat"]),
        (["init", "no.csv"], ["no.csv", "no such file"]),
        (["deploy", "nowhere.yaml"], ["PREFECT_API_URL"]),
    ],
)
def test_a_users_mistake_is_one_line_on_stderr(
    arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = said(capsys, *arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert err.startswith("mmgen: ")
    assert not [word for word in words if word not in err], err


def test_a_mistake_is_an_object_for_a_program(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, "show", "nothing@1", "--json")
    answer = json.loads(out.splitlines()[-1])
    assert answer["exit_code"] == code == 2
    assert "nothing" in answer["error"]


def test_a_gate_that_says_no_is_an_object_for_a_program_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise GateError("too few rows")

    monkeypatch.setattr("flows.answers.listed", refuse)
    code, out, err = said(capsys, "ls", "--json")
    assert (code, err) == (1, "mmgen: too few rows\n")
    assert json.loads(out) == {"error": "too few rows", "exit_code": 1}


@pytest.mark.parametrize(
    ("raised", "code", "line"),
    [
        (ConfigError("name: wanted a word,\n came nothing"), 2, "name: wanted a word, came nothing"),
        (GateError("too few rows"), 1, "too few rows"),
        (StoreError("could not write: No space left on device"), 3, "No space left"),
        (KeyboardInterrupt(), 130, "to continue: mmgen ls --store 'my store'"),
        (ZeroDivisionError("division by zero"), 3, "unexpected ZeroDivisionError: division by zero"),
    ],
)
def test_each_ending_has_its_exit_code_and_one_line(
    raised: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise raised

    monkeypatch.setattr("flows.answers.listed", fail)
    came, out, err = said(capsys, "ls", "--store", "my store")
    assert (came, out) == (code, "")
    assert line in err
    assert err.strip().count("\n") == 0
    assert "Traceback" not in err


@pytest.mark.parametrize("name", OPTIONS)
def test_help_is_given(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = said(capsys, name, "--help")
    assert (code, err) == (0, "")
    assert out.startswith(f"Usage: mmgen {name}")


def test_without_a_command_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys)
    assert code == 0
    assert "train-generator" in out


@pytest.mark.parametrize("arguments", [["ls"], ["runs"], ["gc", "--dry-run"]])
def test_an_empty_store_is_no_mistake(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = said(capsys, *arguments, "--store", "empty", "--json")
    assert (code, err) == (0, "")
    answer = json.loads(out)
    assert not next(value for value in answer.values() if isinstance(value, list))
    assert not Path("empty").exists(), "looking makes nothing"


def test_the_environment_names_the_store(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMGEN_STORE", "from-environment")
    seen: list[str] = []
    monkeypatch.setattr("flows.answers.ran", lambda store: seen.append(store) or {"runs": []})
    said(capsys, "runs")
    said(capsys, "runs", "--store", "given")
    assert seen == ["from-environment", "given"]


def test_a_closed_pipe_is_the_end_and_no_fault() -> None:
    program = "import sys; from flows import answers, cli; from flows.endings import ending\n"
    program += "answers.listed = lambda *_: {'artifacts': [{'x': 'y' * 100}] * 20_000}\n"
    program += "sys.exit(ending(cli.app, ['ls', '--json']))"
    run = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert run.stdout is not None
    assert run.stderr is not None
    run.stdout.read(10)
    run.stdout.close()
    err = run.stderr.read()
    run.stderr.close()
    assert (run.wait(timeout=30), err) == (0, b"")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_says_how_to_continue(how: int, tmp_path: Path) -> None:
    program = "import time; from flows import answers, cli\n"
    program += "answers.ran = lambda *_: (open('there', 'w').close(), time.sleep(30))\n"
    program += "cli.main(['runs', '--store', 'my store'])"
    run = subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "there").exists():
        time.sleep(0.05)
    os.kill(run.pid, how)
    _, err = run.communicate(timeout=30)
    assert run.returncode == 130
    assert err.strip() == "mmgen: interrupted; to continue: mmgen runs --store 'my store'"
