"""The data report: one bounded HTML page about a dataset version, and its JSON twin with the same numbers.

Facts stream by once, batch by batch: `count` keeps sketches, counts and a few rows, from which `build` makes the page.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import polars as pl

from mmgen.artifact import Artifact, canonical_json
from mmgen.config import Config
from mmgen.errors import IntegrityError
from mmgen.pairs import PairScores
from mmgen.report import page, pairs, plots, tables
from mmgen.report.gallery import Draw, Facts, Media, show
from mmgen.report.sketches import MAX_NAMES, Sketch
from mmgen.report.tally import Tally, columns, drift, gathered

GALLERY = 24
CLUSTERS_SHOWN, MEMBERS_SHOWN = 6, 3
PLOTTED = 12
LABELS_PLOTTED = 30
CONFIG_CHARS = 200_000
#: numbers that come from facts
MEASURED = ("presence", "labels", "labels_found", "distributions", "categories", "preprocessing")
#: what galleries may take of the page's 10 MB
ROOM = {"gallery": {"picture_bytes": 1_500_000, "sound_bytes": 4_000_000},
        "clusters": {"picture_bytes": 800_000, "sound_bytes": 1_200_000},
        "pairs": {"picture_bytes": 500_000, "sound_bytes": 1_000_000}}  # fmt: skip


class Judged(Protocol):
    """What the report tells of: every input's verdict in row order, every rejection and flag, what the gate said."""

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


@dataclass(frozen=True)
class Counted:
    """What one pass over the facts, and one over those of the base version, leave."""

    now: Tally
    before: Tally
    preprocessing: tables.Preprocessing
    duplicates: dict[str, Any]
    clusters: list[list[int]]
    draw: Draw
    pairs: dict[str, Any]

    @cached_property
    def shifts(self) -> list[dict[str, Any]]:
        """tally.drift of the kept rows against the base version, the strongest first; none without a base."""
        return drift(self.before, self.now)


def count(
    config: Config,
    verdicts: pl.DataFrame,
    facts: Iterable[pl.DataFrame],
    before: Iterable[pl.DataFrame] = (),
    found: Mapping[str, Any] = MappingProxyType({}),
) -> Counted:
    """Read facts once, and the base version's once, in memory that does not grow with them.

    verdicts: of every input, in row order. facts: frames of staged facts, each in row order. before: frames of facts of
    the base version's kept rows, with their split. found: what
    `pairs.numbers` tells. Raises IntegrityError for facts of a row that was not judged.
    """
    slots = {name: slot.modality for name, slot in config.slots.items()}
    repeats = tables.duplicates(verdicts)
    clusters = tables.cluster_rows(verdicts, repeats["clusters"][:CLUSTERS_SHOWN], MEMBERS_SHOWN)
    worst = [each["row"] for each in found.get("pairs", {}).get("worst", ())]
    draw = Draw(GALLERY, [*worst, *(row for each in clusters for row in each)])
    now, then, done = Tally(slots), Tally(slots), tables.Preprocessing(config.slots)
    kept_N = (verdicts["verdict"] == "kept").to_numpy()

    def looked_at() -> Iterator[pl.DataFrame]:
        wanted = sorted({"row", *columns(slots), *done.columns()})
        for frame in facts:
            draw.add(frame, kept_N[_places(verdicts, frame["row"])])
            yield _narrow(frame, wanted)

    for chunk in gathered(looked_at()):
        place = _places(verdicts, chunk["row"])
        kept = _judged(chunk, verdicts, place, slots).filter(pl.Series(kept_N[place]))
        now.add(kept)
        done.add(kept)
    for chunk in gathered(_narrow(frame, columns(slots)) for frame in before):
        then.add(chunk)
    return Counted(now, then, done, repeats, clusters, draw, dict(found))


