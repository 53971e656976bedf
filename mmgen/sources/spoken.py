"""What data sets that are made from packages share: the one process that speaks, and the table that is written last."""

from __future__ import annotations

import csv
import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from mmgen.errors import OutsideError
from mmgen.runtime import Progress
from mmgen.sources.espeak import Speaker

Line = tuple[str, ...]

_speaking: list[Speaker] = []


def speaker() -> Speaker:
    """The speaker of the process that `in_one_process` started."""
    return _speaking[0]


def in_one_process(
    work: Callable[..., list[Line]], batches: Sequence[tuple[Any, ...]], what: str, total: int, progress: Progress
) -> list[Line]:
    """Lines of `work(*batch)` for each batch, in order, in one fresh process that has a `speaker`.

    what: the data set, for the bar and errors; total: lines in all. Raises OutsideError if the process dies, and what
    `work` raises.
    """
    lines: list[Line] = []
    # eSpeak keeps state between utterances that it never resets: the same bytes need a fresh process and a fixed order
    with (
        ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_start) as process,
        progress.bar(what, total) as bar,
    ):
        try:
            for made in process.map(work, *zip(*batches, strict=True)):
                lines += made
                bar.advance(len(made))
        except BrokenProcessPool as error:
            raise OutsideError(f"{what}: eSpeak NG's process died; run it again") from error
        except BaseException:
            # an interrupted command does not wait for all the other batches
            process.shutdown(wait=False, cancel_futures=True)
            raise
    return lines


def _start() -> None:
    # Ctrl-C reaches every process of a terminal; ending is for the one that started this
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _speaking.append(Speaker())


def write_table(root: Path, columns: Sequence[str], lines: Sequence[Line]) -> Path:
    """Put `pairs.csv` into `root`, whole or not at all; returns its path."""
    table, temporary = root / "pairs.csv", root / ".pairs.csv.tmp"
    with open(temporary, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(lines)
    os.replace(temporary, table)
    return table
