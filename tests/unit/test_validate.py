"""Verdicts: each input exactly one, with its reason; duplicates, splits and the gate (laws 6, 7, 13, 14)."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from PIL import Image

from mmgen import verdicts
from mmgen.artifact import Artifact, latest, load
from mmgen.config import Config
from mmgen.decision import check_counts
from mmgen.errors import GateError, IntegrityError
from mmgen.ingest import ingest
from mmgen.runtime import Runtime
from mmgen.shards import shard
from mmgen.splits import Placement
from mmgen.validate import validate
from tests.data_sources import Change, picture, sound, table_config, write_source

Records = list[dict[str, str]]


def judged(
    folder: Path, runtime: Runtime, change: Change | None = None, *, rows: int = 40,
    source: dict[str, Any] | None = None, **rules: Any,
) -> Artifact:  # fmt: skip
    """The verdicts over a fresh source of `rows` samples."""
    config = table_config(write_source(folder / "source", rows, change), source=source, validate=rules)
    return validate(config, {"staging": ingest(config, {}, runtime)}, runtime)


def table(runtime: Runtime, made: Artifact, role: str = "verdicts") -> pl.DataFrame:
    return pl.read_parquet(io.BytesIO(runtime.store.read(made.file(role).path)))


def of_row(runtime: Runtime, made: Artifact, row: int) -> dict[str, Any]:
    return table(runtime, made).row(by_predicate=pl.col("row") == row, named=True)


def messy(records: Records, folder: Path) -> None:
    records[3]["image"] = "none.png"
    records[4]["caption"] = ""
    records[5]["id"] = records[2]["id"]
    for name in ("image", "audio", "caption"):
        records[7][name] = records[6][name]
    (folder / "8.png").write_bytes(b"not a picture")
    records[9]["caption"] = records[9]["image"] = records[9]["audio"] = ""
    records[10]["image"], records[10]["audio"] = records[11]["image"], records[11]["audio"]


def test_every_input_has_exactly_one_verdict_and_the_sum_holds(tmp_path: Path, runtime: Runtime) -> None:
    made = judged(tmp_path, runtime, messy)
    verdicts = table(runtime, made)
    assert verdicts["row"].to_list() == list(range(40))
    assert made.facts["counts"] == {"inputs": 40, "kept": 35, "quarantined": 4, "dropped": 1}
    assert made.facts["reasons"]["quarantined"] == {
        "file_missing": 1, "duplicate_key": 1, "not_an_image": 1, "no_slots": 1,
    }  # fmt: skip
    assert made.facts["reasons"]["dropped"] == {"duplicate": 1}
    kept = verdicts.filter(pl.col("verdict") == "kept")
    assert kept["split"].null_count() == 0
    assert verdicts.filter(pl.col("verdict") != "kept")["reason"].null_count() == 0


def test_quarantine_holds_a_row_per_rejection_and_flag_and_only_flagged_rows_are_kept(
    tmp_path: Path, runtime: Runtime
) -> None:
    made = judged(tmp_path, runtime, messy)
    quarantine = table(runtime, made, "quarantine")
    assert quarantine.columns == ["row", "key", "stage", "slot", "reason", "severity", "message"]
    rejected = set(quarantine.filter(pl.col("severity") == "reject")["row"])
    flagged = set(quarantine["row"]) - rejected
    verdict = dict(table(runtime, made).select("row", "verdict").iter_rows())
    assert {verdict[row] for row in rejected} == {"quarantined"}
    assert {verdict[row] for row in flagged} == {"kept"}
    assert quarantine["message"].null_count() == 0


def test_a_missing_slot_is_normal(tmp_path: Path, runtime: Runtime) -> None:
    made = judged(tmp_path, runtime, messy)
    assert of_row(runtime, made, 4)["verdict"] == "kept"


def test_a_bad_slot_rejects_the_row_or_is_dropped_with_a_flag(tmp_path: Path, runtime: Runtime) -> None:
    def change(records: Records, folder: Path) -> None:
        (folder / "8.png").write_bytes(b"not a picture")

    assert of_row(runtime, judged(tmp_path, runtime, change), 8)["verdict"] == "quarantined"
    made = judged(tmp_path, runtime, change, on_bad_slot="drop_slot")
    row = of_row(runtime, made, 8)
    assert (row["verdict"], row["dropped_slots"]) == ("kept", ["image"])
    flags = table(runtime, made, "quarantine").to_dicts()
    assert [(flag["slot"], flag["severity"]) for flag in flags] == [("image", "flag")]


def test_equal_samples_are_dropped_flagged_or_kept_as_the_policy_says(tmp_path: Path, runtime: Runtime) -> None:
    def change(records: Records, folder: Path) -> None:
        for name in ("image", "audio", "caption"):
            records[7][name] = records[6][name]

    for policy, verdict, noted in (("drop", "dropped", 0), ("flag", "kept", 1), ("keep", "kept", 0)):
        made = judged(tmp_path, runtime, change, duplicates=policy)
        row = of_row(runtime, made, 7)
        assert (row["verdict"], row["exemplar"], row["repeats"]) == (verdict, "s0006", "exact"), policy
        assert table(runtime, made, "quarantine").height == noted


def test_the_same_media_under_other_words_is_linked_but_not_equal(tmp_path: Path, runtime: Runtime) -> None:
    """Five captions of one picture in five rows are five samples; none may leak into another split."""

    def change(records: Records, folder: Path) -> None:
        for at in range(10, 20):
            records[at]["image"], records[at]["audio"] = records[10]["image"], records[10]["audio"]

    made = judged(tmp_path, runtime, change)
    rows = table(runtime, made).filter(pl.col("row").is_between(10, 19))
    assert set(rows["verdict"]) == {"kept"}
    assert len(set(rows["split"])) == 1
    assert set(rows["repeats"].drop_nulls()) == {"same_media"}


def test_a_reencoded_picture_and_a_quieter_clip_are_near_duplicates(tmp_path: Path, runtime: Runtime) -> None:
    import numpy as np
    import soundfile

    def change(records: Records, folder: Path) -> None:
        (folder / "20.png").write_bytes(picture(20, 128))
        Image.open(io.BytesIO(picture(20, 128))).save(folder / "21.png", "JPEG", quality=85)
        wave, rate = soundfile.read(io.BytesIO(sound(20)))
        soundfile.write(folder / "21.wav", (0.5 * wave).astype(np.float32), rate)

    made = judged(tmp_path, runtime, change)
    row = of_row(runtime, made, 21)
    assert (row["verdict"], row["exemplar"], row["repeats"]) == ("kept", "s0020", "near")
    assert row["split"] == of_row(runtime, made, 20)["split"]
    dropped = judged(tmp_path, runtime, change, near_duplicates="drop")
    assert of_row(runtime, dropped, 21)["reason"] == "near_duplicate"


def test_groups_stay_together_and_bridges_are_dropped(tmp_path: Path, runtime: Runtime) -> None:
    """With the user's own splits, a copy in another split would leak: it is dropped, with both splits named."""

    def change(records: Records, folder: Path) -> None:
        for at, record in enumerate(records):
            record["split"] = "test" if at >= 30 else "dev" if at >= 25 else "train"
        for name in ("image", "audio"):
            records[35][name] = records[0][name]

    made = judged(tmp_path, runtime, change, source={"split": "split"})
    row = of_row(runtime, made, 35)
    assert (row["verdict"], row["reason"]) == ("dropped", "bridges_splits")
    assert "'train'" in row["message"]
    assert "'test'" in row["message"]
    assert made.facts["splits"] == {"train": 25, "validation": 5, "test": 9}


