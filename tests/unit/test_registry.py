"""register: the ledger is the record, MLflow a view of it; both survive a kill, a move and a lost database."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from mmgen import artifact, config, promotions, registry, tombstones
from mmgen.errors import ConfigError, OutsideError, UnknownReference
from mmgen.identity import STEP_VERSIONS
from mmgen.runtime import Runtime
from mmgen.store import Store, sha256
from mmgen.tracking import tracking_uri
from tests import hand_made

SOURCE = {"kind": "table", "path": "x.csv", "key": "key", "text": "t", "image": "i", "audio": "a"}
CONFIG = config.build({"name": "digits", "source": SOURCE})
GOLDEN = "b2c9375c60a3ab4a08adcc6bbca4963798d711455a674d281abb0f07495d3136"
PACKAGE = {"config.json": b"{}", "generator.safetensors": b"w" * 64}


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory):
    """An MLflow database with its tables made: making them takes seconds."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def store(tmp_path, empty_database, monkeypatch):
    monkeypatch.setattr(registry.generate, "package_files", lambda *parts: dict(PACKAGE))
    return fresh_store(tmp_path / "store", empty_database)


@pytest.fixture(scope="module")
def two(tmp_path_factory, empty_database):
    """A store with a champion, and a second model that did not pass. Not to be changed."""
    made = fresh_store(tmp_path_factory.mktemp("two") / "store", empty_database)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry.generate, "package_files", lambda *parts: dict(PACKAGE))
        register(made)
        register(made, data="worse", passed=False)
    return made


def fresh_store(path: Path, empty_database: Path) -> Store:
    path.mkdir()
    shutil.copy(empty_database, path / "mlflow.db")
    return Store(path)


def register(store, settings=CONFIG, **more):
    return registry.register(settings, hand_made.line(store, **more), Runtime(store))


def client_of(store):
    return MlflowClient(tracking_uri(store), tracking_uri(store))


def killed(*arguments, **named):
    raise KeyboardInterrupt


def test_a_model_whose_gate_passed_holds_the_alias_in_the_ledger_and_in_mlflow(store):
    line = register(store)
    assert line.facts["alias"] == "champion"
    assert store.exists("promotions/digits/1.json")
    assert promotions.resolve("digits@champion", store).ref == "model:digits@1"
    version = client_of(store).get_model_version_by_alias("digits", "champion")
    assert str(version.version) == line.facts["mlflow"]["version"]
    assert version.tags["mmgen.generator"] == "model:digits@1"


def test_a_model_whose_gate_failed_is_registered_and_the_champion_stays(store):
    register(store)
    line = register(store, data="worse", mean=0.5, passed=False)
    assert (line.facts["alias"], line.passed) == (None, False)
    assert "coherence image→audio 0.412 < 0.600" in line.facts["why"]
    assert promotions.resolve("digits@champion", store).version == 1
    client = client_of(store)
    assert str(client.get_model_version_by_alias("digits", "champion").version) == "1"
    assert len(client.search_model_versions("name='digits'")) == 2


def test_a_better_model_takes_the_alias_over(store):
    register(store)
    register(store, data="better")
    assert promotions.resolve("digits@champion", store).version == 2
    assert promotions.aliases_of(store, promotions.resolve("digits@1", store)) == []
    assert str(client_of(store).get_model_version_by_alias("digits", "champion").version) == "2"


def test_promotion_can_be_switched_off_and_the_alias_named(store):
    off = config.build({"name": "digits", "source": SOURCE, "registry": {"promote": False}})
    assert register(store, off).facts["alias"] is None
    named = config.build({"name": "digits", "source": SOURCE, "registry": {"alias": "candidate"}})
    assert register(store, named).facts["alias"] == "candidate"
    assert set(promotions.aliases(store, "digits")) == {"candidate"}


def test_the_run_holds_settings_scores_curves_lineage_and_pages(two):
    line = artifact.load(two, "promotion", "digits", 1)
    client = client_of(two)
    run = client.get_run(line.facts["mlflow"]["run"])
    assert run.info.status == "FINISHED"
    assert run.data.params["generator.width"] == "512"
    assert json.loads(run.data.params["generator.tags"]) == ["<b>", "&"]
    assert run.data.metrics["mean_coherence"] == 0.95
    assert run.data.metrics["coherence/text-to-image.low"] == pytest.approx(0.93)
    assert len(client.get_metric_history(run.info.run_id, "generator/loss")) == 60
    assert len(client.get_metric_history(run.info.run_id, "codecs/codec-image.loss")) == 60
    dataset = artifact.load(two, "dataset", "digits", 1)
    assert run.data.tags["mmgen.dataset"] == dataset.ref
    assert run.data.tags["mmgen.dataset.fingerprint"] == dataset.fingerprint
    assert run.data.tags["mmgen.commit"] == "c" * 40
    files = {entry.path for entry in client.list_artifacts(run.info.run_id)}
    assert files == {
        "card.html",
        "card.json",
        "scores-test.parquet",
        "scores-heldout.parquet",
        "text-to-image.png",
        "data-report.html",
    }


