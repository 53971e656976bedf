"""References, fingerprints, manifests, claims, verification."""

import dataclasses
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmgen import artifact
from mmgen.artifact import KINDS, Artifact, Draft, Reference, canonical_json, check_name, fingerprint
from mmgen.errors import ConfigError, IntegrityError, StoreError, UnknownReference
from mmgen.store import Store

names = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def commit(
    store: Store, kind: artifact.Kind = "model", name: str = "m", identity: str = "f" * 64, **changes
) -> Artifact:
    draft = Draft(store, kind, name, identity)
    draft.put("weights.bin", b"w" * 10, "weights")
    return draft.commit(step="train-generator", config={}, inputs={}, facts={"n": 1}, **changes)


@given(name=names, kind=st.none() | st.sampled_from(KINDS), version=st.none() | st.integers(1, 10**6))
def test_a_reference_is_read_back_from_its_text(name, kind, version):
    reference = Reference(name, kind, version)
    assert Reference.parse(str(reference)) == reference


def test_an_alias_is_told_from_a_version():
    assert Reference.parse("spoken-digits@champion") == Reference("spoken-digits", alias="champion")
    assert Reference.parse("dataset:spoken-digits@3") == Reference("spoken-digits", "dataset", 3)


@pytest.mark.parametrize("text", ["", "@1", "a@", "a@b@c", "a:b:c"])
def test_what_is_no_reference_is_refused(text):
    with pytest.raises(UnknownReference, match="wanted"):
        Reference.parse(text)


def test_an_unknown_kind_is_answered_with_the_nearest():
    with pytest.raises(UnknownReference, match="did you mean 'dataset'"):
        Reference.parse("datset:x")


@pytest.mark.parametrize("name", ["", "A", "a b", "../a", "a/b", "-a", "x" * 64])
def test_a_name_that_could_not_be_a_folder_is_refused(name):
    with pytest.raises(ConfigError):
        check_name(name)


@given(st.dictionaries(st.text(min_size=1), json_values, max_size=5))
def test_a_fingerprint_ignores_the_order_of_keys(identity):
    backwards = dict(reversed(identity.items()))
    assert canonical_json(identity) == canonical_json(backwards)
    assert fingerprint(value=identity) == fingerprint(value=backwards)


def test_a_manifest_is_read_back_whole(tmp_path):
    made = commit(Store(tmp_path))
    assert Artifact.from_json(made.to_json(), "x") == made
    assert artifact.load(Store(tmp_path), "model", "m", 1) == made


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"format": 99}', b'{"format": 1, "files": 3}', b"\xff"])
def test_what_is_no_manifest_is_an_integrity_error(data):
    with pytest.raises(IntegrityError):
        Artifact.from_json(data, "there")


def test_versions_count_up_and_the_newest_is_the_latest(tmp_path):
    store = Store(tmp_path)
    first = commit(store, identity="a" * 64)
    second = commit(store, identity="b" * 64, passed=False)
    assert [first.version, second.version] == [1, 2]
    assert artifact.latest(store, "model", "m") == second
    assert artifact.latest(store, "model", "m", passed=True) == first
    assert artifact.names(store, "model") == ["m"]


def test_what_has_no_manifest_does_not_exist_and_its_number_is_taken_again_by_the_same_work(tmp_path):
    store = Store(tmp_path)
    died = Draft(store, "model", "m", "a" * 64)
    died.put("weights.bin", b"half", "weights")
    assert artifact.versions(store, "model", "m") == []
    assert Draft(store, "model", "m", "a" * 64).version == died.version
    assert Draft(store, "model", "m", "b" * 64).version == died.version + 1


def test_of_two_runs_with_other_work_each_gets_a_number_of_its_own(tmp_path):
    store = Store(tmp_path)
    drafts = []
    barrier = threading.Barrier(8)

    def claim(number: int) -> None:
        barrier.wait()
        drafts.append(Draft(store, "model", "m", f"{number:064x}"))

    threads = [threading.Thread(target=claim, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(draft.version for draft in drafts) == list(range(1, 9))


def test_the_loser_of_a_race_gets_the_same_work_or_an_error(tmp_path):
    store = Store(tmp_path)
    winner, same = (Draft(store, "model", "m", "a" * 64) for _ in range(2))
    other = Draft(store, "model", "m", "b" * 64, version=1)
    made = winner.commit(step="s", config={}, inputs={}, facts={"by": "winner"})
    assert same.commit(step="s", config={}, inputs={}, facts={"by": "loser"}) == made
    with pytest.raises(StoreError, match="another run"):
        other.commit(step="s", config={}, inputs={}, facts={})


def test_verdicts_and_dataset_share_their_folder_but_not_their_manifest(tmp_path):
    store = Store(tmp_path)
    verdicts = commit(store, "verdicts", "d", "a" * 64)
    draft = Draft(store, "dataset", "d", "b" * 64, version=verdicts.version)
    assert artifact.versions(store, "dataset", "d") == []
    dataset = draft.commit(step="shard", config={}, inputs={"verdicts": verdicts.link}, facts={})
    assert dataset.folder == verdicts.folder
    assert artifact.lineage(store, dataset) == {verdicts.ref: verdicts}


def test_a_staging_is_found_by_its_fingerprint(tmp_path):
    store = Store(tmp_path)
    made = commit(store, "staging", "d", "c" * 64)
    assert artifact.find(store, "staging", "d", "c" * 64) == made
    assert artifact.load_link(store, made.link) == made
    assert artifact.latest(store, "staging", "d") == made


def test_damage_is_named_file_by_file(tmp_path):
    store = Store(tmp_path)
    made = commit(store)
    path = tmp_path / made.files[0].path
    assert artifact.damaged(store, made, rehash=True) == []
    path.write_bytes(b"v" * 10)
    assert artifact.damaged(store, made) == []
    assert "recorded" in artifact.damaged(store, made, rehash=True)[0]
    path.write_bytes(b"v")
    assert artifact.damaged(store, made)[0].endswith("1 bytes, recorded 10")
    path.unlink()
    assert artifact.damaged(store, made)[0].endswith("missing")
    assert artifact.find(store, "model", "m", made.fingerprint) is None


def test_a_version_that_is_not_there_is_answered_with_those_that_are(tmp_path):
    store = Store(tmp_path)
    commit(store)
    with pytest.raises(UnknownReference, match="it has 1"):
        artifact.load(store, "model", "m", 7)
    with pytest.raises(UnknownReference, match="known: m"):
        artifact.load(store, "model", "n", 1)


def test_an_artifact_cannot_be_changed(tmp_path):
    made = commit(Store(tmp_path))
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.version = 2  # type: ignore[misc]
