"""The numbers of the data report: plain data, the same for the page and its JSON twin. Every list is bounded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from heapq import nsmallest

import numpy as np
import polars as pl

from mmgen.modalities.config import AudioSlot, ImageSlot, SlotConfig, TextSlot
from mmgen.report.page import shorten
from mmgen.report.shard_report import outliers
from mmgen.report.tally import FURTHER, Row, Tally

EXAMPLES = 5
TOP = 50
#: parts of the source that are told apart, batches that are listed, reasons that are named of a part
SOURCES, BATCHES, REASONS = 24, 2_000, 5
#: a reason that hits this share of the inputs or more stands at the top of the page
MOST = 0.2
KEY_CHARS, MESSAGE_CHARS = 200, 400
VERDICTS = ("kept", "quarantined", "dropped")
UNITS = {"width": "px", "height": "px", "bytes": "bytes", "seconds": "s", "rms_db": "dBFS", "peak": "of full scale"}


def funnel(verdicts: pl.DataFrame, quarantine: pl.DataFrame) -> dict[str, list[Row]]:
    """Per verdict other than kept: reason → inputs, with examples. `flags`: notes on rows that are kept."""
    found: dict[str, list[Row]] = {}
    for verdict in ("quarantined", "dropped"):
        found[verdict] = _by_reason(verdicts, pl.col("verdict") == verdict, pl.len())
    found["flags"] = _by_reason(quarantine, pl.col("severity") == "flag", pl.col("row").n_unique())
    return found


def _by_reason(table: pl.DataFrame, which: pl.Expr, rows: pl.Expr) -> list[Row]:
    """The most frequent reasons of some rows of a table in row order. Only the examples' texts are ever gathered."""
    counted = table.lazy().filter(which).group_by("reason").agg(rows.alias("rows")).collect()
    most = counted.sort(["rows", "reason"], descending=[True, False]).head(TOP)
    return [
        {**row, "examples": _examples(table, which & (pl.col("reason") == row["reason"]))} for row in most.to_dicts()
    ]


def _examples(table: pl.DataFrame, which: pl.Expr) -> list[Row]:
    first = table.select(which.arg_true().head(EXAMPLES)).to_series()
    return [
        {
            "row": row["row"], "key": shorten(row["key"] or "", KEY_CHARS), "slot": row.get("slot"),
            "message": shorten(row["message"] or "", MESSAGE_CHARS),
        }
        for row in table[first].to_dicts()
    ]  # fmt: skip


def dominant(found: Mapping[str, Sequence[Row]], inputs: int) -> list[Row]:
    """Reasons that hit MOST of the inputs or more, the most frequent first: what to look at before anything else."""
    rows = [
        {"verdict": verdict, "reason": row["reason"], "rows": row["rows"], "share": row["rows"] / inputs,
         "examples": row["examples"][:3]}
        for verdict, group in found.items() for row in group if row["rows"] >= MOST * inputs
    ]  # fmt: skip
    return sorted(rows, key=lambda row: (-row["rows"], row["reason"]))


