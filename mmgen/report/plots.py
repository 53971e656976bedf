"""Plots as inline SVG: small, in the page's own type and colours, the same bytes for the same numbers."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter, PercentFormatter

from mmgen.report.sketches import Sketch

# one hue per series, told apart in print and by colour-blind readers
COLOURS = ("#2b6cb0", "#d97706", "#2f855a", "#9f1239", "#6b46c1", "#4a5568")
LABEL_CHARS = 24
#: greatest value over median from which an axis is logarithmic
SKEWED = 30
INK, GRID = "#374151", "#e5e7eb"
# matplotlib types each key as a literal
_STYLE: Any = {
    # a user's label is never a formula
    "text.parse_math": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "mmgen",
    "font.family": "sans-serif",
    "font.size": 8.5,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
}


def _figure(width: float, height: float, *, bottom: float = 0.42) -> tuple[Figure, Any]:
    """A figure of inches with fixed margins: measuring the text instead takes longer than drawing."""
    figure = Figure(figsize=(width, height))
    figure.subplots_adjust(left=0.5 / width, right=1 - 0.1 / width, bottom=bottom / height, top=1 - 0.26 / height)
    return figure, figure.subplots()


def _legend(axes: Any) -> None:
    """Above the axes, where it hides nothing."""
    axes.legend(
        frameon=False, fontsize=7.5, loc="lower left", bbox_to_anchor=(-0.02, 0.98), ncols=4, handlelength=1.2,
        columnspacing=1.2,
    )  # fmt: skip


def _svg(figure: Figure) -> Markup:
    out = io.StringIO()
    with warnings.catch_warnings():
        # the reader's browser has the glyphs that matplotlib's font lacks
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    # the page scales a plot by its box; matplotlib's ids repeat between plots and nothing refers to groups
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    # the page's style has these two for light and for dark
    text = re.sub(rf": ?{INK}\b", f": var(--plot-ink, {INK})", text)
    return Markup(re.sub(rf": ?{GRID}\b", f": var(--plot-grid, {GRID})", text))


def histogram(series: Mapping[str, Sketch], xlabel: str, *, bins: int = 30) -> Markup:
    """Shares of several samples of one quantity in common bins: the first filled, the others as lines.

    A quantity without zeros whose median is far below its greatest value is drawn over a logarithmic axis.
    """
    known = {name: each for name, each in series.items() if each.n}
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure(3.4, 1.9)
        if known:
            whole = sum(known.values(), Sketch())
            logarithmic = whole.low > 0 and whole.high > max(SKEWED * whole.quantile(0.5), 100 * whole.low)
            edges = _edges(whole.low, whole.high, bins, logarithmic=logarithmic)
            for place, (name, each) in enumerate(known.items()):
                shares = each.histogram(edges) / each.n
                colour = COLOURS[place % len(COLOURS)]
                axes.stairs(
                    shares, edges, fill=place == 0, color=colour, alpha=0.35 if place == 0 else 1, label=name
                )  # fmt: skip
                if place == 0:
                    axes.stairs(shares, edges, color=colour)
            if logarithmic:
                axes.set_xscale("log")
                # matplotlib would write powers as formulas
                axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
                axes.xaxis.set_minor_formatter(NullFormatter())
            else:
                axes.locator_params(axis="x", nbins=5)
                axes.ticklabel_format(axis="x", useOffset=False)
        if len(known) > 1:
            _legend(axes)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.locator_params(axis="y", nbins=5)
        axes.set_xlabel(xlabel)
        return _svg(figure)


def _edges(low: float, high: float, bins: int, *, logarithmic: bool) -> npt.NDArray[np.float64]:
    if logarithmic:
        edges = np.geomspace(low, high, bins + 1)
        # rounding must not leave the ends out
        edges[0], edges[-1] = low, high
        return edges
    pad = 0.5 if low == high else 0.0
    return np.linspace(low - pad, high + pad, bins + 1)


def bars(series: Mapping[str, Mapping[str, float]], *, ylabel: str = "samples", height: float = 2.0) -> Markup:
    """Grouped bars: series → category → value. Categories in the order of their first appearance."""
    categories = list(dict.fromkeys(category for each in series.values() for category in each))
    names = [category if len(category) <= LABEL_CHARS else category[: LABEL_CHARS - 1] + "…" for category in categories]
    crowded = sum(map(len, names)) > 40
    bottom = 0.3 + 0.05 * max(map(len, names), default=0) if crowded else 0.3
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure(max(3.4, 0.32 * len(categories) * len(series) ** 0.5), height + bottom, bottom=bottom)
        width = 0.8 / max(1, len(series))
        for place, (name, each) in enumerate(series.items()):
            where = np.arange(len(categories)) + (place - (len(series) - 1) / 2) * width
            axes.bar(
                where,
                [each.get(category, 0) for category in categories],
                width,
                label=name,
                color=COLOURS[place % len(COLOURS)],
            )
        turn, side = (35, "right") if crowded else (0, "center")
        axes.set_xticks(range(len(names)), names, rotation=turn, ha=side)
        axes.grid(axis="x", visible=False)
        axes.set_ylabel(ylabel)
        if len(series) > 1:
            _legend(axes)
        return _svg(figure)


def lines(series: Mapping[str, tuple[Sequence[float], Sequence[float]]], xlabel: str, ylabel: str) -> Markup:
    """Curves: series → (x, y)."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure(4.6, 2.2)
        for place, (name, (x, y)) in enumerate(series.items()):
            axes.plot(x, y, label=name, color=COLOURS[place % len(COLOURS)], linewidth=1.4)
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        if len(series) > 1:
            _legend(axes)
        return _svg(figure)
