"""Bring the README's tree up to date: what is gone leaves, what is new comes with its docstring's first words.

`make tree` runs it. Comments and order that stand in the README stay.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.guards.test_docs import README, TREE, tree, wanted  # noqa: E402

WIDTH = 28


def comment(path: Path) -> str:
    """The first words of a Python file's docstring, or of its first comment line."""
    if path.is_dir():
        path = path / "__init__.py"
        if not path.exists():
            return ""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        said = ast.get_docstring(ast.parse(text)) or ""
    else:
        said = next((line.lstrip("#- ") for line in text.splitlines() if line.startswith(("# ", "-- "))), "")
    return said.split("\n")[0].split(". ")[0].rstrip(".")


def render(entries: dict[str, str]) -> str:
    """The lines of the tree: folders before what is in them, in the order given, new ones last in their folder."""
    lines: list[str] = []

    def below(folder: str, depth: int) -> None:
        inside = [path for path in entries if path.startswith(folder) and path != folder]
        for path in inside:
            name = path.removeprefix(folder)
            if "/" in name.rstrip("/"):
                continue
            indent = "  " * depth
            lines.append(f"{indent + name:<{WIDTH}} {entries[path]}".rstrip())
            if path.endswith("/"):
                below(path, depth + 1)

    below("", 0)
    return "\n".join(lines)


def main() -> None:
    """Rewrite the tree in README.md."""
    old, new = tree(), wanted()
    entries = {path: said for path, said in old.items() if path in new}
    entries |= {path: comment(ROOT / path) for path in sorted(new) if path not in old}
    head, rest = README.split(f"```{TREE}\n", 1)
    (ROOT / "README.md").write_text(
        f"{head}```{TREE}\n{render(entries)}\n```{rest.split('```', 1)[1]}", encoding="utf-8"
    )


main()
