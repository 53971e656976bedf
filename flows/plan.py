"""`mmgen run --plan`: what would run and why, doing nothing."""

from __future__ import annotations

import dataclasses
import shutil
from typing import Any

from flows.terminal import stdout, table
from mmgen import steps
from mmgen.config import Config
from mmgen.runtime import Runtime
from mmgen.store import Store


def make_plan(
    config: Config, store: str, options: dict[str, Any], first: str | None, until: str | None
) -> dict[str, Any]:
    """{"steps": [{"step", "run", "why", "artifact"}], "disk_free_bytes"}; the last is None for a remote store."""
    runtime = Runtime(Store(store), **options)
    planned = steps.plan(config, runtime, steps.select(first, until))
    free = None
    if runtime.store.local:
        existing = next(path for path in _upward(runtime.store.base))
        free = shutil.disk_usage(existing).free
    return {"steps": [dataclasses.asdict(each) for each in planned], "disk_free_bytes": free}


def _upward(path: str) -> Any:
    from pathlib import Path

    return (each for each in (Path(path), *Path(path).parents) if each.exists())


def show_plan(answer: dict[str, Any]) -> None:
    """Print a plan for a person."""
    console = stdout()
    rows = [(each["step"], "run" if each["run"] else "keep", each["why"]) for each in answer["steps"]]
    console.print(table(("step", "", "why"), rows))
    if answer["disk_free_bytes"] is not None:
        console.print(f"\n{answer['disk_free_bytes'] / 1e9:.1f} GB of disk free")
