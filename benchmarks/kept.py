"""Results that are committed: one Parquet of all cells, so that a stopped run goes on and nothing is made twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl


def whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file in one go."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    write(partial)
    partial.rename(path)


@dataclass(frozen=True)
class Kept:
    """path: the Parquet. cell: the columns that say of which cell a row is."""

    path: Path
    cell: tuple[str, ...]

    def table(self) -> pl.DataFrame | None:
        """All rows so far."""
        return pl.read_parquet(self.path) if self.path.exists() else None

    def has(self, about: Mapping[str, Any]) -> bool:
        """Whether a cell's rows are there."""
        found = self.table()
        return found is not None and not found.filter(**{name: about[name] for name in self.cell}).is_empty()

    def add(self, rows: pl.DataFrame) -> None:
        """Whole or not at all."""
        found = self.table()
        whole(self.path, lambda path: (rows if found is None else pl.concat([found, rows])).write_parquet(path))
