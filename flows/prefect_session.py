"""One command's use of Prefect: the server that is configured, or the store's own for as long as it is needed."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from flows.prefect_server import ADDRESS_FILE, SERVER_LOCK, START_LOCK, USERS_LOCK, open_lock, try_lock
from mmgen.errors import OutsideError
from mmgen.store import Store

T = TypeVar("T")

START_SECONDS = 120.0
CONFIGURED_SECONDS = 10.0
STOP_SECONDS = 15.0
#: a disk with less is no place for a server's database
ROOM_BYTES = 16 << 20
SERVER_LOG = "server.log"

# what a server of our own needs to be quick and quiet: no page, no telemetry, nothing that only deployments use
_SERVER_SETTINGS = {
    "PREFECT_SERVER_UI_ENABLED": "false",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_LATE_RUNS_ENABLED": "false",
    "PREFECT_API_BLOCKS_REGISTER_ON_START": "false",
    "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
}
QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_INTERNAL_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_CONFIGURE_LOGGING": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
# servers that other commands still use when this process is done with them
_left_running: list[subprocess.Popen[bytes]] = []


@dataclass(frozen=True)
class PrefectServer:
    """A server to use. url: its API. own: started by mmgen for this store; else it is the configured one."""

    url: str
    own: bool
    log: Path | None = None
    process: subprocess.Popen[bytes] | None = None

    def wait_until_up(self) -> None:
        """Return once it answers. Raises OutsideError."""
        deadline = time.monotonic() + (START_SECONDS if self.own else CONFIGURED_SECONDS)
        while time.monotonic() < deadline:
            if _healthy(self.url):
                return
            if self.process is not None and self.process.poll() is not None:
                break
            time.sleep(0.05)
        if self.own:
            raise OutsideError(f"the store's Prefect server did not come up; see its log {self.log}{_room(self.log)}")
        raise OutsideError(f"PREFECT_API_URL: no Prefect server answers at {self.url}; start it or unset the variable")


def _room(log: Path | None) -> str:
    """What a server that found no room for its database could not write into its log."""
    free = shutil.disk_usage(log.parent).free if log else ROOM_BYTES
    return f" (only {free >> 10:,} KiB are free on its disk)" if free < ROOM_BYTES else ""


def home_of(store: Store) -> Path:
    """Where the store's own server keeps its history: in the store, or in the cache for a remote one."""
    if store.local:
        return Path(store.base) / "prefect"
    cache = Path(os.environ.get("MMGEN_CACHE") or Path.home() / ".cache" / "mmgen")
    return cache / hashlib.sha256(store.uri.encode()).hexdigest()[:16] / "prefect"


@contextlib.contextmanager
def prefect_server(store: Store) -> Iterator[PrefectServer]:
    """A server whose address is in the environment of this process and its children. Call `wait_until_up` before use.

    `PREFECT_API_URL` is respected. Else commands on one store share one server with `PREFECT_HOME` in the store
    (one writer of its sqlite file), which stops after the last of them, however that one ends.
    """
    if configured := os.environ.get("PREFECT_API_URL"):
        with _environment(QUIET):
            yield PrefectServer(configured, own=False)
        return
    home = home_of(store)
    home.mkdir(parents=True, exist_ok=True)
    with _locked(home / USERS_LOCK, fcntl.LOCK_SH, STOP_SECONDS):
        with _locked(home / START_LOCK, fcntl.LOCK_EX, START_SECONDS):
            process = None if _held(home / SERVER_LOCK) else _start(home)
            url = _address(home, process)
        settings = QUIET | {
            "PREFECT_HOME": str(home),
            "PREFECT_API_URL": url,
            "PREFECT_LOGGING_TO_API_ENABLED": "false",
        }
        with _environment(settings):
            yield PrefectServer(url, own=True, log=home / SERVER_LOG, process=process)
    if process is not None:
        _see_off(home, process)


def _start(home: Path) -> subprocess.Popen[bytes]:
    (home / ADDRESS_FILE).unlink(missing_ok=True)
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    environment |= QUIET | _SERVER_SETTINGS | {"PREFECT_HOME": str(home)}
    with open(home / SERVER_LOG, "ab") as log:
        # a session of its own: Ctrl-C is for the command, which still has to record how its run ended
        return subprocess.Popen(
            [sys.executable, "-m", "flows.prefect_server", str(home)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True,
        )  # fmt: skip


def _address(home: Path, process: subprocess.Popen[bytes] | None) -> str:
    """Where the server of `home` listens, or will in a moment. Raises OutsideError."""

    def announced() -> str | None:
        try:
            return str(json.loads((home / ADDRESS_FILE).read_text())["url"])
        except FileNotFoundError:
            return None

    url = _poll(announced, 15.0, lambda: process is not None and process.poll() is not None)
    if url is None:
        raise OutsideError(f"the store's Prefect server did not start; see its log {home / SERVER_LOG}")
    return url


def _see_off(home: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait until the server that this command started is gone, unless others still use it."""
    deadline = time.monotonic() + STOP_SECONDS
    while process.poll() is None:
        handle = open_lock(home / USERS_LOCK)
        # nobody's share and not the leaving server's own: a share can be had, sole possession cannot
        others = try_lock(handle, fcntl.LOCK_SH) and not try_lock(handle, fcntl.LOCK_EX)
        os.close(handle)
        if others or time.monotonic() > deadline:
            _left_running.append(process)
            return
        time.sleep(0.15)


def _held(path: Path) -> bool:
    handle = open_lock(path)
    try:
        return not try_lock(handle, fcntl.LOCK_SH)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _locked(path: Path, how: int, seconds: float) -> Iterator[None]:
    """Hold an flock on `path`. Raises OutsideError if it cannot be had in time."""
    handle = open_lock(path)
    try:
        if not _poll(lambda: try_lock(handle, how) or None, seconds):
            raise OutsideError(f"{path}: held by another mmgen for more than {seconds:.0f} s")
        yield
    finally:
        os.close(handle)


def _poll(ask: Callable[[], T | None], seconds: float, give_up: Callable[[], bool] = lambda: False) -> T | None:
    """The first answer that is not None, or None after `seconds` or once `give_up`."""
    deadline = time.monotonic() + seconds
    while (answer := ask()) is None and time.monotonic() < deadline and not give_up():
        time.sleep(0.05)
    return answer


def _healthy(url: str) -> bool:
    # a server that is still importing has the connection in its backlog, and answers it when it is up
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@contextlib.contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
