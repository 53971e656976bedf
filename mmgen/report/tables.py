"""The numbers of the data report: plain data, the same for the page and its JSON twin. Every list is bounded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from mmgen.modalities.config import AudioSlot, ImageSlot, SlotConfig, TextSlot

EXAMPLES = 5
TOP = 50
NUMERIC = {
    "image": ("width", "height", "bytes"),
    "audio": ("seconds", "rms_db", "peak", "bytes"),
    "text": ("chars", "words"),
}
CATEGORIES = {"image": ("mode", "ext"), "audio": ("rate_hz", "channels", "ext"), "text": ()}
UNITS = {"width": "px", "height": "px", "bytes": "bytes", "seconds": "s", "rms_db": "dBFS", "peak": "of full scale"}
#: |KS| or total variation from which a shift is called so
SHIFTS = ((0.3, "large"), (0.15, "medium"), (0.05, "small"))

Row = dict[str, Any]


def funnel(verdicts: pl.DataFrame, quarantine: pl.DataFrame) -> dict[str, list[Row]]:
    """Per verdict other than kept: reason → inputs, with examples. `flags`: notes on rows that are kept."""
    found: dict[str, list[Row]] = {}
    for verdict in ("quarantined", "dropped"):
        part = verdicts.filter(pl.col("verdict") == verdict)
        found[verdict] = [
            {"reason": reason, "rows": group.height, "examples": _examples(group)}
            for reason, group in _by_size(part, "reason")
        ]
    flags = quarantine.filter(pl.col("severity") == "flag")
    found["flags"] = [
        {"reason": reason, "rows": group["row"].n_unique(), "examples": _examples(group)}
        for reason, group in _by_size(flags, "reason")
    ]
    return found


def _by_size(table: pl.DataFrame, column: str) -> list[tuple[str, pl.DataFrame]]:
    groups = [(str(key[0]), group) for key, group in table.group_by(column, maintain_order=True)]
    return sorted(groups, key=lambda each: (-each[1].height, each[0]))[:TOP]


def _examples(table: pl.DataFrame) -> list[Row]:
    rows = table.sort("row").head(EXAMPLES).to_dicts()
    return [{name: row.get(name) for name in ("row", "key", "slot", "message")} for row in rows]


def presence(kept: pl.DataFrame, slots: Sequence[str]) -> Row:
    """How many kept samples have each slot, in each split, and which combinations there are."""
    splits = kept["split"].unique(maintain_order=True).to_list()
    by_split = {
        slot: {split: int(kept.filter(pl.col("split") == split)[f"{slot}.present"].sum()) for split in splits}
        for slot in slots
    }
    flags = [pl.col(f"{slot}.present") for slot in slots]
    counted = kept.select(flags).group_by(flags).len().sort("len", descending=True).head(TOP)
    patterns = [
        {"slots": [slot for slot in slots if row[f"{slot}.present"]], "rows": row["len"]} for row in counted.to_dicts()
    ]
    patterns.sort(key=lambda each: (-each["rows"], each["slots"]))
    return {"by_split": by_split, "patterns": patterns, "of": kept.height}


def labels(kept: pl.DataFrame) -> dict[str, dict[str, int]]:
    """label → split → samples, the most frequent first; empty without labels."""
    counted = kept.drop_nulls("label").group_by("label", "split").len()
    totals = (
        counted.group_by("label").agg(pl.col("len").sum()).sort(["len", "label"], descending=[True, False]).head(TOP)
    )
    wanted = sorted(totals["label"].to_list())
    table: dict[str, dict[str, int]] = {label: {} for label in wanted}
    for row in counted.filter(pl.col("label").is_in(wanted)).sort("split").to_dicts():
        table[row["label"]][row["split"]] = row["len"]
    return table


def distributions(kept: pl.DataFrame, slots: Mapping[str, str]) -> dict[str, Row]:
    """column → quantiles of the measured values."""
    found: dict[str, Row] = {}
    for column, values in numeric_columns(kept, slots).items():
        if len(values):
            low, p5, median, p95, high = np.percentile(values, [0, 5, 50, 95, 100])
            found[column] = {
                "n": len(values), "min": float(low), "p5": float(p5), "median": float(median),
                "p95": float(p95), "max": float(high), "mean": float(values.mean()), "unit": unit(column),
            }  # fmt: skip
    return found


def unit(column: str) -> str:
    """The unit of a probe column, empty where it counts."""
    return UNITS.get(column.rsplit(".", 1)[-1], "")


def numeric_columns(table: pl.DataFrame, slots: Mapping[str, str]) -> dict[str, npt.NDArray[np.float64]]:
    """Finite values of each numeric probe column of the present slots."""
    found: dict[str, npt.NDArray[np.float64]] = {}
    for slot, modality in slots.items():
        for name in NUMERIC[modality]:
            column = f"{slot}.{name}"
            if column in table.columns:
                present = table.filter(pl.col(f"{slot}.present"))
                values = present[column].cast(pl.Float64).drop_nulls().to_numpy()
                found[column] = values[np.isfinite(values)]
    return found


def categories(kept: pl.DataFrame, slots: Mapping[str, str]) -> dict[str, dict[str, int]]:
    """column → value → samples, for probe facts that are names rather than measures."""
    found: dict[str, dict[str, int]] = {}
    for slot, modality in slots.items():
        for name in CATEGORIES[modality]:
            column = f"{slot}.{name}"
            if column in kept.columns:
                found[column] = _counts(kept.filter(pl.col(f"{slot}.present")), column)
    return found


def _counts(table: pl.DataFrame, column: str) -> dict[str, int]:
    counted = table.drop_nulls(column).group_by(pl.col(column).cast(pl.String)).len()
    return {
        row[column]: row["len"] for row in counted.sort(["len", column], descending=[True, False]).head(TOP).to_dicts()
    }


def preprocessing(kept: pl.DataFrame, slots: Mapping[str, SlotConfig]) -> dict[str, list[Row]]:
    """What the configured preprocessing would do to how many of the kept samples, per slot."""
    found: dict[str, list[Row]] = {}
    for slot, config in slots.items():
        table = kept.filter(pl.col(f"{slot}.present"))
        done = _operations(slot, config)
        counts = table.select(expression.fill_null(False).sum().alias(what) for what, expression in done.items())
        found[slot] = [{"what": what, "rows": int(counts[what][0] or 0), "of": table.height} for what in done]
    return found


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
                f"padded to {config.seconds:g} s": seconds < config.seconds,
            }
        case TextSlot():
            # tokens are at least the words and at most the bytes, plus begin and end; the tokeniser is fitted later
            return {
                f"surely truncated to {config.max_tokens} tokens": pl.col(f"{slot}.words") + 2 > config.max_tokens,
                f"possibly truncated to {config.max_tokens} tokens": pl.col(f"{slot}.bytes") + 2 > config.max_tokens,
            }


def duplicates(verdicts: pl.DataFrame) -> Row:
    """Repeats by kind, those that would have leaked, and the largest clusters."""
    linked = verdicts.drop_nulls("exemplar")
    kinds = {row["repeats"]: row["len"] for row in linked.group_by("repeats").len().sort("repeats").to_dicts()}
    clusters = (
        linked.group_by("exemplar")
        .agg(pl.col("key").sort().head(EXAMPLES), pl.len().alias("rows"), pl.col("similarity").min())
        .sort(["rows", "exemplar"], descending=[True, False]).head(TOP)
    )  # fmt: skip
    bridges = verdicts.filter(pl.col("reason") == "bridges_splits").height
    split_of = verdicts.filter(pl.col("verdict") == "kept").select(
        pl.col("key").alias("exemplar"), pl.col("split").alias("other")
    )
    kept = linked.filter(pl.col("verdict") == "kept").join(split_of, on="exemplar")
    leaks = kept.filter(pl.col("split") != pl.col("other")).height
    return {"kinds": kinds, "bridges": bridges, "leaks": leaks, "clusters": clusters.to_dicts()}


def batches(verdicts: pl.DataFrame, first_rows: Sequence[int]) -> list[Row]:
    """Per staging batch (they begin at `first_rows`): inputs and what became of them."""
    place = np.searchsorted(np.asarray(first_rows), verdicts["row"].to_numpy(), side="right") - 1
    names = ("kept", "quarantined", "dropped")
    counted = (
        verdicts.with_columns(batch=pl.Series(place, dtype=pl.Int64)).group_by("batch")
        .agg(pl.len().alias("inputs"), *((pl.col("verdict") == name).sum().alias(name) for name in names))
    )  # fmt: skip
    return counted.sort("batch").to_dicts()


def drift(before: pl.DataFrame, now: pl.DataFrame, slots: Mapping[str, str]) -> list[Row]:
    """Shifts of every measured quantity against the previous version, the strongest first.

    Numbers: Kolmogorov–Smirnov's statistic (largest gap of cumulative shares) and Cohen's d. Names: total variation.
    """
    rows: list[Row] = []
    old, new = numeric_columns(before, slots), numeric_columns(now, slots)
    for column in new:
        if column in old and len(old[column]) and len(new[column]):
            ks, d = ks_statistic(old[column], new[column]), cohens_d(old[column], new[column])
            rows.append(_shift(column, "KS", ks, float(old[column].mean()), float(new[column].mean()), d))
    names = {"label", "split", *categories(now, slots)} & set(before.columns) & set(now.columns)
    for column in sorted(names):
        rows.append(_shift(column, "total variation", total_variation(_counts(before, column), _counts(now, column))))
    for slot in slots:
        if f"{slot}.present" in before.columns and before.height and now.height:
            was, came = (float(table[f"{slot}.present"].cast(pl.Float64).mean() or 0.0) for table in (before, now))  # type: ignore[arg-type]
            rows.append(_shift(f"{slot}.present", "difference", abs(was - came), was, came))
    return sorted(rows, key=lambda row: (-row["effect"], row["what"]))


def _shift(
    what: str,
    measure: str,
    effect: float,
    before: float | None = None,
    now: float | None = None,
    d: float | None = None,
) -> Row:
    strength = next((name for edge, name in SHIFTS if effect >= edge), "none")
    return {
        "what": what,
        "measure": measure,
        "effect": effect,
        "shift": strength,
        "before": before,
        "now": now,
        "cohens_d": d,
    }


def ks_statistic(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    """Largest gap between the two cumulative distributions, 0..1."""
    a, b = np.sort(a), np.sort(b)
    everywhere = np.concatenate([a, b])
    gap = np.searchsorted(a, everywhere, side="right") / len(a) - np.searchsorted(b, everywhere, side="right") / len(b)
    return float(np.abs(gap).max())


def cohens_d(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float | None:
    """(mean b − mean a) over the pooled standard deviation; None if neither varies and they differ."""
    pooled = float(np.sqrt((a.var() + b.var()) / 2))
    difference = float(b.mean() - a.mean())
    # what does not vary beyond rounding has no scale to measure a difference on
    rounding = 1e-6 * max(abs(float(a.mean())), abs(float(b.mean())), 1e-12)
    if pooled <= rounding:
        return 0.0 if abs(difference) <= rounding else None
    return difference / pooled


def total_variation(a: Mapping[str, int], b: Mapping[str, int]) -> float:
    """Half the sum of absolute differences of the shares, 0..1."""
    whole_a, whole_b = sum(a.values()) or 1, sum(b.values()) or 1
    return sum(abs(a.get(name, 0) / whole_a - b.get(name, 0) / whole_b) for name in {*a, *b}) / 2


def texts_of(row: Mapping[str, Any]) -> dict[str, list[str]]:
    """The texts of a facts row, slot → alternatives."""
    found: dict[str, list[str]] = json.loads(row["texts"])
    return found
