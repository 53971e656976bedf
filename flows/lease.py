"""One accelerator per process: a local flock per device, released by the operating system on any exit."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from flows.prefect_server import open_lock, try_lock
from mmgen.errors import OutsideError

POLL_SECONDS = 0.2
WAIT_SECONDS = 24 * 3600.0


def devices() -> list[str]:
    """Devices of this machine that may be leased: `$MMGEN_DEVICES` ("0,1", or "" for none), else
    `$CUDA_VISIBLE_DEVICES`, else those that nvidia-smi lists. Asks no torch, which would bind this process to them.
    """
    for variable in ("MMGEN_DEVICES", "CUDA_VISIBLE_DEVICES"):
        if (given := os.environ.get(variable)) is not None:
            return [name.strip() for name in given.split(",") if name.strip() not in ("", "-1")]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [str(index) for index, line in enumerate(listed.stdout.splitlines()) if line.startswith("GPU ")]


def lease_folder() -> Path:
    """Where the locks of this machine lie: `$MMGEN_LEASES`, else one folder for all users."""
    return Path(os.environ.get("MMGEN_LEASES") or Path(tempfile.gettempdir()) / "mmgen-leases")


@contextlib.contextmanager
def device_lease(
    *,
    device: str | None = None,
    wait_seconds: float = WAIT_SECONDS,
    say: Callable[[str], None] = lambda line: None,
) -> Iterator[str | None]:
    """Hold one free device (`device`, if named) and make it the only one that this process and its children see.

    Yields its name, or None on a machine without devices. Waits for one to become free, and raises OutsideError
    after `wait_seconds`. Take it before CUDA starts in the process: later, the variable changes nothing.
    """
    names = [device] if device else devices()
    if not names:
        yield None
        return
    name, handle = _take_any(names, wait_seconds, say)
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = name
    try:
        yield name
    finally:
        if before is None:
            os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = before
        _held.discard(handle)
        os.close(handle)


def _take_any(names: list[str], wait_seconds: float, say: Callable[[str], None]) -> tuple[str, int]:
    folder = lease_folder()
    folder.mkdir(parents=True, exist_ok=True)
    # others lease from the same folder under their own user
    with contextlib.suppress(PermissionError):
        folder.chmod(0o1777)
    deadline, said = time.monotonic() + wait_seconds, False
    while True:
        for name in names:
            handle = open_lock(folder / f"{name.replace('/', '_')}.lock", mode=0o666)
            if try_lock(handle, fcntl.LOCK_EX):
                _held.add(handle)
                return name, handle
            os.close(handle)
        if time.monotonic() > deadline:
            raise OutsideError(f"device lease: {', '.join(names)} still leased after {wait_seconds:.0f} s")
        if not said:
            say(f"waiting for one of the devices {', '.join(names)}")
            said = True
        time.sleep(POLL_SECONDS)


# a forked child shares the open file, and with it the lock: it must not keep the device after its parent's death
_held: set[int] = set()


def _drop_in_child() -> None:
    for handle in _held:
        with contextlib.suppress(OSError):
            os.close(handle)
    _held.clear()


os.register_at_fork(after_in_child=_drop_in_child)
