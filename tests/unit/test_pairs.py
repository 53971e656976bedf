"""Thresholds and flags from similarities alone: vectors of three slots, drawn around the corners of ten classes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import polars as pl
import pytest

from data_schemas.pairs import broken
from mmgen.artifact import Artifact
from mmgen.config import build
from mmgen.features import SlotRows
from mmgen.identity import config_part
from mmgen.inputs import NOTE_SCHEMA
from mmgen.pairs import LEAST, PairScores, mismatched, thresholds
from mmgen.report.pairs import numbers
from mmgen.similarities import AMONG, Rows, compare
from mmgen.validate_config import PairsConfig

SLOTS = ("audio", "image", "text")
MODALITIES = {"audio": "audio", "image": "image", "text": "text"}
ARTIFACT = Artifact("pairs", "a", 1, "", "", "score-pairs", {}, {}, (), {})


def vectors(rows: int, noise: float, classes: int = 10) -> dict[str, np.ndarray]:
    """Slot → (rows, D): row n is near the corner of its class n % classes in every slot."""
    rng = np.random.default_rng(0)
    corner = np.eye(max(classes, 16))[np.arange(rows) % classes]
    return {slot: corner + noise * rng.normal(size=corner.shape) for slot in SLOTS}


def table(
    found: Mapping[str, np.ndarray], missing: Mapping[str, set[int]] | None = None, size: int = 64
) -> pl.DataFrame:
    """Their scores, in batches of `size` rows."""
    rows = len(next(iter(found.values())))
    batches = []
    for first in range(0, rows, size):
        numbers = np.arange(first, min(first + size, rows))
        slots = {}
        for slot, e_ND in found.items():
            kept = [number for number in numbers if number not in (missing or {}).get(slot, ())]
            unit = e_ND[kept] / np.linalg.norm(e_ND[kept], axis=1, keepdims=True)
            counts = [number in kept for number in numbers]
            offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
            slots[slot] = SlotRows(unit[:, None].astype(np.float16), offsets)
        batches.append(Rows(numbers, [f"k{number:03d}" for number in numbers], slots))
    made = compare(batches, MODALITIES)
    assert not broken(made)
    return made


def noted(scores: pl.DataFrame, settings: PairsConfig = PairsConfig()) -> dict[str, str | None]:  # noqa: B008
    """Key → the slot that is odd."""
    return {found.key: found.slot for found in mismatched(PairScores(ARTIFACT, scores), settings, {})}


def swapped(found: dict[str, np.ndarray], slot: str, pairs: list[tuple[int, int]]) -> dict[str, np.ndarray]:
    moved = found[slot].copy()
    for one, other in pairs:
        moved[[one, other]] = moved[[other, one]]
    return {**found, slot: moved}


@pytest.mark.parametrize("slot", SLOTS)
def test_the_swapped_slot_is_the_odd_one_and_names_its_partner(slot: str) -> None:
    pairs = [(0, 11), (22, 33), (44, 55), (66, 77), (88, 99)]
    scores = table(swapped(vectors(400, 0.08), slot, pairs))
    keys = {f"k{number:03d}" for pair in pairs for number in pair}
    assert noted(scores) == dict.fromkeys(keys, slot)
    better = {row["key"]: row["better_key"] for row in scores.drop_nulls("better_key").to_dicts()}
    assert all(better[f"k{a:03d}"] == f"k{b:03d}" for pair in pairs for a, b in (pair, pair[::-1]))


def test_captions_that_go_on_by_one_row_name_the_row_they_belong_to() -> None:
    found = vectors(400, 0.05)
    found["text"][100:105] = found["text"][[101, 102, 103, 104, 100]]
    scores = table(found)
    assert noted(scores) == {f"k{number}": "text" for number in range(100, 105)}
    better = {row["key"]: row["better_key"] for row in scores.drop_nulls("better_key").to_dicts()}
    assert [better[f"k{number}"] for number in range(100, 104)] == ["k101", "k102", "k103", "k104"]


@pytest.mark.parametrize("noise", [0.02, 0.1, 0.2, 0.4, 1.0])
def test_clean_pairs_are_let_be_however_well_the_model_tells(noise: float) -> None:
    assert len(noted(table(vectors(1_000, noise)))) <= 2


def test_a_model_that_cannot_tell_has_no_threshold() -> None:
    scores = table({slot: np.random.default_rng(at).normal(size=(300, 16)) for at, slot in enumerate(SLOTS)})
    assert [each.below for each in thresholds(scores, PairsConfig())] == [None] * 3
    assert noted(scores) == {}


def test_a_tenth_of_wrong_pairs_does_not_hide_itself() -> None:
    pairs = [(number, number + 201) for number in range(40)]
    scores = table(swapped(vectors(800, 0.08), "text", pairs))
    keys = {f"k{number:03d}" for pair in pairs for number in pair}
    assert noted(scores).keys() <= keys
    assert len(noted(scores)) >= 0.85 * len(keys)


def test_missing_slots_are_no_pairs_and_few_pairs_no_judgement() -> None:
    missing = {"audio": set(range(0, 400, 2)), "image": set(range(0, 400, 4))}
    scores = table(vectors(400, 0.08), missing)
    count = {(given, other): part.height for (given, other), part in scores.group_by("given", "other")}
    assert count == {("audio", "image"): 200, ("audio", "text"): 200, ("image", "text"): 300}
    assert noted(scores) == {}
    few = swapped(vectors(LEAST - 1, 0.02), "text", [(0, 1)])
    assert noted(table(few)) == {}


def test_the_batches_do_not_matter_and_nobody_is_compared_with_himself() -> None:
    found = vectors(150, 0.3)
    one, many = table(found, size=150), table(found, size=7)
    assert one.drop("similarity", "shuffled", "better_similarity").equals(
        many.drop("similarity", "shuffled", "better_similarity")
    )
    assert sorted(one["among"].unique()) == [AMONG - 1, AMONG]


def test_a_broken_table_is_told() -> None:
    scores = table(vectors(40, 0.1))
    assert "similarity" in broken(scores.with_columns(similarity=pl.lit(1.5, pl.Float32)))
    assert broken(scores.with_columns(given=pl.lit("zebra")))


def test_samples_of_one_slot_each_have_no_scores() -> None:
    missing = {"audio": set(range(20, 60)), "image": {*range(20), *range(40, 60)}, "text": set(range(40))}
    scores = table(vectors(60, 0.1), missing)
    assert scores.height == 0
    assert noted(scores) == {}
    found = numbers(PairScores(ARTIFACT, scores), PairsConfig(), pl.DataFrame(schema=NOTE_SCHEMA))["pairs"]
    assert (found["slots"], found["worst"]) == ([], [])


def test_settings_at_their_defaults_leave_older_verdicts_as_they_are() -> None:
    source = {"kind": "table", "path": "x.csv", "text": "t", "image": "i"}
    plain = build({"name": "a", "source": source})
    assert "pairs" not in config_part("validate", plain)["validate"]
    other = build({"name": "a", "source": source, "validate": {"pairs": {"fence_iqr": 2}}})
    assert config_part("validate", other)["validate"]["pairs"]["fence_iqr"] == 2
    assert config_part("ingest", other) == config_part("ingest", plain)
