"""Circumstance: where and with what a step runs. Nothing here is part of any fingerprint (law 3)."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import platform
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context, parent_process
from types import MappingProxyType
from typing import Any, Protocol

from mmgen.store import Store

# parameters of mallopt, from malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


class Bar(Protocol):
    """One progress bar."""

    def advance(self, count: int = 1, note: str = "") -> None: ...


class Progress(Protocol):
    """What shows that long work goes on. The command line brings a real one."""

    def bar(self, what: str, total: int | None) -> contextlib.AbstractContextManager[Bar]: ...

    def say(self, line: str) -> None: ...


class _SilentBar:
    def advance(self, count: int = 1, note: str = "") -> None:
        return None


class Silent:
    """Shows nothing."""

    @contextlib.contextmanager
    def bar(self, what: str, total: int | None) -> Iterator[Bar]:
        yield _SilentBar()

    def say(self, line: str) -> None:
        return None


# (label, function, argument tuples, workers) → results in the order of the arguments
Mapper = Callable[[str, Callable[..., Any], Sequence[tuple[Any, ...]], int], list[Any]]


def map_local(
    _what: str, function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], workers: int
) -> list[Any]:
    """Map over batches of work: in this process for one worker, else in spawned processes. Results in order.

    `function` is a module-level function of plain picklable values (URIs and digests, never tensors: law 10).
    """
    if workers <= 1 or len(arguments) <= 1:
        return [function(*each) for each in arguments]
    with ProcessPoolExecutor(min(workers, len(arguments)), get_context("spawn"), end_with_parent) as pool:
        return list(pool.map(function, *zip(*arguments, strict=True)))


def end_with_parent() -> None:
    """For a worker process at its start: it ends when its parent does, however that one ends.

    Left alone, a pool's workers do what is queued and then wait for ever.
    """
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent,), name="end-with-parent", daemon=True).start()


def _end_after(parent: Any) -> None:
    parent.join()
    os._exit(1)


@functools.cache
def keep_freed_memory() -> None:
    """Let this process hold on to up to 64 MiB that it freed, once, where its allocator is glibc's; else nothing.

    A decoded picture is freed and the next one allocated; by default the pages go back to the kernel in between, to
    be zeroed and mapped again, which takes a fifth of the time of decoding (mallopt(3)).
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        libc.mallopt(_M_TRIM_THRESHOLD, 64 << 20)


FEW_ROWS = MappingProxyType({"ingest": 1_024, "shard": 2_048})


@dataclass(frozen=True)
class Runtime:
    """Store, workers, device, and how batches of work are mapped and progress is shown.

    device: "cpu", "cuda", "cuda:1"… or "auto". verify: re-hash instead of trusting recorded sizes.
    rehash: read every source file again even if its size and mtime are unchanged. refit: make fitted things anew.
    rebuild: build the data version without a base. run: what the run that asks is known by ("name", "prefect"…).
    few_rows: step → rows that one process does in the time in which others start.
    profiles: where each training lays down where its time went, by its name; None: nobody asked.
    """

    store: Store
    workers: int = 1
    device: str = "auto"
    map: Mapper = map_local
    progress: Progress = field(default_factory=Silent)
    verify: bool = False
    rehash: bool = False
    refit: bool = False
    rebuild: bool = False
    run: Mapping[str, str] = field(default_factory=dict)
    few_rows: Mapping[str, int] = field(default_factory=lambda: FEW_ROWS)
    profiles: dict[str, Any] | None = None

    def workers_for(self, step: str, rows: int) -> int:
        """How many processes so many rows of a step are worth."""
        return self.workers if rows > self.few_rows.get(step, 0) else 1


def circumstance(**more: Any) -> dict[str, Any]:
    """When, where and with what something was made: for people and lineage, never for identity."""
    found: dict[str, Any] = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "machine": f"{platform.machine()} × {os.cpu_count()}",
        "commit": _commit(),
    }
    for package in (
        "mmgen",
        "torch",
        "torchaudio",
        "torchvision",
        "diffusers",
        "transformers",
        "pyarrow",
        "pandera",
        "prefect",
        "mlflow",
    ):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found | more


def _commit() -> str | None:
    """The code's git commit, with '+' if the tree has changes; None outside a checkout."""
    if given := os.environ.get("MMGEN_COMMIT"):
        return given
    try:
        here = os.path.dirname(os.path.abspath(__file__))
        run = ["git", "-C", here]
        head = subprocess.run([*run, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True)
        dirty = subprocess.run(
            [*run, "status", "--porcelain", "-uno"], capture_output=True, text=True, timeout=5, check=True
        )
        return head.stdout.strip() + ("+" if dirty.stdout.strip() else "")
    except (OSError, subprocess.SubprocessError):
        return None
