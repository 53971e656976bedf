"""The plots of the comparison, from the scores alone: quality over processor minutes, and over the number of pairs; and
a grid of what contenders make of the same captions, from the cells themselves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import polars as pl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator, PercentFormatter

from benchmarks.models.cells import FLOW
from benchmarks.models.tables import MEANS, NAMES, contenders, full, of_pairs
from mmgen.evaluate import scores
from mmgen.report.plots import COLOURS, GRID, INK

MINUTES, PAIRS, PICTURES = "models-minutes.png", "models-pairs.png", "models-pictures.png"
#: samples of each class in a grid of pictures: two that are the same show a collapse
EACH = 2
#: metric → its style, the same in both plots
DASHES = {**dict(zip(MEANS, ("-", "--"), strict=True)), scores.JOINT_COHERENCE: ":"}
LABELS = {**MEANS, scores.JOINT_COHERENCE: "joint"}
# matplotlib types each key as a literal
_STYLE: Any = {
    "font.family": "sans-serif", "font.size": 9, "axes.edgecolor": GRID, "axes.labelcolor": INK, "xtick.color": INK,
    "ytick.color": INK, "text.color": INK, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "axes.axisbelow": True, "grid.color": GRID, "grid.linewidth": 0.7, "xtick.major.size": 0, "ytick.major.size": 0,
}  # fmt: skip


def draw(table: pl.DataFrame, folder: Path) -> list[Path]:
    """Write both plots; what has fewer than two points is not drawn."""
    folder.mkdir(parents=True, exist_ok=True)
    trained = table.filter(pl.col("minutes") > 0, pl.col("seed") == 0)
    whole = trained.filter(variant="complete")
    several = [name for name in contenders(whole) if whole.filter(contender=name)["minutes"].n_unique() > 1]
    learned = trained.filter(of_pairs(), contender=FLOW).filter(pl.col("minutes") == full(table))
    plots = (
        (MINUTES, whole.filter(pl.col("contender").is_in(several)), "minutes", "minutes of processor time"),
        (PAIRS, learned, "rows", "pairs learned from"),
    )
    drawn = []
    for name, rows, x, label in plots:
        if rows[x].n_unique() > 1:
            _plot(rows, x, label, folder / name)
            drawn.append(folder / name)
    return drawn


def pictures(images: Mapping[str, np.ndarray], labels_N: np.ndarray, path: Path) -> None:
    """A grid of pictures: a row for each maker (N, 1, H, W in -1 to 1, of the same conditions), a column for each of
    the first samples of each class."""
    shown = strips(images, labels_N)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(9.0, 0.5 * len(shown)), layout="constrained")
        places: Any = figure.subplots(len(shown), 1, squeeze=False)
        for axes, (name, strip) in zip(places[:, 0], shown.items(), strict=True):
            axes.imshow(strip, cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
            axes.set_ylabel(name, rotation=0, ha="right", va="center")
            axes.set_xticks([])
            axes.set_yticks([])
            axes.grid(False)
            axes.spines[:].set_visible(False)
        figure.savefig(path, dpi=150, metadata={"Software": None})


def strips(images: Mapping[str, np.ndarray], labels_N: np.ndarray) -> dict[str, np.ndarray]:
    """Of each maker the first `EACH` pictures of each class side by side, (H, W · classes · EACH)."""
    columns = [row for label in np.unique(labels_N) for row in np.flatnonzero(labels_N == label)[:EACH]]
    return {name: np.concatenate([*array[columns, 0].clip(-1, 1)], axis=1) for name, array in images.items()}


def _plot(rows: pl.DataFrame, x: str, label: str, path: Path) -> None:
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(6.4, 3.2), layout="constrained")
        axes: Any = figure.subplots()
        for place, name in enumerate(contenders(rows)):
            for metric, dash in DASHES.items():
                # of joint samples the better sampler at each place
                points = rows.filter(contender=name, metric=metric).sort("value").unique(x, keep="last").sort(x)
                what = f"{NAMES[name]}: {LABELS[metric]}"
                axes.plot(points[x], points["value"], dash, color=COLOURS[place], marker=".", linewidth=1.4, label=what)
                axes.fill_between(
                    points[x], points["low"], points["high"], color=COLOURS[place], alpha=0.12, linewidth=0
                )
        axes.set_xscale("log")
        axes.set_xticks(sorted(rows[x].unique()))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.set_xlabel(label)
        axes.set_ylabel("coherence")
        axes.legend(frameon=False, fontsize=7.5, loc="center left", bbox_to_anchor=(1, 0.5))
        figure.savefig(path, dpi=150, metadata={"Software": None})
