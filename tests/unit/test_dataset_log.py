"""A dataset version in MLflow: report, counts and hashes, once, whether its gate passed or not."""

import json
import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from mmgen import artifact, dataset_log, steps
from mmgen.errors import GateError, OutsideError
from mmgen.runtime import Runtime
from mmgen.store import Store
from mmgen.tracking import tracking_uri
from tests.data_sources import table_config, write_source


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory):
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


def prepared(folder: Path, empty_database: Path, **settings):
    """A store with one version of a small table, and what MLflow would be told of."""
    store = Store(folder / "store")
    folder.joinpath("store").mkdir()
    shutil.copy(empty_database, folder / "store" / "mlflow.db")
    config = table_config(write_source(folder / "source", 30), **settings)
    try:
        for _ in steps.run(config, Runtime(store), ("ingest", "validate", "shard")):
            pass
    except GateError:
        return store, artifact.latest(store, "verdicts", config.name)
    return store, artifact.latest(store, "dataset", config.name)


def test_a_version_is_logged_once_with_its_report_and_counts(tmp_path, empty_database):
    store, data = prepared(tmp_path, empty_database)
    run = dataset_log.log_version(store, data)
    assert dataset_log.log_version(store, data) == run
    client = MlflowClient(tracking_uri(store))
    found = client.get_run(run)
    assert found.data.tags["mmgen.dataset"] == data.ref
    assert found.data.metrics["counts/kept"] == data.facts["counts"]["kept"]
    [logged] = found.inputs.dataset_inputs
    assert json.loads(logged.dataset.source)["fingerprint"] == data.fingerprint
    assert {each.path for each in client.list_artifacts(run)} == {"report.html", "report.json", "shards.html"}
    page = Path(client.download_artifacts(run, "report.html", str(tmp_path))).read_bytes()
    assert page == store.read(f"{data.folder}/report.html")


def test_a_version_whose_gate_failed_is_logged_with_the_reason(tmp_path, empty_database):
    store, data = prepared(tmp_path, empty_database, validate={"gate": {"min_rows_per_split": 1000}})
    assert not data.passed
    tags = MlflowClient(tracking_uri(store)).get_run(dataset_log.log_version(store, data)).data.tags
    assert tags["mmgen.passed"] == "False"
    assert "1000" in tags["mmgen.gate"]


def test_a_server_that_is_away_is_told(tmp_path, empty_database, monkeypatch):
    store, data = prepared(tmp_path, empty_database)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(OutsideError, match="MLflow at"):
        dataset_log.log_version(store, data)
