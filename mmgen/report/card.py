"""The model card: one bounded HTML page that stands alone, and its JSON twin.

Made from committed artifacts only, so that a card can be rendered again from the store.
"""

from __future__ import annotations

import io
import json
import math
import re
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any

import polars as pl
import yaml

from mmgen.artifact import Artifact, FileEntry
from mmgen.records import MODALITIES, Modality
from mmgen.report import page, plots
from mmgen.report.curves import Curve, read_curves
from mmgen.store import Store

FORMAT = 1
#: embedded media beyond this is left out and counted, so that the page stays openable
MAX_MEDIA_BYTES = 12 << 20
_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".wav": "audio/wav", ".flac": "audio/flac"}


@dataclass(frozen=True, slots=True)
class Score:
    """One row of the scores table."""

    metric: str
    given: str
    made: str
    judge: str
    value: float
    low: float
    high: float
    n: int

    @property
    def direction(self) -> str:
        return f"{self.given} → {self.made}" if self.given and self.made else self.made or self.given or "all"


@dataclass(frozen=True, slots=True)
class Bar:
    """A score drawn on an axis from `Scale.low` to 1, as percentages of its width. marks: what it is held against."""

    label: str
    score: Score
    left: float
    width: float
    dot: float
    marks: tuple[tuple[str, float, float], ...]


@dataclass(frozen=True, slots=True)
class Cell:
    """One thing of an example: a text, or media as a data URI."""

    slot: str
    text: str | None = None
    image: str | None = None
    audio: str | None = None


@dataclass(frozen=True, slots=True)
class Example:
    """A condition and what was made of it."""

    given: tuple[Cell, ...]
    made: tuple[Cell, ...]


# ---------------------------------------------------------------- what artifacts say


def read_scores(store: Store, scores: Artifact) -> list[Score]:
    """The rows of the artifact's scores table."""
    table = pl.read_parquet(io.BytesIO(store.read(scores.file("scores").path)))
    return [Score(**row) for row in table.select([*Score.__dataclass_fields__]).to_dicts()]


def flat_scores(store: Store, scores: Artifact) -> dict[str, float]:
    """Scores under names that MLflow takes as metrics, intervals as `….low` and `….high`. Finite values only."""
    rows = read_scores(store, scores)
    keys = [_metric_key(row) for row in rows]
    flat: dict[str, float] = {}
    for key, row in zip(keys, rows, strict=True):
        name = key if keys.count(key) == 1 else f"{key}/{_plain(row.judge)[:24]}"
        flat |= {name: row.value, f"{name}.low": row.low, f"{name}.high": row.high}
    return {key: value for key, value in flat.items() if math.isfinite(value)}


def _metric_key(row: Score) -> str:
    given, made = (_plain(slots.replace("+", "-and-")) for slots in (row.given, row.made))
    direction = f"{given}-to-{made}" if given and made else made or given
    return f"{_plain(row.metric)}/{direction}" if direction else _plain(row.metric)


def _plain(text: str) -> str:
    return re.sub(r"[^\w.-]", "_", text)


def settings(parts: Mapping[str, Artifact]) -> dict[str, Any]:
    """The settings that made the model, each under its name in a CONFIG.yaml, as the manifests recorded them."""
    merged: dict[str, Any] = {}
    for role in ("dataset", "codecs", "features", "fusion", "generator", "scores"):
        if role in parts:
            merged |= parts[role].config
    return dict(sorted(merged.items()))


# ---------------------------------------------------------------- what the page shows

#: metric → (title of its table, what it means)
_METRICS: dict[str, tuple[str, str]] = {
    "mean_coherence": ("Mean coherence", "mean over all directions"),
    "coherence": ("Coherence", "share of made samples that the judge puts in the class of their condition"),
    "joint_coherence": ("Joint coherence", "share of samples made from nothing whose slots all agree"),
    "reconstruction_coherence": ("Codec ceiling", "real data through the codec and back, judged likewise"),
    "text_exact": ("Exact text", "share of real texts that the codec gives back token for token"),
    "judge_accuracy": ("Judges", "the judges themselves, on real test data"),
    "recognised": ("Independent recogniser", "share of made clips in which it hears the asked word"),
    "recognised_real": ("Independent recogniser, real clips", "the same on real clips: its ceiling"),
    "mean_retrieval": ("Mean retrieval", "mean over all directions"),
    "retrieval": ("Retrieval", "recall@1 of the condition among 100, in the fusion space"),
    "retrieval_real": ("Retrieval, real partners", "the same for real partners: the ceiling"),
    "kernel_distance": ("Kernel distance", "unbiased squared MMD of made and real embeddings, lower is better"),
    "kernel_floor": ("Kernel distance, real", "of two halves of the real data: the floor"),
}
#: a drawn metric → what is marked on the same axis: (word, metric)
_DRAWN: dict[str, tuple[tuple[str, str], ...]] = {
    "coherence": (("judge on real data", "judge_accuracy"), ("codec ceiling", "reconstruction_coherence")),
    "recognised": (("on real clips", "recognised_real"),),
    "retrieval": (("real partners", "retrieval_real"),),
}


