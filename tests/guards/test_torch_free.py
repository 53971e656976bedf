"""Law 8: what stands above the torch line, configurations, recipes, plans and the command line import no torch."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.guards.source import ROOT, modules
from tests.guards.test_imports import ORDER, TORCH_LINE, room

_PROBE = """
import importlib, json, sys
heavy = ("torch", "torchvision", "torchaudio", "prefect", "mlflow", "sklearn", "matplotlib")
blame = {{}}
def loaded(step):
    for name in heavy:
        if name in sys.modules:
            blame.setdefault(name, step)
{body}
print(json.dumps(blame))
"""


def _blame(body: str) -> dict[str, str]:
    """Heavy library → what first loaded it, in a fresh interpreter."""
    run = subprocess.run(
        [sys.executable, "-c", _PROBE.format(body=body)], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 0, run.stderr
    blame: dict[str, str] = json.loads(run.stdout.splitlines()[-1])
    return blame


def _importing(names: list[str]) -> dict[str, str]:
    return _blame(f"for name in {names!r}:\n    importlib.import_module(name)\n    loaded(name)")


def _above(module: str) -> bool:
    place = room(module)
    return module.startswith("mmgen.") and place in ORDER and ORDER.index(place) < TORCH_LINE


def test_nothing_above_the_line_loads_torch() -> None:
    names = [name for name in modules() if _above(name) or name.startswith("data_schemas")]
    assert not {"torch", "torchvision", "torchaudio", "prefect", "mlflow"} & _importing(names).keys(), _importing(names)


def test_configurations_and_room_packages_load_nothing_heavy() -> None:
    packages = [name for name, path in modules().items() if path.name == "__init__.py"]
    names = [
        "mmgen",
        "mmgen.identity",
        "mmgen.steps",
        *packages,
        *(name for name in modules() if room(name) == "configs"),
    ]
    assert not _importing(names)


def test_the_command_line_loads_nothing_heavy() -> None:
    assert not _importing(["flows", "flows.cli"])


def test_recipes_are_read_without_anything_heavy() -> None:
    body = """
from mmgen import config
import yaml
for name in config.recipes():
    raw = yaml.safe_load((config.RECIPES / f"{name}.yaml").read_text())
    source = {"path": "pairs.csv", "text": "t", "image": "i", "audio": "a"} | raw.get("source", {})
    config.build({"name": "any", "recipe": name, "source": source})
    loaded(name)
"""
    assert not _blame(body)


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["ls"]])
def test_light_commands_load_nothing_heavy(arguments: list[str]) -> None:
    body = f"""
import contextlib, io
from flows.cli import main
sys.argv = ["mmgen", *{arguments!r}]
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    main()
loaded("mmgen " + " ".join({arguments!r}))
"""
    assert not _blame(body)
