"""What a person sees: progress bars and lines on stderr, tables and results on stdout, colours only on a terminal."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from mmgen.runtime import Bar

PLAIN_SECONDS = 10.0
logger = logging.getLogger("mmgen")


def stdout() -> Console:
    """The console of results: never wraps where no terminal shows it, no colour or markup of its own."""
    return Console(highlight=False, markup=False, soft_wrap=True)


@contextlib.contextmanager
def without_remarks() -> Iterator[None]:
    """Within this, what libraries remark is shown nowhere: for commands that keep no log of their own."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def write(line: str) -> None:
    """A line of the result, as it is."""
    sys.stdout.write(line + "\n")


def tell(line: str) -> None:
    """A line beside the result."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A plain table; texts are shown as they are."""
    made = Table(*titles, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        made.add_row(*row)
    return made


class _PlainBar:
    """A line every few seconds, and one at the end."""

    def __init__(self, what: str, total: int | None) -> None:
        self.what, self.total, self.done = what, total, 0
        self.started = self.told = time.monotonic()

    def advance(self, count: int = 1, note: str = "") -> None:
        self.done += count
        if time.monotonic() - self.told >= PLAIN_SECONDS:
            self.told = time.monotonic()
            self.show(note)

    def show(self, note: str = "") -> None:
        of = f"/{self.total}" if self.total is not None else ""
        tell(f"  {self.what}: {self.done}{of} {note}".rstrip())


class _RichBar:
    def __init__(self, shown: Progress, task: TaskID) -> None:
        self.shown, self.task = shown, task

    def advance(self, count: int = 1, note: str = "") -> None:
        self.shown.update(self.task, advance=count, note=note)


class Watch:
    """A Progress (see mmgen.runtime) for a person: live bars on a terminal, plain lines elsewhere.

    Lines also go to the log.
    """

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False, markup=False)
        self.live = self.console.is_terminal
        self.shown = Progress(
            SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
            TimeElapsedColumn(), TextColumn("{task.fields[note]}"), console=self.console, transient=True,
        )  # fmt: skip

    def __enter__(self) -> Watch:
        if self.live:
            self.shown.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live:
            self.shown.stop()

    @contextlib.contextmanager
    def bar(self, what: str, total: int | None) -> Iterator[Bar]:
        if not self.live:
            plain = _PlainBar(what, total)
            yield plain
            if time.monotonic() - plain.started >= 1.0:
                plain.show()
            return
        task = self.shown.add_task(what, total=total, note="")
        try:
            yield _RichBar(self.shown, task)
        finally:
            self.shown.remove_task(task)

    def say(self, line: str) -> None:
        logger.info("%s", line)
        if self.live:
            self.console.print(line, soft_wrap=True)
        else:
            tell(line)