def _bars(rows: list[Score], metric: str) -> tuple[float, list[Bar]]:
    """The axis' lower end, and a bar per direction with what it is held against."""
    mine = [row for row in rows if row.metric == metric]
    words = {other: word for word, other in _DRAWN[metric]}
    beside = {(words[row.metric], row.given, row.made): row.value for row in rows if row.metric in words}
    lowest = min([row.low for row in mine] + list(beside.values()), default=0.0)
    low = max(0.0, math.floor(lowest * 10 - 0.5) / 10)

    def at(value: float) -> float:
        return 100 * min(1.0, max(0.0, (value - low) / (1 - low)))

    bars = []
    for row in sorted(mine, key=lambda row: -row.value):
        found = []
        for word, _ in _DRAWN[metric]:
            # a judge or codec is of the made slot alone; a real partner is of the same pair
            value = beside.get((word, row.given, row.made), beside.get((word, "", row.made)))
            if value is not None:
                found.append((word, value, at(value)))
        bars.append(Bar(row.direction, row, at(row.low), at(row.high) - at(row.low), at(row.value), tuple(found)))
    return low, bars


def _charts(rows: list[Score]) -> list[dict[str, Any]]:
    charts = []
    for metric, against in _DRAWN.items():
        low, bars = _bars(rows, metric)
        if bars:
            title, meaning = _METRICS[metric]
            words = [word for word, _ in against if any(word == mark[0] for bar in bars for mark in bar.marks)]
            charts.append({"title": title, "meaning": meaning, "low": low, "bars": bars, "words": words})
    return charts


def _tables(rows: list[Score]) -> list[dict[str, Any]]:
    order = [*_METRICS, *sorted({row.metric for row in rows} - _METRICS.keys())]
    return [
        {"title": _METRICS.get(metric, (metric, ""))[0], "meaning": _METRICS.get(metric, ("", ""))[1], "rows": found}
        for metric in order
        if (found := [row for row in rows if row.metric == metric])
    ]


class _Media:
    """Embeds media until the page's budget is spent, and counts what was left out."""

    def __init__(self, store: Store) -> None:
        self.store, self.left, self.omitted = store, MAX_MEDIA_BYTES, 0

    def uri(self, entry: FileEntry) -> str | None:
        kind = _TYPES.get(PurePosixPath(entry.path).suffix)
        if kind is None or entry.size > self.left:
            self.omitted += 1
            return None
        self.left -= entry.size
        return page.data_uri(self.store.read(entry.path), kind)


def _lineage(parts: Mapping[str, Artifact]) -> list[dict[str, str]]:
    order = ("dataset", "codecs", "features", "fusion", "generator", "scores")
    return [
        {
            "role": role,
            "ref": parts[role].ref,
            "fingerprint": parts[role].fingerprint[:16],
            "time": str(parts[role].circumstance.get("time", "")),
            "commit": str(parts[role].circumstance.get("commit") or "")[:12],
        }
        for role in order
        if role in parts
    ]


def render(
    store: Store, parts: Mapping[str, Artifact], *, name: str, alias: str | None, why: str
) -> tuple[bytes, bytes]:
    """(HTML page, JSON twin) of the model `parts["generator"]`; roles codecs, fusion, generator, scores, maybe dataset.

    alias: what it was promoted to, None if it was not; why: the reason.
    """
    model, scores = parts["generator"], parts["scores"]
    rows = read_scores(store, scores)
    curves = {role: read_curves(store, parts[role]) for role in ("codecs", "fusion", "generator")}
    named: Mapping[str, Modality] = parts["codecs"].facts["slots"]
    slots = dict(sorted(named.items(), key=lambda slot: (MODALITIES.index(slot[1]), slot[0])))
    twin = {
        "format": FORMAT,
        "name": name,
        "model": model.ref,
        "version": model.version,
        "alias": alias,
        "passed": scores.passed,
        "why": why,
        "gate": list(scores.facts.get("gate", [])),
        "slots": dict(slots),
        "data": dict(parts["dataset"].facts) if "dataset" in parts else {},
        "scores": [asdict(row) for row in rows],
        "lineage": _lineage(parts),
        "circumstance": dict(model.circumstance),
        "parameters": model.facts.get("parameters"),
        "label_report": model.facts.get("label_report"),
        "settings": settings(parts),
        "curves": {role: [curve.name for curve in found] for role, found in curves.items() if found},
    }
    media = _Media(store)
    grids = [(entry.facts, uri) for entry in scores.by_role("grid") if (uri := media.uri(entry))]
    examples = _examples(scores, media)
    shown = {
        "headline": [row for row in rows if row.metric in ("mean_coherence", "joint_coherence", "mean_retrieval")],
        "charts": _charts(rows),
        "tables": _tables(rows),
        "grids": grids,
        "examples": examples,
        "plots": _plots(curves),
        "yaml": yaml.safe_dump(twin["settings"], sort_keys=True, allow_unicode=True),
        "usage": _usage(name, model, alias, slots, _a_text(examples)),
        "metrics": _METRICS,
    }
    html = page.render("card.html.j2", {"card": twin, "omitted": media.omitted, **shown})
    return html, json.dumps(twin, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False).encode()


