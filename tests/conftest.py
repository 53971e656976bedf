"""Every test starts from a clean circumstance: no settings of the caller, no telemetry, its own folder."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import hypothesis
import pytest

from mmgen.runtime import Runtime
from mmgen.store import Store

_CALLERS = ("MMGEN_", "PREFECT_", "MLFLOW_", "AWS_")
_QUIET = {
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "MPLBACKEND": "Agg",
}

# how long an example takes is the machine's affair: a busy one is no fault
hypothesis.settings.register_profile("mmgen", deadline=None)
hypothesis.settings.load_profile("mmgen")

# before any test module is imported: Prefect and MLflow read these when they are
for _name in [name for name in os.environ if name.startswith(_CALLERS)]:
    # certificates are the machine's, not the caller's choice
    if not _name.endswith("CA_BUNDLE"):
        del os.environ[_name]
os.environ.update(_QUIET)
if "PYTEST_XDIST_WORKER" in os.environ:
    # one process a core: more threads in each would only wait for one another
    os.environ["OMP_NUM_THREADS"] = "1"
_HOME = tempfile.TemporaryDirectory(prefix="mmgen-tests-")
os.environ["PREFECT_HOME"] = f"{_HOME.name}/prefect"
os.environ["MMGEN_CACHE"] = f"{_HOME.name}/cache"


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test writes to its current folder (stores, generated files) lands in its own."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty local store."""
    return Store(tmp_path / "store")


@pytest.fixture
def runtime(store: Store) -> Runtime:
    """One worker on the CPU over `store`."""
    return Runtime(store, device="cpu")
