"""evalset:name: which test samples are frozen, and what of them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from mmgen import artifact as artifacts
from mmgen.artifact import Artifact
from mmgen.evalset import choose, fit_evalset
from mmgen.extract import read_media
from mmgen.runtime import Runtime
from mmgen.tars import safe_key
from tests.tiny_line import Line, config_of, copied, perform


@pytest.fixture
def line(tmp_path: Path) -> Line:
    return copied(tmp_path)


def of(line: Line) -> tuple[Artifact, Artifact]:
    """(judges, evaluation set) of the line."""
    judges, evalset = (artifacts.latest(line.store, kind, "tiny") for kind in ("judges", "evalset"))
    assert judges is not None
    assert evalset is not None
    return judges, evalset


def test_it_names_test_samples_with_the_digest_of_what_they_hold(line: Line) -> None:
    _, evalset = of(line)
    chosen = json.loads(line.store.read(evalset.file("keys").path))["test"]
    assert len(chosen) == evalset.facts["counts"]["test"] == line.made["shard"].facts["splits"]["test"]
    for row in chosen:
        assert f"/test-{row['shard'].rsplit('-', 1)[1]}" in row["shard"]
        with read_media(line.store, row["shard"]) as reader:
            members = reader.sample(safe_key(row["key"]))
        lines = sorted(f"{suffix} {hashlib.sha256(data).hexdigest()}" for suffix, data in members.items())
        assert row["digest"] == hashlib.sha256("\n".join(lines).encode()).hexdigest()
    assert {entry.role for entry in evalset.files} == {"shard", "index", "keys"}


def test_the_cap_takes_a_stable_part(line: Line) -> None:
    dataset = line.made["shard"]
    every = choose(line.store, dataset, "train", 1000)
    assert choose(line.store, dataset, "train", 5) == every[:5]
    assert len(every) == dataset.facts["splits"]["train"]
    assert choose(line.store, dataset, "nowhere", 5) == []


def test_it_is_kept_for_new_data_and_renewed_on_request_or_for_another_size(line: Line) -> None:
    judges, evalset = of(line)
    grown = perform(config_of(60), line.runtime, "ingest", "validate", "shard").made["shard"]
    assert fit_evalset(line.config, grown, line.runtime, judges) == evalset
    smaller = config_of(evaluate={"max_samples": 1})
    renewed = fit_evalset(smaller, grown, line.runtime, judges)
    assert (renewed.version, renewed.facts["counts"]) == (2, {"test": 1})
    asked = fit_evalset(smaller, grown, Runtime(line.store, device="cpu", refit=True), judges)
    assert asked.version == 3


def test_a_lost_shard_renews_it(line: Line) -> None:
    judges, evalset = of(line)
    assert fit_evalset(line.config, line.made["shard"], line.runtime, judges).version == 1
    line.store.delete(evalset.file("keys").path)
    assert fit_evalset(line.config, line.made["shard"], line.runtime, judges).version == 2


def test_a_held_out_split_is_frozen_beside_the_test_split(line: Line) -> None:
    config = config_of(validate={"near_duplicates": "keep", "holdout": {"column": "voice", "values": ["v1"]}})
    made = perform(config, line.runtime, "ingest", "validate", "shard").made["shard"]
    judges, _ = of(line)
    found = fit_evalset(config, made, Runtime(line.store, device="cpu", refit=True), judges)
    assert found.facts["heldout"] == "heldout"
    assert found.facts["counts"]["heldout"] == made.facts["splits"]["heldout"] > 0
