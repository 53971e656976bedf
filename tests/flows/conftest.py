"""One Prefect server for all tests of flows, and a line whose steps do no real work."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.prefect_session import prefect_server
from mmgen import steps
from mmgen.config import Config, build
from mmgen.store import Store
from tests.flows import standins


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The API of a server for the whole session; a test that wants it configured asks for `api`."""
    before = dict(os.environ)
    with prefect_server(Store(tmp_path_factory.mktemp("server"))) as found:
        found.wait_until_up()
        os.environ.clear()
        os.environ.update(before)
        yield found.url


@pytest.fixture
def api(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The server is the configured one, also for a Prefect that is already imported."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    monkeypatch.setenv("PREFECT_API_URL", server)
    with temporary_settings(updates={PREFECT_API_URL: server}):
        yield server


@pytest.fixture
def idle_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """ingest, validate and shard do next to nothing; there are no other steps."""
    monkeypatch.setattr("mmgen.ingest.source_digest", standins.source_digest)
    for name, step in standins.table().items():
        monkeypatch.setitem(steps.STEPS, name, step)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "pairs.csv").write_text("text\nhello\n")
    return build({"name": "tiny", "source": {"path": str(tmp_path / "pairs.csv"), "text": "text"}})
