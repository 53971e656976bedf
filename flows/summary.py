"""What a run of the line came to: the object of `mmgen run --json`, gathered from the store. Imports no Prefect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmgen import artifact, promotions
from mmgen.artifact import Artifact, Link, Reference
from mmgen.store import Store


def summarise(store: Store, outcomes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The run's `--json` object; None for what it did not come to.

    dataset, counts, scores (rows of data_schemas.scores), model {name, version, aliases}, report, card, grid (paths or
    URLs), gate (why the model was not promoted), steps (`Outcome.to_json`).
    """
    made = {outcome["step"]: load_ref(store, outcome["artifact"]) for outcome in outcomes}
    data = made.get("shard") or made.get("validate")
    scores, model, promotion = made.get("evaluate"), made.get("train-generator"), made.get("register")
    if promotion is not None and model is None:
        model = artifact.load_link(store, promotion.inputs["generator"])
    return {
        "dataset": data.ref if data else None,
        "counts": dict(data.facts["counts"]) if data else None,
        "scores": list(scores.facts["scores"]) if scores else None,
        "model": _model(store, model) if model else None,
        "report": _path(store, f"{data.folder}/report.html") if data else None,
        "card": _of_role(store, promotion, "card"),
        "grid": _of_role(store, promotion, "grid") or _of_role(store, scores, "grid"),
        "gate": None if promotion is None or promotion.passed else promotion.facts["why"],
        "steps": [dict(outcome) for outcome in outcomes],
    }


def score_rows(scores: Sequence[Mapping[str, Any]] | None) -> list[tuple[str, str, str, str]]:
    """(what, value, 95% interval, n) of each score, as text for a table."""
    rows = []
    for score in scores or ():
        arrow = " → ".join(part for part in (score["given"], score["made"]) if part)
        interval = f"{score['low']:.3f}–{score['high']:.3f}"
        rows.append((f"{score['metric']} {arrow}".strip(), f"{score['value']:.3f}", interval, str(score["n"])))
    return rows


def _model(store: Store, model: Artifact) -> dict[str, Any]:
    return {"name": model.name, "version": model.version, "aliases": promotions.aliases_of(store, model)}


def _of_role(store: Store, of: Artifact | None, role: str) -> str | None:
    found = of.by_role(role) if of else ()
    return _path(store, found[0].path) if found else None


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
