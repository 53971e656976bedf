"""`python -m tests.faults.runner CONFIG.json STORE UNTIL WORKERS`: the data line in a process of its own.

It ends as a command does: an exit code, and one line on stderr where something was wrong.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from mmgen import steps
from mmgen.config import Config, build
from mmgen.errors import MmgenError
from mmgen.runtime import Runtime
from mmgen.store import Store

ROOT = Path(__file__).parents[2]


def launch(
    config: Config, store: str | Path, *, until: str = "shard", workers: int = 1, env: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """Start the line up to `until` on `store`."""
    command = [sys.executable, "-m", "tests.faults.runner", json.dumps(config.to_json()), str(store), until]
    return subprocess.Popen(
        [*command, str(workers)], cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def main(config: str, store: str, until: str, workers: str) -> int:
    try:
        runtime = Runtime(Store(store), workers=int(workers), few_rows={})
        for outcome in steps.run(build(json.loads(config)), runtime, steps.select(None, until)):
            sys.stdout.write(json.dumps(outcome.to_json()) + "\n")
    except MmgenError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
