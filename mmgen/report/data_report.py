"""The data report: one bounded HTML page about a dataset version, and its JSON twin with the same numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Protocol

import polars as pl
from markupsafe import Markup

from mmgen.artifact import Artifact, canonical_json
from mmgen.config import Config
from mmgen.pairs import PairScores
from mmgen.report import page, pairs, plots, tables

GALLERY = 24
CLUSTERS_SHOWN = 6
PLOTTED = 12
SHOWN_ORDER = ("image", "text", "audio")


class Judged(Protocol):
    """What the report tells of: every input's verdict, every rejection and flag, and what the gate said."""

    @property
    def verdicts(self) -> pl.DataFrame: ...
    @property
    def quarantine(self) -> pl.DataFrame: ...
    @property
    def counts(self) -> Mapping[str, int]: ...
    @property
    def splits(self) -> Mapping[str, int]: ...
    @property
    def gate(self) -> Sequence[str]: ...


class Media(Protocol):
    """The staged media."""

    def read(self, row: int, slot: str, ext: str) -> bytes:
        """The bytes of a slot of a row."""


def build(
    config: Config,
    decision: Judged,
    facts: pl.DataFrame,
    staging: Artifact,
    media: Media,
    *,
    version: int,
    fingerprint: str,
    before: Artifact | None,
    before_facts: pl.DataFrame | None,
    pair_scores: PairScores | None = None,
) -> tuple[bytes, bytes]:
    """(page, JSON twin) of the version. Nothing of time or machine is in them: the same inputs give the same bytes."""
    slots = {name: slot.modality for name, slot in config.slots.items()}
    kept = _kept(facts, decision, slots)
    numbers: dict[str, Any] = {
        "dataset": config.name,
        "version": version,
        "verdict": {"passed": not decision.gate, "reasons": list(decision.gate)},
        "fingerprint": fingerprint,
        "staging": {"ref": staging.ref, "fingerprint": staging.fingerprint},
        "previous": before.ref if before else None,
        "previous_fingerprint": before.fingerprint if before else None,
        "counts": decision.counts,
        "splits": decision.splits,
        "funnel": tables.funnel(decision.verdicts, decision.quarantine),
        "presence": tables.presence(kept, list(slots)),
        "labels": tables.labels(kept),
        "distributions": tables.distributions(kept, slots),
        "categories": tables.categories(kept, slots),
        "preprocessing": tables.preprocessing(kept, config.slots),
        "batches": tables.batches(
            decision.verdicts, [int(entry.facts["first_row"]) for entry in staging.by_role("tar")]
        ),
        "duplicates": tables.duplicates(decision.verdicts),
        "changes": _changes(decision, before_facts),
        "drift": shifts(facts, decision, slots, before_facts),
        "slots": slots,
        **pairs.numbers(pair_scores, config.validate_.pairs, decision.quarantine),
    }
    twin = canonical_json(_finite(numbers))
    shown = {
        **numbers,
        "plots": _plots(kept, slots, numbers),
        "gallery": _gallery(kept, slots, media),
        "pairs": numbers.get("pairs"),
        "pairs_shown": pairs.shown(pair_scores, numbers, facts, lambda row: _shown(row, slots, media)),
        "repeats": _repeats(numbers["duplicates"], facts, slots, media),
        "config": _identity(config),
    }
    return page.render("data_report.html.j2", shown), twin


def shifts(
    facts: pl.DataFrame, decision: Judged, slots: Mapping[str, str], before: pl.DataFrame | None
) -> list[dict[str, Any]]:
    """tables.drift of the kept rows against those of the base version, the strongest first; none without a base."""
    return tables.drift(before, _kept(facts, decision, slots), slots) if before is not None and before.height else []


def _identity(config: Config) -> dict[str, Any]:
    """The configuration without where the source lies on this machine."""
    whole = config.to_json()
    whole["source"] = {**whole["source"], "path": PurePosixPath(config.source.path).name, "allow_roots": []}
    return whole