def test_golden_bytes_of_register(store):
    """Fails when the same inputs come to another record: then raise STEP_VERSIONS["register"] with it."""
    line = register(store)
    record = {
        "fingerprint": line.fingerprint,
        "facts": {name: fact for name, fact in line.facts.items() if name != "mlflow"},
        "files": [(Path(entry.path).name, entry.role) for entry in line.files],
        "package": [entry.sha256 for entry in line.by_role("package")],
        "card": line.file("card-json").sha256,
    }
    assert (STEP_VERSIONS["register"], sha256(artifact.canonical_json(record))) == (1, GOLDEN)


def test_the_run_that_asked_is_named_and_a_rebuilt_view_names_it_again(store, tmp_path, empty_database, monkeypatch):
    runtime = Runtime(store, run={"name": "20260102T030405-abcd", "prefect": "0123"})
    line = registry.register(CONFIG, hand_made.line(store), runtime)
    tags = client_of(store).get_run(line.facts["mlflow"]["run"]).data.tags
    assert (tags["mmgen.run.name"], tags["mmgen.run.prefect"]) == ("20260102T030405-abcd", "0123")
    shutil.copy(empty_database, tmp_path / "new.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/new.db")
    registry.rebuild(store)
    version = client_of(store).get_model_version_by_alias("digits", "champion")
    assert version.tags["mmgen.run.prefect"] == "0123"


def test_files_of_mlflow_lie_in_the_store_and_none_is_a_pickle(two):
    paths = two.walk("mlflow-artifacts")
    assert any(path.endswith("/package/generator.safetensors") for path in paths)
    assert any(path.endswith("/served_model.py") for path in paths)
    assert not [path for path in two.walk() if path.endswith((".pkl", ".pickle", ".pt", ".bin"))]


def test_a_manifest_names_the_package_and_the_card_and_all_inputs(two):
    line = artifact.load(two, "promotion", "digits", 1)
    assert {Path(entry.path).name for entry in line.by_role("package")} == set(PACKAGE)
    assert artifact.damaged(two, line, rehash=True) == []
    assert set(line.inputs) == {"codecs", "fusion", "generator", "scores", "features", "dataset"}


def test_a_package_samples_as_its_scores_did(store, monkeypatch):
    shipped = []
    monkeypatch.setattr(registry.generate, "package_files", lambda *parts: shipped.append(parts[-1]) or dict(PACKAGE))
    settings = CONFIG.model_copy(update={"evaluate": CONFIG.evaluate.model_copy(update={"candidates": 5, "steps": 7})})
    register(store, settings)
    assert shipped == [{"guidance": 2.0, "joint_guidance": 1.0, "steps": 7, "candidates": 5}]


def test_a_kill_after_mlflow_and_before_the_ledger_leaves_one_version(store, monkeypatch):
    inputs = hand_made.line(store)
    with monkeypatch.context() as broken:
        broken.setattr(registry.Draft, "commit", killed)
        with pytest.raises(KeyboardInterrupt):
            registry.register(CONFIG, inputs, Runtime(store))
    assert promotions.ledger(store, "digits") == []
    line = registry.register(CONFIG, inputs, Runtime(store))
    assert (line.version, line.facts["mlflow"]["version"]) == (1, "1")
    assert len(client_of(store).search_model_versions("name='digits'")) == 1


def test_a_kill_while_logging_leaves_a_failed_run_and_no_version(store, monkeypatch):
    with monkeypatch.context() as broken:
        broken.setattr(MlflowClient, "create_model_version", killed)
        with pytest.raises(KeyboardInterrupt):
            register(store)
    client = client_of(store)
    (experiment,) = [each for each in client.search_experiments() if each.name == "digits"]
    assert [run.info.status for run in client.search_runs([experiment.experiment_id])] == ["FAILED"]
    assert register(store, data="again").facts["mlflow"]["version"] == "1"


def test_the_view_is_rebuilt_in_another_database_with_the_ledgers_numbers(store, tmp_path, empty_database, monkeypatch):
    register(store)
    other = client_of(store)
    # a version that no line of the ledger has, as a person's own: number 2
    other.create_model_version("digits", "elsewhere")
    register(store, data="third")
    shutil.copy(empty_database, tmp_path / "new.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/new.db")
    expected = ["promotion:digits@1: models:/digits/1", "promotion:digits@2: models:/digits/3"]
    assert registry.rebuild(store) == expected
    client = MlflowClient(f"sqlite:///{tmp_path}/new.db")
    assert {int(each.version) for each in client.search_model_versions("name='digits'")} == {1, 3}
    assert int(client.get_model_version_by_alias("digits", "champion").version) == 3
    runs = len(client.search_runs([client.get_experiment_by_name("digits").experiment_id]))
    assert registry.rebuild(store) == expected
    assert len(client.search_runs([client.get_experiment_by_name("digits").experiment_id])) == runs == 2