def test_an_unknown_split_name_is_rejected(tmp_path: Path, runtime: Runtime) -> None:
    def change(records: Records, folder: Path) -> None:
        for at, record in enumerate(records):
            record["split"] = ("train", "val", "test")[at % 3]
        records[4]["split"] = "tset"

    made = judged(tmp_path, runtime, change, source={"split": "split"})
    assert of_row(runtime, made, 4)["reason"] == "unknown_split"
    assert "tset" in of_row(runtime, made, 4)["message"]


def test_held_out_values_form_their_own_split(tmp_path: Path, runtime: Runtime) -> None:
    holdout = {"column": "voice", "values": ["v2", "v5"]}
    made = judged(tmp_path, runtime, holdout=holdout)
    verdicts = table(runtime, made)
    held = {row for row in range(40) if row % 7 in (2, 5)}
    assert set(verdicts.filter(pl.col("split") == "heldout")["row"]) == held
    with pytest.raises(GateError, match="'heldout' has 0 rows"):
        judged(tmp_path, runtime, holdout={"column": "voice", "values": ["v99"]})


def test_a_failed_gate_is_committed_inspectable_and_never_a_base(tmp_path: Path, runtime: Runtime) -> None:
    def change(records: Records, folder: Path) -> None:
        for record in records[:30]:
            record["image"] = "none.png"

    with pytest.raises(GateError, match=r"kept 10 of 40 inputs \(25.0%\), wanted at least 50.0%"):
        judged(tmp_path, runtime, change)
    made = load(runtime.store, "verdicts", "tiny", 1)
    assert not made.passed
    assert made.facts["gate"]
    assert b"gate failed" in runtime.store.read(made.file("report").path)
    assert latest(runtime.store, "verdicts", "tiny", passed=True) is None
    good = judged(tmp_path, runtime)
    assert (good.version, good.facts["base"]) == (2, None)


