"""From facts to verdicts: rules, duplicates, splits, gate. Pure; `validate` brings the tables and commits the outcome.

Each input gets exactly one verdict: kept, quarantined (a rule rejects it) or dropped (policy leaves it out): law 6.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import polars as pl

from mmgen.duplicates import Duplicates, Thumbnails, find_duplicates
from mmgen.errors import IntegrityError
from mmgen.records import SPLIT_SPELLINGS, Rejection
from mmgen.splits import SPLITS, Member, assign
from mmgen.validate_config import ValidateConfig

if TYPE_CHECKING:
    # pandera takes a second to import, and workers that write shards come by here
    from data_schemas.facts import Failure

HASH_COLUMN = {"image": "phash", "audio": "ahash"}
VERDICT_SCHEMA: dict[str, Any] = {
    "row": pl.Int64, "key": pl.String, "verdict": pl.String, "reason": pl.String, "split": pl.String,
    "exemplar": pl.String, "repeats": pl.String, "similarity": pl.Float64,
    "dropped_slots": pl.List(pl.String), "digest": pl.String, "change": pl.String, "message": pl.String,
}  # fmt: skip
QUARANTINE_SCHEMA: dict[str, Any] = {
    "row": pl.Int64, "key": pl.String, "stage": pl.String, "slot": pl.String,
    "reason": pl.String, "severity": pl.String, "message": pl.String,
}  # fmt: skip


@dataclass(frozen=True)
class Base:
    """What the base version kept: key → split, key → digest of the row. Empty where there is no base."""

    ref: str | None = None
    split: Mapping[str, str] = field(default_factory=dict)
    digest: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Row:
    """One input on its way to its verdict. place: its row in the facts table, None if ingest rejected it as a whole."""

    row: int
    key: str
    place: int | None
    verdict: str = "kept"
    reason: str | None = None
    split: str | None = None
    exemplar: str | None = None
    repeats: str | None = None
    similarity: float | None = None
    dropped_slots: tuple[str, ...] = ()
    digest: str | None = None
    change: str | None = None
    message: str | None = None


@dataclass(frozen=True)
class Decision:
    """verdicts: one row per input. quarantine: one row per rejection or flag. gate: why not, empty if it passed."""

    verdicts: pl.DataFrame
    quarantine: pl.DataFrame
    counts: dict[str, int]
    splits: dict[str, int]
    gate: tuple[str, ...]


def decide(
    facts: pl.DataFrame,
    slots: Mapping[str, str],
    rejections: Sequence[Rejection],
    broken: Sequence[Failure],
    config: ValidateConfig,
    *,
    seed: int,
    base: Base,
    thumbnails: Thumbnails,
    mismatched: Sequence[Rejection] = (),
) -> Decision:
    """Verdicts over all inputs: the rows of `facts` and the rows that `rejections` names alone.

    slots: name → modality. broken: where facts break their schema. thumbnails: of (place in facts, place in slots).
    mismatched: what pair scores say of rows.
    """
    judge = _Judge(facts, slots, config, seed, base)
    judge.read(rejections)
    judge.apply_schema(broken)
    judge.apply_slots()
    judge.apply_rules()
    judge.apply_pairs(mismatched)
    judge.apply_duplicates(thumbnails)
    judge.apply_splits()
    return judge.conclude()


class _Judge:
    """The state of one decision; each `apply` looks at the rows that are still kept."""

    def __init__(
        self, facts: pl.DataFrame, slots: Mapping[str, str], config: ValidateConfig, seed: int, base: Base
    ) -> None:
        self.facts, self.slots, self.config, self.seed, self.base = facts, slots, config, seed, base
        self.rows = [
            Row(row, key, place)
            for place, (row, key) in enumerate(facts.select("row", "key").fill_null("").iter_rows())
        ]
        self.notes: list[Rejection] = []
        self.present = {slot: facts[f"{slot}.present"].to_list() for slot in slots}
        self.texts: list[dict[str, list[str]]] = [json.loads(text) for text in facts["texts"]]

    def kept(self) -> list[Row]:
        return [row for row in self.rows if row.verdict == "kept"]

    def note(self, row: Row, slot: str | None, reason: str, message: str, *, reject: bool) -> None:
        self.notes.append(
            Rejection(row.row, row.key, "validate", slot, reason, "reject" if reject else "flag", message)
        )
        if reject:
            self.settle(row, "quarantined", reason, message)

    def settle(self, row: Row, verdict: str, reason: str, message: str) -> None:
        """The first verdict other than kept stands."""
        if row.verdict == "kept":
            row.verdict, row.reason, row.message = verdict, reason, message

    def read(self, rejections: Sequence[Rejection]) -> None:
        """Take ingest's rejections over. A bad slot of a row that has facts is the policy's to judge."""
        by_row = {row.row: row for row in self.rows}
        for found in sorted(rejections, key=lambda each: (each.row, each.slot or "", each.reason)):
            row = by_row.get(found.row)
            if row is None:
                row = by_row[found.row] = Row(found.row, found.key, None)
                self.rows.append(row)
            if found.reason == "forgotten":
                self.settle(row, "dropped", found.reason, found.message)
                continue
            bad_slot = found.severity == "reject" and row.place is not None and found.slot in self.slots
            if bad_slot and self.config.on_bad_slot == "drop_slot":
                row.dropped_slots = tuple(sorted({*row.dropped_slots, str(found.slot)}))
                self.notes.append(replace(found, severity="flag", message=f"slot dropped: {found.message}"))
                continue
            self.notes.append(found)
            if found.severity == "reject":
                self.settle(row, "quarantined", found.reason, found.message)
        for row in self.rows:
            if row.place is None and row.verdict == "kept":
                raise IntegrityError(f"staging: row {row.row} is flagged but has no facts; ingest it again")

    def apply_schema(self, broken: Sequence[Failure]) -> None:
        """A row that breaks the facts schema is rejected. Raises IntegrityError if a whole column does."""
        for failure in broken:
            if failure.index is None:
                said = f"wanted {failure.check}, came {failure.value}"
                raise IntegrityError(f"staging facts: column '{failure.column}': {said}; ingest again")
            row = self.rows[failure.index]
            self.note(
                row,
                None,
                "schema",
                f"column '{failure.column}': wanted {failure.check}, came {failure.value}",
                reject=True,
            )

    def apply_slots(self) -> None:
        """A row without any slot left is rejected."""
        for row in self.kept():
            if not self.slots_of(row):
                self.note(row, None, "no_slots", f"none of {', '.join(self.slots)} is there", reject=True)

    def slots_of(self, row: Row) -> list[str]:
        """Its present slots that were not dropped."""
        assert row.place is not None
        return [slot for slot in self.slots if self.present[slot][row.place] and slot not in row.dropped_slots]

    def apply_rules(self) -> None:
        """Keys are unique, and a user's split has a known name."""
        first: dict[str, int] = {}
        held = self.config.holdout.split if self.config.holdout else None
        splits, alike = self.facts["split"].to_list(), dict[str, str]()
        for row in self.kept():
            assert row.place is not None
            if (other := alike.setdefault(unicodedata.normalize("NFC", row.key).casefold(), row.key)) != row.key:
                said = f"'{row.key}' and '{other}' differ only in case or in how they are composed"
                self.note(row, None, "key_clash", said, reject=False)
            if (earlier := first.setdefault(row.key, row.row)) != row.row:
                self.note(row, None, "duplicate_key", f"row {earlier} has the key '{row.key}' already", reject=True)
            named = splits[row.place]
            if named is not None and named.strip().lower() not in SPLIT_SPELLINGS and named != held:
                known = ", ".join([*SPLITS, *([held] if held else [])])
                self.note(row, None, "unknown_split", f"split: wanted one of {known}, came '{named}'", reject=True)

    def apply_pairs(self, mismatched: Sequence[Rejection]) -> None:
        """Note kept rows whose slots do not belong together."""
        kept = {row.row: row for row in self.kept()}
        for found in mismatched:
            if (row := kept.get(found.row)) is not None and found.slot in self.slots_of(row):
                self.note(row, found.slot, "mismatched_pair", found.message, reject=found.severity == "reject")

    def apply_duplicates(self, thumbnails: Thumbnails) -> None:
        """Link what repeats an earlier sample, and let the policies drop or flag it."""
        # a sample of the base version is never displaced by a new one
        self.ranked = sorted(self.kept(), key=lambda row: (row.key not in self.base.split, row.row))
        self.links = self._search(thumbnails)
        for index, row in enumerate(self.ranked):
            first = int(self.links.exemplar_N[index])
            if first == index:
                continue
            exemplar = self.ranked[first]
            row.exemplar, row.similarity = exemplar.key, float(self.links.similarity_N[index])
            exact = bool(self.links.exact_N[index])
            row.repeats = ("exact" if self._same_texts(row, exemplar) else "same_media") if exact else "near"
            # the same media under other words is another sample, linked but not equal
            policy = self.config.duplicates if row.repeats == "exact" else self.config.near_duplicates
            reason = {"exact": "duplicate", "near": "near_duplicate", "same_media": "same_media"}[row.repeats]
            said = f"repeats '{exemplar.key}' (row {exemplar.row}, similarity {row.similarity:.3f})"
            if policy == "flag":
                self.note(row, None, reason, said, reject=False)
            elif policy == "drop":
                self.settle(row, "dropped", reason, said)

    def _search(self, thumbnails: Thumbnails) -> Duplicates:
        names = [slot for slot, modality in self.slots.items() if modality != "text"]
        place_of = {slot: place for place, slot in enumerate(self.slots)}
        media = [tuple(slot for slot in self.slots_of(row) if slot in names) for row in self.ranked]
        digest = {slot: self.facts[f"{slot}.sha256"].to_list() for slot in names}
        hashes = {slot: self.facts[f"{slot}.{HASH_COLUMN[self.slots[slot]]}"].to_list() for slot in names}
        places = [row.place or 0 for row in self.ranked]
        return find_duplicates(
            [tuple(digest[slot][place] for slot in mine) for place, mine in zip(places, media, strict=True)],
            media,
            [tuple(_hash(hashes[slot][place]) for slot in mine) for place, mine in zip(places, media, strict=True)],
            radius_bits=self.config.near_radius_bits,
            confirm=self.config.near_confirm,
            thumbnails=lambda index, slot: thumbnails(places[index], place_of[media[index][slot]]),
        )

    def _same_texts(self, row: Row, other: Row) -> bool:
        assert row.place is not None
        assert other.place is not None
        return self.texts[row.place] == self.texts[other.place]

    def apply_splits(self) -> None:
        """Give each kept row its split; one that links two is dropped."""
        kept = [row for row in self.ranked if row.verdict == "kept"]
        index_of = {row.key: index for index, row in enumerate(kept)}
        groups, own = self.facts["group"].to_list(), self._own_splits()
        shares = {str(split): part for split, part in self.config.splits.items()}
        members = []
        for index, row in enumerate(kept):
            assert row.place is not None
            exemplar = index if row.exemplar is None else index_of.get(row.exemplar, index)
            members.append(Member(row.key, groups[row.place], own.get(row.row), self.base.split.get(row.key), exemplar))
        for row, placement in zip(kept, assign(members, shares, self.seed), strict=True):
            if placement.bridges is None:
                row.split = placement.split
                continue
            one, other = placement.bridges
            said = f"links the splits '{one}' and '{other}'" + (f"; repeats '{row.exemplar}'" if row.exemplar else "")
            self.settle(row, "dropped", "bridges_splits", said)

    def _own_splits(self) -> dict[int, str]:
        """row → the split that the user's column or the held-out values give it."""
        own: dict[int, str] = {}
        holdout = self.config.holdout
        splits, metas = self.facts["split"].to_list(), self.facts["meta"].to_list()
        for row in self.kept():
            assert row.place is not None
            if (named := splits[row.place]) is not None:
                own[row.row] = SPLIT_SPELLINGS.get(named.strip().lower(), named)
            elif holdout is not None and str(json.loads(metas[row.place]).get(holdout.column)) in holdout.values:
                own[row.row] = holdout.split
        return own

    def conclude(self) -> Decision:
        """Tables, counts and the gate. Raises IntegrityError if an input is lost or counted twice."""
        self._digest()
        self.rows.sort(key=lambda row: row.row)
        if len({row.row for row in self.rows}) != len(self.rows):
            raise IntegrityError("staging: a row number occurs twice; ingest it again")
        verdicts = Counter(row.verdict for row in self.rows)
        counts = {"inputs": len(self.rows), **{name: verdicts[name] for name in ("kept", "quarantined", "dropped")}}
        check_counts(counts)
        found = Counter(row.split for row in self.rows if row.split is not None and row.verdict == "kept")
        splits = {split: found[split] for split in sorted(found, key=split_rank)}
        table = pl.DataFrame(
            [[_plain(getattr(row, name)) for name in VERDICT_SCHEMA] for row in self.rows],
            schema=VERDICT_SCHEMA,
            orient="row",
        )
        # a row that policy drops is no longer only flagged: its story is in the verdicts
        dropped = {row.row for row in self.rows if row.verdict == "dropped"}
        notes = sorted(
            (note for note in self.notes if note.row not in dropped),
            key=lambda each: (each.row, each.stage, each.slot or "", each.reason),
        )
        quarantine = pl.DataFrame(
            [[getattr(note, name) for name in QUARANTINE_SCHEMA] for note in notes],
            schema=QUARANTINE_SCHEMA,
            orient="row",
        )
        return Decision(table, quarantine, counts, splits, tuple(self._gate(counts, splits)))

    def _digest(self) -> None:
        """The digest of what each kept row is in a shard, and whether the base version has it so."""
        columns = self.facts.select("label", "group", "meta", *(f"{slot}.sha256" for slot in self.slots)).rows(
            named=True
        )
        for row in self.kept():
            assert row.place is not None
            facts, mine = columns[row.place], self.slots_of(row)
            content = {
                "key": row.key, "label": facts["label"], "group": facts["group"], "meta": facts["meta"],
                "texts": {slot: texts for slot, texts in self.texts[row.place].items() if slot in mine},
                "media": {slot: facts[f"{slot}.sha256"] for slot in mine},
            }  # fmt: skip
            row.digest = hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
            before = self.base.digest.get(row.key)
            row.change = "new" if before is None else "unchanged" if before == row.digest else "changed"

    def _gate(self, counts: Mapping[str, int], splits: Mapping[str, int]) -> list[str]:
        """Why this version must not be trained on."""
        gate, reasons = self.config.gate, []
        share = counts["kept"] / counts["inputs"] if counts["inputs"] else 0.0
        if share < gate.min_kept or not counts["kept"]:
            reasons.append(
                f"kept {counts['kept']} of {counts['inputs']} inputs ({share:.1%}), wanted at least {gate.min_kept:.1%}"
            )
        wanted: dict[str, int] = {
            split: gate.min_rows_per_split for split, part in self.config.splits.items() if part > 0
        }
        if self.config.holdout:
            wanted[self.config.holdout.split] = max(1, gate.min_rows_per_split)
        for split, least in wanted.items():
            if splits.get(split, 0) < least:
                reasons.append(f"split '{split}' has {splits.get(split, 0)} rows, wanted at least {least}")
        reasons += self._shares(counts["inputs"])
        leaks = self._leaks()
        if leaks:
            reasons.append(f"{leaks} samples repeat a sample of another split, wanted none")
        return reasons

    def _shares(self, inputs: int) -> list[str]:
        """Reasons that hit more of the inputs than the gate allows."""
        said = []
        for code, most in self.config.gate.max_share.items():
            hit = {note.row for note in self.notes if note.reason == code}
            hit |= {row.row for row in self.rows if row.reason == code}
            if len(hit) > most * inputs:
                said.append(f"'{code}' hits {len(hit)} of {inputs} inputs ({len(hit) / inputs:.1%}), "
                            f"wanted at most {most:.1%}")  # fmt: skip
        return said

    def _leaks(self) -> int:
        """Kept samples whose exemplar, or group, is in another split. The splits leave none; this counts again."""
        by_key = {row.key: row for row in self.kept()}
        groups = self.facts["group"].to_list()
        split_of: dict[str, str | None] = {}
        leaks = 0
        for row in self.kept():
            exemplar = by_key.get(row.exemplar) if row.exemplar else None
            group = groups[row.place] if row.place is not None else None
            other = split_of.setdefault(group, row.split) if group is not None else row.split
            leaks += (exemplar is not None and exemplar.split != row.split) or other != row.split
        return leaks


def check_counts(counts: Mapping[str, int]) -> None:
    """Law 6: inputs = kept + quarantined + dropped. Raises IntegrityError."""
    made = counts["kept"] + counts["quarantined"] + counts["dropped"]
    if counts["inputs"] != made:
        raise IntegrityError(f"counts: {counts['inputs']} inputs, but kept + quarantined + dropped = {made}")


def split_rank(split: str) -> tuple[int, str]:
    """Order of splits in every table: train, validation, test, then others by name."""
    return (SPLITS.index(split) if split in SPLITS else len(SPLITS), split)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _hash(digits: str | None) -> int | None:
    return None if digits is None else int(digits, 16)
