"""The project's own source, as the guards read it: files, modules, imports. Nothing is imported to be read."""

from __future__ import annotations

import ast
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("data_schemas", "mmgen", "flows")


@dataclass(frozen=True)
class Import:
    """One imported module: its full name, the line of the statement, whether it runs when the file is imported."""

    module: str
    line: int
    at_import: bool


@cache
def modules() -> dict[str, Path]:
    """Module name → file, of the three packages."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@cache
def imports(path: Path) -> tuple[Import, ...]:
    """All modules that a file imports, inside functions too; `from a import b` is a.b if that is a module of ours."""
    found = []
    inside = {
        id(node)
        for function in ast.walk(parsed(path))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
    }
    for node in ast.walk(parsed(path)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in modules() else str(node.module) for name in inner]
        found += [Import(name, node.lineno, id(node) not in inside) for name in dict.fromkeys(names)]
    return tuple(found)


def tracked() -> list[Path]:
    """Files that belong to the project: tracked, or new and not ignored."""
    run = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return sorted(path for name in run.stdout.split("\0") if name and (path := ROOT / name).is_file())


def where(path: Path, line: int) -> str:
    """`file:line`, relative to the project."""
    return f"{path.relative_to(ROOT)}:{line}"