def line(config: Config, runtime: Runtime) -> tuple[Artifact, Artifact]:
    staging = ingest(config, {}, runtime)
    verdicts = validate(config, {"staging": staging}, runtime)
    return verdicts, shard(config, {"staging": staging, "verdicts": verdicts}, runtime)


def test_keys_keep_their_splits_from_the_base_version(tmp_path: Path, runtime: Runtime) -> None:
    first, _ = line(table_config(write_source(tmp_path / "source", 40)), runtime)
    second, _ = line(table_config(write_source(tmp_path / "source", 120)), runtime)
    assert second.facts["base"] == "dataset:tiny@1"
    before = dict(table(runtime, first).select("key", "split").iter_rows())
    after = dict(table(runtime, second).select("key", "split").iter_rows())
    assert {key: after[key] for key in before} == before
    changes = table(runtime, second)["change"].value_counts()
    assert dict(changes.iter_rows()) == {"unchanged": 40, "new": 80}


def test_an_exemplar_of_the_base_is_not_displaced_by_a_new_copy_that_comes_first(
    tmp_path: Path, runtime: Runtime
) -> None:
    line(table_config(write_source(tmp_path / "source", 40)), runtime)

    def change(records: Records, folder: Path) -> None:
        records.insert(0, {**records[6], "id": "copy"})

    second, _ = line(table_config(write_source(tmp_path / "source", 40, change)), runtime)
    row = of_row(runtime, second, 0)
    assert (row["key"], row["verdict"], row["exemplar"]) == ("copy", "dropped", "s0006")


def test_the_base_is_lineage_and_not_identity(tmp_path: Path, runtime: Runtime, store: Any) -> None:
    line(table_config(write_source(tmp_path / "source", 40)), runtime)
    second, _ = line(table_config(write_source(tmp_path / "source", 60)), runtime)
    fresh = Runtime(store, rebuild=True)
    alone, _ = line(table_config(tmp_path / "source" / "table.csv"), fresh)
    assert second.fingerprint == alone.fingerprint
    assert (second.facts["base"], alone.facts["base"]) == ("dataset:tiny@1", None)


def test_facts_that_break_their_schema_never_pass(tmp_path: Path, runtime: Runtime) -> None:
    config = table_config(write_source(tmp_path / "source", 40))
    staging = ingest(config, {}, runtime)
    path = staging.file("facts").path
    facts = pl.read_parquet(io.BytesIO(runtime.store.read(path)))

    def put(broken: pl.DataFrame) -> None:
        out = io.BytesIO()
        broken.write_parquet(out)
        runtime.store.write(path, out.getvalue())

    put(
        facts.with_columns(
            pl.when(pl.col("row") == 4).then(pl.lit("junk")).otherwise("image.phash").alias("image.phash")
        )
    )
    made = validate(config, {"staging": staging}, runtime)
    assert of_row(runtime, made, 4)["reason"] == "schema"
    assert "image.phash" in of_row(runtime, made, 4)["message"]
    put(facts.drop("image.width"))
    with pytest.raises(IntegrityError, match=r"image\.width"):
        validate(config, {"staging": staging}, runtime)


def test_counts_that_do_not_add_up_are_an_error() -> None:
    check_counts({"inputs": 3, "kept": 1, "quarantined": 1, "dropped": 1})
    with pytest.raises(IntegrityError, match="3 inputs"):
        check_counts({"inputs": 3, "kept": 1, "quarantined": 1, "dropped": 0})