def _examples(scores: Artifact, media: _Media) -> dict[str, list[Example]]:
    """Direction → its conditions and what was made of them. Files of role "example" have facts "example" (number),
    "side" ("given" or "made") and "slot"."""
    groups: dict[Any, dict[str, list[Cell]]] = {}
    for entry in scores.by_role("example"):
        facts = entry.facts
        sides = groups.setdefault(facts["example"], {"given": [], "made": []})
        sides[facts["side"]].append(_cell(entry, media))
    found: dict[str, list[Example]] = {}
    for sides in groups.values():
        title = " → ".join(" + ".join(cell.slot for cell in sides[side]) for side in ("given", "made") if sides[side])
        if sides["made"]:
            found.setdefault(title, []).append(Example(tuple(sides["given"]), tuple(sides["made"])))
    return found


def _cell(entry: FileEntry, media: _Media) -> Cell:
    slot, suffix = str(entry.facts["slot"]), PurePosixPath(entry.path).suffix
    if suffix == ".txt":
        return Cell(slot, text=media.store.read(entry.path).decode())
    uri = media.uri(entry)
    return Cell(slot, audio=uri) if suffix in (".wav", ".flac") else Cell(slot, image=uri)


#: columns of a history that say how the training was steered, not how it went
_STEERING = ("rate", "norm")


def _plots(curves: Mapping[str, list[Curve]]) -> list[tuple[str, str]]:
    """(title, inline SVG): the losses of each role, a history of its own (a codec's) on a plot of its own."""
    series: dict[str, dict[str, tuple[list[float], list[float]]]] = {}
    for role, found in curves.items():
        for curve in found:
            history, _, column = curve.name.rpartition(".")
            if column not in _STEERING:
                steps, values = ([float(point[axis]) for point in curve.points] for axis in (0, 1))
                series.setdefault(history.replace("-", ": ", 1) or role, {})[column] = (steps, values)
    return [(title, plots.lines(each, "step", "loss")) for title, each in series.items()]


def _usage(name: str, model: Artifact, alias: str | None, slots: Mapping[str, str], text: str) -> dict[str, str]:
    """How to load the model and generate, in Python and on the command line; `text` is a condition to show."""
    reference = f"{name}@{alias or model.version}"
    given = next((slot for slot, modality in slots.items() if modality == "text"), next(iter(slots)))
    to = tuple(slot for slot in slots if slot != given) or (given,)
    value = {"text": text, "image": "picture.png", "audio": "speech.wav"}[slots[given]]
    option = f"--{given} {shlex.quote(value)}" if given in MODALITIES else f"--slot {shlex.quote(f'{given}={value}')}"
    asked = json.dumps(value, ensure_ascii=False)
    wanted = "(" + ", ".join(f'"{slot}"' for slot in to) + (",)" if len(to) == 1 else ")")
    usage = {
        "mlflow": "",
        "cli": f"mmgen generate {reference} {option} --to {','.join(to)} --num 4 --seed 0 --out made",
        "python": (
            f'import mmgen\n\nmodel = mmgen.load("{reference}")\n'
            f"made = model.generate({given}=[{asked}], to={wanted}, num=4, seed=0)"
        ),
    }
    if alias:
        cell = asked if slots[given] == "text" else f'open({asked}, "rb").read()'
        usage["mlflow"] = (
            f'import mlflow\n\nmodel = mlflow.pyfunc.load_model("models:/{name}@{alias}")\n'
            f'model.predict([{{"{given}": {cell}}}], params={{"to": "{",".join(to)}", "num": 4}})'
        )
    return usage


def _a_text(examples: Mapping[str, list[Example]]) -> str:
    """A short condition of the test data, to be shown in a command."""
    texts = [cell.text for found in examples.values() for each in found for cell in each.given if cell.text]
    return min(texts, key=len).strip() if texts else "a text"
