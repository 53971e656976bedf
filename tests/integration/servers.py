"""Real servers as processes of their own, on loopback ports, ended with the test."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest


def free_port() -> int:
    """A port of the loopback that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def process(command: list[str], log: Path, health: str, env: Mapping[str, str] | None = None) -> Iterator[None]:
    """Run `command` until the block ends; `health` is a URL that answers when it is up. Its output is in `log`."""
    with log.open("wb") as out:
        running = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, **(env or {})}, start_new_session=True
        )
    try:
        _wait(running, health, log)
        yield
    finally:
        # its own session: workers that it started end with it
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, 15)
        try:
            running.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, 9)
            running.wait(20)


def _wait(running: subprocess.Popen[bytes], health: str, log: Path, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if running.poll() is not None:
            pytest.fail(f"the server ended with {running.returncode}:\n{log.read_text()[-4000:]}")
        try:
            with urllib.request.urlopen(health, timeout=2):
                return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"no answer from {health} in {seconds:.0f} s:\n{log.read_text()[-4000:]}")


@contextlib.contextmanager
def mlflow_server(
    folder: Path, *, backend: str | None = None, artifacts: str | None = None, env: Mapping[str, str] | None = None
) -> Iterator[str]:
    """The URL of an `mlflow server`. backend: its database (an SQLite file of `folder` if None). artifacts: where it
    keeps files that it is handed (`folder` if None)."""
    folder.mkdir(exist_ok=True)
    port = free_port()
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", backend or f"sqlite:///{folder}/server.db",
        "--artifacts-destination", artifacts or str(folder / "files"),
    ]  # fmt: skip
    # eight more processes for jobs that nobody asks for
    lean = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **(env or {})}
    with process(command, folder / "mlflow.log", f"http://127.0.0.1:{port}/health", lean):
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def s3_server(folder: Path) -> Iterator[str]:
    """The URL of an S3 that lives in memory (moto), with one bucket named `bucket`."""
    folder.mkdir(exist_ok=True)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with process(command, folder / "s3.log", f"{url}/moto-api/"):
        with urllib.request.urlopen(urllib.request.Request(f"{url}/bucket", method="PUT"), timeout=10):
            pass
        yield url


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """The SQLAlchemy URL of a fresh PostgreSQL. Skips where it is not installed."""
    home = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)
    found = shutil.which("initdb", path=f"{home}:{os.environ['PATH']}" if home else None)
    if found is None:
        pytest.skip("PostgreSQL is not installed here")
    tools, port = Path(found).parent, free_port()
    # it refuses to run as root; below pytest's own folder another account could not read
    account = "postgres" if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="mmgen-postgres-") as folder:
        if account:
            shutil.chown(folder, account)

        def run(tool: str, *arguments: str) -> None:
            with (Path(folder) / "tools.log").open("ab") as log:
                subprocess.run(
                    [str(tools / tool), "-D", f"{folder}/data", *arguments], stdout=log, stderr=log, user=account,
                    timeout=120, cwd=folder, env={"PATH": os.environ["PATH"], "LC_ALL": "C"}, check=True,
                )  # fmt: skip

        run("initdb", "-U", "mlflow", "--auth", "trust", "--no-sync")
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
        run("pg_ctl", "-o", options, "-l", f"{folder}/postgres.log", "-w", "start")
        try:
            yield f"postgresql+psycopg2://mlflow@127.0.0.1:{port}/postgres"
        finally:
            run("pg_ctl", "-m", "immediate", "stop")
