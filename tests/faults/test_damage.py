"""Files of the store that are cut: the next run names them and makes them again; `mmgen verify` names them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from flows.version_answers import verified
from mmgen import artifact, steps
from mmgen.config import Config
from mmgen.errors import IntegrityError
from mmgen.runtime import Runtime
from mmgen.store import Store
from tests.data_sources import table_config, write_source
from tests.faults.children import STEPS, broken, contents, read_all

#: end of a file's path → the step that makes it again, and finds its bytes to be the same
FILES = {
    "batches/*.tar": "ingest", "batches/*.tar.idx": "ingest", "batches/*.parquet": "ingest", "batches/*.json": "ingest",
    "shards/*.tar": "shard", "shards/*.tar.idx": "shard", "shards/*.parquet": "shard", "shards/*_stats.json": "shard",
    "versions/1/README.md": "shard", "versions/1/verdicts.parquet": "validate", "versions/1/report.html": "validate",
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Path]:
    folder = tmp_path_factory.mktemp("made")
    config = table_config(write_source(folder / "source", 12), shard={"max_samples": 6}, ingest={"batch_rows": 8})
    for _ in steps.run(config, Runtime(Store(folder / "store")), STEPS):
        pass
    return config, folder / "store"


@pytest.mark.parametrize("pattern", FILES)
def test_a_cut_file_is_named_and_made_again(pattern: str, made: tuple[Config, Path], tmp_path: Path) -> None:
    config, whole = made
    folder = tmp_path / "store"
    shutil.copytree(whole, folder)
    store, file = Store(folder), sorted(folder.rglob(pattern))[0]
    path, size = str(file.relative_to(folder)), file.stat().st_size
    for length in (size - 1, size // 2, 0):
        os.truncate(file, length)
        named = verified(store.uri, None, everything=True)["damaged"]
        assert any(line.startswith(f"{path}: {length} bytes, recorded {size}") for line in named)
        outcomes = {outcome.step: outcome for outcome in steps.run(config, Runtime(store), STEPS)}
        assert outcomes[FILES[pattern]].ran
        assert f"{path}: {length} bytes, recorded {size}" in outcomes[FILES[pattern]].why
        read_all(store, config.name)
        if FILES[pattern] == "validate":
            # judged anew, against the version that is there: the next verdicts, and the same data
            assert (outcomes["validate"].artifact.version, outcomes["shard"].artifact.version) == (2, 1)
            assert artifact.damaged(store, outcomes["validate"].artifact, rehash=True) == []
            assert not any(outcome.ran for outcome in steps.run(config, Runtime(store), STEPS))
            return
        assert broken(store) == []
        assert contents(store) == contents(Store(whole))


def test_a_plan_that_is_cut_is_named_and_made_again(tmp_path: Path) -> None:
    config, store = table_config(write_source(tmp_path / "source", 12)), Store(tmp_path / "store")
    with pytest.raises(ZeroDivisionError):
        list(steps.run(config, Runtime(store, map=lambda *_: [1 / 0]), ("ingest",)))
    plan = next(path for path in store.walk("staging") if path.endswith(".plan.tar"))
    os.truncate(store.full(plan), 700)
    # the look at the source that decides about a run writes plans anew; what is cut after it is told
    from mmgen.staging import stage

    name = plan.rpartition("/")[2].removesuffix(".plan.tar")
    with pytest.raises(IntegrityError, match=r"plan\.tar: not a whole plan, it was deleted; run ingest again"):
        stage(store.uri, name, {"text": "text"}, {}, {})
    assert [outcome.ran for outcome in steps.run(config, Runtime(store), ("ingest",))] == [True]
    assert broken(store) == []


def test_flipped_bits_are_found_by_verify_and_by_a_run_that_verifies(made: tuple[Config, Path], tmp_path: Path) -> None:
    config, whole = made
    folder = tmp_path / "store"
    shutil.copytree(whole, folder)
    store = Store(folder)
    for pattern in ("batches/*.tar", "shards/*.tar", "shards/*.parquet"):
        file = sorted(folder.rglob(pattern))[0]
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
        path = str(file.relative_to(folder))
        assert any(line.startswith(f"{path}: sha256") for line in verified(store.uri, None, everything=True)["damaged"])
        whys = [outcome.why for outcome in steps.run(config, Runtime(store, verify=True), STEPS)]
        assert any(f"damaged: {path}: sha256" in why for why in whys)
        assert broken(store) == []
        assert contents(store) == contents(Store(whole))
