"""The model card: one bounded HTML page that stands alone, and its JSON twin.

Made from committed artifacts only, so that a card can be rendered again from the store.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import PurePosixPath
from typing import Any

import yaml

from mmgen.artifact import Artifact, FileEntry
from mmgen.records import MODALITIES, Modality
from mmgen.report import page, plots
from mmgen.report.curves import Curve, read_curves
from mmgen.report.robustness import robustness_plots
from mmgen.report.score_tables import HELD_OUT, charts, described, read_scores, tables
from mmgen.store import Store

FORMAT = 1
_HEADLINE = ("mean_coherence", "joint_coherence", "mean_retrieval")
#: roles of files of scores that show samples of the exam
SHOWING = ("grid", "example", "nearest")
#: embedded media beyond this is left out and counted, so that the page stays openable
MAX_MEDIA_BYTES = 12 << 20
_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".wav": "audio/wav", ".flac": "audio/flac"}


@dataclass(frozen=True, slots=True)
class Cell:
    """One thing of an example: a text, or media as a data URI."""

    slot: str
    text: str | None = None
    image: str | None = None
    audio: str | None = None


@dataclass(frozen=True, slots=True)
class Example:
    """A condition and what was made of it; or what was made, and the training sample nearest to it."""

    given: tuple[Cell, ...]
    made: tuple[Cell, ...]
    note: str = ""


# ---------------------------------------------------------------- what artifacts say


def settings(parts: Mapping[str, Artifact]) -> dict[str, Any]:
    """The settings that made the model, each under its name in a CONFIG.yaml, as the manifests recorded them."""
    merged: dict[str, Any] = {}
    for role in ("dataset", "codecs", "features", "fusion", "generator", "scores"):
        if role in parts:
            merged |= parts[role].config
    return dict(sorted(merged.items()))


# ---------------------------------------------------------------- what the page shows


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
    store: Store, parts: Mapping[str, Artifact], *, name: str, alias: str | None, why: str, purged: bool = False
) -> tuple[bytes, bytes]:
    """(HTML page, JSON twin) of the model `parts["generator"]`; roles codecs, fusion, generator, scores, maybe dataset.

    alias: what it was promoted to, None if it was not; why: the reason. purged: samples of its exam were forgotten, so
    that nothing is shown of it but the scores.
    """
    model, scores = parts["generator"], parts["scores"]
    rows, held_out = read_scores(store, scores), read_scores(store, scores, HELD_OUT)
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
        "heldout": [asdict(row) for row in held_out],
        "not_run": dict(scores.facts.get("not_run", {})),
        "lineage": _lineage(parts),
        "circumstance": dict(model.circumstance),
        "parameters": model.facts.get("parameters"),
        "makes": list(_makes(model, slots)),
        "label_report": model.facts.get("label_report"),
        "settings": settings(parts),
        "curves": {role: [curve.name for curve in found] for role, found in curves.items() if found},
    }
    if purged:
        twin["samples"] = "purged"
        scores = replace(scores, files=tuple(each for each in scores.files if each.role not in SHOWING))
    media = _Media(store)
    order = {slot: place for place, slot in enumerate(slots)}
    sheets = sorted(scores.by_role("grid"), key=lambda entry: order.get(str(entry.facts.get("given")), len(order)))
    grids = [(entry.facts, uri) for entry in sheets if (uri := media.uri(entry))]
    examples = _examples(scores, media, order)
    shown = {
        "headline": [row for row in rows if row.metric in _HEADLINE or row.metric.startswith("mean_coherence_of_")],
        "splits": [
            {"charts": charts(each), "tables": tables(each), "held_out": each is held_out}
            for each in (rows, held_out)
            if each
        ],
        "grids": grids,
        "examples": examples,
        "nearest": nearest_pairs(scores, media),
        "plots": _plots(curves) + robustness_plots(rows),
        "yaml": yaml.safe_dump(twin["settings"], sort_keys=True, allow_unicode=True),
        "usage": _usage(name, model, alias, slots, _a_text(examples)),
        "described": described,
    }
    html = page.render("card.html.j2", {"card": twin, "omitted": media.omitted, "purged": purged, **shown})
    return html, json.dumps(twin, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False).encode()


def _examples(scores: Artifact, media: _Media, order: Mapping[str, int]) -> dict[str, list[Example]]:
    """Direction → its conditions and what was made of them. Files of role "example" have facts "example" (number),
    "side" ("given" or "made") and "slot"."""
    groups: dict[Any, dict[str, list[Cell]]] = {}
    for entry in scores.by_role("example"):
        facts = entry.facts
        sides = groups.setdefault(facts["example"], {"given": [], "made": []})
        sides[facts["side"]].append(_cell(entry, media))
    whole = [Example(tuple(sides["given"]), tuple(sides["made"])) for sides in groups.values() if sides["made"]]
    whole.sort(key=lambda each: [order.get(cell.slot, len(order)) for cell in (*each.given, *each.made)])
    found: dict[str, list[Example]] = {}
    for each in whole:
        given, made = (" + ".join(cell.slot for cell in side) for side in (each.given, each.made))
        title = f"{given or 'nothing'} → {made}"
        found.setdefault(title, []).append(each)
    return found


def nearest_pairs(scores: Artifact, media: _Media) -> dict[str, list[Example]]:
    """Slot → made samples, each beside the training sample that is nearest to it, the nearest of all first."""
    pairs: dict[tuple[str, int], dict[str, FileEntry]] = {}
    for entry in scores.by_role("nearest"):
        pairs.setdefault((str(entry.facts["slot"]), int(entry.facts["pair"])), {})[str(entry.facts["side"])] = entry
    found: dict[str, list[Example]] = {}
    for (slot, _), sides in sorted(pairs.items()):
        facts = sides["made"].facts
        note = f"from {str(facts['given']).replace('+', ' + ') or 'nothing'}, {facts['distance']:g} apart"
        made, training = (replace(_cell(sides[side], media), slot=side) for side in ("made", "training"))
        found.setdefault(slot, []).append(Example((made,), (training,), note))
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


def _makes(model: Artifact, slots: Mapping[str, str]) -> tuple[str, ...]:
    """The slots that the generator makes: the baseline has one target."""
    target = model.facts.get("args", {}).get("target")
    return (target,) if target else tuple(slots)


def _usage(name: str, model: Artifact, alias: str | None, slots: Mapping[str, str], text: str) -> dict[str, str]:
    """How to load the model and generate, in Python and on the command line; `text` is a condition to show."""
    reference = f"{name}@{alias or model.version}"
    makes = _makes(model, slots)
    # text first, and not the only slot that it makes
    given = min(slots, key=lambda slot: (makes == (slot,), slots[slot] != "text"))
    to = tuple(slot for slot in makes if slot != given) or makes
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
