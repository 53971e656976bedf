"""Sources that change, fail or go away while they are read: the run says so, and the next one is whole."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest

from mmgen.errors import SourceError
from mmgen.ingest import ingest
from mmgen.runtime import Runtime, map_local
from mmgen.store import Store
from tests.data_sources import picture, table_config, write_source
from tests.faults.proxy import Proxy, every, proxy_of

ROWS = 12


def changing(change: Callable[[], None]) -> Any:
    """A mapper before whose first batch the source is changed: between plan and stage."""

    def mapped(what: str, function: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], workers: int) -> Any:
        change()
        return map_local(what, function, arguments, workers)

    return mapped


@pytest.mark.parametrize("how", ["rewritten", "grown", "cut", "removed"])
def test_a_file_that_changes_while_it_is_ingested_stops_the_run_and_the_next_one_reads_it(
    how: str, tmp_path: Path
) -> None:
    table, store = write_source(tmp_path / "source", ROWS), Store(tmp_path / "store")
    file, config = tmp_path / "source" / "5.png", table_config(write_source(tmp_path / "source", ROWS))
    whole = file.read_bytes()
    change: dict[str, Callable[[], Any]] = {
        "rewritten": lambda: file.write_bytes(picture(500)),
        "grown": lambda: file.write_bytes(whole + b"more"),
        "cut": lambda: file.write_bytes(whole[:100]),
        "removed": file.unlink,
    }
    with pytest.raises(SourceError, match=r"row 5: .*5\.png .*run again"):
        ingest(config, {}, Runtime(store, map=changing(change[how])))
    made = ingest(config, {}, Runtime(store))
    fresh = ingest(config, {}, Runtime(Store(tmp_path / "fresh")))
    assert [entry.sha256 for entry in made.files] == [entry.sha256 for entry in fresh.files]
    assert made.facts["inputs"] == ROWS
    assert table.is_file()


# ---------------------------------------------------------------- http


class _Quiet(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Nobody reads it."""


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Proxy]:
    """A web server with a source at /table.csv, behind a proxy."""
    write_source(tmp_path / "source", ROWS)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(tmp_path / "source")))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    with proxy_of(f"http://127.0.0.1:{server.server_address[1]}") as proxy:
        yield proxy
    server.shutdown()
    server.server_close()
    fsspec.get_filesystem_class("http").clear_instance_cache()


def read(web: Proxy, store: Path, **settings: Any) -> Any:
    config = table_config(Path("x"), source={"path": f"{web.url}/table.csv"}, ingest=settings)
    return ingest(config, {}, Runtime(Store(store)))


def test_a_web_server_that_is_busy_now_and_then_is_asked_again_and_that_is_counted(web: Proxy, tmp_path: Path) -> None:
    whole = read(web, tmp_path / "whole")
    assert whole.circumstance["fetches"]["retries"] == 0
    web.fault = every(4, 503, "drop", only="GET")
    made = read(web, tmp_path / "store")
    assert made.facts == whole.facts
    assert [entry.sha256 for entry in made.files] == [entry.sha256 for entry in whole.files]
    assert made.circumstance["fetches"]["retries"] > 0


def test_a_web_server_that_dies_stops_the_run_with_the_cause(web: Proxy, tmp_path: Path) -> None:
    web.die_after(8)
    started = time.monotonic()
    with pytest.raises(SourceError, match=r"media of 3 rows in a row, up to row .*Cannot connect"):
        read(web, tmp_path / "store", max_consecutive_failures=3)
    assert time.monotonic() - started < 60
    web.up()
    made = read(web, tmp_path / "store", max_consecutive_failures=3)
    assert (made.facts["inputs"], made.facts["rejected"], made.facts["reasons"]) == (ROWS, 0, {})
