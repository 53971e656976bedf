"""What test_tune.py kills: a search of its own process.

    python -m tests.unit.tune_worker STORE CONFIG.json STEPS

It kills itself after so many steps of training, counted over all trials.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from mmgen.config import build
from mmgen.runtime import Bar, Runtime
from mmgen.store import Store
from mmgen.tune import tune


class Dying:
    """A Progress, and its own bar."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    @contextlib.contextmanager
    def bar(self, what: str, total: int | None) -> Iterator[Bar]:
        yield self

    def advance(self, count: int = 1, note: str = "") -> None:
        self.left -= count
        if self.left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def say(self, line: str) -> None:
        return None


if __name__ == "__main__":
    store, config, steps = Store(sys.argv[1]), build(json.loads(Path(sys.argv[2]).read_text())), int(sys.argv[3])
    tune(config, Runtime(store, device="cpu", progress=Dying(steps)))
