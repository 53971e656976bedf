"""The step `validate`: facts → verdicts, splits, gate and the data report. It allots the dataset version.

Reads staging's facts and rejections, and media only of samples that a hash proposes or that the report shows.
A version whose gate failed is committed all the same, stays inspectable, and is never a base.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import polars as pl

from data_schemas.facts import failures
from mmgen import artifact, pairs
from mmgen.artifact import Artifact, Draft
from mmgen.config import Config
from mmgen.errors import GateError, IntegrityError, SourceError
from mmgen.identity import identity
from mmgen.modalities.probing import Thumb
from mmgen.modalities.table import MODALITIES
from mmgen.records import Modality
from mmgen.report import data_report
from mmgen.runtime import Runtime, circumstance
from mmgen.staging import StagedMedia, read_facts, read_rejections
from mmgen.tables import parquet, read_kept
from mmgen.verdicts import Base, Decision, decide

FAILURE_CAP = 1_000


def validate(config: Config, inputs: Mapping[str, Artifact], runtime: Runtime) -> Artifact:
    """Judge every staged sample and commit `verdicts:<name>` into the dataset version that it allots.

    inputs: {"staging"}, and as advice outside the identity {"pair_scores"}. Raises GateError, after the commit, if the
    gate says no; IntegrityError if staging is broken.
    """
    store, known = runtime.store, identity("validate", config, {"staging": inputs["staging"]})
    advice = inputs.get("pair_scores")
    scores = pairs.read(advice, runtime) if advice else None
    slots = {name: slot.modality for name, slot in config.slots.items()}
    staging = inputs["staging"]
    facts = read_facts(store, staging)
    before = None if runtime.rebuild else artifact.latest(store, "dataset", config.name, passed=True)
    base_facts = read_kept(store, before) if before else None
    with runtime.progress.bar("validate", facts.height) as bar, StagedMedia(store, staging) as media:
        decision = _decide(config, staging, facts, media, _base(before, base_facts), scores, runtime)
        if config.validate_.gate.max_drift is not None and base_facts is not None and base_facts.height:
            shifts = data_report.shifts(facts, decision, slots, base_facts)
            decision = replace(decision, gate=(*decision.gate, *_drifted(shifts, config.validate_.gate.max_drift)))
        draft = Draft(store, "verdicts", config.name, known.fingerprint)
        page, twin = data_report.build(
            config, decision, facts, staging, media,
            version=draft.version, fingerprint=known.fingerprint, before=before, before_facts=base_facts,
            pair_scores=scores,
        )  # fmt: skip
        bar.advance(facts.height)
    runtime.progress.say(_summary(decision))
    draft.put("verdicts.parquet", parquet(decision.verdicts), "verdicts")
    draft.put("quarantine.parquet", parquet(decision.quarantine), "quarantine")
    draft.put("report.html", page, "report")
    draft.put("report.json", twin, "report-json")
    made = draft.commit(
        step="validate", config=known.config, pin=known.pin, circumstance=circumstance(),
        inputs={role: each.link for role, each in inputs.items()},
        facts=_facts(decision, slots, before), passed=not decision.gate,
    )  # fmt: skip
    if not made.passed:
        raise GateError(f"{made.ref}: {'; '.join(made.facts['gate'])}; see {store.full(made.file('report').path)}")
    return made


def _decide(
    config: Config, staging: Artifact, facts: pl.DataFrame, media: StagedMedia, base: Base,
    scores: pairs.PairScores | None, runtime: Runtime,
) -> Decision:  # fmt: skip
    """The verdicts. Raises IntegrityError if the facts are broken all over, or an input is lost (law 6)."""
    slots = {name: slot.modality for name, slot in config.slots.items()}
    broken = failures(facts, slots, cap=FAILURE_CAP)
    if len(broken) >= FAILURE_CAP:
        raise IntegrityError(f"{staging.ref}: its facts break their schema in {FAILURE_CAP} places or more")
    rules = config.validate_
    mismatched = pairs.mismatched(scores, rules.pairs, rules.checks.severity)
    decision = decide(
        facts, slots, read_rejections(runtime.store, staging), broken, rules,
        seed=config.seed, base=base, thumbnails=_Thumbnails(media, facts, slots), mismatched=mismatched,
    )  # fmt: skip
    ingested, judged = staging.facts["inputs"], decision.counts["inputs"]
    if ingested != judged:
        raise IntegrityError(f"{staging.ref}: {ingested} inputs were ingested, {judged} were judged; ingest again")
    return decision


class _Thumbnails:
    """Thumbnails of staged media, by (place in facts, slot's place)."""

    def __init__(self, media: StagedMedia, facts: pl.DataFrame, slots: Mapping[str, Modality]) -> None:
        self.media, self.slots = media, list(slots.items())
        self.rows = facts["row"].to_list()
        self.exts = {slot: facts[f"{slot}.ext"].to_list() for slot in slots}

    def __call__(self, place: int, slot: int) -> Thumb | None:
        name, modality = self.slots[slot]
        try:
            return MODALITIES[modality].thumbnail(self.media.read(self.rows[place], name, self.exts[name][place]))
        except SourceError:
            return None


def _base(before: Artifact | None, facts: pl.DataFrame | None) -> Base:
    if before is None or facts is None or not facts.height:
        return Base(before.ref if before else None)
    keys = facts["key"].to_list()
    return Base(
        before.ref,
        dict(zip(keys, facts["split"].to_list(), strict=True)),
        dict(zip(keys, facts["digest"].to_list(), strict=True)),
    )


def _facts(decision: Decision, slots: Mapping[str, str], before: Artifact | None) -> dict[str, object]:
    """What the manifest says of the version."""
    rejected = decision.verdicts.filter(pl.col("verdict") != "kept").group_by("verdict", "reason").len()
    return {
        "counts": decision.counts,
        "splits": decision.splits,
        "reasons": {
            verdict: {
                row["reason"]: row["len"] for row in rejected.sort("reason").to_dicts() if row["verdict"] == verdict
            }
            for verdict in ("quarantined", "dropped")
        },
        "slots": {slot: {"modality": modality} for slot, modality in slots.items()},
        "base": before.ref if before else None,
        "gate": list(decision.gate),
    }


def _drifted(shifts: Sequence[Mapping[str, Any]], most: float) -> list[str]:
    """Why the version has drifted too far: its largest shift."""
    largest = max(shifts, key=lambda each: each["effect"], default=None)
    if largest is None or largest["effect"] <= most:
        return []
    said = f"{largest['what']} has shifted by {largest['effect']:.3f} ({largest['measure']}), wanted at most {most:g}"
    return [f"{said}; where that is meant, raise validate.gate.max_drift or build with --rebuild"]


def _summary(decision: Decision) -> str:
    counts = decision.counts
    parts = ", ".join(f"{split} {count:,}" for split, count in decision.splits.items())
    return (
        f"{counts['inputs']:,} inputs = {counts['kept']:,} kept ({parts}) + "
        f"{counts['quarantined']:,} quarantined + {counts['dropped']:,} dropped"
    )
