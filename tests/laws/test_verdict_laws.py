"""Laws of the verdicts, whatever the rows are: each input one verdict (6), no leak and no wandering key (13)."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from mmgen.decision import BASE_SCHEMA, VERDICT_SCHEMA, Base
from mmgen.inputs import NOTE_SCHEMA, Chunk, gather
from mmgen.records import Rejection
from mmgen.splits import SPLITS
from mmgen.validate_config import ValidateConfig
from mmgen.verdicts import decide

SLOTS = {"text": "text", "image": "image"}
ROW = st.fixed_dictionaries({
    "key": st.integers(0, 40), "group": st.sampled_from([None, None, "a", "b", "c"]),
    "image": st.integers(0, 12) | st.none(),
    "text": st.integers(0, 3), "own": st.sampled_from([None, None, None, "train", "Val", "test", "nonsense"]),
    "voice": st.sampled_from(["low", "high"]), "bad": st.sampled_from([None, None, None, "slot", "row"]),
})  # fmt: skip
RULES = st.builds(
    ValidateConfig,
    duplicates=st.sampled_from(["keep", "drop", "flag"]),
    near_duplicates=st.sampled_from(["keep", "drop", "flag"]),
    on_bad_slot=st.sampled_from(["reject", "drop_slot"]),
    holdout=st.sampled_from([None, {"column": "voice", "values": ["high"]}]),
)


def facts_of(rows: list[dict[str, object]]) -> pl.DataFrame:
    """A facts table of the rows that were not rejected as a whole. Every third picture is near the one before."""
    table = [
        {
            "row": at, "key": f"k{row['key']}", "label": None, "group": row["group"], "split": row["own"],
            "meta": json.dumps({"voice": row["voice"]}), "texts": json.dumps({"text": [f"t{row['text']}"]}),
            "text.present": True, "text.sha256": f"t{row['text']}",
            "image.present": row["image"] is not None,
            "image.sha256": None if row["image"] is None else f"i{row['image']}",
            "image.phash": None if row["image"] is None else f"{(1 << 8 * (int(str(row['image'])) // 3)) - 1:016x}",
        }
        for at, row in enumerate(rows) if row["bad"] != "row"
    ]  # fmt: skip
    return pl.DataFrame(table, schema={
        "row": pl.Int64, **dict.fromkeys(("key", "label", "group", "split", "meta", "texts"), pl.String),
        "text.present": pl.Boolean, "text.sha256": pl.String,
        "image.present": pl.Boolean, "image.sha256": pl.String, "image.phash": pl.String,
    })  # fmt: skip


@settings(max_examples=120)
@given(
    st.lists(ROW, min_size=1, max_size=40),
    RULES,
    st.dictionaries(st.integers(0, 40), st.sampled_from(SPLITS)),
    st.data(),
)
def test_verdicts_keep_their_laws(
    rows: list[dict[str, object]], rules: ValidateConfig, kept_before: dict[int, str], data: st.DataObject
) -> None:
    facts = facts_of(rows)
    rejections = [
        Rejection(
            at, f"k{row['key']}", "ingest", "image" if row["bad"] == "slot" else None, "broken", "reject", "broken"
        )
        for at, row in enumerate(rows)
        if row["bad"] is not None
    ]
    base = {f"k{key}": split for key, split in kept_before.items()}
    before = pl.DataFrame([(key, split, 0) for key, split in base.items()], BASE_SCHEMA, orient="row")
    noted = pl.DataFrame([asdict(each) for each in rejections], schema=NOTE_SCHEMA)
    cut = data.draw(st.integers(0, len(rows)))
    chunks = [Chunk(facts.filter(part), noted.filter(part)) for part in (pl.col("row") < cut, pl.col("row") >= cut)]
    inputs = gather(chunks, SLOTS, rules)
    pictures = dict(facts.select("row", "image.sha256").iter_rows())

    def thumbnail(index: int, slot: int) -> np.ndarray:
        return np.random.default_rng(int(pictures[index][1:]) // 3).random((32, 32), np.float32)

    made = decide(inputs, rules, seed=0, base=Base("dataset:x@1", before), thumbnails=thumbnail)
    assert pl.concat(made.chunks()).columns == list(VERDICT_SCHEMA)
    assert made.verdicts["row"].to_list() == list(range(len(rows)))
    assert made.counts["inputs"] == len(rows) == sum(made.counts[name] for name in ("kept", "quarantined", "dropped"))
    kept = made.verdicts.filter(pl.col("verdict") == "kept").to_dicts()
    assert len({row["key"] for row in kept}) == len(kept)
    assert not [reason for reason in made.gate if "another split" in reason]
    clusters: dict[str, set[str]] = {}
    for row in kept:
        clusters.setdefault(row["exemplar"] or row["key"], set()).add(row["split"])
    # also where the exemplar itself was dropped: what repeats it repeats each other
    assert all(len(found) == 1 for found in clusters.values())
    for row in kept:
        given_split = rows[row["row"]]["own"]
        held = rules.holdout is not None and rows[row["row"]]["voice"] == "high"
        if given_split is not None:
            assert row["split"] == {"Val": "validation"}.get(str(given_split), given_split)
        elif held:
            assert row["split"] == "heldout"
        elif row["key"] in base:
            assert row["split"] == base[row["key"]]
    groups: dict[object, set[str]] = {}
    for row in kept:
        if (group := rows[row["row"]]["group"]) is not None:
            groups.setdefault(group, set()).add(row["split"])
    assert all(len(found) == 1 for found in groups.values())
    rejected = set(made.quarantine.filter(pl.col("severity") == "reject")["row"])
    assert rejected == set(made.verdicts.filter(pl.col("verdict") == "quarantined")["row"])
