"""The per-shard table of a dataset version: a page that `shard` lays beside the data report."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from mmgen.records import ShardInfo
from mmgen.report import page

SHOWN = 2_000
# a shard is told apart from its split's at this many scaled median absolute deviations (1.4826 · MAD estimates sigma)
OUTLIER_DEVIATIONS = 4.0
SIGMA_PER_MAD = 1.4826
MIN_SHARDS = 4


def shard_rows(shards: Sequence[ShardInfo], stats: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row per shard: split, digest, samples, bytes, bytes per sample, present (slot → share), outlier."""
    rows: list[dict[str, Any]] = [
        {
            "split": shard.split,
            "digest": shard.digest,
            "samples": shard.samples,
            "bytes": shard.size_bytes,
            "each": shard.size_bytes / max(1, shard.samples),
            "present": {slot: count / max(1, shard.samples) for slot, count in about["present"].items()},
            "labels": len(about["labels"]) if about.get("labels") else 0,
        }
        for shard, about in zip(shards, stats, strict=True)
    ]
    for split in {row["split"] for row in rows}:
        mine = [row for row in rows if row["split"] == split]
        unusual = outliers([row["each"] for row in mine])
        for row, odd in zip(mine, unusual, strict=True):
            row["outlier"] = odd
    return rows


def outliers(values: Sequence[float]) -> list[bool]:
    """Which values lie far from the median, in scaled median absolute deviations (Leys et al. 2013).

    Fewer than four values, or values that hardly vary (under 1% of the median), have no outliers.
    """
    if len(values) < MIN_SHARDS:
        return [False] * len(values)
    middle = statistics.median(values)
    spread = SIGMA_PER_MAD * statistics.median(abs(value - middle) for value in values)
    limit = OUTLIER_DEVIATIONS * max(spread, 0.01 * abs(middle))
    return [abs(value - middle) > limit for value in values]


def render(
    name: str, version: int, shards: Sequence[ShardInfo], stats: Sequence[Mapping[str, Any]], slots: Sequence[str]
) -> bytes:
    """The page `shards.html`; at most 2,000 rows, outliers first among those that are shown."""
    rows = shard_rows(shards, stats)
    shown = sorted(rows, key=lambda row: not row["outlier"])[:SHOWN]
    context = {"dataset": name, "version": version, "rows": shown, "count": len(rows), "slots": list(slots)}
    return page.render("shards.html.j2", context)
