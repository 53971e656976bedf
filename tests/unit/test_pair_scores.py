"""Pair scores on a line whose fusion model knows colours: what is flagged, made anew, and gone with a purge."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from mmgen import artifact, catalog, tombstones
from mmgen.artifact import Artifact
from mmgen.forget import forget
from mmgen.ingest import ingest
from mmgen.pairs import read
from mmgen.runtime import Runtime
from mmgen.store import Store
from mmgen.tables import read_parquet
from mmgen.validate import validate
from tests.colour_line import ROWS, config_of, copied, run, swap
from tests.data_sources import table_config, write_source
from tests.tiny_line import Lines

#: rows of colours 0 and 1, 2 and 3, …: each has one partner that fits
SWAPPED = [(0, 11), (22, 33), (44, 55), (66, 77), (88, 99)]
PARTNER = {f"s{a:04d}": f"s{b:04d}" for pair in SWAPPED for a, b in (pair, pair[::-1])}


@pytest.fixture
def line(tmp_path: Path) -> tuple[Path, Runtime, Lines]:
    return copied(tmp_path)


def flags(store: Store, verdicts: Artifact) -> list[dict[str, Any]]:
    table = read_parquet(store, verdicts.file("quarantine").path)
    return table.filter(pl.col("reason") == "mismatched_pair").to_dicts()


def twin(store: Store, verdicts: Artifact) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(store.read(verdicts.file("report-json").path))
    return found


def scored(store: Store) -> list[Artifact]:
    return artifact.history(store, "pairs", "colours")


def test_swapped_captions_are_flagged_and_name_each_other(line: tuple[Path, Runtime, Lines]) -> None:
    table, runtime, lines = line
    swap(table, SWAPPED)
    verdicts = run(config_of(table), runtime)["validate"].artifact
    found = flags(runtime.store, verdicts)
    assert {row["key"] for row in found} == set(PARTNER)
    assert all(f"its text fits the image of '{PARTNER[row['key']]}' better" in row["message"] for row in found)
    assert {(row["slot"], row["severity"]) for row in found} == {("text", "flag")}
    assert verdicts.facts["counts"]["kept"] == ROWS, "a flag keeps its row"
    assert verdicts.inputs["pair_scores"].ref == scored(runtime.store)[0].ref
    assert set(artifact.lineage(runtime.store, verdicts)) == {verdicts.inputs["staging"].ref}
    assert any("200 of 200 samples scored by model:colours-fusion@1" in said for said in lines.said)
    pairs = twin(runtime.store, verdicts)["pairs"]
    assert (pairs["flagged"], len(pairs["worst"])) == (10, 12)
    assert {row["key"] for row in pairs["worst"][:10]} == set(PARTNER)
    assert [sum(pairs["slots"][0][name]) for name in ("similarity", "shuffled")] == [ROWS, ROWS]
    page = runtime.store.read(verdicts.file("report").path).decode()
    assert "with image of &#39;s0011&#39;" in page
    assert catalog.unreferenced(runtime.store) == []
    assert not any(outcome.ran for outcome in run(config_of(table), runtime).values())


def test_nothing_runs_again_because_a_model_came(line: tuple[Path, Runtime, Lines]) -> None:
    table, runtime, _ = line
    assert not any(outcome.ran for outcome in run(config_of(table), runtime).values())
    assert scored(runtime.store) == []


def test_a_clean_source_has_few_flags_and_the_same_shards(line: tuple[Path, Runtime, Lines]) -> None:
    table, runtime, _ = line
    before = run(config_of(table), runtime)["shard"].artifact
    outcomes = run(config_of(table), Runtime(runtime.store, device="cpu", rebuild=True))
    assert len(flags(runtime.store, outcomes["validate"].artifact)) <= ROWS // 100
    assert {entry.sha256 for entry in outcomes["shard"].artifact.by_role("shard")} == {
        entry.sha256 for entry in before.by_role("shard")
    }


def test_only_new_batches_are_embedded_and_old_ones_score_alike(line: tuple[Path, Runtime, Lines]) -> None:
    table, runtime, lines = line
    run(config_of(table), Runtime(runtime.store, device="cpu", rebuild=True))
    swap(table, SWAPPED[:2])
    run(config_of(table), runtime)
    assert any("(1 of 4 batches are new to it)" in said for said in lines.said)
    new, old = scored(runtime.store)
    assert len({entry.path for entry in new.files} & {entry.path for entry in old.files}) == 3
    tables = [read(each, runtime).table for each in (new, old)]
    assert all(each is not None for each in tables)
    far = [each.filter(pl.col("row") >= 50)["similarity"].to_list() for each in tables if each is not None]
    assert far[0] == far[1]
    # the same rows and model again: nothing is scored
    run(config_of(table), Runtime(runtime.store, device="cpu", rebuild=True, progress=lines))
    assert lines.said.count(f"pairs: scored before: {new.ref}") == 1


@pytest.mark.parametrize(("effect", "kept"), [("reject", ROWS - 10), ("off", ROWS)])
def test_the_severity_decides_and_does_not_touch_ingest(
    line: tuple[Path, Runtime, Lines], effect: str, kept: int
) -> None:
    table, runtime, _ = line
    swap(table, SWAPPED)
    run(config_of(table), runtime, "ingest")
    checks = {"severity": {"mismatched_pair": effect}}
    config = config_of(table, validate={"near_duplicates": "keep", "checks": checks})
    outcomes = run(config, runtime)
    assert not outcomes["ingest"].ran
    verdicts = outcomes["validate"].artifact
    assert verdicts.facts["counts"]["kept"] == kept
    assert verdicts.facts["reasons"]["quarantined"] == ({"mismatched_pair": 10} if effect == "reject" else {})
    assert outcomes["shard"].artifact.facts["counts"]["kept"] == kept


def test_a_damaged_model_is_said_and_counted_and_stops_nothing(line: tuple[Path, Runtime, Lines]) -> None:
    table, runtime, lines = line
    fusion = artifact.latest(runtime.store, "model", "colours-fusion")
    assert fusion is not None
    weights = fusion.file("weights")
    runtime.store.write(weights.path, runtime.store.read(weights.path)[:-1])
    swap(table, SWAPPED)
    verdicts = run(config_of(table), runtime)["validate"].artifact
    assert any(f"pairs: not scored: {fusion.ref}: {weights.path}" in said for said in lines.said)
    failed = artifact.load_link(runtime.store, verdicts.inputs["pair_scores"])
    assert (failed.passed, failed.facts["unscored"]) == (False, ROWS)
    assert weights.path in twin(runtime.store, verdicts)["pairs"]["why"]
    assert flags(runtime.store, verdicts) == []


def test_a_machine_without_torch_says_so_and_goes_on(line: tuple[Path, Runtime, Lines]) -> None:
    table, runtime, _ = line
    swap(table, SWAPPED)
    code = f"""
