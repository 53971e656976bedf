"""An S3 server (moto, over HTTP) that fails, drops, cuts, or dies and comes back: no loss, and a clear message."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from mmgen import steps
from mmgen.artifact import Artifact
from mmgen.config import Config
from mmgen.errors import StoreError
from mmgen.ingest import ingest
from mmgen.runtime import Runtime
from mmgen.store import Store
from tests.data_sources import table_config, write_source
from tests.faults.children import STEPS, broken, contents, half_written, read_all
from tests.faults.proxy import Proxy, every, proxy_of
from tests.faults.runner import launch
from tests.integration import servers

s3fs = pytest.importorskip("s3fs")
ROWS = 12


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with (
        servers.s3_server(tmp_path_factory.mktemp("s3")) as url, proxy_of(url) as proxy,
        pytest.MonkeyPatch.context() as patch,
    ):  # fmt: skip
        patch.setenv("AWS_ENDPOINT_URL", proxy.url)
        s3fs.S3FileSystem.clear_instance_cache()
        yield proxy
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def remote(proxy: Proxy, request: pytest.FixtureRequest) -> Iterator[str]:
    """A prefix of this test's own; what the proxy does to requests ends with the test."""
    yield f"s3://bucket/{abs(hash(request.node.name))}"
    proxy.fault = every(1 << 60)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    table = write_source(tmp_path_factory.mktemp("source"), ROWS)
    return table_config(table, shard={"max_samples": 5}, ingest={"batch_rows": 8})