@dataclass(frozen=True)
class Again:
    """A page that is made anew after samples were forgotten.

    was: the page's JSON twin, of which stays what cannot be counted again. forgotten: samples since the page was made.
    measured: whether the facts of all others could be read. settings: the configuration, as manifests recorded it.
    """

    was: Mapping[str, Any]
    forgotten: int
    measured: bool
    settings: Mapping[str, Any]

    def numbers(self, numbers: Mapping[str, Any]) -> dict[str, Any]:
        """The page's numbers, with those of the version before as they were told then."""
        told = {name: self.was[name] for name in ("previous", "previous_fingerprint", "drift")}
        told["changes"] = numbers["changes"] | {"removed": self.was["changes"]["removed"]}
        told["rendered_again"] = {"forgotten": self.forgotten, "measured": self.measured}
        lost = () if self.measured else MEASURED
        return {name: value for name, value in numbers.items() if name not in lost} | told


def _narrow(frame: pl.DataFrame, names: Sequence[str]) -> pl.DataFrame:
    """Those of the columns that are there; polars' `select` would start its query engine for each batch."""
    return pl.DataFrame([frame.get_column(name) for name in names if name in frame.columns])


def _places(verdicts: pl.DataFrame, rows: pl.Series) -> npt.NDArray[np.int64]:
    """Where the verdicts of these rows stand: they are in row order. Raises IntegrityError if one has none."""
    rows_N, mine = verdicts["row"].to_numpy(), rows.to_numpy()
    place = np.searchsorted(rows_N, mine)
    known = place < len(rows_N)
    known[known] = rows_N[place[known]] == mine[known]
    if not known.all():
        raise IntegrityError(f"staging: facts of row {mine[~known][0]} have no verdict; ingest again")
    return place


def _judged(
    chunk: pl.DataFrame, verdicts: pl.DataFrame, place: npt.NDArray[np.int64], slots: Mapping[str, str]
) -> pl.DataFrame:
    """Facts with the split that was assigned; dropped slots count as absent."""
    mine = verdicts.select("split", "dropped_slots")[place]
    changed = [mine["split"]]
    if int(mine["dropped_slots"].list.len().sum() or 0):
        for slot in slots:
            gone = mine["dropped_slots"].list.contains(slot).fill_null(False)
            changed.append((chunk[f"{slot}.present"] & ~gone).alias(f"{slot}.present"))
    return chunk.with_columns(changed)


def _as_judged(rows: Sequence[Facts], verdicts: pl.DataFrame) -> list[Facts]:
    """The same of single rows."""
    mine = verdicts[_places(verdicts, pl.Series([row["row"] for row in rows], dtype=pl.Int64))]
    return [
        {**row, "split": split, **{f"{slot}.present": False for slot in dropped or ()}}
        for row, split, dropped in zip(rows, mine["split"], mine["dropped_slots"].to_list(), strict=True)
    ]


def build(
    config: Config,
    decision: Judged,
    counted: Counted,
    staging: Artifact,
    media: Media,
    *,
    version: int,
    fingerprint: str,
    before: Artifact | None,
    pair_scores: PairScores | None = None,
    again: Again | None = None,
) -> tuple[bytes, bytes]:
    """(page, JSON twin) of the version. Nothing of time or machine is in them: the same inputs give the same bytes.

    again: for a page that is made anew after samples were forgotten; `before` is not looked at then.
    """
    slots, now = counted.now.slots, counted.now
    first_rows = [int(entry.facts["first_row"]) for entry in staging.by_role("tar")]
    funnel = tables.funnel(decision.verdicts, decision.quarantine)
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
        "dominant": tables.dominant(funnel, decision.counts["inputs"]),
        "funnel": funnel,
        "unnamed": staging.circumstance.get("unnamed"),
        "sources": tables.sources(
            decision.verdicts, first_rows, folders=config.source.kind in ("folder", "image_folder")
        ),
        "presence": tables.presence(now, decision.splits),
        "labels": tables.labels(now),
        "labels_found": {"distinct": len(now.all_labels()), "at_most": MAX_NAMES, "samples": now.all_labels().total()},
        "distributions": tables.distributions(now),
        "categories": tables.categories(now),
        "preprocessing": counted.preprocessing.table(),
        "batches": tables.batches(decision.verdicts, first_rows),
        "duplicates": counted.duplicates,
        "changes": _changes(decision.verdicts, counted.before.n),
        "drift": counted.shifts,
        "slots": slots,
        **counted.pairs,
    }
    drawn = _plots(now, numbers)
    if again:
        numbers = again.numbers(numbers)
    twin = canonical_json(_finite(numbers))
    shown = {
        "rendered_again": None,
        **numbers,
        "batch_count": len(first_rows),
        "plots": drawn,
        "gallery": show(_as_judged(counted.draw.drawn, decision.verdicts), slots, media, **ROOM["gallery"]),
        "repeats": _repeats(counted, decision.verdicts, media),
        "pairs": counted.pairs.get("pairs"),
        "pairs_shown": pairs.shown(pair_scores, counted.pairs, _worst_pairs(counted, decision.verdicts, media)),
        "config": page.shorten(
            json.dumps(again.settings if again else _identity(config), indent=1, ensure_ascii=False), CONFIG_CHARS
        ),
    }
    return page.render("data_report.html.j2", shown), twin