import sys
sys.modules["torch"] = None
from pathlib import Path
from mmgen import steps
from mmgen.config import build
from mmgen.runtime import Runtime
from mmgen.store import Store
config = build({config_of(table).to_json()!r})
for outcome in steps.run(config, Runtime(Store({runtime.store.uri!r}), device="cpu"), steps.select(None, "shard")):
    print(outcome.step, outcome.ran)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert ended.stdout.split() == ["ingest", "True", "validate", "True", "shard", "True"], ended.stderr
    verdicts = artifact.latest(runtime.store, "verdicts", "colours")
    assert verdicts is not None
    assert "torch" in twin(runtime.store, verdicts)["pairs"]["why"]


def test_a_model_of_other_slots_does_not_score(line: tuple[Path, Runtime, Lines]) -> None:
    table, runtime, _ = line
    slots = {"text": {"modality": "text", "max_tokens": 12}, "image": {"modality": "image", "size_px": 16}}
    verdicts = run(config_of(table, slots=slots), runtime)["validate"].artifact
    why = twin(runtime.store, verdicts)["pairs"]["why"]
    assert why == "model:colours-fusion@1 was trained with other settings of the slots image; train it again"


def test_without_a_model_there_is_nothing_of_it(tmp_path: Path, runtime: Runtime) -> None:
    config = table_config(write_source(tmp_path / "source", 20))
    verdicts = validate(config, {"staging": ingest(config, {}, runtime)}, runtime)
    assert set(verdicts.inputs) == {"staging"}
    assert "pairs" not in twin(runtime.store, verdicts)
    assert b"No fusion model had been trained" in runtime.store.read(verdicts.file("report").path)


def test_a_purge_takes_scores_and_embeddings_along(line: tuple[Path, Runtime, Lines]) -> None:
    table, runtime, _ = line
    store = runtime.store
    swap(table, SWAPPED)
    verdicts = run(config_of(table), runtime)["validate"].artifact
    scores = scored(store)[0]
    forget(store, "colours", ["s0011"], purge=True)
    told = twin(store, verdicts)
    assert told["rendered_again"] == {"forgotten": 1, "measured": True}
    assert len(told["pairs"]["worst"]) >= 5
    assert "0011" not in json.dumps(told)
    assert b"similarities of pairs are as they were" in store.read(verdicts.file("report").path)
    gone = {line.removesuffix(": missing") for line in artifact.damaged(store, scores)}
    embeddings = [entry.path for entry in scores.by_role("embeddings")]
    assert gone == {scores.file("pairs").path, embeddings[0]}
    assert gone <= tombstones.purged(store, scores)
    assert not [path for path in store.walk() if b"s0011" in store.read(path)]
    again = run(config_of(table), runtime)["validate"].artifact
    assert again.version > verdicts.version
    assert {row["key"] for row in flags(store, again)} == set(PARTNER) - {"s0011"}
    assert not [path for path in store.walk() if b"s0011" in store.read(path)]