@pytest.fixture(scope="module")
def whole(config: Config, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a store holds where nothing fails."""
    store = Store(tmp_path_factory.mktemp("whole"))
    run(config, store)
    return contents(store)


def run(config: Config, store: Store) -> None:
    for _ in steps.run(config, Runtime(store), STEPS):
        pass


# ---------------------------------------------------------------- the store

FAULTS = [(3, "lost"), (23, 503)]
SLOW = [
    (3, "drop"),
    (4, "cut"),
    (5, 503),
    (2, "drop"),
    (2, "lost"),
    (2, "cut"),
    (2, 500),
    (3, 500),
    (3, 503),
    (7, 500),
    (11, "lost"),
]


@pytest.mark.parametrize(("nth", "fault"), [*FAULTS, *(pytest.param(*each, marks=pytest.mark.slow) for each in SLOW)])
def test_a_store_whose_every_nth_request_fails_ends_with_the_same_contents(
    nth: int, fault: int | str, proxy: Proxy, remote: str, config: Config, whole: dict[str, str]
) -> None:
    before = proxy.faults
    proxy.fault = every(nth, fault)
    run(config, Store(remote))
    assert proxy.faults - before > 3
    proxy.fault = every(1 << 60)
    assert contents(Store(remote)) == whole
    read_all(Store(remote), config.name)


def test_a_claim_whose_answer_is_lost_is_ours(proxy: Proxy, remote: str) -> None:
    store = Store(remote)
    proxy.fault = every(1, "lost", None, only="PUT")  # type: ignore[arg-type]
    lost = [store.create(f"{number}", b"mine") for number in range(4)]
    proxy.fault = every(1 << 60)
    assert lost == [True] * 4
    assert not store.create("0", b"another's")


@pytest.mark.parametrize("after", [60, *(pytest.param(each, marks=pytest.mark.slow) for each in range(1, 110, 6))])
def test_a_store_that_dies_mid_run_is_told_in_seconds_and_a_rerun_ends_byte_identical(
    after: int, proxy: Proxy, remote: str, config: Config, whole: dict[str, str]
) -> None:
    store = Store(remote)
    proxy.die_after(after)
    started = time.monotonic()
    with pytest.raises(StoreError) as caught:
        run(config, store)
    took = time.monotonic() - started
    proxy.up()
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)
    assert "bucket/" in str(caught.value)
    assert took < 60
    s3fs.S3FileSystem.clear_instance_cache()
    store = Store(remote)
    assert broken(store) == []
    assert half_written(store, whole) == []
    read_all(store, config.name)
    run(config, store)
    assert contents(store) == whole


@pytest.mark.slow
def test_a_process_says_in_one_line_that_its_store_died(proxy: Proxy, remote: str, config: Config) -> None:
    proxy.die_after(40)
    running = launch(config, remote)
    said = running.communicate(timeout=120)[1]
    proxy.up()
    assert running.returncode == 3, said
    assert len(said.splitlines()) == 1
    assert "could not" in said


def test_a_store_that_never_answers_is_told_in_time(proxy: Proxy, remote: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(s3fs.S3FileSystem, "read_timeout", 1)
    s3fs.S3FileSystem.clear_instance_cache()
    proxy.fault = every(1, "hang")
    started = time.monotonic()
    with pytest.raises(StoreError, match="could not read"):
        Store(remote).read("x")
    assert time.monotonic() - started < 10
    s3fs.S3FileSystem.clear_instance_cache()


def attempts(proxy: Proxy, remote: str) -> int:
    """Requests until a server that is busy for good is told."""
    s3fs.S3FileSystem.clear_instance_cache()
    proxy.fault = every(1, 500)
    before = proxy.requests
    with pytest.raises(StoreError):
        Store(remote).read("x")
    return proxy.requests - before


def test_what_the_user_says_of_retries_goes_before(
    proxy: Proxy, remote: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    assert attempts(proxy, remote) == 2
    monkeypatch.delenv("AWS_MAX_ATTEMPTS")
    (tmp_path / "config").write_text("[default]\nmax_attempts = 3\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    assert attempts(proxy, remote) == 3
    monkeypatch.delenv("AWS_CONFIG_FILE")
    monkeypatch.setitem(fsspec.config.conf, "s3", {"config_kwargs": {"retries": {"total_max_attempts": 1}}})
    assert attempts(proxy, remote) == 1
    s3fs.S3FileSystem.clear_instance_cache()


# ---------------------------------------------------------------- the source


# the paths of a table, files that are listed, spans of a tar
KINDS = ["table", *(pytest.param(each, marks=pytest.mark.slow) for each in ("folder", "webdataset"))]


def upload(folder: Path, prefix: str) -> None:
    """Put a folder's files below an S3 prefix."""
    store = Store(prefix)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            store.write(str(path.relative_to(folder)), path.read_bytes())


def shards_of(staging: Artifact) -> list[tuple[str, str]]:
    """What was staged, whatever the source is called: tars and facts by their digests."""
    return [(entry.role, entry.sha256) for entry in staging.files if entry.role in ("tar", "facts", "rejections")]


def sources(folder: Path, prefix: str, kind: str) -> tuple[Config, Config]:
    """The same source on the disk and on S3."""
    table = write_source(folder / "rows", ROWS)
    own = {"ingest": {"batch_rows": 8}}
    if kind == "table":
        upload(table.parent, prefix)
        return table_config(table, **own), table_config(Path("x"), source={"path": f"{prefix}/table.csv"}, **own)
    plain = {"key": None, "text": None, "image": None, "audio": None, "label": None, "meta": []}
    if kind == "folder":
        table.unlink()
        upload(table.parent, prefix)
        local, far = str(table.parent), prefix
    else:
        store = Store(folder / "store")
        run(table_config(table), store)
        tar = next(path for path in store.walk("datasets") if "/train-" in path and path.endswith(".tar"))
        (folder / "tars").mkdir()
        (folder / "tars" / "a.tar").write_bytes(store.read(tar))
        upload(folder / "tars", prefix)
        local, far = str(folder / "tars" / "a.tar"), f"{prefix}/a.tar"
    own["source"] = {**plain, "kind": kind}
    return (
        table_config(Path("x"), **{**own, "source": {**own["source"], "path": local}}),
        table_config(Path("x"), **{**own, "source": {**own["source"], "path": far}}),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_source_on_s3_whose_every_third_request_fails_is_read_whole(
    kind: str, proxy: Proxy, remote: str, tmp_path: Path
) -> None:
    local, far = sources(tmp_path, remote, kind)
    wanted = ingest(local, {}, Runtime(Store(tmp_path / "one")))
    s3fs.S3FileSystem.clear_instance_cache()
    before = proxy.faults
    proxy.fault = every(3, "drop", 503, "cut")
    found = ingest(far, {}, Runtime(Store(tmp_path / "two")))
    assert proxy.faults > before
    assert (found.facts["inputs"], found.facts["rejected"]) == (wanted.facts["inputs"], 0)
    assert shards_of(found) == shards_of(wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_a_source_on_s3_that_dies_stops_the_run_and_is_no_bad_sample(
    kind: str, proxy: Proxy, remote: str, tmp_path: Path
) -> None:
    local, far = sources(tmp_path, remote, kind)
    far = far.model_copy(update={"ingest": far.ingest.model_copy(update={"max_consecutive_failures": 4})})
    s3fs.S3FileSystem.clear_instance_cache()
    # the tar was looked up and is to be read; some files of the others were looked up
    proxy.die_after(1 if kind == "webdataset" else 6)
    started = time.monotonic()
    try:
        with pytest.raises((StoreError, ValueError)) as caught:
            ingest(far, {}, Runtime(Store(tmp_path / "two")))
        took = time.monotonic() - started
    finally:
        proxy.up()
    assert (
        "cannot be opened" in str(caught.value) or "could not" in str(caught.value) or "went away" in str(caught.value)
    )
    assert took < 60
    s3fs.S3FileSystem.clear_instance_cache()
    found = ingest(far, {}, Runtime(Store(tmp_path / "two")))
    assert shards_of(found) == shards_of(ingest(local, {}, Runtime(Store(tmp_path / "one"))))
