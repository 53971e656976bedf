"""What a purge leaves of pages and tables that told of a sample: the same, made again without it.

Everything is made from what a store still has before anything is deleted, and making it twice gives the same bytes, so
that a purge which died can be run again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import polars as pl

from mmgen import artifact, promotions
from mmgen.artifact import Artifact
from mmgen.config import Config
from mmgen.decision import VERDICT_SCHEMA, VERDICTS, Decision, check_counts, split_rank
from mmgen.errors import MmgenError, UnknownReference
from mmgen.forgotten import Ledger
from mmgen.records import MODALITIES
from mmgen.report import card, data_report
from mmgen.staging import StagedMedia, each_batch
from mmgen.store import Store
from mmgen.tables import parquet, read_parquet

REASON = "forgotten"
_LINKS = ("reason", "split", "exemplar", "repeats", "similarity", "dropped_slots", "digest", "change", "message")


def can_report(store: Store, verdicts: Artifact) -> bool:
    """Whether all is there that `report` cannot do without: a purge of an older mmgen deleted it."""
    try:
        artifact.load_link(store, verdicts.inputs["staging"])
    except UnknownReference:
        return False
    return all(store.exists(entry.path) for entry in verdicts.files)


def report(store: Store, verdicts: Artifact, ledger: Ledger) -> dict[str, bytes]:
    """Path → bytes of the data report and of the tables beside it, without any key that the ledger knows.

    The verdicts come last: as long as they name a key, the version is found by it. Forgotten rows are counted as
    dropped; what the staging still has is measured again. Raises IntegrityError if an input is lost (law 6).
    """
    staging = artifact.load_link(store, verdicts.inputs["staging"])
    table = read_parquet(store, verdicts.file("verdicts").path)
    tokens = {key: ledger.token(key) for key in table["key"].unique() if ledger.line_of(key) is not None}
    quarantine = _without(read_parquet(store, verdicts.file("quarantine").path), tokens)
    table = _dropped(table, tokens, ledger)
    was: dict[str, Any] = json.loads(store.read(verdicts.file("report-json").path))
    decision = _decision(table, quarantine, verdicts)
    since = int((table["reason"] == REASON).sum()) - verdicts.facts["reasons"]["dropped"].get(REASON, 0)
    # facts and media go batch by batch: what a part of them tells would be no distribution of the whole
    whole = all(store.exists(entry.path) for entry in staging.files)
    settings = _settings(verdicts, staging)
    config = Config.model_validate({**settings, "source": {**settings["source"], "path": "."}})
    with StagedMedia(store, staging) as media:
        counted = data_report.count(
            config, table, _facts(store, staging, tokens) if whole else (), found=_pairs(was, table, tokens)
        )
        page, twin = data_report.build(
            config, decision, counted, staging, media,
            version=verdicts.version, fingerprint=verdicts.fingerprint, before=None,
            again=data_report.Again(was, since, whole, settings),
        )  # fmt: skip
    made = {"report": page, "report-json": twin, "quarantine": parquet(quarantine), "verdicts": parquet(table)}
    return {verdicts.file(role).path: data for role, data in made.items()}


def card_of(store: Store, promotion: Artifact) -> dict[str, bytes] | None:
    """Path → bytes of the card of a promotion, without samples of its exam. None if it cannot be made any more."""
    try:
        inputs = {role: artifact.load_link(store, link) for role, link in promotion.inputs.items()}
        page, twin = card.render(
            store, promotions.lineage(store, inputs), name=promotion.name, alias=promotion.facts["alias"],
            why=promotion.facts["why"], purged=True,
        )  # fmt: skip
        return {promotion.file("card").path: page, promotion.file("card-json").path: twin}
    except (FileNotFoundError, MmgenError):
        return None


def _dropped(table: pl.DataFrame, tokens: Mapping[str, str], ledger: Ledger) -> pl.DataFrame:
    """The verdicts with forgotten rows as the next ingest counts them, and their keys gone from the other rows."""
    said = {key: f"forgotten, line {ledger.line_of(key)} of the ledger" for key in tokens}
    gone = pl.col("key").is_in(list(tokens))
    cleared = {name: pl.lit(None, VERDICT_SCHEMA[name]) for name in _LINKS}
    cleared |= {
        "verdict": pl.lit("dropped"),
        "reason": pl.lit(REASON),
        "message": pl.col("key").replace_strict(said, default=None, return_dtype=pl.String),
        "dropped_slots": pl.lit([], VERDICT_SCHEMA["dropped_slots"]),
    }
    table = table.with_columns(pl.when(gone).then(value).otherwise(name).alias(name) for name, value in cleared.items())
    return _renamed(table, tokens, ("key", "exemplar"))


def _without(quarantine: pl.DataFrame, tokens: Mapping[str, str]) -> pl.DataFrame:
    """Rejections and flags of the others: the story of a row that is dropped is in the verdicts."""
    return _renamed(quarantine.filter(~pl.col("key").is_in(list(tokens))), tokens, ())


def _renamed(table: pl.DataFrame, tokens: Mapping[str, str], columns: tuple[str, ...]) -> pl.DataFrame:
    """Tokens in place of keys: in whole cells of these columns, and where a message quotes one."""
    quoted = {f"'{key}'": f"'{token}'" for key, token in tokens.items()}
    return table.with_columns(
        *(pl.col(name).replace(tokens) for name in columns),
        pl.col("message").str.replace_many(list(quoted), list(quoted.values())),
    )


def _decision(table: pl.DataFrame, quarantine: pl.DataFrame, verdicts: Artifact) -> Decision:
    counts = {"inputs": table.height, **{name: int((table["verdict"] == name).sum()) for name in VERDICTS}}
    check_counts(counts)
    kept = table.filter(pl.col("verdict") == "kept")["split"].value_counts()
    splits = dict(sorted(kept.iter_rows(), key=lambda each: split_rank(each[0])))
    gate = tuple(verdicts.facts["gate"])
    return Decision(table, np.empty((0, 0), np.uint8), quarantine, counts, splits, gate)


def _settings(verdicts: Artifact, staging: Artifact) -> dict[str, Any]:
    """The configuration of both steps, as far as it was their identity."""
    mine = {name: staging.config[name] for name in ("source", "ingest") if name in staging.config}
    # a manifest has its names sorted; pages have the slots in the order of their modalities
    slots = sorted(verdicts.config["slots"].items(), key=lambda slot: (MODALITIES.index(slot[1]["modality"]), slot[0]))
    return {"name": verdicts.name, **mine, **verdicts.config, "slots": dict(slots)}


def _facts(store: Store, staging: Artifact, tokens: Mapping[str, str]) -> Iterator[pl.DataFrame]:
    for facts, _ in each_batch(store, staging):
        yield facts.filter(~pl.col("key").is_in(list(tokens)))


def _pairs(was: Mapping[str, Any], table: pl.DataFrame, tokens: Mapping[str, str]) -> dict[str, Any]:
    """What the page told of pairs, without the worst ones that were forgotten."""
    if "pairs" not in was:
        return {}
    gone = set(table.filter(pl.col("reason") == REASON)["row"].to_list())
    worst = [each | {"better_key": tokens.get(each["better_key"], each["better_key"])}
             for each in was["pairs"]["worst"] if each["row"] not in gone]  # fmt: skip
    return {"pairs": was["pairs"] | {"worst": worst}}
