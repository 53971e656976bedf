"""The fusion model's robustness as plots: what is still read from its inputs under noise and under attack."""

from __future__ import annotations

import re
from collections.abc import Iterable

from mmgen.report import plots
from mmgen.report.score_tables import Score

#: metric → what its plot is called; with labels the first, else the second
READ = {
    "label_accuracy": "label accuracy",
    "mean_absolute_error": "mean absolute error",
    "subset_recall_at_1": "recall@1 of the rest",
}
#: end of a metric's name → (title, axis)
UNDER = {
    "noise": ("Fusion under noise", "noise [standard deviations]"),
    "pgd": ("Fusion under attack", "PGD ε [standard deviations]"),
}
#: as many curves as there are colours: the shortest and the longest subsets of inputs
MOST = len(plots.COLOURS)
_NAME = re.compile(rf"({'|'.join(READ)})(?:_(noise|pgd)_([\d.]+))?")


def robustness_plots(rows: Iterable[Score]) -> list[tuple[str, str]]:
    """(title, inline SVG) of each kind of disturbance, a curve per subset of inputs; none without such scores."""
    points: dict[tuple[str, str], dict[str, dict[float, float]]] = {}
    for row in rows:
        if match := _NAME.fullmatch(row.metric):
            metric, under, level = match.groups()
            for each in [under] if under else UNDER:
                points.setdefault((metric, each), {}).setdefault(row.given, {})[float(level or 0)] = row.value
    metric = next((name for name in READ if any(name == found for found, _ in points)), "")
    drawn: list[tuple[str, str]] = []
    for under, (title, axis) in UNDER.items():
        subsets = sorted(points.get((metric, under), {}).items(), key=lambda each: each[0].count("+"))
        shown = subsets[: MOST - 1] + subsets[-1:] if len(subsets) > MOST else subsets
        series = {given: (sorted(curve), [curve[level] for level in sorted(curve)]) for given, curve in shown}
        if series:
            drawn.append((title, plots.lines(series, axis, READ[metric])))
    return drawn
