"""The tables of the comparison, as Markdown, from the scores alone."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import polars as pl

from benchmarks.models import settings
from benchmarks.models.cells import BASELINE, FLOW
from mmgen.evaluate import scores

#: contender → what a heading calls it, in the order of the columns
NAMES = {
    FLOW: "ours", "mvtcae": "MVTCAE", "mopoe": "MoPoE", "mmvae_plus": "MMVAE+", "jnf": "JNF",
    BASELINE: "concat baseline",
}  # fmt: skip
SAMPLERS = {"prior": "prior", "gmm": "mixture"}
MEANS = {scores.MEAN_COHERENCE: "mean, one input", f"{scores.MEAN_COHERENCE_OF}2": "mean, two inputs"}
#: the variants that all contenders learn from
VARIANTS = {"complete": "complete data", "half": "half of the training slots missing"}
#: the rows of the short table
SUMMARY = {
    **{name: metric for metric, name in MEANS.items()}, "joint, its better sampler": scores.JOINT_COHERENCE,
    "kernel distance, mean": scores.JUDGE_KERNEL_DISTANCE, "coverage, mean": scores.COVERAGE,
}  # fmt: skip
#: metric → the metric of real rows that says what a perfect generator would score
FLOORS = {
    scores.JUDGE_KERNEL_DISTANCE: scores.JUDGE_KERNEL_FLOOR,
    scores.COVERAGE: scores.COVERAGE + scores.REAL,
    scores.COHERENCE: scores.JUDGE_ACCURACY,
}


def full(table: pl.DataFrame) -> float:
    """The whole budget, in minutes."""
    most = table["minutes"].max()
    assert isinstance(most, float)
    return most


def _measured(table: pl.DataFrame, variant: str) -> pl.DataFrame:
    """A variant's rows with the whole budget."""
    return table.filter(variant=variant).filter(pl.col("minutes") == full(table))


def said(rows: pl.DataFrame, digits: int = 3) -> str:
    """The mean over seeds with the mean of their intervals, which is no narrower than the truth; "–" for none."""
    if rows.is_empty():
        return "–"
    value, low, high = (fmean(rows[name]) for name in ("value", "low", "high"))
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose first column is words."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def arrow(given: str, made: str) -> str:
    """A direction as readers see it."""
    return f"{given.replace(scores.AND, ' + ')} → {made}" if given else made.replace(scores.AND, " + ")


def contenders(table: pl.DataFrame) -> list[str]:
    """Those that have rows, in the order of the columns."""
    return [name for name in NAMES if not table.filter(pl.col("contender") == name).is_empty()]


def beside(table: pl.DataFrame, variant: str, metric: str, digits: int = 3) -> str:
    """A metric of every direction, and of the joint samples by each sampler, a column for each contender."""
    budget = full(table)
    mine = table.filter(variant=variant, metric=metric).filter(pl.col("minutes") == budget)
    floor = table.filter(metric=FLOORS[metric])
    columns = contenders(mine)
    rows = []
    # directions from one input stand before those from two
    inputs = pl.col("given").str.count_matches(scores.AND, literal=True)
    keys = (
        mine.select("given", "made", "sampler").unique().sort(pl.col("given") == "", inputs, "given", "made", "sampler")
    )
    for given, made, sampler in keys.iter_rows():
        here = mine.filter(given=given, made=made, sampler=sampler)
        name = arrow(given, made) + (f", {SAMPLERS[sampler]}" if sampler else "")
        rows.append([name, *(said(here.filter(contender=each), digits) for each in columns),
                     said(floor.filter(made=made), digits)])  # fmt: skip
    if metric == scores.COHERENCE:
        whole = table.filter(variant=variant).filter(pl.col("minutes") == budget)
        rows += _summaries(whole, columns)
    return markdown(["", *(NAMES[each] for each in columns), "real"], rows)


def _summaries(whole: pl.DataFrame, columns: Sequence[str]) -> list[list[str]]:
    """Means over directions, and coherence of joint samples by each sampler."""
    rows = []
    for metric, name in MEANS.items():
        here = whole.filter(metric=metric)
        rows.append([f"**{name}**", *(said(here.filter(contender=each)) for each in columns), ""])
    for sampler, name in SAMPLERS.items():
        here = whole.filter(metric=scores.JOINT_COHERENCE, sampler=sampler)
        rows.append([f"**joint, {name}**", *(said(here.filter(contender=each)) for each in columns), ""])
    return rows


def costs(table: pl.DataFrame, variant: str) -> str:
    """What each contender was charged, and how large it is."""
    rows = []
    mine = _measured(table, variant)
    for name in contenders(mine):
        here = mine.filter(contender=name).unique("seed")
        spread = mine.filter(contender=name, metric=scores.MEAN_COHERENCE)["value"]
        rows.append([
            NAMES[name], str(len(here)), f"{fmean(here['cpu_s']):,.0f}", f"{fmean(here['making_cpu_s']):,.0f}",
            f"{max(here['parameters']):,.0f}", f"{fmean(here['steps']):,.0f}", f"{fmean(here['skipped']):,.0f}",
            f"{max(here['rows']):,.0f}", f"{min(spread):.3f} to {max(spread):.3f}",
        ])  # fmt: skip
    head = ["", "seeds", "CPU s of training", "of making", "parameters", "steps", "skipped", "training rows",
            "mean coherence over seeds"]  # fmt: skip
    return markdown(head, rows)