def _identity(config: Config) -> dict[str, Any]:
    """The configuration without where the source lies on this machine."""
    whole = config.to_json()
    whole["source"] = {**whole["source"], "path": PurePosixPath(config.source.path).name, "allow_roots": []}
    return whole


def _changes(verdicts: pl.DataFrame, before: int) -> dict[str, int]:
    """Kept rows against the previous version of `before` rows, whose keys are unique: those not met again are gone."""
    kept = verdicts["change"].filter(verdicts["verdict"] == "kept")
    counts = {change: int((kept == change).sum()) for change in ("new", "unchanged", "changed")}
    return {**counts, "removed": max(0, before - counts["unchanged"] - counts["changed"])}


def _finite(value: Any) -> Any:
    """JSON has no NaN: they become null."""
    return json.loads(json.dumps(value), parse_constant=lambda _: None)


def _plots(now: Tally, numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Inline SVGs: per modality's quantity by split, labels by split."""
    found: dict[str, Any] = {"distributions": [], "labels": None}
    # a quantity that never varies says all in the table
    varied = [column for column, row in numbers["distributions"].items() if row["min"] < row["max"]]
    for column in varied[:PLOTTED]:
        sketches = now.numbers[column]
        series = {split: sketches.get(split, Sketch()) for split in numbers["splits"] if split != "validation"}
        unit = tables.unit(column)
        found["distributions"].append(plots.histogram(series, f"{column} [{unit}]" if unit else column))
    if numbers["labels"]:
        totals = {label: sum(counts.values()) for label, counts in numbers["labels"].items()}
        most = sorted(sorted(totals, key=lambda label: (-totals[label], label))[:LABELS_PLOTTED])
        found["labels"] = plots.bars(
            {split: {label: float(numbers["labels"][label].get(split, 0)) for label in most}
             for split in numbers["splits"]}
        )  # fmt: skip
    return found


def _worst_pairs(counted: Counted, verdicts: pl.DataFrame, media: Media) -> dict[int, dict[str, Any]]:
    """Row → the card of a sample whose slots fit least."""
    found = [counted.draw.by_row[each["row"]] for each in counted.pairs.get("pairs", {}).get("worst", ())
             if each["row"] in counted.draw.by_row]  # fmt: skip
    cards = show(_as_judged(found, verdicts), counted.now.slots, media, **ROOM["pairs"])
    return {row["row"]: card for row, card in zip(found, cards, strict=True)}


def _repeats(counted: Counted, verdicts: pl.DataFrame, media: Media) -> list[list[dict[str, Any]]]:
    """The largest clusters side by side: the exemplar, then what repeats it; texts are not compared."""
    slots = {slot: modality for slot, modality in counted.now.slots.items() if modality != "text"}
    found = counted.draw.by_row
    # the exemplar may be forgotten: what repeats it would still show what it was
    whole = [each for each in counted.clusters if not each or each[0] in found]
    rows = [[found[row] for row in each if row in found] for each in whole]
    shown = iter(show(_as_judged([row for each in rows for row in each], verdicts), slots, media, **ROOM["clusters"]))
    return [[next(shown) for _ in each] for each in rows]
