"""Peers' own environments, and what a piece of work costs in seconds of the clock and of the processors."""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PEERS = Path(__file__).parent / "peers"


def environment(where: Path, lock: Path) -> Path:
    """The Python of an environment with the versions of `lock`, made on first use. Raises CalledProcessError."""
    python = where / "bin" / "python"
    if not python.exists():
        try:
            subprocess.run([sys.executable, "-m", "venv", str(where)], check=True)
            subprocess.run([str(python), "-m", "pip", "install", "-q", "-r", str(lock)], check=True)
        except BaseException:
            # half an environment would pass for a whole one next time
            shutil.rmtree(where, ignore_errors=True)
            raise
    return python


def cpu_seconds() -> float:
    """User and system time of this process and of its children that ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


@contextmanager
def timed(into: dict[str, float], name: str = "") -> Iterator[None]:
    """Note `<name>wall_s` and `<name>cpu_s` of what runs within."""
    wall, cpu = time.perf_counter(), cpu_seconds()
    yield
    into[f"{name}wall_s"], into[f"{name}cpu_s"] = time.perf_counter() - wall, cpu_seconds() - cpu
