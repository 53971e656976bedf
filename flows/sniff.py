"""`mmgen init`: what a table's columns look like, and the configuration that says so. Guesses are written as such."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmgen.errors import ConfigError, SourceError
from mmgen.sources.tabular import Bad, open_table

LOOK_AT = 500
_SUFFIXES = {
    "image": (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"),
    "audio": (".wav", ".flac", ".ogg", ".mp3", ".opus", ".m4a", ".aiff"),
}
_NAMES = {
    "key": ("key", "id", "uid", "uuid", "name", "filename"),
    "label": ("label", "class", "category", "digit", "target"),
    "group": ("group", "speaker", "voice", "author", "subject", "session", "artist"),
    "split": ("split", "subset", "fold", "set"),
    "text": ("text", "caption", "transcript", "transcription", "sentence", "description", "prompt", "title"),
}
_SPLITS = {"train", "training", "validation", "valid", "val", "dev", "test", "eval"}
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
# YAML reads these as something else than the word
_WORDS = {"null", "true", "false", "yes", "no", "on", "off", "y", "n"}


@dataclass(frozen=True)
class Column:
    """What the first rows say of a column. share: of its cells that are not empty. distinct: different values."""

    name: str
    modality: str | None
    filled: float
    distinct: int
    cells: int
    words: float
    splits: bool


def write_config(table: Path, out: Path | None, force: bool) -> dict[str, Any]:
    """Write a commented configuration for `table`, by default `<table's name>.yaml` in the current folder.

    Returns {"config", "source", "columns", "shown"}. Raises SourceError (no table), ConfigError (the file exists).
    """
    columns = sniff(table)
    found = guess(columns)
    if not any(role in found for role in ("text", "image", "audio")):
        raise SourceError(
            f"{table}: no column looks like text, image or audio; it has {', '.join(each.name for each in columns)}"
        )
    name = re.sub(r"[^a-z0-9]+", "-", table.stem.lower()).strip("-")[:63] or "my-pairs"
    target = out or Path(f"{name}.yaml")
    path = os.path.relpath(table, target.resolve().parent)
    text = render(name, path, found, columns)
    try:
        with open(target, "w" if force else "x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        raise ConfigError(f"{target}: exists already; --force replaces it, --out FILE writes another") from None
    shown = f"{text}\nwrote {target}; next: mmgen run {target} --plan"
    return {"config": str(target), "source": found, "columns": [each.name for each in columns], "shown": shown}


def sniff(table: Path) -> list[Column]:
    """Look at the first rows of a table. Raises SourceError."""
    names, records = open_table(str(table))
    rows = [row for row in itertools.islice(records, LOOK_AT) if not isinstance(row, Bad)]
    if not rows:
        raise SourceError(f"{table}: has no readable rows")
    return [_column(name, rows) for name in names if name]


def _column(name: str, rows: Sequence[Mapping[str, Any]]) -> Column:
    cells = [_text(row.get(name)) for row in rows]
    full = [cell for cell in cells if cell]
    count = max(1, len(full))
    kind = next(
        (kind for kind, ends in _SUFFIXES.items() if sum(cell.lower().endswith(ends) for cell in full) > 0.5 * count),
        None,
    )
    words = sum(len(cell.split()) for cell in full) / count
    return Column(
        name,
        kind,
        len(full) / len(cells),
        len(set(full)),
        len(full),
        words,
        bool(full) and {each.lower() for each in full} <= _SPLITS,
    )


def _text(cell: Any) -> str:
    if cell is None:
        return ""
    if isinstance(cell, Mapping) and isinstance(cell.get("path"), str):
        return str(cell["path"])
    return cell.strip() if isinstance(cell, str) else str(cell)


def guess(columns: Sequence[Column]) -> dict[str, str]:
    """Role of a `source` → column. Names count first, then what the cells hold."""
    found: dict[str, str] = {}

    def take(role: str, fits: Any) -> None:
        free = [each for each in columns if each.name not in found.values() and fits(each)]
        known = _NAMES.get(role, ())
        named = [each for each in free if each.name.lower() in known]
        if chosen := [*sorted(named, key=lambda each: known.index(each.name.lower())), *free]:
            found[role] = chosen[0].name

    take("image", lambda each: each.modality == "image")
    take("audio", lambda each: each.modality == "audio")
    take("split", lambda each: each.splits)
    take("key", lambda each: each.modality is None and each.distinct == each.cells and _named(each, "key"))
    take("group", lambda each: each.modality is None and _named(each, "group"))
    take("label", lambda each: each.modality is None and _named(each, "label") and each.distinct <= 1000)
    take("text", lambda each: each.modality is None and (_named(each, "text") or each.words >= 2))
    return found


def _named(column: Column, role: str) -> bool:
    return column.name.lower() in _NAMES[role]


_SAYS = {
    "key": "unique; names a sample for good (left out: the row's number)",
    "text": "a list takes several columns as alternatives: [caption, caption_2]",
    "image": "a path, relative to the table's folder, or a URL",
    "audio": "a path, relative to the table's folder, or a URL",
    "label": "classes: judges and class scores need it",
    "group": "samples of one group never part into two splits",
    "split": "your own split rules, and is checked",
}


def render(name: str, path: str, found: Mapping[str, str], columns: Sequence[Column]) -> str:
    """The configuration as commented YAML."""
    lines = [
        "# Written by `mmgen init` from the table's first rows: check which column is what.",
        f"name: {_scalar(name)}",
        "recipe: small            # a complete configuration; what follows overrides it",
        "source:",
        "  kind: table",
        f"  path: {_scalar(path)}",
    ]
    for role, says in _SAYS.items():
        line = f"  {role}: {_scalar(found[role])}" if role in found else f"  # {role}: COLUMN"
        lines.append(f"{line:<40} # {says}")
    rest = [each for each in columns if each.name not in found.values()]
    if rest:
        lines.append("# Columns that are not used; keep them as metadata with  meta: [COLUMN, …]  under source:")
        lines += [f"#   {each.name} ({each.filled:.0%} filled, {each.distinct} different)" for each in rest]
    lines += [
        "# More slots, each of one modality:",
        "# slots:",
        "#   question: {modality: text, column: COLUMN}",
        "# Gates and floors, with their defaults:  mmgen run this.yaml --plan  shows what would happen.",
    ]
    return "\n".join(lines) + "\n"


def _scalar(text: str) -> str:
    """A YAML scalar: plain where that is safe, else quoted as JSON, which YAML reads."""
    plain = _PLAIN.fullmatch(text) and text.lower() not in _WORDS
    return text if plain else json.dumps(text, ensure_ascii=False)
