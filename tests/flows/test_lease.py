"""A device is one process's at a time, and free again however that process ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from flows.lease import device_lease, devices
from flows.line_run import _lease, one_lease, pause_lease
from mmgen.errors import OutsideError

_HOLD = """
import os, sys, time
from flows.lease import device_lease
with device_lease() as device:
    print(device, os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
    {then}
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def _pretended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMGEN_DEVICES", "0,1")
    monkeypatch.setenv("MMGEN_LEASES", str(tmp_path / "leases"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def hold(then: str = "pass") -> tuple[subprocess.Popen[str], str]:
    """A process that holds a device, and what it printed."""
    process = subprocess.Popen([sys.executable, "-c", _HOLD.format(then=then)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def end(process: subprocess.Popen[str], how: int = signal.SIGKILL) -> None:
    process.send_signal(how)
    process.communicate(timeout=20)


def test_two_processes_get_two_devices_and_see_only_their_own() -> None:
    first, one = hold()
    second, two = hold()
    try:
        assert sorted((one, two)) == ["0 0", "1 1"]
        with pytest.raises(OutsideError, match="still leased"), device_lease(wait_seconds=0.3):
            pass
    finally:
        end(first)
        end(second)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_device_is_free_again_however_its_holder_ends(how: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMGEN_DEVICES", "7")
    process, held = hold()
    assert held == "7 7"
    end(process, how)
    with device_lease(wait_seconds=5) as device:
        assert device == "7"


def test_a_child_forked_by_the_holder_does_not_keep_the_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MMGEN_DEVICES", "7")
    mark = tmp_path / "child"
    then = f"if os.fork() == 0:\n        open({str(mark)!r}, 'w').write(str(os.getpid())); time.sleep(30); os._exit(0)"
    process, _ = hold(then)
    while not mark.exists() or not mark.read_text():
        time.sleep(0.05)
    process.kill()
    process.wait(timeout=20)
    try:
        with device_lease(wait_seconds=5) as device:
            assert device == "7"
    finally:
        os.kill(int(mark.read_text()), signal.SIGKILL)
        assert process.stdout is not None
        process.stdout.close()


def test_the_variable_is_as_before_after_a_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    with device_lease() as device:
        assert os.environ["CUDA_VISIBLE_DEVICES"] == device == "0"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"


def test_an_error_inside_gives_the_device_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMGEN_DEVICES", "7")
    with pytest.raises(ZeroDivisionError), device_lease():
        raise ZeroDivisionError
    with device_lease(wait_seconds=0) as device:
        assert device == "7"


def test_a_machine_without_devices_leases_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMGEN_DEVICES", "")
    with device_lease() as device:
        assert device is None
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_the_variable_of_cuda_names_the_devices_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MMGEN_DEVICES")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, 3")
    assert devices() == ["2", "3"]


def test_waiting_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMGEN_DEVICES", "7")
    said: list[str] = []
    with device_lease(), pytest.raises(OutsideError), device_lease(wait_seconds=0.6, say=said.append):
        pass
    assert said == ["waiting for one of the devices 7"]


def test_a_pause_frees_the_device_for_others_and_takes_the_same_one_again() -> None:
    said: list[str] = []
    with one_lease():
        lease = _lease.get()
        assert lease is not None
        lease.take(said.append)
        lease.take(said.append)
        pause_lease()
        first, one = hold()
        second, two = hold()
        assert sorted((one, two)) == ["0 0", "1 1"]
        # device 1 is free, and this process computes on 0 once it has
        end(second if one == "0 0" else first)
        waiting = threading.Timer(0.5, end, (first if one == "0 0" else second,))
        waiting.start()
        lease.take(said.append)
        waiting.join()
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"
    assert said == ["device 0 leased", "waiting for one of the devices 0", "device 0 leased"]
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
