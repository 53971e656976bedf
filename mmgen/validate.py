"""The step `validate`: facts → verdicts, splits, gate and the data report. It allots the dataset version.

Reads staging's facts and rejections, and media only of samples that a hash proposes or that the report shows.
A version whose gate failed is committed all the same, stays inspectable, and is never a base.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import polars as pl

from data_schemas.facts import failures
from mmgen import artifact, pairs
from mmgen.artifact import Artifact, Draft, fingerprint
from mmgen.config import Config
from mmgen.decision import Base, Decision, digest_words
from mmgen.errors import GateError, IntegrityError, SourceError
from mmgen.identity import identity
from mmgen.inputs import Chunk, Inputs, gather
from mmgen.modalities.probing import Thumb
from mmgen.modalities.table import MODALITIES
from mmgen.records import Modality
from mmgen.report import data_report
from mmgen.report.pairs import numbers as pair_numbers
from mmgen.runtime import Runtime, circumstance
from mmgen.sources.unnamed import sentence
from mmgen.staging import StagedMedia, each_batch
from mmgen.store import Store
from mmgen.tables import each_kept, parquet, parquet_of
from mmgen.verdicts import decide

FAILURE_CAP = 1_000
#: rows whose facts are read at once
CHUNK_ROWS = 8_192


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
    before = None if runtime.rebuild else artifact.latest(store, "dataset", config.name, passed=True)
    with runtime.progress.bar("validate", staging.facts["inputs"]) as bar, StagedMedia(store, staging) as media:
        decision = _decide(config, staging, media, before, scores, runtime)
        facts = (facts for facts, _ in each_batch(store, staging))
        counted = data_report.count(
            config, decision.verdicts, facts, each_kept(store, before) if before else (),
            pair_numbers(scores, config.validate_.pairs, decision.quarantine),
        )  # fmt: skip
        if config.validate_.gate.max_drift is not None:
            said = _drifted(counted.shifts, config.validate_.gate.max_drift)
            decision = replace(decision, gate=(*decision.gate, *said))
        # the report compares with the base, which the fingerprint does not hold
        work = fingerprint(verdicts=known.fingerprint, base=before.fingerprint if before else None)
        draft = Draft(store, "verdicts", config.name, known.fingerprint, work=work)
        # after the claim: a run that commits from here on has the same number, or is seen by its own look
        if not runtime.rebuild and (meanwhile := _made_meanwhile(runtime, config.name, known.fingerprint)):
            runtime.progress.say(f"validate: another run was faster and committed {meanwhile.ref}, the same verdicts")
            if meanwhile.version != draft.version:
                store.delete(f"{draft.folder}/claim")
            return _passed(meanwhile, store)
        page, twin = data_report.build(
            config, decision, counted, staging, media,
            version=draft.version, fingerprint=known.fingerprint, before=before, pair_scores=scores,
        )  # fmt: skip
        bar.advance(staging.facts["inputs"])
    runtime.progress.say(_summary(decision))
    if beside := sentence(staging.circumstance.get("unnamed")):
        runtime.progress.say(beside)
    draft.put("verdicts.parquet", parquet_of(decision.chunks()), "verdicts")
    draft.put("quarantine.parquet", parquet(decision.quarantine), "quarantine")
    draft.put("report.html", page, "report")
    draft.put("report.json", twin, "report-json")
    made = draft.commit(
        step="validate", config=known.config, pin=known.pin, circumstance=circumstance(),
        inputs={role: each.link for role, each in inputs.items()},
        facts=_facts(decision, slots, before), passed=not decision.gate,
    )  # fmt: skip
    return _passed(made, store)


def _made_meanwhile(runtime: Runtime, name: str, fingerprint: str) -> Artifact | None:
    """What another run committed since it was decided that this one has to: the decision's own conditions, again."""
    found = artifact.find(runtime.store, "verdicts", name, fingerprint)
    whole = found is not None and not (runtime.verify and artifact.damaged(runtime.store, found, rehash=True))
    return found if whole else None


def _passed(made: Artifact, store: Store) -> Artifact:
    if not made.passed:
        raise GateError(f"{made.ref}: {'; '.join(made.facts['gate'])}; see {store.full(made.file('report').path)}")
    return made


def _decide(
    config: Config, staging: Artifact, media: StagedMedia, before: Artifact | None, scores: pairs.PairScores | None,
    runtime: Runtime,
) -> Decision:  # fmt: skip
    """The verdicts. Raises IntegrityError if the facts are broken all over, or an input is lost (law 6)."""
    slots, rules = {name: slot.modality for name, slot in config.slots.items()}, config.validate_
    inputs = gather(_chunks(runtime.store, staging, slots), slots, rules)
    decision = decide(
        inputs, rules, seed=config.seed, base=_base(runtime.store, before), thumbnails=_Thumbnails(media, inputs),
        mismatched=pairs.mismatched(scores, rules.pairs, rules.checks.severity),
    )  # fmt: skip
    ingested, judged = staging.facts["inputs"], decision.counts["inputs"]
    if ingested != judged:
        raise IntegrityError(f"{staging.ref}: {ingested} inputs were ingested, {judged} were judged; ingest again")
    return decision


def _chunks(store: Store, staging: Artifact, slots: Mapping[str, Modality]) -> Iterator[Chunk]:
    """The staging's batches, several at once: a check of a schema costs the same for few rows and many."""
    waiting: list[tuple[pl.DataFrame, pl.DataFrame]] = []
    broken = 0

    def joined() -> Chunk:
        facts = pl.concat([each for each, _ in waiting])
        return Chunk(facts, pl.concat([each for _, each in waiting]), failures(facts, slots, cap=FAILURE_CAP))

    for batch in each_batch(store, staging):
        waiting.append(batch)
        if sum(facts.height for facts, _ in waiting) >= CHUNK_ROWS:
            chunk = joined()
            broken += len(chunk.broken)
            if broken >= FAILURE_CAP:
                raise IntegrityError(f"{staging.ref}: its facts break their schema in {FAILURE_CAP} places or more")
            yield chunk
            waiting.clear()
    if waiting:
        yield joined()


class _Thumbnails:
    """Thumbnails of staged media, by (index of the input, media slot)."""

    def __init__(self, media: StagedMedia, inputs: Inputs) -> None:
        self.media, self.inputs = media, inputs

    def __call__(self, index: int, slot: int) -> Thumb | None:
        inputs, name = self.inputs, self.inputs.media[slot]
        modality = MODALITIES[inputs.slots[name]]
        try:
            ext = inputs.exts[inputs.ext_NM[index, slot]]
            return modality.thumbnail(self.media.read(int(inputs.row_N[index]), name, ext))
        except SourceError:
            return None


def _base(store: Store, before: Artifact | None) -> Base:
    """The base version's keys, splits and digests. Raises IntegrityError if they cannot be read."""
    if before is None:
        return Base()
    tables = [table.with_columns(digest=digest_words(table["digest"]))
              for table in each_kept(store, before, ["key", "split", "digest"])]  # fmt: skip
    return Base(before.ref, pl.concat(tables) if tables else Base().rows)


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
