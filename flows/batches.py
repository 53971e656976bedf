"""Batches of work as Prefect tasks: what `runtime.map` is inside a flow."""

from __future__ import annotations

import itertools
import multiprocessing
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any
from uuid import UUID

from prefect import Task
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture

from mmgen.errors import OutsideError
from mmgen.runtime import Progress, end_with_parent

# at most this many task runs per map, so that a line of several mapped steps stays within a few hundred (law 10)
TASKS_PER_MAP = 64

Bundle = Sequence[tuple[Any, ...]]


def bundles(arguments: Bundle, most: int = TASKS_PER_MAP) -> list[Bundle]:
    """`arguments` cut into at most `most` runs of nearly equal length, in order.

    >>> bundles([(1,), (2,), (3,)], most=2)
    [[(1,), (2,)], [(3,)]]
    """
    count = min(most, len(arguments))
    size, rest = divmod(len(arguments), count) if count else (0, 0)
    cuts = [index * size + min(index, rest) for index in range(count + 1)]
    return [list(arguments[start:stop]) for start, stop in itertools.pairwise(cuts)]


def run_bundle(function: Callable[..., Any], bundle: Bundle) -> list[Any]:
    """Call a module-level function on each tuple of a bundle. Runs in this process or in a worker's."""
    return [function(*arguments) for arguments in bundle]


def _outside(_task: Any, _task_run: Any, state: Any) -> bool:
    return isinstance(state.result(raise_on_failure=False), OutsideError)


#: ids of the task runs that this process started, for whoever waits until all are recorded
started_task_runs: list[UUID] = []


def note_start(_task: Any, task_run: Any, _state: Any) -> None:
    """An `on_running` hook: note a task run as started."""
    started_task_runs.append(task_run.id)


class BatchMapper:
    """A Mapper (see mmgen.runtime) that makes each bundle of batches one Prefect task run.

    With one worker the tasks run here, one after the other; with more, each task is a thread that waits for one of
    `workers` spawned processes. A store that is away for a moment is asked again: batches are idempotent.
    """

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def __call__(self, what: str, function: Callable[..., Any], arguments: Bundle, workers: int) -> list[Any]:
        parts = bundles(arguments)
        with self.progress.bar(f"{what}: batches", len(arguments)) as bar:
            if workers <= 1 or len(parts) <= 1:
                results = []
                for index, part in enumerate(parts):
                    batch = _batch_task(what, index, len(parts), run_bundle)
                    results.append(batch(function, part))
                    bar.advance(len(part))
                return [result for group in results for result in group]
            return self._in_processes(what, function, parts, min(workers, len(parts)), bar)

    def _in_processes(
        self, what: str, function: Callable[..., Any], parts: list[Bundle], workers: int, bar: Any
    ) -> list[Any]:
        pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _leave_endings_to_the_parent)

        def in_process(function: Callable[..., Any], bundle: Bundle) -> list[Any]:
            return pool.submit(run_bundle, function, bundle).result()

        try:
            futures: list[PrefectFuture[list[Any]]] = [
                _batch_task(what, index, len(parts), in_process).submit(function, part)
                for index, part in enumerate(parts)
            ]
            results = []
            for future, part in zip(futures, parts, strict=True):
                results.extend(future.result())
                bar.advance(len(part))
            pool.shutdown()
            return results
        except BaseException:
            # a waiting thread ends only when its process does, and an interrupted command has to end now
            for process in list(pool._processes.values()):
                process.kill()
            pool.shutdown(cancel_futures=True)
            raise


def _batch_task(what: str, index: int, count: int, function: Callable[..., Any]) -> Any:
    return Task(
        function, name=f"batch: {what}", task_run_name=f"{what} {index + 1}/{count}",
        retries=2, retry_delay_seconds=1, retry_condition_fn=_outside, on_running=[note_start],
        persist_result=False, cache_policy=NO_CACHE,
    )  # fmt: skip


def _leave_endings_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
