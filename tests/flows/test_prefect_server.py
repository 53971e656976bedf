"""A store's own Prefect server: there when needed, shared, and gone with the last who used it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from flows.prefect_session import home_of, prefect_server
from mmgen.errors import OutsideError
from mmgen.store import Store

_USE = """
import sys
from flows.prefect_session import prefect_server
from mmgen.store import Store
with prefect_server(Store(sys.argv[1])) as server:
    server.wait_until_up()
    print(server.url, flush=True)
    sys.stdin.readline()
"""


def user(store: Store) -> tuple[subprocess.Popen[str], str]:
    """Another command that uses the store's server, until a line comes in; and the address that it got."""
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    process = subprocess.Popen(
        [sys.executable, "-c", _USE, store.uri],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def server_pid(store: Store) -> int:
    return int(json.loads((home_of(store) / "server.json").read_text())["pid"])


def gone(pid: int, seconds: float = 15) -> bool:
    """Whether the process ends within that time. A killed parent's child is nobody's to wait for: look it up."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
            if Path(f"/proc/{pid}/stat").exists() and " Z " in Path(f"/proc/{pid}/stat").read_text():
                return True
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def test_commands_on_one_store_share_a_server_that_ends_with_the_last(store: Store) -> None:
    with prefect_server(store) as mine:
        mine.wait_until_up()
        assert os.environ["PREFECT_API_URL"] == mine.url
        assert os.environ["PREFECT_HOME"] == str(home_of(store))
        pid = server_pid(store)
        other, url = user(store)
        assert url == mine.url
    assert "PREFECT_API_URL" not in os.environ
    assert not gone(pid, 1.0), "the other command still uses it"
    other.communicate("done\n", timeout=60)
    assert gone(pid)
    assert (home_of(store) / "server.log").read_text() == ""
    assert (home_of(store) / "prefect.db").exists()


def test_a_killed_command_leaves_no_server_behind(store: Store) -> None:
    process, url = user(store)
    assert url
    pid = server_pid(store)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=20)
    assert gone(pid)


def test_a_configured_server_is_used_and_none_is_started(store: Store, api: str) -> None:
    with prefect_server(store) as found:
        found.wait_until_up()
        assert (found.url, found.own) == (api, False)
    assert not home_of(store).exists()


def test_a_configured_server_that_is_away_is_an_outside_fault(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setattr("flows.prefect_session.CONFIGURED_SECONDS", 0.2)
    with prefect_server(store) as found, pytest.raises(OutsideError, match="no Prefect server answers at"):
        found.wait_until_up()


def test_a_server_that_cannot_start_is_told_with_its_log(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_DATABASE_CONNECTION_URL", "sqlite+aiosqlite:////nowhere/at/all.db")
    with (
        prefect_server(store) as found,
        pytest.raises(OutsideError, match=r"did not come up; see its log .*server\.log"),
    ):
        found.wait_until_up()


def test_a_remote_store_keeps_its_server_in_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MMGEN_CACHE", str(tmp_path / "cache"))
    assert home_of(Store("memory://bucket/prefix")).is_relative_to(tmp_path / "cache")
