"""Law 8: components are named in plain dict literals, and configurations can name just what the tables hold."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from mmgen.records import MODALITIES
from tests.guards.source import ROOT, parsed

TABLES = sorted((ROOT / "mmgen").rglob("table.py"))
BY_MODALITY = {"modalities", "preprocess"}


def _tables(path: Path) -> dict[str, ast.expr | None]:
    """Public tables of a file: UPPER_CASE names that are dicts or called so."""
    found: dict[str, ast.expr | None] = {}
    for node in parsed(path).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name, value, says = node.target.id, node.value, ast.unparse(node.annotation)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name, value, says = node.targets[0].id, node.value, ""
        else:
            continue
        if name.isupper() and not name.startswith("_") and (isinstance(value, ast.Dict) or "dict" in says.lower()):
            found[name] = value
    return found


def _keys(path: Path) -> set[str]:
    return {
        key.value
        for value in _tables(path).values()
        if isinstance(value, ast.Dict)
        for key in value.keys
        if isinstance(key, ast.Constant)
    }


def _kinds(path: Path) -> set[str]:
    """What the `kind` fields of a room's configuration may say."""
    kinds: set[str] = set()
    for owner in (node for node in parsed(path).body if isinstance(node, ast.ClassDef)):
        for node in owner.body:
            if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "kind":
                assert ast.unparse(node.annotation).startswith("Literal["), f"{path}:{node.lineno}: wanted Literal[...]"
                kinds |= {each.value for each in ast.walk(node.annotation) if isinstance(each, ast.Constant)}
    return kinds


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.parent.name)
def test_a_table_is_a_plain_dict_literal(path: Path) -> None:
    tables = _tables(path)
    assert tables, f"{path}: no table in it"
    for name, value in tables.items():
        assert isinstance(value, ast.Dict), f"{path}: {name} is made, not written"
        for key, entry in zip(value.keys, value.values, strict=True):
            assert isinstance(key, ast.Constant), f"{path}: {name}: a key that is no literal"
            calls = [part for part in ast.walk(entry) if isinstance(part, ast.Call) and (part.args or part.keywords)]
            assert not calls, f"{path}: {name}[{key.value!r}] is made with arguments"


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.parent.name)
def test_nothing_is_added_to_a_table_later(path: Path) -> None:
    names = set(_tables(path))
    for file in sorted((ROOT / "mmgen").rglob("*.py")):
        for node in ast.walk(parsed(file)):
            targets = node.targets if isinstance(node, ast.Assign | ast.Delete) else []
            for target in targets:
                changed = isinstance(target, ast.Subscript) and ast.unparse(target.value).split(".")[-1] in names
                assert not changed, f"{file}:{node.lineno}: {ast.unparse(node)}"  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", [path for path in TABLES if path.parent.name not in BY_MODALITY], ids=str)
def test_configurations_can_name_just_what_a_table_holds(path: Path) -> None:
    config = path.parent / "config.py"
    assert config.exists(), f"{config}: a table without a configuration that chooses from it"
    assert _kinds(config) == _keys(path)


@pytest.mark.parametrize("path", [path for path in TABLES if path.parent.name in BY_MODALITY], ids=str)
def test_a_table_of_modalities_has_them_all(path: Path) -> None:
    for name, value in _tables(path).items():
        assert isinstance(value, ast.Dict)
        assert {ast.literal_eval(key) for key in value.keys if key} == set(MODALITIES), name