def test_the_report_and_its_twin_tell_the_same_numbers(tmp_path: Path, runtime: Runtime) -> None:
    made = judged(tmp_path, runtime, messy)
    twin = json.loads(runtime.store.read(made.file("report-json").path))
    assert twin["counts"] == made.facts["counts"]
    assert {row["reason"]: row["rows"] for row in twin["funnel"]["quarantined"]} == made.facts["reasons"]["quarantined"]


# ---------------------------------------------------------------- a user's own splits, and what leaks through them


def leaking(kind: str) -> Change:
    """Own splits, and row 35 (test) that is linked with row 0 (train) in one way."""

    def change(records: Records, folder: Path) -> None:
        for at, record in enumerate(records):
            record["split"] = "test" if at >= 30 else "dev" if at >= 25 else "train"
        if kind == "group":
            records[0]["group"] = records[1]["group"] = records[35]["group"] = "ann"
            return
        (folder / "0.png").write_bytes(picture(0, 128))
        for name in ("image", "audio"):
            records[35][name] = records[0][name]
        if kind == "exact":
            records[35]["caption"] = records[0]["caption"]
        if kind == "near":
            Image.open(io.BytesIO(picture(0, 128))).save(folder / "35.jpg", "JPEG", quality=85)
            records[35]["image"] = "35.jpg"

    return change


@pytest.mark.parametrize("policy", ["keep", "flag", "drop"])
@pytest.mark.parametrize("kind", ["exact", "near", "same_media", "group"])
def test_what_leaks_through_a_users_own_splits_is_dropped_and_told_whatever_the_policy(
    kind: str, policy: str, tmp_path: Path, runtime: Runtime
) -> None:
    """`keep` keeps what repeats another within its split; nothing keeps a leak."""
    made = judged(tmp_path, runtime, leaking(kind), source={"split": "split", "group": "group"},
                  duplicates=policy, near_duplicates=policy)  # fmt: skip
    row = of_row(runtime, made, 35)
    assert row["verdict"] == "dropped"
    by_policy = {"exact": "duplicate", "near": "near_duplicate", "same_media": "same_media"}.get(kind)
    if policy == "drop" and by_policy:
        assert row["reason"] == by_policy
    else:
        assert row["reason"] == "bridges_splits"
        assert "'train'" in row["message"]
        assert "'test'" in row["message"]
    assert row["repeats"] == (None if kind == "group" else kind)
    # every other row is where its user put it
    assert made.facts["splits"] == {"train": 25, "validation": 5, "test": 9}
    assert made.passed


@pytest.mark.parametrize("kind", ["exact", "near", "same_media"])
def test_keep_keeps_without_a_word_within_a_split_and_flag_says_so(kind: str, tmp_path: Path, runtime: Runtime) -> None:
    def change(records: Records, folder: Path) -> None:
        leaking(kind)(records, folder)
        records[35]["split"] = "train"

    for policy, noted in (("keep", []), ("flag", [{"exact": "duplicate", "near": "near_duplicate"}.get(kind, kind)])):
        made = judged(tmp_path / policy, runtime, change, source={"split": "split"},
                      duplicates=policy, near_duplicates=policy)  # fmt: skip
        row = of_row(runtime, made, 35)
        assert (row["verdict"], row["split"], row["exemplar"]) == ("kept", "train", "s0000")
        assert table(runtime, made, "quarantine")["reason"].to_list() == noted


def test_a_leak_that_the_splits_let_through_fails_the_gate(
    tmp_path: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gate counts again by itself: here the splits are made to keep what links two."""
    real = verdicts.assign

    def careless(members: Any, *rest: Any, **more: Any) -> list[Placement]:
        placed = real(members, *rest, **more)
        return [each if each.split else Placement(member.own) for each, member in zip(placed, members, strict=True)]

    monkeypatch.setattr(verdicts, "assign", careless)
    for kind in ("exact", "near", "same_media", "group"):
        with pytest.raises(GateError, match="1 samples repeat a sample of another split"):
            judged(tmp_path / kind, runtime, leaking(kind), source={"split": "split", "group": "group"},
                   duplicates="keep", near_duplicates="keep")  # fmt: skip
