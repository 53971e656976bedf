"""`make` installs once: from the lock, again only when it changed, and says what it needs when Python is too old."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.guards.source import ROOT

_FAKE = """#!/bin/sh
# stands for Python: writes down what it was asked, and makes an environment that holds a copy of itself
echo "$*" >> "{log}"
if [ "$1 $2" = "-m venv" ]; then mkdir -p "$3/bin" && cp "{fake}" "$3/bin/python"; fi
exit 0
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    fake = tmp_path / "fake-python"
    fake.write_text(_FAKE.format(log=tmp_path / "log", fake=fake))
    fake.chmod(0o755)
    return tmp_path


def _make(project: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    (project / "log").write_text("")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        ["make", *arguments], cwd=project, env=clean | environment, capture_output=True, text=True, check=False
    )


def _asked(project: Path) -> list[str]:
    return (project / "log").read_text().splitlines()


def test_the_first_target_installs_the_lock_and_the_second_nothing(project: Path) -> None:
    given = f"PYTHON={project / 'fake-python'}"
    assert _make(project, "install", given).returncode == 0
    first = _asked(project)
    assert first[0] == "-m venv .venv"
    assert any("pip install" in line and "-r requirements.lock" in line for line in first)
    assert any("--no-deps" in line and "--editable ." in line for line in first)
    assert _make(project, "test", given).returncode == 0
    assert [line.split()[:2] for line in _asked(project)] == [["-m", "pytest"]]
    assert _make(project, "test", given, "ARGS=-k store").returncode == 0
    (asked,) = _asked(project)
    assert asked.startswith("-m pytest ")
    assert asked.endswith(" -k store")


def test_a_new_lock_is_installed_and_a_touched_one_is_not(project: Path) -> None:
    given = f"PYTHON={project / 'fake-python'}"
    _make(project, "install", given)
    os.utime(project / "requirements.lock")
    os.utime(project / "pyproject.toml")
    _make(project, "install", given)
    assert _asked(project) == []
    with open(project / "requirements.lock", "a") as lock:
        lock.write("# another\n")
    _make(project, "install", given)
    assert any("-r requirements.lock" in line for line in _asked(project))


def test_an_install_that_failed_is_tried_again(project: Path) -> None:
    given = f"PYTHON={project / 'fake-python'}"
    fake = project / "fake-python"
    good = fake.read_text()
    fake.write_text(good.replace("exit 0", 'case "$*" in *requirements.lock*) exit 1;; esac'))
    assert _make(project, "install", given).returncode != 0
    fake.write_text(good)
    assert _make(project, "install", given).returncode == 0
    assert any("-r requirements.lock" in line for line in _asked(project))


def test_an_old_python_is_refused_in_words(project: Path) -> None:
    tools = project / "tools"
    tools.mkdir()
    for name in ("make", "sh", "cat", "cksum", "tr", "sed", "pwd", "rm", "touch", "echo", "test"):
        if found := shutil.which(name):
            (tools / name).symlink_to(found)
    old = tools / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    run = _make(project, "install", PATH=str(tools))
    assert run.returncode != 0
    assert "Python 3.11" in run.stdout + run.stderr
    assert not (project / ".venv").exists()


def test_the_makefile_says_each_thing_once(project: Path) -> None:
    run = _make(project, "--dry-run", "install", f"PYTHON={project / 'fake-python'}")
    assert run.stderr == ""


def test_every_comparison_that_can_be_asked_for_is_in_the_help(project: Path) -> None:
    text = (project / "Makefile").read_text()
    targets = {line.split(":")[0] for line in text.splitlines() if line.startswith("bench")}
    assert "bench-models" in targets
    said = _make(project, "help").stdout
    assert [target for target in sorted(targets) if target not in said] == []
    (asked,) = (each for each in text.splitlines() if each.startswith(".PHONY"))
    assert targets <= set(asked.split())