def sources(verdicts: pl.DataFrame, first_rows: Sequence[int], *, folders: bool) -> Row:
    """What became of the inputs by the part of the source that they came from.

    folders: keys are paths, and a part is a first folder, the largest first; else a part is a run of rows, of whole
    batches, in their order. Facts do not say which file of several a row came from.
    """
    starts = list(first_rows[:: max(1, -(-len(first_rows) // SOURCES))])
    if folders:
        part = verdicts["key"].str.extract("^([^/]*)/").fill_null("(no folder)")
    else:
        place_N = np.searchsorted(np.asarray(starts), verdicts["row"].to_numpy(), side="right") - 1
        part = pl.Series(place_N, dtype=pl.Int64)
    counted = verdicts.lazy().group_by(part.alias("part"), "verdict", "reason").len().collect()
    totals = counted.group_by("part").agg(
        pl.col("len").sum().alias("inputs"),
        *(pl.col("len").filter(pl.col("verdict") == name).sum().alias(name) for name in VERDICTS),
    )
    most = totals.sort(["inputs", "part"], descending=[True, False]) if folders else totals.sort("part")
    ends = [start - 1 for start in starts[1:]] + verdicts["row"].tail(1).to_list()
    rows = []
    for row in most.head(TOP).to_dicts():
        at = row.pop("part")
        mine = counted.filter((pl.col("part") == at) & pl.col("reason").is_not_null())
        reasons = mine.group_by("reason").agg(pl.col("len").sum()).sort(["len", "reason"], descending=[True, False])
        name = shorten(at, KEY_CHARS) if folders else f"rows {starts[at]} to {ends[at]}"
        rows.append({"source": name, **row, "reasons": dict(reasons.head(REASONS).iter_rows())})
    return {"by": "folder" if folders else "rows", "parts": rows, "further": totals.height - len(rows)}


def batches(verdicts: pl.DataFrame, first_rows: Sequence[int]) -> list[Row]:
    """Per staging batch (they begin at `first_rows`): inputs and what became of them.

    Beyond 2,000 batches, runs of them, named by the first. outlier: its share of kept rows is unlike the others'.
    """
    step = max(1, -(-len(first_rows) // BATCHES))
    starts = np.asarray(first_rows[::step])
    place_N = np.searchsorted(starts, verdicts["row"].to_numpy(), side="right") - 1
    counts = {"inputs": np.bincount(place_N, minlength=len(starts))}
    for name in VERDICTS:
        counts[name] = np.bincount(place_N[(verdicts["verdict"] == name).to_numpy()], minlength=len(starts))
    odd = outliers((counts["kept"] / np.maximum(1, counts["inputs"])).tolist())
    return [
        {"batch": at * step, **{name: int(count_B[at]) for name, count_B in counts.items()}, "outlier": odd[at]}
        for at in range(len(starts))
    ]


def presence(tally: Tally, splits: Iterable[str]) -> Row:
    """How many kept samples have each slot, in each split, and which combinations there are."""
    slots = list(tally.slots)
    by_split = {
        slot: {split: tally.present[slot][split] if slot in tally.present else 0 for split in splits} for slot in slots
    }
    most = tally.patterns.top(TOP)
    patterns: list[Row] = [
        {"slots": [slot for slot, flag in zip(slots, pattern, strict=True) if flag == "1"], "rows": rows}
        for pattern, rows in most.items()
    ]
    patterns.sort(key=lambda each: (-each["rows"], each["slots"]))
    return {"by_split": by_split, "patterns": patterns, "of": tally.n, "further": tally.n - sum(most.values())}


def labels(tally: Tally) -> dict[str, dict[str, int]]:
    """label → split → samples: the most frequent, by name; empty without labels."""
    totals = tally.all_labels()
    totals.pop(FURTHER, None)
    most = sorted(nsmallest(TOP, totals, key=lambda label: (-totals[label], label)))
    return {
        label: {split: names.counts[label] for split, names in sorted(tally.labels.items()) if label in names.counts}
        for label in most
    }


def distributions(tally: Tally) -> dict[str, Row]:
    """column → quantiles of the measured values. n, min, max and mean are exact, others to `error` of themselves."""
    found: dict[str, Row] = {}
    for column in tally.numbers:
        sketch = tally.whole(column)
        if sketch.n:
            found[column] = {
                "n": sketch.n, "min": sketch.low, "p5": sketch.quantile(0.05), "median": sketch.quantile(0.5),
                "p95": sketch.quantile(0.95), "max": sketch.high, "mean": sketch.mean, "unit": unit(column),
                "error": sketch.error,
            }  # fmt: skip
    return found


def unit(column: str) -> str:
    """The unit of a probe column, empty where it counts."""
    return UNITS.get(column.rsplit(".", 1)[-1], "")


def categories(tally: Tally) -> dict[str, dict[str, int]]:
    """column → value → samples, for probe facts that are names rather than measures."""
    return {column: names.top(TOP) for column, names in tally.categories.items()}


class Preprocessing:
    """Counts what the configured preprocessing would do to how many of the kept samples, per slot."""

    def __init__(self, slots: Mapping[str, SlotConfig]) -> None:
        self._done = {slot: _operations(slot, config) for slot, config in slots.items()}
        self._rows = {slot: dict.fromkeys(done, 0) for slot, done in self._done.items()}
        self._of = dict.fromkeys(slots, 0)

    def columns(self) -> set[str]:
        """The facts that it looks at."""
        return {name for done in self._done.values() for each in done.values() for name in each.meta.root_names()}

    def add(self, chunk: pl.DataFrame) -> None:
        """Count a chunk of kept rows."""
        asked = []
        for slot, done in self._done.items():
            here = pl.col(f"{slot}.present")
            asked.append(here.sum().alias(f"{slot}."))
            asked += [(here & each.fill_null(False)).sum().alias(f"{slot}.{what}") for what, each in done.items()]
        counts = chunk.select(asked).row(0, named=True)
        for slot, rows in self._rows.items():
            self._of[slot] += counts[f"{slot}."]
            for what in rows:
                rows[what] += counts[f"{slot}.{what}"]

    def table(self) -> dict[str, list[Row]]:
        """slot → what is done, to how many, of how many."""
        return {
            slot: [{"what": what, "rows": count, "of": self._of[slot]} for what, count in rows.items()]
            for slot, rows in self._rows.items()
        }


def _operations(slot: str, config: SlotConfig) -> dict[str, pl.Expr]:
    """What is done → whether it is done to a sample."""
    match config:
        case ImageSlot():
            width, height = pl.col(f"{slot}.width"), pl.col(f"{slot}.height")
            square = width == height
            side = pl.max_horizontal(width, height) if config.resize == "pad" else pl.min_horizontal(width, height)
            wanted = "L" if config.channels == 1 else "RGB"
            operations = {
                f"enlarged to {config.size_px} px": side < config.size_px,
                f"reduced to {config.size_px} px": side > config.size_px,
                f"converted to {wanted}": pl.col(f"{slot}.mode") != wanted,
            }
            name = {
                "stretch": "stretched to a square",
                "fit": f"cropped to a square ({config.crop})",
                "pad": "padded to a square",
            }
            return operations | {name[config.resize]: ~square}
        case AudioSlot():
            seconds = pl.col(f"{slot}.seconds")
            return {
                f"resampled to {config.sample_rate_hz} Hz": pl.col(f"{slot}.rate_hz") != config.sample_rate_hz,
                "mixed down to one channel": pl.col(f"{slot}.channels") > 1,
                f"cropped to {config.seconds:g} s ({config.crop})": seconds > config.seconds,
                f"{'left shorter than' if config.variable else 'padded to'} {config.seconds:g} s": (
                    seconds < config.seconds
                ),
            }
        case TextSlot():
            # tokens are at least the words and at most the bytes, plus begin and end; the tokeniser is fitted later
            return {
                f"surely truncated to {config.max_tokens} tokens": pl.col(f"{slot}.words") + 2 > config.max_tokens,
                f"possibly truncated to {config.max_tokens} tokens": pl.col(f"{slot}.bytes") + 2 > config.max_tokens,
            }


def duplicates(verdicts: pl.DataFrame) -> Row:
    """Repeats by kind, those that would have leaked, and the largest clusters."""
    linked = (
        verdicts.lazy().filter(pl.col("exemplar").is_not_null())
        .select("exemplar", "key", "repeats", "similarity", "verdict", "split").collect()
    )  # fmt: skip
    kinds = {row["repeats"]: row["len"] for row in linked.group_by("repeats").len().sort("repeats").to_dicts()}
    clusters = (
        linked.group_by("exemplar")
        .agg(pl.col("key").sort().head(EXAMPLES), pl.len().alias("rows"), pl.col("similarity").min())
        .sort(["rows", "exemplar"], descending=[True, False]).head(TOP)
    )  # fmt: skip
    kept = linked.filter(pl.col("verdict") == "kept")
    exemplars = (
        verdicts.lazy().filter((pl.col("verdict") == "kept") & pl.col("key").is_in(kept["exemplar"].unique().implode()))
        .select(pl.col("key").alias("exemplar"), pl.col("split").alias("other")).collect()
    )  # fmt: skip
    leaks = kept.join(exemplars, on="exemplar").filter(pl.col("split") != pl.col("other")).height
    bridges = int((verdicts["reason"] == "bridges_splits").sum() or 0)
    return {"kinds": kinds, "bridges": bridges, "leaks": leaks, "clusters": clusters.to_dicts()}


def cluster_rows(verdicts: pl.DataFrame, clusters: Sequence[Row], members: int) -> list[list[int]]:
    """The row numbers of each cluster's exemplar and first members."""
    keys = [[cluster["exemplar"], *cluster["key"][:members]] for cluster in clusters]
    wanted = pl.Series([key for each in keys for key in each], dtype=pl.String).unique()
    # a key that occurs twice was judged once: its later rows are quarantined
    found = dict(
        verdicts.lazy().filter(pl.col("key").is_in(wanted.implode()) & (pl.col("verdict") != "quarantined"))
        .select("key", "row").collect().iter_rows()
    )  # fmt: skip
    return [[found[key] for key in each if key in found] for each in keys]
