"""Every command, target and file that the README speaks of is there, and the other way round."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest
import typer

from flows.cli import app
from tests.guards.source import ROOT, tracked

README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
FENCES = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
TREE = "tree"
# folders whose files the tree lists one by one; of all others it names the folder
FILES_OF = ("data_schemas", "mmgen", "flows", "docker", "benchmarks", ".ci")


def _commands() -> dict[str, Any]:
    group: Any = typer.main.get_command(app)
    return dict(group.commands)


def _said(program: str) -> list[list[str]]:
    """Uses of a program in the code blocks of README and CONTRIBUTING, in words."""
    found = []
    for text in (README, CONTRIBUTING):
        for language, block in FENCES.findall(text):
            if language not in ("sh", "bash", "console"):
                continue
            for line in block.splitlines():
                words = shlex.split(line.removeprefix("$ "), comments=True)
                if words and words[0].removeprefix(".venv/bin/") == program:
                    found.append(words)
    return found


def test_every_command_is_documented() -> None:
    missing = [name for name in _commands() if not re.search(rf"\bmmgen {re.escape(name)}\b", README)]
    assert not missing, f"README.md does not speak of mmgen {', '.join(missing)}"


@pytest.mark.parametrize("name", sorted(_commands()))
def test_help_speaks_of_every_option(name: str) -> None:
    command = _commands()[name]
    assert command.help, f"mmgen {name}: --help says nothing"
    for parameter in command.params:
        assert getattr(parameter, "help", None), f"mmgen {name}: {parameter.opts[0]} has no help"


def test_every_command_in_the_docs_is_there_with_its_options() -> None:
    said = _said("mmgen")
    assert len(said) >= 8
    for words in said:
        assert words[1] in _commands(), f"`{' '.join(words)}`: no such command"
        options = {option for parameter in _commands()[words[1]].params for option in parameter.opts}
        for word in (word.strip("[]") for word in words[2:]):
            if word.startswith("--"):
                assert word.split("=")[0] in options, f"`{' '.join(words)}`: no option {word}"


def test_every_target_in_the_docs_is_in_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    said = {word for words in _said("make") for word in words[1:] if re.fullmatch(r"[a-z-]+", word)}
    assert {"demo", "test", "check"} <= said
    assert said <= targets


def tree() -> dict[str, str]:
    """Path → comment, of the README's tree."""
    (block,) = [block for language, block in FENCES.findall(README) if language == TREE]
    found: dict[str, str] = {}
    folders: list[str] = []
    for line in block.splitlines():
        indent, name, comment = re.fullmatch(r"( *)(\S+)(?: +(.*))?", line).groups()  # type: ignore[union-attr]
        del folders[len(indent) // 2 :]
        found["".join(folders) + name] = comment or ""
        if name.endswith("/"):
            folders.append(name)
    return found


def wanted() -> set[str]:
    """Paths that the tree is to name."""
    found = set()
    for path in tracked():
        parts = path.relative_to(ROOT).parts
        if parts[-1] in ("__init__.py", "py.typed"):
            continue
        if len(parts) == 1:
            found.add(parts[0])
        elif parts[0] in FILES_OF:
            found |= {"/".join(parts[:depth]) + "/" for depth in range(1, len(parts))} | {"/".join(parts)}
        elif parts[0] == "tests" and len(parts) > 2:
            found |= {"tests/", f"tests/{parts[1]}/"}
        else:
            found.add(f"{parts[0]}/")
    return found


def test_the_tree_names_every_file_with_a_comment() -> None:
    missing = wanted() - set(tree())
    assert not missing, "run `make tree`:\n" + "\n".join(sorted(missing))
    assert not [path for path, comment in tree().items() if not comment]


def test_the_tree_names_nothing_that_is_gone() -> None:
    gone = [path for path in tree() if not (ROOT / path).exists()]
    assert not gone


@pytest.mark.parametrize("text", [README, CONTRIBUTING], ids=["README", "CONTRIBUTING"])
def test_links_and_paths_lead_somewhere(text: str) -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text) if "://" not in link]
    paths = [
        path
        for path in re.findall(r"`([\w./-]+)`", text)
        if re.match(r"(mmgen|flows|data_schemas|tests|docker|benchmarks)/", path)
    ]
    missing = [path for path in [*links, *paths] if not (ROOT / path).exists()]
    assert not missing
