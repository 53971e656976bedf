"""Environments of peers, each with its own lock: none of them an extra of ours."""

from __future__ import annotations

import shutil
import subprocess
import sys
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