def curve(table: pl.DataFrame) -> str:
    """Quality over processor minutes, of the contenders that were trained for several budgets."""
    mine = table.filter(variant="complete", seed=0).filter(pl.col("minutes") > 0)
    several = [name for name in contenders(mine) if mine.filter(contender=name)["minutes"].n_unique() > 1]
    return _along(mine.filter(pl.col("contender").is_in(several)), "minutes", "CPU minutes")


def pairs(table: pl.DataFrame) -> str:
    """Quality of ours over the number of pairs that it learned from."""
    mine = table.filter(of_pairs(), contender=FLOW, seed=0).filter(pl.col("minutes") == full(table))
    return _along(mine.with_columns(pairs=pl.col("rows").cast(pl.Int64)), "pairs", "pairs")


def of_pairs() -> pl.Expr:
    """The variants of which nothing is missing."""
    return (pl.col("variant") == "complete") | pl.col("variant").str.starts_with("pairs-")


def missing(table: pl.DataFrame) -> str:
    """Quality of ours over the share of slots that training rows lack."""
    mine = table.filter(pl.col("variant").is_in([*settings.MISSING]), contender=FLOW, seed=0)
    mine = mine.filter(pl.col("minutes") == full(table))
    share = pl.col("variant").replace_strict(settings.MISSING, return_dtype=pl.Float64)
    return _along(mine.with_columns(share=share), "share", "missing share")


def _along(mine: pl.DataFrame, column: str, head: str) -> str:
    rows = []
    for at, name in mine.select(column, "contender").unique().sort(column, "contender").iter_rows():
        here = mine.filter(pl.col(column) == at, pl.col("contender") == name)
        joint = here.filter(metric=scores.JOINT_COHERENCE)
        means = [said(here.filter(metric=metric)) for metric in MEANS]
        rows.append([f"{at:g} {NAMES[name]}", f"{fmean(here['cpu_s']):,.0f}", *means, _better(joint),
                     *(f"{fmean(here.filter(metric=metric, sampler='')['value']):.3f}"
                       for metric in (scores.JUDGE_KERNEL_DISTANCE, scores.COVERAGE))])  # fmt: skip
    return markdown(
        [head, "CPU s", *MEANS.values(), "joint (its better sampler)", "kernel distance, mean", "coverage, mean"], rows
    )


def summary(table: pl.DataFrame, variant: str) -> str:
    """Each contender in a few numbers: means over directions (and seeds), of joint samples the better sampler."""
    mine = _measured(table, variant)
    columns = contenders(mine)
    rows = [["least direction, one input", *(_least(mine.filter(contender=each)) for each in columns)]]
    for name, metric in SUMMARY.items():
        here = mine.filter(metric=metric)
        if metric == scores.JOINT_COHERENCE:
            cells = [_better(here.filter(contender=each)) for each in columns]
        elif metric in MEANS:
            cells = [said(here.filter(contender=each)) for each in columns]
        else:
            directed = here.filter(sampler="")
            cells = [f"{fmean(directed.filter(contender=each)['value']):.3f}" for each in columns]
        rows.append([name, *cells])
    return markdown(["", *(NAMES[each] for each in columns)], rows)


def _least(mine: pl.DataFrame) -> str:
    """The direction from one input with the lowest coherence over seeds."""
    single = mine.filter(metric=scores.COHERENCE).filter(~pl.col("given").str.contains(scores.AND, literal=True))
    means = single.group_by("given", "made").agg(pl.col("value").mean()).sort("value", "given", "made")
    given, made, value = means.row(0)
    return f"{value:.3f} {arrow(given, made)}"


def _better(joint: pl.DataFrame) -> str:
    """Coherence of joint samples by the sampler with the higher mean over seeds."""
    if joint.is_empty():
        return "–"
    best = joint.group_by("sampler").agg(pl.col("value").mean()).sort("value", "sampler")["sampler"][-1]
    return said(joint.filter(sampler=best))


def provenance(table: pl.DataFrame) -> str:
    """Which cells were made on which machine, at which commit."""
    made = table.filter(pl.col("minutes") > 0).unique(["contender", "variant", "seed", "minutes"])
    rows = []
    told = ("contender", "machine", "commit")
    for keys, part in made.sort(*told, "variant", "seed", "minutes").group_by(*told, maintain_order=True):
        name, machine, commit = map(str, keys)
        speed = fmean(part["steps"] / part["cpu_s"])
        rows.append([NAMES[name], str(len(part)), machine, commit[:9], f"{speed:.2f}"])
    return markdown(["", "cells", "machine", "commit", "steps per CPU s"], rows)


def everything(table: pl.DataFrame) -> str:
    """All tables, under headings."""
    there = {variant: name for variant, name in VARIANTS.items() if not _measured(table, variant).is_empty()}
    parts = []
    for variant, name in there.items():
        parts += [f"### In short, {name}", summary(table, variant)]
    for variant, name in there.items():
        parts += [f"### Coherence, {name}", beside(table, variant, scores.COHERENCE)]
        parts += [f"### Kernel distance in the judges' features, {name}",
                  beside(table, variant, scores.JUDGE_KERNEL_DISTANCE)]  # fmt: skip
        parts += [f"### Coverage, {name}", beside(table, variant, scores.COVERAGE)]
        parts += [f"### Costs, {name}", costs(table, variant)]
    parts += ["### Over processor minutes", curve(table), "### Over the number of pairs", pairs(table)]
    parts += ["### Over the share of missing slots", missing(table)]
    parts += ["### Where the cells were made", provenance(table)]
    return "\n\n".join(parts)
