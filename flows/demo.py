"""What `mmgen demo` runs: the embedded data set as a user's table, and its recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmgen.config import Config, build
from mmgen.errors import ConfigError
from mmgen.runtime import Progress
from mmgen.store import Store

ROWS, QUICK_ROWS = 5_000, 400


def configure(store: str, rows: int | None, quick: bool, progress: Progress) -> Config:
    """Write the data set into the store's `demo/` folder unless it is there, and return its configuration.

    rows: how many of the 5,000 triples; None for all, or for 400 if `quick`. Raises ConfigError for a remote store.
    """
    opened = Store(store)
    if not opened.local:
        raise ConfigError(
            f"--store: the demo writes its data set as a folder, and {store} is remote; wanted a local store"
        )
    count = rows or (QUICK_ROWS if quick else ROWS)
    folder = Path(opened.base) / "demo" / f"spoken-digits-{count}"
    pairs = folder / "pairs.csv"
    if not pairs.exists():
        from mmgen.sources import spoken_digits

        spoken_digits.build(folder, count, progress)
    recipe = "spoken_digits_quick" if quick else "spoken_digits"
    raw: dict[str, Any] = {"recipe": recipe, "source": {"path": str(pairs)}}
    return build(raw, where="demo")
