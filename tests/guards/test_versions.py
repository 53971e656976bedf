"""The lock, what repeats it, and the version literals of the steps."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mmgen.identity import STEP_VERSIONS
from mmgen.steps import NAMES
from tests.guards.source import PACKAGES, ROOT, imports, modules, parsed, where


def _pins(name: str) -> list[str]:
    """The lines of a lock that pin something."""
    lines = (line.strip() for line in (ROOT / name).read_text().splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _project() -> dict[str, object]:
    project: dict[str, object] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return project


def _asked() -> list[Requirement]:
    project = _project()
    extras: dict[str, list[str]] = project["optional-dependencies"]  # type: ignore[assignment]
    lines: list[str] = [*project["dependencies"], *(line for extra in extras.values() for line in extra)]  # type: ignore[misc]
    return [found for line in lines if (found := Requirement(line)).name != "mmgen"]


def test_every_line_of_the_lock_is_one_exact_version() -> None:
    assert len(_pins("requirements.lock")) > 100
    for line in _pins("requirements.lock"):
        requirement = Requirement(line)
        assert re.fullmatch(r"==[\w.!+]+", str(requirement.specifier)), line
        assert requirement.url is None


def test_the_lock_holds_what_the_project_asks_for() -> None:
    locked = [Requirement(line) for line in _pins("requirements.lock")]
    for asked in _asked():
        versions = [
            str(each.specifier)[2:] for each in locked if canonicalize_name(each.name) == canonicalize_name(asked.name)
        ]
        assert versions, f"{asked}: not in requirements.lock; run `make lock`"
        assert all(asked.specifier.contains(version, prereleases=True) for version in versions), f"{asked}: {versions}"


def test_the_project_asks_for_all_that_it_imports() -> None:
    """What happens to come along with something else may stop to."""
    asked = {canonicalize_name(requirement.name) for requirement in _asked()}
    owners = packages_distributions()
    wrong = {
        f"{where(path, found.line)}: {top}"
        for path in modules().values()
        for found in imports(path)
        if (top := found.module.split(".")[0]) not in sys.stdlib_module_names and top not in PACKAGES
        if not {canonicalize_name(owner) for owner in owners.get(top, [top])} & asked
    }
    assert not wrong, "not in pyproject.toml:\n" + "\n".join(sorted(wrong))


@pytest.mark.parametrize("name", ["docker/worker.lock", "docker/ingest.lock"])
def test_an_image_has_the_versions_of_the_lock(name: str) -> None:
    locked = {
        (requirement.name, str(requirement.specifier)) for requirement in map(Requirement, _pins("requirements.lock"))
    }
    mine = {(requirement.name, str(requirement.specifier)) for requirement in map(Requirement, _pins(name))}
    assert len(mine) > 50
    assert mine <= locked, f"run `make derived`: {sorted(mine - locked)}"


def test_the_conda_environment_has_the_versions_of_the_lock() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (pip,) = [each["pip"] for each in environment["dependencies"] if isinstance(each, dict)]
    assert pip[-1] == "--editable ."
    assert pip[:-1] == _pins("requirements.lock"), "run `make derived`"
    (python,) = [each for each in environment["dependencies"] if isinstance(each, str) and each.startswith("python=")]
    assert Requirement(f"python{_project()['requires-python']}").specifier.contains(
        f"{python.removeprefix('python=')}.0"
    )


def test_the_ingest_image_has_no_torch_and_asks_for_nothing_of_its_own() -> None:
    asked = {canonicalize_name(requirement.name) for requirement in _asked()}
    wanted = {canonicalize_name(Requirement(line).name) for line in _pins("docker/ingest.in")}
    assert wanted <= asked
    pinned = {canonicalize_name(Requirement(line).name) for line in _pins("docker/ingest.lock")}
    assert wanted <= pinned
    assert not {"torch", "torchvision", "torchaudio", "mlflow", "scikit-learn"} & pinned


# ---------------------------------------------------------------- steps


def test_every_step_has_a_version_literal() -> None:
    assert set(STEP_VERSIONS) == set(NAMES)
    (literal,) = [
        node.value
        for node in parsed(ROOT / "mmgen/identity.py").body
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "STEP_VERSIONS"
    ]
    assert isinstance(literal, ast.Dict)
    assert ast.literal_eval(literal) == STEP_VERSIONS
    assert all(isinstance(version, int) and version >= 1 for version in STEP_VERSIONS.values())


@pytest.mark.parametrize("step", NAMES)
def test_every_step_has_a_golden_test(step: str) -> None:
    """A test that names the step and its version literal, and fails when the same inputs give other bytes."""
    said = (step, step.replace("-", "_"))
    golden = [
        f"{path.name}::{node.name}"
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_") and "golden" in node.name
        if said[1] in node.name or f"'{step}'" in ast.unparse(node)
    ]
    assert golden, f"no test named test_…golden… speaks of '{step}'"
