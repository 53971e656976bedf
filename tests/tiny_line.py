"""A real line of the smallest size, made once per test process by the real steps; tests take copies of its store."""

from __future__ import annotations

import functools
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmgen import steps
from mmgen.artifact import Artifact
from mmgen.config import Config
from mmgen.runtime import Runtime
from mmgen.store import Store
from tests.data_sources import table_config, write_source

ROWS = 30
TRAIN = {"steps": 3, "batch_size": 8}
PARTS: dict[str, Any] = {
    "slots": {
        "text": {"modality": "text", "max_tokens": 32},
        "image": {"modality": "image", "size_px": 16, "channels": 1},
        "audio": {"modality": "audio", "sample_rate_hz": 8000, "seconds": 0.25, "mels": 16, "n_fft": 256, "hop": 125},
    },
    "validate": {"near_duplicates": "keep"},
    "codecs": {
        "text": {"vocab_size": 262, "width": 16, "heads": 2, "depth": 1, "train": TRAIN},
        "image": {"widths": [8, 16], "depth": 1, "latent_width": 4, "train": TRAIN},
        "audio": {"widths": [8, 16], "depth": 1, "latent_width": 4, "train": TRAIN},
    },
    "judges": {"width": 8, "train": TRAIN},
    "fusion": {"width": 8, "train": TRAIN},
    "generator": {"kind": "joint_flow", "width": 16, "blocks": 1, "train": {**TRAIN, "ema_decay": 0.9}},
    "evaluate": {"max_samples": 8},
}
_FOLDER = tempfile.TemporaryDirectory(prefix="mmgen-tiny-")


@dataclass
class Lines:
    """What a runtime says, kept."""

    said: list[str] = field(default_factory=list)

    def bar(self, what: str, total: int | None) -> Any:
        from mmgen.runtime import Silent

        return Silent().bar(what, total)

    def say(self, line: str) -> None:
        self.said.append(line)


@dataclass(frozen=True)
class Line:
    """A configuration, its runtime, and the newest artifact of each step that ran."""

    config: Config
    runtime: Runtime
    made: dict[str, Artifact]

    @property
    def store(self) -> Store:
        return self.runtime.store

    @property
    def said(self) -> list[str]:
        progress = self.runtime.progress
        assert isinstance(progress, Lines)
        return progress.said

    def inputs(self, step: str) -> dict[str, Artifact]:
        """What `step` would be given."""
        return {role: self.made[maker] for role, maker in steps.STEPS[step].inputs.items()}


def config_of(rows: int = ROWS, **parts: Any) -> Config:
    """The tiny configuration over `rows` rows of its source; parts replace its own."""
    table = Path(_FOLDER.name) / f"source{rows}" / "table.csv"
    if not table.exists():
        write_source(table.parent, rows)
    return table_config(table, **{**PARTS, **parts})


def perform(config: Config, runtime: Runtime, *names: str) -> Line:
    """Run these steps; the others are taken from the store."""
    made = {}
    for name in steps.NAMES:
        step = steps.STEPS[name]
        if name in names:
            outcome = steps.perform(step, config, steps.gather(step, config, runtime, made), runtime)
            made[name] = outcome.artifact
    return Line(config, runtime, made)


@functools.cache
def _original() -> Path:
    folder = Path(_FOLDER.name) / "store"
    until = steps.NAMES[: steps.NAMES.index("train-generator") + 1]
    perform(config_of(), Runtime(Store(folder), device="cpu"), *until)
    return folder


def copied(folder: Path) -> Line:
    """The line up to train-generator, in a store of the test's own."""
    target = folder / "line-store"
    shutil.copytree(_original(), target)
    runtime = Runtime(Store(target), device="cpu", progress=Lines())
    return perform(config_of(), runtime, *steps.NAMES[: steps.NAMES.index("train-generator") + 1])
