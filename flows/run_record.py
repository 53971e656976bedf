"""What a run leaves in the store: `runs/<run>/run.json` and `runs/<run>/log.txt`. Imports no Prefect."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import socket
import tempfile
import warnings
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mmgen.errors import StoreError
from mmgen.store import Store

logger = logging.getLogger("mmgen")


@dataclass
class RunRecord:
    """One run of (a part of) the line.

    state: running, completed, no change, failed or interrupted. A run whose process is gone while its record says
    running was killed. steps: what became of each, as `Outcome.to_json` gives it. prefect: the flow run's id.
    """

    run: str
    name: str
    started: str
    log: str
    state: str = "running"
    ended: str | None = None
    why: str = ""
    pid: int = field(default_factory=os.getpid)
    host: str = field(default_factory=socket.gethostname)
    prefect: str | None = None
    steps: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return dict(self.__dict__)

    def finish(self) -> None:
        """Say how it ended, from what its steps did."""
        worked = [step["step"] for step in self.steps if step["ran"]]
        self.state = "completed" if worked else "no change"
        self.why = f"worked: {', '.join(worked)}" if worked else "no change: every step found its work done"


_current: ContextVar[tuple[Store, RunRecord] | None] = ContextVar("run", default=None)


def current_run() -> RunRecord | None:
    """The run that is being recorded here."""
    found = _current.get()
    return found[1] if found else None


def note_step(outcome: dict[str, Any]) -> None:
    """Add what became of a step to the run that is being recorded here, on the disk as well."""
    found = _current.get()
    assert found is not None, "a flow's steps are performed within a recorded run"
    store, record = found
    record.steps.append(outcome)
    _write(store, record)


@contextlib.contextmanager
def recorded_run(store: Store, name: str, prefect: str | None = None) -> Iterator[RunRecord]:
    """Record a run of configuration `name` from here on: its log file takes all logging and warnings of the process.

    Re-entered inside a recorded run, it is that run. prefect: the flow run that it is, where one calls this.
    """
    if (outer := current_run()) is not None:
        if outer.prefect is None and prefect is not None:
            outer.prefect = prefect
            _write(store, outer)
        yield outer
        return
    now = datetime.now(UTC)
    run = f"{now:%Y%m%dT%H%M%S}-{secrets.token_hex(2)}"
    record = RunRecord(run, name, _now(), f"runs/{run}/log.txt", prefect=prefect)
    _write(store, record)
    token = _current.set((store, record))
    try:
        with _logging_to(store, record.log):
            try:
                yield record
                record.finish()
            except BaseException as error:
                interrupted = not isinstance(error, Exception)
                record.state, record.why = ("interrupted" if interrupted else "failed"), str(error)
                if not interrupted:
                    logger.exception("the run failed")
                    error.add_note(f"the log is {store.full(record.log)}")
                raise
    except BaseException:
        record.ended = _now()
        # a store that is full or away is told by what stopped the run, not by its record
        with contextlib.suppress(StoreError):
            _write(store, record)
        raise
    else:
        record.ended = _now()
        _write(store, record)
    finally:
        _current.reset(token)


def recorded_runs(store: Store, newest: int | None = None) -> list[dict[str, Any]]:
    """The recorded runs (so many, if given), newest first. One that died on this machine without a word is "killed"."""
    found: list[dict[str, Any]] = []
    for run in reversed(store.names("runs")):
        if newest is not None and len(found) >= newest:
            break
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, ValueError):
            record = json.loads(store.read(f"runs/{run}/run.json"))
            gone = record["state"] == "running" and record["host"] == socket.gethostname() and not _alive(record["pid"])
            found.append(record | ({"state": "killed"} if gone else {}))
    return found


def bury(store: Store, record: dict[str, Any]) -> None:
    """Write down that a run was killed, so that its process need not be looked for again."""
    ended = record | {"state": "killed", "why": "its process was killed", "ended": record["ended"] or _now()}
    store.write(f"runs/{record['run']}/run.json", json.dumps(ended, indent=1, ensure_ascii=False).encode())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _write(store: Store, record: RunRecord) -> None:
    store.write(f"runs/{record.run}/run.json", json.dumps(record.to_json(), indent=1, ensure_ascii=False).encode())


def _close(handler: logging.Handler) -> None:
    # what the log still held may find no room
    with contextlib.suppress(OSError):
        handler.close()


def _keep_log(store: Store, path: str, file: Path) -> None:
    with contextlib.suppress(StoreError):
        store.write(path, file.read_bytes())


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextlib.contextmanager
def _logging_to(store: Store, path: str) -> Iterator[None]:
    """All loggers and warnings go to the file, none to the terminal; before and after, all is as it was."""
    with contextlib.ExitStack() as stack:
        if store.local:
            file = Path(store.full(path))
            file.parent.mkdir(parents=True, exist_ok=True)
        else:
            file = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "log.txt"
            stack.callback(lambda: _keep_log(store, path, file))
        handler = logging.FileHandler(file, encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
        stack.callback(_close, handler)
        root = logging.getLogger()
        before, level, show = root.handlers[:], root.level, warnings.showwarning
        root.handlers[:] = [handler]
        root.setLevel(logging.INFO)
        # a line per request would drown the rest
        logging.getLogger("httpx").setLevel(logging.WARNING)
        logging.captureWarnings(True)
        # a line that finds no room in the log is lost, and no traceback on the terminal
        loud, logging.raiseExceptions = logging.raiseExceptions, False

        def restore() -> None:
            logging.raiseExceptions = loud
            logging.captureWarnings(False)
            warnings.showwarning = show
            root.handlers[:] = before
            root.setLevel(level)

        stack.callback(restore)
        yield
