"""The registry against a real `mlflow server` over HTTP, on SQLite and on PostgreSQL."""

import base64
import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from mlflow import MlflowClient

from mmgen import promotions, registry
from mmgen.runtime import Runtime
from mmgen.store import Store
from tests import hand_made, tiny_model
from tests.integration import servers

# test_s3_store.py has a server in every run of the tests; here are the databases and MLflow's own serving
pytestmark = pytest.mark.slow

FETCH = """
import sys
import mlflow

mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/digits@champion")
made = model.predict([{"text": "one"}], params={"to": "image", "steps": 2})
sys.stdout.buffer.write(made["image"][0])
"""


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def server(request, tmp_path_factory):
    """The URL of an MLflow server over the database of this name."""
    folder = tmp_path_factory.mktemp("mlflow-server")
    if request.param == "sqlite":
        with servers.mlflow_server(folder) as url:
            yield url
    else:
        with servers.postgres() as database, servers.mlflow_server(folder, backend=database) as url:
            yield url


@pytest.fixture(scope="module")
def filled(server, tmp_path_factory):
    """A store whose tiny model was registered with the server."""
    store = Store(tmp_path_factory.mktemp("registered") / "store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", server)
        registry.register(tiny_model.CONFIG, tiny_model.line(store), Runtime(store, device="cpu"))
    return store


@pytest.fixture
def registered(server, filled, monkeypatch):
    """The filled store, with the server as the one that it is registered with."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    return filled


def test_the_server_holds_the_run_its_pages_and_the_champion_that_another_process_loads(server, registered, tmp_path):
    client = MlflowClient(server, server)
    version = client.get_model_version_by_alias("digits", "champion")
    run = client.get_run(version.run_id)
    assert run.data.metrics["mean_coherence"] == 0.95
    assert len(client.get_metric_history(version.run_id, "generator/loss")) == 60
    card = Path(client.download_artifacts(version.run_id, "card.html", str(tmp_path)))
    assert card.read_bytes() == registered.read("promotions/digits/1/card.html")
    # no database and no files of a server in the store: it has its own place for them
    assert not registered.exists("mlflow.db")
    assert registered.walk("mlflow-artifacts") == []
    ran = subprocess.run([sys.executable, "-c", FETCH, server], capture_output=True, timeout=300, cwd=tmp_path)
    assert ran.stdout.startswith(b"\x89PNG"), ran.stderr.decode()


def test_a_server_that_lost_everything_is_told_again(server, registered, tmp_path, monkeypatch):
    with servers.mlflow_server(tmp_path / "new") as url:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        assert registry.rebuild(registered) == ["promotion:digits@1: models:/digits/1"]
        version = MlflowClient(url, url).get_model_version_by_alias("digits", "champion")
        assert version.tags["mmgen.generator"] == "model:digits@1"


def test_mlflows_own_model_server_answers_over_rest(server, registered, tmp_path):
    port = servers.free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/digits@champion", "-p", str(port),
               "-h", "127.0.0.1", "--env-manager", "local", "-w", "1"]  # fmt: skip
    asked = {
        "dataframe_split": {"columns": ["image"], "data": [[base64.b64encode(hand_made.png(0, 16, 16)).decode()]]},
        "params": {"to": "text,audio", "num": 2, "steps": 2},
    }
    # it runs `uvicorn` by name
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with servers.process(command, tmp_path / "serve.log", f"http://127.0.0.1:{port}/ping", {"PATH": path}):
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/invocations", json.dumps(asked).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            rows = json.load(answer)["predictions"]
    assert [(row["row"], row["sample"]) for row in rows] == [(0, 0), (0, 1)]
    assert all(base64.b64decode(row["audio"]).startswith(b"RIFF") for row in rows)
    assert all(isinstance(row["text"], str) for row in rows)


def test_the_ledger_needs_no_server(server, registered, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert promotions.resolve("models:/digits@champion", Store(registered.uri)).ref == "model:digits@1"
