"""What `mmgen demo` runs: data sets made from packages alone, as a user's tables, and their recipes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from mmgen.config import Config, build
from mmgen.errors import ConfigError, unknown_name
from mmgen.runtime import Progress
from mmgen.store import Store


@dataclass(frozen=True, slots=True)
class Demo:
    """builder: module whose `build(folder, size, progress)` writes the table. size, quick: how much of it there is.

    The recipe has the data set's name; the quick one `_quick` behind it. counts: what `size` counts.
    """

    builder: str
    size: int
    quick: int
    counts: str


DEMOS = {
    "spoken_digits": Demo("mmgen.sources.spoken_digits", 5_000, 400, "triples"),
    "scenes": Demo("mmgen.sources.scenes", 12_000, 300, "scenes"),
    "vqa": Demo("mmgen.sources.vqa", 4_000, 60, "training pictures"),
}
DEFAULT = "spoken_digits"


def configure(name: str, store: str, size: int | None, quick: bool, progress: Progress) -> Config:
    """Write the data set into the store's `demo/` folder unless it is there, and return its configuration.

    size: how much of it; None for all, or for little if `quick`. Raises ConfigError for an unknown name or a remote
    store, and what the builder raises.
    """
    if name not in DEMOS:
        raise ConfigError(unknown_name("data set", name, DEMOS))
    opened, chosen = Store(store), DEMOS[name]
    if not opened.local:
        raise ConfigError(
            f"--store: the demo writes its data set as a folder, and {store} is remote; wanted a local store"
        )
    count = size or (chosen.quick if quick else chosen.size)
    folder = Path(opened.base) / "demo" / f"{name.replace('_', '-')}-{count}"
    pairs = folder / "pairs.csv"
    if not pairs.exists():
        write: Callable[[Path, int, Progress], Path] = import_module(chosen.builder).build
        write(folder, count, progress)
    raw: dict[str, Any] = {"recipe": f"{name}_quick" if quick else name, "source": {"path": str(pairs)}}
    return build(raw, where="demo")
