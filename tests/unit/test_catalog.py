"""Listings, and what garbage collection would find."""

import pytest

from mmgen import catalog
from mmgen.artifact import Draft
from mmgen.errors import UnknownReference
from mmgen.store import Store


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path)
    for kind, name in (("dataset", "d"), ("model", "m"), ("staging", "d"), ("promotion", "m")):
        draft = Draft(store, kind, name, "a" * 64)
        draft.put("data.bin", b"12345", "data")
        draft.commit(step="s", config={"a": 1}, inputs={}, facts={"n": 1}, circumstance={"time": "now"})
    return store


def test_all_artifacts_are_listed_or_those_of_a_kind(store):
    assert [line.kind for line in catalog.listing(store)] == ["staging", "dataset", "model", "promotion"]
    (line,) = catalog.listing(store, "model")
    assert (line.ref, line.size_bytes, line.time, line.passed) == ("model:m@1", 5, "now", True)
    with pytest.raises(UnknownReference, match="did you mean 'model'"):
        catalog.listing(store, "models")


def test_committed_files_are_never_garbage(store):
    assert catalog.unreferenced(store) == []


def test_what_a_run_that_died_left_is_garbage_and_a_users_own_files_are_not(store):
    died = Draft(store, "model", "m", "b" * 64)
    died.put("weights.bin", b"123", "weights")
    store.write("features/abc/def.arrow", b"1234567")
    store.write("runs/x/log.txt", b"a log")
    assert catalog.unreferenced(store) == [
        ("features/abc/def.arrow", 7),
        ("models/m/versions/2/claim", 64),
        ("models/m/versions/2/weights.bin", 3),
    ]


def test_an_artifact_in_short_counts_its_files_by_role(store):
    (found,) = catalog.everything(store, "dataset")
    short = catalog.summary(found)
    assert short["files"] == {"data": {"files": 1, "bytes": 5}}
    assert short["manifest"] == "datasets/d/versions/1/manifest.json"
    assert store.exists(short["manifest"])
