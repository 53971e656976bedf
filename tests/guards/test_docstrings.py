"""What is public says what it is; ruff asks for modules, classes and functions, this for the methods that need it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.guards.source import modules, parsed, where


def _classes(path: Path) -> Iterator[ast.ClassDef]:
    return (node for node in parsed(path).body if isinstance(node, ast.ClassDef) and not node.name.startswith("_"))


def _overrides(bases: list[ast.expr]) -> bool:
    # what a base declares is documented there
    return bool(bases) and not any(ast.unparse(base).split(".")[-1] in ("Protocol", "ABC") for base in bases)


def test_every_module_says_what_it_is() -> None:
    silent = [
        str(path) for path in modules().values() if path.name != "__init__.py" and not ast.get_docstring(parsed(path))
    ]
    assert not silent


def test_public_names_have_docstrings() -> None:
    silent = []
    for path in modules().values():
        for node in parsed(path).body:
            public = isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
            if public and not ast.get_docstring(node):  # type: ignore[arg-type]
                silent.append(f"{where(path, node.lineno)}: {node.name}")  # type: ignore[attr-defined]
    assert not silent, "\n".join(silent)


def _declared_by_protocols() -> set[str]:
    """Method names whose meaning a Protocol of ours tells."""
    return {
        method.name
        for path in modules().values()
        for owner in _classes(path)
        if any(ast.unparse(base) == "Protocol" for base in owner.bases)
        for method in owner.body
        if isinstance(method, ast.FunctionDef)
    }


def test_public_methods_say_what_their_body_does_not() -> None:
    silent = []
    known = _declared_by_protocols() | {"close"}
    for path in modules().values():
        for owner in _classes(path):
            for node in owner.body:
                if not isinstance(node, ast.FunctionDef) or node.name.startswith("_") or node.name in known:
                    continue
                if len(node.body) > 1 and not ast.get_docstring(node) and not _overrides(owner.bases):
                    silent.append(f"{where(path, node.lineno)}: {owner.name}.{node.name}")
    assert not silent, "\n".join(silent)


def test_files_and_functions_stay_readable() -> None:
    """A file is one idea; past 400 lines it is two."""
    long = {path.name: count for path in modules().values() if (count := len(path.read_text().splitlines())) > 400}
    assert not long, long