def _kept(facts: pl.DataFrame, decision: Judged, slots: Mapping[str, str]) -> pl.DataFrame:
    """Facts of the kept rows with their assigned split; dropped slots count as absent."""
    judged = decision.verdicts.filter(pl.col("verdict") == "kept").select(
        "row", pl.col("split").alias("assigned"), "dropped_slots"
    )
    rows = facts.join(judged, on="row", how="inner", maintain_order="left")
    gone = [
        (pl.col(f"{slot}.present") & ~pl.col("dropped_slots").list.contains(slot)).alias(f"{slot}.present")
        for slot in slots
    ]
    return rows.with_columns(*gone, split=pl.col("assigned")).drop("assigned", "dropped_slots")


def _changes(decision: Judged, before: pl.DataFrame | None) -> dict[str, int]:
    """Kept rows against the previous version."""
    kept = decision.verdicts.filter(pl.col("verdict") == "kept")
    counts = {change: kept.filter(pl.col("change") == change).height for change in ("new", "unchanged", "changed")}
    removed = 0
    if before is not None and before.height:
        removed = before.join(kept.select("key"), on="key", how="anti").height
    return {**counts, "removed": removed}


def _finite(value: Any) -> Any:
    """JSON has no NaN: they become null."""
    return json.loads(json.dumps(value), parse_constant=lambda _: None)


def _plots(kept: pl.DataFrame, slots: Mapping[str, str], numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Inline SVGs: per modality's quantity by split, labels by split."""
    found: dict[str, Any] = {"distributions": [], "labels": None}
    by_split = {split: kept.filter(pl.col("split") == split) for split in numbers["splits"]}
    measured = {
        split: tables.numeric_columns(table, slots) for split, table in by_split.items() if split != "validation"
    }
    # a quantity that never varies says all in the table
    varied = [column for column, row in numbers["distributions"].items() if row["min"] < row["max"]]
    for column in varied[:PLOTTED]:
        series = {split: columns[column] for split, columns in measured.items() if column in columns}
        unit = tables.unit(column)
        found["distributions"].append(plots.histogram(series, f"{column} [{unit}]" if unit else column))
    if numbers["labels"]:
        most = dict(list(numbers["labels"].items())[:30])
        found["labels"] = plots.bars(
            {split: {label: float(counts.get(split, 0)) for label, counts in most.items()} for split in by_split}
        )
    return found


def _gallery(kept: pl.DataFrame, slots: Mapping[str, str], media: Media) -> list[dict[str, Any]]:
    """A few samples, drawn by the hash of their key: pictures, players, captions."""
    keys = sorted(kept["key"].to_list(), key=lambda key: hashlib.sha256(key.encode()).digest())[:GALLERY]
    rows = {row["key"]: row for row in kept.filter(pl.col("key").is_in(keys)).iter_rows(named=True)}
    return [_shown(rows[key], slots, media) for key in keys]


def _shown(row: Mapping[str, Any], slots: Mapping[str, str], media: Media) -> dict[str, Any]:
    """One sample for the page."""
    texts = tables.texts_of(row)
    parts: list[dict[str, Markup | str | int | None]] = []
    for slot, modality in sorted(slots.items(), key=lambda each: SHOWN_ORDER.index(each[1])):
        if not row[f"{slot}.present"]:
            continue
        if modality == "text":
            said = texts.get(slot, [""])
            parts.append({"slot": slot, "modality": modality, "text": said[0], "more": len(said) - 1})
        else:
            data = media.read(row["row"], slot, row[f"{slot}.ext"])
            parts.append(
                {
                    "slot": slot,
                    "modality": modality,
                    "uri": page.picture(data) if modality == "image" else page.clip(data),
                }
            )
    return {"key": row["key"], "label": row["label"], "split": row["split"], "parts": parts}


def _repeats(
    duplicates: Mapping[str, Any], facts: pl.DataFrame, slots: Mapping[str, str], media: Media
) -> list[list[dict[str, Any]]]:
    """The largest clusters side by side: the exemplar, then what repeats it."""
    shown = []
    shown_slots = {slot: modality for slot, modality in slots.items() if modality != "text"}
    for cluster in duplicates["clusters"][:CLUSTERS_SHOWN]:
        keys = [cluster["exemplar"], *cluster["key"][:3]]
        rows = {row["key"]: row for row in facts.filter(pl.col("key").is_in(keys)).iter_rows(named=True)}
        shown.append([_shown(rows[key], shown_slots, media) for key in keys if key in rows])
    return shown