def test_the_view_is_rebuilt_where_samples_of_the_exam_were_purged(store, tmp_path, empty_database, monkeypatch):
    scores = artifact.load_link(store, register(store).inputs["scores"])
    grids = {entry.path for entry in scores.by_role("grid")}
    tombstones.put(store, scores, grids)
    for path in grids:
        store.delete(path)
    shutil.copy(empty_database, tmp_path / "new.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'new.db'}")
    assert registry.rebuild(store) == ["promotion:digits@1: models:/digits/1"]
    run = client_of(store).get_model_version("digits", "1").run_id
    logged = {each.path for each in client_of(store).list_artifacts(run)}
    assert "card.html" in logged
    assert not logged & {Path(path).name for path in grids}


def test_a_moved_store_gets_a_new_view_and_leaves_its_old_place_alone(store, tmp_path):
    register(store)
    shutil.move(tmp_path / "store", tmp_path / "moved")
    moved = Store(tmp_path / "moved")
    register(moved, data="second")
    assert not (tmp_path / "store").exists()
    assert (tmp_path / "moved" / "mlflow.db.moved").exists()
    versions = client_of(moved).search_model_versions("name='digits'")
    assert sorted(int(each.version) for each in versions) == [1, 2]
    assert all(str(tmp_path / "moved") in each.source for each in versions)


def test_references_of_every_form_find_their_artifact(two):
    expected = {
        "digits": "model:digits@2",
        "digits@1": "model:digits@1",
        "digits@champion": "model:digits@1",
        "model:digits@2": "model:digits@2",
        "dataset:digits@champion": "dataset:digits@1",
        "scores:digits@champion": "scores:digits@1",
        "promotion:digits@champion": "promotion:digits@1",
        "dataset:digits": "dataset:digits@2",
        "digits-fusion": "model:digits-fusion@2",
        "models:/digits/2": "model:digits@2",
        "models:/digits/latest": "model:digits@2",
        "models:/digits@champion": "model:digits@1",
    }
    assert {reference: promotions.resolve(reference, two).ref for reference in expected} == expected


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("digits@champoin", "did you mean 'champion'"),
        ("digts", "did you mean 'digits'"),
        ("digts@champion", "did you mean 'digits'"),
        ("models:/digits/9", "unknown version '9'"),
        ("models:/digts@champion", "did you mean 'digits'"),
        ("models:/digits", "wanted models:/name/version"),
        ("staging:digits@champion", "was made from no staging"),
    ],
)
def test_a_reference_to_nothing_says_what_there_is(two, reference, message):
    with pytest.raises(UnknownReference, match=message):
        promotions.resolve(reference, two)


@pytest.mark.parametrize("alias", ["1", "007", "latest", "", "a b", "-x", "1st"])
def test_an_alias_that_reads_as_something_else_is_refused(alias):
    with pytest.raises(ConfigError, match="alias"):
        promotions.check_alias(alias)


def test_the_ledger_decides_who_is_champion_whatever_mlflow_says(store):
    register(store)
    register(store, data="better")
    client_of(store).set_registered_model_alias("digits", "champion", "1")
    assert promotions.resolve("digits@champion", store).version == 2


def test_a_remote_store_without_a_server_is_refused_before_anything_is_written():
    remote = Store("memory://mmgen-registry")
    inputs = hand_made.line(remote)
    before = remote.walk()
    with pytest.raises(ConfigError, match=r"MLFLOW_TRACKING_URI.*MLFLOW_TRACKING_URI=http"):
        registry.register(CONFIG, inputs, Runtime(remote))
    assert remote.walk() == before


def test_a_server_that_is_away_is_told_in_one_line_without_its_password(store, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(OutsideError, match=r"MLflow at http://127\.0\.0\.1:9") as caught:
        register(store)
    assert "secret" not in str(caught.value).split("said no")[0]
    assert promotions.ledger(store, "digits") == []


def test_the_callers_own_mlflow_settings_stay_as_they_were(store, monkeypatch, tmp_path):
    # set_tracking_uri sets the variable as well, which register would respect
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "undone at the end")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mine.db")
    del os.environ["MLFLOW_TRACKING_URI"]
    register(store)
    assert mlflow.get_tracking_uri() == f"sqlite:///{tmp_path}/mine.db"
    assert not (tmp_path / "mine.db").exists()
    mlflow.set_tracking_uri(None)


def test_a_first_registration_says_nothing_on_the_terminal(tmp_path):
    script = f"""
from mmgen import config, registry
from mmgen.identity import STEP_VERSIONS
from mmgen.runtime import Runtime
from mmgen.store import Store, sha256
from tests import hand_made
registry.generate.package_files = lambda *parts: {PACKAGE!r}
store = Store({str(tmp_path / "fresh")!r})
registry.register(config.build({{"name": "digits", "source": {SOURCE!r}}}), hand_made.line(store), Runtime(store))
"""
    root = Path(registry.__file__).parents[1]
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=root, timeout=120)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    assert (tmp_path / "fresh" / "mlflow.db").exists()
