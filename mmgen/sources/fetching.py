"""Patience with remote files: what fails for a moment is asked for again, and counted."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from mmgen.errors import AddressRefused, StoreError

ATTEMPTS = 4
#: seconds before the second attempt; each further one waits twice as long as the one before
FIRST_WAIT_SECONDS = 0.5
#: after so many files in a row that stayed away, others are asked for once: the source is gone, not busy
GIVEN_UP = 16
#: answers of a web server that may be others a moment later (RFC 9110, RFC 6585)
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})

T = TypeVar("T")
#: of many files, so many at once, in their order: what it found, or raised
Asker = Callable[[Sequence[str], int], Iterator[T | Exception]]


class Patience:
    """Calls what reads a remote file, up to ATTEMPTS times while its errors are passing ones. For many threads.

    calls: calls that were asked for. retries: how often one was made again.
    """

    def __init__(self) -> None:
        self.calls, self.retries, self._away = 0, 0, 0
        self._lock = threading.Lock()

    def __call__(self, work: Callable[[], T], failed: StoreError | None = None) -> T:
        """What `work` returns. failed: how its first attempt ended, made elsewhere. Raises as its last attempt did."""
        self._count(calls=1)
        attempts = ATTEMPTS if self._away < GIVEN_UP else 1
        for attempt in range(1, attempts + 1):
            try:
                if attempt == 1 and failed is not None:
                    raise failed
                done = work()
            except StoreError as error:
                if not is_passing(error):
                    raise
                if attempt == attempts:
                    self._count(away=1)
                    raise
                self._count(retries=1)
                time.sleep(FIRST_WAIT_SECONDS * 2 ** (attempt - 1))
            else:
                self._away = 0
                return done
        raise AssertionError

    def done(self) -> None:
        """Count a call that was answered at once."""
        self._count(calls=1)
        self._away = 0

    def _count(self, *, calls: int = 0, retries: int = 0, away: int = 0) -> None:
        with self._lock:
            self.calls, self.retries, self._away = self.calls + calls, self.retries + retries, self._away + away


def patiently(
    ask: Asker[T], uris: Sequence[str], connections: int, patience: Patience
) -> Iterator[tuple[str, T | Exception]]:
    """(uri, what `ask` tells of it, or what its last attempt raised); those that were asked again come last."""
    again: dict[str, StoreError] = {}
    for uri, found in zip(uris, ask(uris, connections), strict=True):
        if isinstance(found, StoreError):
            again[uri] = found
        else:
            patience.done()
            yield uri, found
    if again:
        with ThreadPoolExecutor(connections) as pool:
            yield from zip(
                again, pool.map(lambda each: _again(ask, each[0], each[1], patience), again.items()), strict=True
            )


def _again(ask: Asker[T], uri: str, failed: StoreError, patience: Patience) -> T | Exception:
    def work() -> T:
        (found,) = ask([uri], 1)
        if isinstance(found, Exception):
            raise found
        return found

    try:
        return patience(work, failed)
    except (OSError, StoreError) as error:
        return error


def is_passing(error: BaseException | None) -> bool:
    """Whether a store error came of a lost connection, a timeout or a busy server. S3's client repeats by itself."""
    aiohttp = sys.modules.get("aiohttp")
    lost = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError) if aiohttp else ()
    while error is not None and not isinstance(error, AddressRefused):
        if (status := getattr(error, "status", None)) is not None:
            return status in PASSING
        if isinstance(error, (TimeoutError, ConnectionError, *lost)):
            return True
        error = error.__cause__
    return False
