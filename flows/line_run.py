"""The steps of the line as Prefect tasks, and what the flows of one process share while they run."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed
from pydantic import BaseModel, ConfigDict

from flows.batches import BatchMapper, note_start
from flows.lease import device_lease
from flows.run_record import current_run, note_step
from flows.summary import load_ref
from mmgen import steps
from mmgen.config import Config
from mmgen.config import build as build_config
from mmgen.config import load as load_config
from mmgen.runtime import Bar, Progress, Runtime
from mmgen.store import Store

logger = logging.getLogger("mmgen")

# steps that compute on a device; the others run anywhere
ON_DEVICE = frozenset({"fit", "extract", "train-fusion", "train-generator", "evaluate"})


class Options(BaseModel):
    """Circumstance of a run: nothing here changes what is made (law 3).

    device: "auto", "cpu", "cuda", "cuda:1"… verify: re-hash the store's files. rehash: read every source file again.
    refit: make fitted things anew. rebuild: build the data version without a base. profile: measure trainings.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    workers: int = 1
    device: str = "auto"
    verify: bool = False
    rehash: bool = False
    refit: bool = False
    rebuild: bool = False
    profile: bool = False


class _LogBar:
    def __init__(self, what: str, total: int | None) -> None:
        self.what, self.total, self.done = what, total, 0

    def advance(self, count: int = 1, note: str = "") -> None:
        self.done += count


class LogProgress:
    """Progress where nobody watches, as on a worker: lines of the log."""

    @contextlib.contextmanager
    def bar(self, what: str, total: int | None) -> Iterator[Bar]:
        bar = _LogBar(what, total)
        yield bar
        logger.info("%s: %s of %s", what, bar.done, total if total is not None else "?")

    def say(self, line: str) -> None:
        logger.info("%s", line)


class _Lease:
    """At most one device for the process, and after a pause the same: CUDA, once started, does not change it."""

    def __init__(self) -> None:
        self.stack, self.holds = contextlib.ExitStack(), False
        self.device: str | None = None

    def take(self, say: Callable[[str], None]) -> None:
        if not self.holds:
            self.device = self.stack.enter_context(device_lease(device=self.device, say=say))
            self.holds = True
            if self.device is not None:
                say(f"device {self.device} leased")

    def give_back(self) -> None:
        self.stack.close()
        self.holds = False


# the command line puts its bars here before it calls a flow; everywhere else progress is log lines
watching: ContextVar[Progress] = ContextVar("watching")
_lease: ContextVar[_Lease | None] = ContextVar("lease", default=None)


def read_config(config: dict[str, Any] | str) -> Config:
    """A flow's `config` parameter: the path of a CONFIG.yaml, read by each run, or its content. Raises ConfigError."""
    return load_config(config) if isinstance(config, str) else build_config(config)


def runtime_of(store: str, options: Options) -> Runtime:
    """The runtime of a flow: its batches are Prefect tasks."""
    progress = watching.get(LogProgress())
    return Runtime(
        Store(store), workers=options.workers, device=options.device, map=BatchMapper(progress), progress=progress,
        verify=options.verify, rehash=options.rehash, refit=options.refit, rebuild=options.rebuild, run=_known_by(),
        profiles={} if options.profile else None,
    )  # fmt: skip


def _known_by() -> dict[str, str]:
    """What the run that is being recorded is known by."""
    record = current_run()
    found = {"name": record.run, "prefect": record.prefect} if record else {}
    return {word: name for word, name in found.items() if name}


@contextlib.contextmanager
def one_lease() -> Iterator[None]:
    """Within this, the first step that has to compute on a device leases one, and keeps it to the end."""
    if _lease.get() is not None:
        yield
        return
    lease = _Lease()
    token = _lease.set(lease)
    try:
        yield
    finally:
        _lease.reset(token)
        lease.give_back()


def pause_lease() -> None:
    """Give back what `one_lease` holds, for a flow elsewhere that this one waits for: it may want the same device."""
    lease = _lease.get()
    if lease is not None:
        lease.give_back()


def perform_steps(
    names: Sequence[str], config: dict[str, Any], store: str, options: Options, made: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Perform steps in order, each as a task run. made: step → reference of what an earlier flow of this run made.

    Returns an `Outcome.to_json` per step. Raises what the steps raise.
    """
    found, outcomes = dict(made), []
    for name in names:
        named = perform_step.with_options(name=name, task_run_name=name)
        outcome: dict[str, Any] = named(name, config, store, options, found, return_state=True).result()
        found[name] = outcome["artifact"]
        outcomes.append(outcome)
        note_step(outcome)
        watching.get(LogProgress()).say(_line(outcome))
    return outcomes


@task(persist_result=False, cache_policy=NO_CACHE, on_running=[note_start])
def perform_step(name: str, config: dict[str, Any], store: str, options: Options, made: dict[str, str]) -> Any:
    """One step, decided and run if needed. Its task run ends as "unchanged" where nothing had to be done."""
    runtime, settings, step = runtime_of(store, options), read_config(config), steps.STEPS[name]
    found = {maker: load_ref(runtime.store, ref) for maker, ref in made.items() if maker in step.inputs.values()}
    inputs = steps.gather(step, settings, runtime, found)
    lease = _lease.get()
    computes = name in ON_DEVICE or bool(steps.advisers(step, settings, runtime))
    if computes and runtime.device != "cpu" and lease is not None:
        decision = steps.decide(step, settings, inputs, runtime)
        if decision.run or decision.check:
            lease.take(runtime.progress.say)
    outcome = steps.perform(step, settings, inputs, runtime)
    return Completed(name="Completed" if outcome.ran else "unchanged", message=outcome.why, data=outcome.to_json())


def _line(outcome: Mapping[str, Any]) -> str:
    did = "made" if outcome["ran"] else "kept"
    return f"{outcome['step']}: {did} {outcome['artifact']} in {outcome['seconds']:.1f} s ({outcome['why']})"
