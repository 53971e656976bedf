"""What a run of the line came to: the object of `mmgen run --json`, gathered from the store. Imports no Prefect."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from mmgen import artifact, promotions
from mmgen.artifact import Artifact, FileEntry, Link, Reference
from mmgen.store import Store


def summarise(store: Store, outcomes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The run's `--json` object; None, or nothing in a list, for what it did not come to.

    dataset, counts, scores (rows of data_schemas.scores), model {name, version, aliases, slots, makes, example},
    report, card, grid (of the first direction that has one) and examples [{given, made, files}] as paths or URLs, gate
    (why the model was not promoted), steps (`Outcome.to_json`).
    """
    made = {outcome["step"]: load_ref(store, outcome["artifact"]) for outcome in outcomes}
    data = made.get("shard") or made.get("validate")
    scores, model, promotion = made.get("evaluate"), made.get("train-generator"), made.get("register")
    if promotion is not None and model is None:
        model = artifact.load_link(store, promotion.inputs["generator"])
    # pictures made of texts, where there are any, show the most
    grids = sorted(scores.by_role("grid"), key=lambda entry: entry.facts["given"] != "text") if scores else []
    return {
        "dataset": data.ref if data else None,
        "counts": dict(data.facts["counts"]) if data else None,
        "scores": list(scores.facts["scores"]) if scores else None,
        "model": _model(store, model) if model else None,
        "report": _path(store, f"{data.folder}/report.html") if data else None,
        "card": _path(store, promotion.file("card").path) if promotion else None,
        "grid": _path(store, grids[0].path) if grids else None,
        "examples": _examples(store, scores) if scores else [],
        "gate": None if promotion is None or promotion.passed else promotion.facts["why"],
        "steps": [dict(outcome) for outcome in outcomes],
    }


#: what a screen shows of the scores; the others are on the card
_SHOWN = frozenset({
    "mean_coherence", "joint_coherence", "coherence", "mean_coverage", "recognised", "mean_retrieval", "retrieval",
})  # fmt: skip


def shown_scores(scores: Sequence[Mapping[str, Any]] | None) -> list[Mapping[str, Any]]:
    """Those that fit on one screen: means, and single directions from one input."""
    return [
        row for row in scores or ()
        if (row["metric"] in _SHOWN or row["metric"].startswith("mean_coherence_of_")) and "+" not in row["given"]
    ]  # fmt: skip


def score_rows(scores: Sequence[Mapping[str, Any]] | None) -> list[tuple[str, str, str, str]]:
    """(what, value, 95% interval, n) of each score, metric by metric, as text for a table."""
    rows = []
    metrics = [score["metric"] for score in scores or ()]
    for score in sorted(scores or (), key=lambda score: metrics.index(score["metric"])):
        arrow = " → ".join(part for part in (score["given"], score["made"]) if part)
        interval = f"{score['low']:.3f}–{score['high']:.3f}"
        rows.append((f"{score['metric']} {arrow}".strip(), f"{score['value']:.3f}", interval, str(score["n"])))
    return rows


def _model(store: Store, model: Artifact) -> dict[str, Any]:
    codecs, args = artifact.load_link(store, model.inputs["codecs"]), model.facts["args"]
    return {
        "name": model.name,
        "version": model.version,
        "aliases": promotions.aliases_of(store, model),
        "slots": dict(codecs.facts["slots"]),
        # a writer of texts and a baseline say what they make; all else makes every slot
        "makes": args.get("targets") or ([args["target"]] if "target" in args else list(codecs.facts["slots"])),
        "example": _example_text(store, codecs),
    }


def _example_text(store: Store, codecs: Artifact) -> str:
    """A text that the data has, for a command to try."""
    dataset = artifact.load_link(store, codecs.inputs["dataset"])
    for entry in dataset.by_role("facts"):
        with store.open(entry.path) as stream:
            for texts in pl.read_parquet(stream, columns=["texts"])["texts"]:
                for alternatives in json.loads(texts).values():
                    return str(alternatives[0])
    return "…"


def _examples(store: Store, scores: Artifact) -> list[dict[str, Any]]:
    """The first example of each direction: {"given", "made", "files": [given, made]}."""
    numbered: dict[int, dict[str, FileEntry]] = {}
    for entry in scores.by_role("example"):
        numbered.setdefault(int(entry.facts["example"]), {})[str(entry.facts["side"])] = entry
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for sides in numbered.values():
        if {"given", "made"} <= sides.keys():
            pair = (str(sides["given"].facts["slot"]), str(sides["made"].facts["slot"]))
            files = [_path(store, sides[side].path) for side in ("given", "made")]
            found.setdefault(pair, {"given": pair[0], "made": pair[1], "files": files})
    return list(found.values())


def _path(store: Store, path: str) -> str | None:
    if not store.exists(path):
        return None
    return store.full(path) if store.local else f"{store.uri.rstrip('/')}/{path}"


def load_ref(store: Store, ref: str) -> Artifact:
    """The committed artifact of `kind:name@version`; a staging by its ordinal. Raises UnknownReference."""
    reference = Reference.parse(ref)
    if reference.kind == "staging":
        return next(each for each in artifact.history(store, "staging", reference.name) if each.ref == ref)
    return artifact.load_link(store, Link(ref, ""))
