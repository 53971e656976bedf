"""`mmgen run --plan`: what would run and why, doing nothing."""

from __future__ import annotations

import dataclasses
import shutil
from typing import Any

from flows.terminal import stdout, table
from mmgen import artifact, steps
from mmgen.config import Config
from mmgen.ingest import pending
from mmgen.runtime import Runtime
from mmgen.store import Store


def make_plan(
    config: Config, store: str, options: dict[str, Any], first: str | None, until: str | None
) -> dict[str, Any]:
    """{"steps": [{"step", "run", "why", "artifact"}], "rows", "disk_needed_bytes", "disk_free_bytes"}.

    rows: {"inputs", "before", "to_read"}, of a plan with ingest; before is None the first time. disk_needed_bytes: of
    staging and shards of the rows to read. disk_free_bytes: None for a remote store.
    """
    runtime = Runtime(Store(store), **options)
    planned = steps.plan(config, runtime, steps.select(first, until))
    rows, needed = None, 0
    if planned[0].step == "ingest":
        found = pending(config, runtime)
        before = artifact.latest(runtime.store, "staging", config.name)
        rows = {"inputs": found.inputs, "before": before.facts["inputs"] if before else None, "to_read": found.rows}
        # the bytes lie in staging, and then in shards
        needed = 2 * found.size_bytes
    free = None
    if runtime.store.local:
        existing = next(path for path in _upward(runtime.store.base))
        free = shutil.disk_usage(existing).free
    return {
        "steps": [dataclasses.asdict(each) for each in planned],
        "rows": rows,
        "disk_needed_bytes": needed,
        "disk_free_bytes": free,
    }


def _upward(path: str) -> Any:
    from pathlib import Path

    return (each for each in (Path(path), *Path(path).parents) if each.exists())


def show_plan(answer: dict[str, Any]) -> None:
    """Print a plan for a person."""
    console = stdout()
    lines = [(each["step"], "run" if each["run"] else "keep", each["why"]) for each in answer["steps"]]
    console.print(table(("step", "", "why"), lines))
    console.print()
    if rows := answer["rows"]:
        before = "the first time" if rows["before"] is None else f"{rows['before']:,} before"
        console.print(
            f"rows  {rows['inputs']:,} in the source ({before}), {rows['to_read']:,} in new or changed batches"
        )
    if answer["disk_free_bytes"] is not None:
        needed, free = answer["disk_needed_bytes"] / 1e6, answer["disk_free_bytes"] / 1e9
        console.print(f"disk  about {needed:,.1f} MB more for staging and shards, {free:,.1f} GB free")
