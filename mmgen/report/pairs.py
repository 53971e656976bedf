"""The section of the data report about pairs: similarities beside those of shuffled pairs, and the worst samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import polars as pl

from mmgen.pairs import REASON, PairScores, thresholds
from mmgen.report import plots
from mmgen.report.sketches import Sketch
from mmgen.validate_config import PairsConfig

WORST = 12
BINS = 40
#: pairs of slots that are drawn; the table has all
PLOTTED = 12

Row = dict[str, Any]


def numbers(scores: PairScores | None, settings: PairsConfig, quarantine: pl.DataFrame) -> Row:
    """{"pairs": …} for the report and its twin; empty if no model has scored the samples.

    "why" says what kept an existing model from scoring, else None. "slots": a threshold per pair of slots, with counts
    of similarities in `BINS` equal bins of [-1, 1]. "worst": the samples whose odd slot lies lowest, worst first.
    """
    if scores is None:
        return {}
    about = {name: scores.artifact.facts.get(name) for name in ("fusion", "rows", "unscored", "why")}
    found: Row = {"ref": scores.artifact.ref, **about, "flagged": 0, "slots": [], "worst": []}
    if scores.table is None:
        return {"pairs": found}
    noted = set(quarantine.filter(pl.col("reason") == REASON)["row"].to_list())
    limits = [asdict(each) for each in thresholds(scores.table, settings)]
    for each in limits:
        mine = scores.table.filter((pl.col("given") == each["given"]) & (pl.col("other") == each["other"]))
        each |= {"similarity": _counts(mine["similarity"]), "shuffled": _counts(mine["shuffled"])}
    worst = [row | {"flagged": row["row"] in noted} for row in _worst(scores.table, limits)]
    return {"pairs": found | {"flagged": len(noted), "slots": limits, "worst": worst}}


def _counts(values: pl.Series) -> list[int]:
    counts: list[int] = np.histogram(values.drop_nulls().to_numpy(), BINS, (-1, 1))[0].tolist()
    return counts


def _worst(table: pl.DataFrame, limits: list[Row]) -> list[Row]:
    """A row per sample: the worst pair of its odd slot. depth: how low the slot's pairs lie on average, where 0 is the
    median of all pairs and 1 the fence."""
    known = pl.DataFrame([{name: each[name] for name in ("given", "other", "median", "fence")} for each in limits])
    odd = table.filter((pl.col("given") == pl.col("odd")) | (pl.col("other") == pl.col("odd")))
    if not odd.height:
        return []
    span = pl.max_horizontal(pl.col("median") - pl.col("fence"), pl.lit(1e-6))
    deep = odd.join(known, on=["given", "other"]).with_columns(
        depth=((pl.col("median") - pl.col("similarity")) / span).mean().over("row")
    )
    first = deep.sort(-pl.col("depth"), "row", "similarity").unique("row", keep="first", maintain_order=True)
    columns = ("row", "key", "given", "other", "odd", "similarity", "outranked", "depth", "better_key",
               "better_similarity")  # fmt: skip
    return first.head(WORST).select(columns).to_dicts()


def shown(scores: PairScores | None, found: Mapping[str, Any], cards: Mapping[int, Row]) -> Row:
    """What the page has beside the numbers: plots, and the worst samples. cards: of samples, by row."""
    pairs, drawn = found.get("pairs", {"slots": [], "worst": []}), []
    # where the page is rendered again there is no table any more
    plotted = pairs["slots"][:PLOTTED] if scores is not None and scores.table is not None else []
    for given, other in [(each["given"], each["other"]) for each in plotted]:
        assert scores is not None
        assert scores.table is not None
        mine = scores.table.filter((pl.col("given") == given) & (pl.col("other") == other))
        series = {name: Sketch.of(mine[name].drop_nulls().to_numpy()) for name in ("similarity", "shuffled")}
        drawn.append(plots.histogram(series, f"similarity of {given} and {other}", bins=BINS))
    gallery = [cards[each["row"]] | {"note": _note(each)} for each in pairs["worst"] if each["row"] in cards]
    return {"plots": drawn, "gallery": gallery}


def _note(worst: Mapping[str, Any]) -> str:
    other = worst["other"] if worst["given"] == worst["odd"] else worst["given"]
    said = f"{worst['odd']} and {other}: {worst['similarity']:.2f}"
    if worst["better_key"] is not None:
        said += f"; with {other} of '{worst['better_key']}': {worst['better_similarity']:.2f}"
    return said + ("; flagged" if worst["flagged"] else "")
