"""A store on S3 (moto, over HTTP): commits stay create-only, models load from it, MLflow keeps its files there."""

import threading

import pytest
from mlflow import MlflowClient

from mmgen import artifact, generate, promotions, registry
from mmgen.artifact import Draft
from mmgen.errors import ConfigError, StoreError
from mmgen.runtime import Runtime
from mmgen.store import Store
from tests import tiny_model
from tests.integration import servers

s3fs = pytest.importorskip("s3fs")


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    with servers.s3_server(tmp_path_factory.mktemp("s3")) as url, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", url)
        patch.setenv("MLFLOW_S3_ENDPOINT_URL", url)
        s3fs.S3FileSystem.clear_instance_cache()
        yield url
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def remote(s3, request):
    """A store of this test's own in the bucket."""
    return Store(f"s3://bucket/{request.node.name}")


def test_what_is_written_is_listed_and_read_back_whole_or_in_part(remote):
    remote.write("a/b.bin", b"0123456789")
    remote.write("a/c/d.bin", b"x")
    assert remote.read("a/b.bin") == b"0123456789"
    assert remote.read_range("a/b.bin", 3, 4) == b"3456"
    assert (remote.size("a/b.bin"), remote.size("a/none")) == (10, None)
    assert remote.names("a") == ["b.bin", "c"]
    assert remote.walk("a") == ["a/b.bin", "a/c/d.bin"]
    remote.delete("a/b.bin")
    assert not remote.exists("a/b.bin")
    with pytest.raises(FileNotFoundError):
        remote.read("a/b.bin")


def test_a_second_create_is_refused_and_changes_nothing(remote):
    assert remote.create("m.json", b"first")
    assert not remote.create("m.json", b"second")
    assert not Store(remote.uri).create("m.json", b"third")
    assert remote.read("m.json") == b"first"


def test_of_many_creates_at_once_one_wins(remote):
    won = []
    gate = threading.Barrier(8)

    def race(number: int) -> None:
        gate.wait()
        if remote.create("claim", str(number).encode()):
            won.append(number)

    threads = [threading.Thread(target=race, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert remote.read("claim") == str(won[0]).encode()


def test_versions_count_up_and_the_loser_of_a_number_is_told(remote):
    def commit(draft):
        draft.put("w.bin", b"w", "weights")
        return draft.commit(step="train-generator", config={}, inputs={}, facts={})

    assert commit(Draft(remote, "model", "m", "a" * 64)).version == 1
    assert commit(Draft(remote, "model", "m", "b" * 64)).version == 2
    with pytest.raises(StoreError, match="committed this version first"):
        commit(Draft(remote, "model", "m", "c" * 64, version=2))
    found = artifact.latest(remote, "model", "m")
    assert found is not None
    assert found.fingerprint == "b" * 64
    assert artifact.damaged(remote, found, rehash=True) == []


def test_a_file_is_mapped_from_the_cache_and_fetched_again_if_it_was_cut(remote):
    remote.write("f.bin", b"0123456789")
    path = remote.local_path("f.bin")
    assert path.read_bytes() == b"0123456789"
    path.write_bytes(b"012")
    assert remote.local_path("f.bin").read_bytes() == b"0123456789"


@pytest.fixture
def away(monkeypatch):
    """S3 settings that lead nowhere."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    yield
    s3fs.S3FileSystem.clear_instance_cache()


def test_a_bucket_that_is_away_is_a_store_error_in_one_line(away):
    with pytest.raises(StoreError, match="could not read bucket/away/x: Could not connect") as caught:
        Store("s3://bucket/away").read("x")
    assert "\n" not in str(caught.value)


def test_a_remote_store_without_a_tracking_server_is_refused(remote):
    inputs = tiny_model.line(remote)
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI"):
        registry.register(tiny_model.CONFIG, inputs, Runtime(remote, device="cpu"))
    assert artifact.versions(remote, "promotion", "digits") == []


def test_a_model_is_registered_from_s3_with_mlflows_files_on_s3_and_generates(remote, s3, tmp_path, monkeypatch):
    with servers.mlflow_server(tmp_path / "server", artifacts="s3://bucket/mlflow") as url:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        line = registry.register(tiny_model.CONFIG, tiny_model.line(remote), Runtime(remote, device="cpu"))
        version = MlflowClient(url, url).get_model_version_by_alias("digits", "champion")
        assert str(version.version) == line.facts["mlflow"]["version"]
    kept = Store("s3://bucket/mlflow").walk()
    assert any(path.endswith("/package/generator.safetensors") for path in kept)
    assert not (tmp_path / "s3:").exists()
    again = Store(remote.uri)
    assert promotions.resolve("models:/digits@champion", again).ref == "model:digits@1"
    made = generate.load("digits@champion", again).generate(text="one", to="image", steps=2)
    assert made["image"][0].startswith(b"\x89PNG")


def test_bytes_changed_on_s3_are_found_by_rehashing(remote):
    draft = Draft(remote, "model", "m", "a" * 64)
    entry = draft.put("w.bin", b"good", "weights")
    made = draft.commit(step="train-generator", config={}, inputs={}, facts={})
    remote.write(entry.path, b"evil")
    assert artifact.damaged(remote, made) == []
    assert len(artifact.damaged(remote, made, rehash=True)) == 1
