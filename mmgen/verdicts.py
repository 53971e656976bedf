"""From inputs to verdicts: rules, duplicates, splits, gate. Pure; `validate` brings the inputs and commits the outcome.

Each input gets exactly one verdict: kept, quarantined (a rule rejects it) or dropped (policy leaves it out): law 6.
All of it is done on columns, so that a million inputs fit where a thousand do.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from mmgen.decision import (
    CHUNK_ROWS,
    KEPT,
    VERDICTS,
    Base,
    Decision,
    check_counts,
    digest_words,
    hex_digests,
    named,
    split_rank,
)
from mmgen.duplicates import Thumbnails, find_duplicates
from mmgen.inputs import NOTE_SCHEMA, SETTLED_SCHEMA, Inputs, Int
from mmgen.records import SPLIT_SPELLINGS, Rejection
from mmgen.splits import FEW_UNITS, SPLITS, Member, assign, by_hash
from mmgen.validate_config import ValidateConfig

Code = npt.NDArray[np.int8]
#: how a sample repeats another, and the reason that says so
REPEATS = {"exact": "duplicate", "near": "near_duplicate", "same_media": "same_media"}


def decide(
    inputs: Inputs,
    config: ValidateConfig,
    *,
    seed: int,
    base: Base,
    thumbnails: Thumbnails,
    mismatched: Sequence[Rejection] = (),
) -> Decision:
    """Verdicts over all inputs. thumbnails: of (index of the input, media slot). mismatched: what pair scores say."""
    judge = _Judge(inputs, config, seed, base)
    judge.apply_slots()
    judge.apply_rules()
    judge.apply_pairs(mismatched)
    judge.apply_duplicates(thumbnails)
    judge.apply_splits()
    return judge.conclude()


class _Judge:
    """The state of one decision; each `apply` looks at the rows that are still kept.

    verdict_N: codes into VERDICTS. split_N: codes into `splits`, −1 for none. exemplar_N: what a sample repeats, its
    own index if nothing. kept_N, same_N: of the base version, the split as such a code, and whether it has the row so.
    """

    def __init__(self, inputs: Inputs, config: ValidateConfig, seed: int, base: Base) -> None:
        self.inputs, self.config, self.seed, self.base = inputs, config, seed, base
        count = len(inputs)
        self.verdict_N = np.zeros(count, np.int8)
        self.notes, self.settled = [inputs.notes], list[pl.DataFrame]()
        self.splits: list[str] = list(SPLITS)
        self.split_N = np.full(count, -1, np.int8)
        self.exemplar_N = np.arange(count)
        self.repeats: list[tuple[int, str, str, float]] = []
        self._settle(inputs.settled)
        self._compare(base)

    def _compare(self, base: Base) -> None:
        """Which inputs the base version has, in which split, and whether unchanged."""
        count = len(self.inputs)
        self.kept_N, self.same_N = np.full(count, -1, np.int8), np.zeros(count, np.bool_)
        if not base.rows.height:
            return
        codes = {split: self._code(split) for split in base.rows["split"].unique(maintain_order=True)}
        old = base.rows.with_columns(pl.col("split").replace_strict(codes, return_dtype=pl.Int8))
        found = pl.DataFrame({"key": self.inputs.keys}).join(old, on="key", how="left", maintain_order="left")
        self.kept_N = found["split"].fill_null(-1).to_numpy()
        for start in range(0, count, CHUNK_ROWS):
            piece = slice(start, start + CHUNK_ROWS)
            now = digest_words(hex_digests(self.inputs.content_NB[piece]))
            self.same_N[piece] = (found["digest"][piece] == now).fill_null(value=False).to_numpy()

    def _code(self, split: str) -> int:
        if split not in self.splits:
            self.splits.append(split)
        return self.splits.index(split)

    def kept(self) -> Int:
        """Indices of the rows that are still kept."""
        return np.flatnonzero(self.verdict_N == KEPT)

    def note(
        self, found: Sequence[tuple[int, str]], reason: str, *, reject: bool, slots: Sequence[str | None] | None = None
    ) -> None:
        """Say (index, message) of each, or of a slot of each; and reject it, if `reject`."""
        if not found:
            return
        index = [each for each, _ in found]
        self.notes.append(pl.DataFrame({
            "row": self.inputs.row_N[index], "key": self.inputs.keys.gather(index), "stage": "validate",
            "slot": pl.Series(slots or [None] * len(index), dtype=pl.String), "reason": reason,
            "severity": "reject" if reject else "flag",
            "message": pl.Series([said for _, said in found], dtype=pl.String),
        }, schema=NOTE_SCHEMA))  # fmt: skip
        if reject:
            self.settle(found, reason, "quarantined")

    def settle(self, found: Sequence[tuple[int, str]], reason: str, verdict: str) -> None:
        self._settle(pl.DataFrame([(at, verdict, reason, said) for at, said in found], SETTLED_SCHEMA, orient="row"))

    def _settle(self, against: pl.DataFrame) -> None:
        """The first verdict other than kept stands."""
        new = against.filter(pl.Series(self.verdict_N[against["index"].to_numpy()] == KEPT)).unique(
            "index", keep="first", maintain_order=True
        )
        codes = new["verdict"].replace_strict({name: code for code, name in enumerate(VERDICTS)}, return_dtype=pl.Int8)
        self.verdict_N[new["index"].to_numpy()] = codes.to_numpy()
        self.settled.append(new)

    def apply_slots(self) -> None:
        """A row without any slot left is rejected."""
        kept, said = self.kept(), f"none of {', '.join(self.inputs.slots)} is there"
        bare = kept[~self.inputs.present_NS[kept].any(axis=1)]
        self.note([(int(at), said) for at in bare], "no_slots", reject=True)

    def apply_rules(self) -> None:
        """Keys are unique, and a user's split has a known name. A row that breaks both says both."""
        kept = self.kept()
        self._keys(kept)
        held = self.config.holdout.split if self.config.holdout else None
        known = ", ".join([*SPLITS, *([held] if held else [])])
        strange = [code for code, name in enumerate(self.inputs.owns)
                   if name.strip().lower() not in SPLIT_SPELLINGS and name != held]  # fmt: skip
        bad = kept[np.isin(self.inputs.own_N[kept], strange)]
        names = self.inputs.owns
        self.note([(int(at), f"split: wanted one of {known}, came '{names[self.inputs.own_N[at]]}'") for at in bad],
                  "unknown_split", reject=True)  # fmt: skip

    def _keys(self, kept: Int) -> None:
        keys, alike = self.inputs.keys, self._alike()
        _, inverse, counts = np.unique(alike[kept], return_inverse=True, return_counts=True)
        first: dict[str, int] = {}
        spelled: dict[str, str] = {}
        twice: list[tuple[int, str]] = []
        clashes: list[tuple[int, str]] = []
        for at in kept[counts[inverse] > 1].tolist():
            key = keys[at]
            if (other := spelled.setdefault(_folded(key), key)) != key:
                clashes.append((at, f"'{key}' and '{other}' differ only in case or in how they are composed"))
            if (earlier := first.setdefault(key, at)) != at:
                twice.append((at, f"row {self.inputs.row_N[earlier]} has the key '{key}' already"))
        self.note(clashes, "key_clash", reject=False)
        self.note(twice, "duplicate_key", reject=True)

    def _alike(self) -> npt.NDArray[np.uint64]:
        """64 bits of each key that are the same where keys differ in case or composition alone."""
        found = np.empty(len(self.inputs), np.uint64)
        for start in range(0, len(found), CHUNK_ROWS):
            keys, piece = self.inputs.keys[start : start + CHUNK_ROWS], found[start : start + CHUNK_ROWS]
            piece[:] = keys.str.to_lowercase().hash().to_numpy()
            odd = np.flatnonzero((keys.str.len_bytes() != keys.str.len_chars()).to_numpy())
            piece[odd] = pl.Series([_folded(key) for key in keys.gather(odd)], dtype=pl.String).hash().to_numpy()
        return found

    def apply_pairs(self, mismatched: Sequence[Rejection]) -> None:
        """Note kept rows whose slots do not belong together."""
        place = {int(self.inputs.row_N[at]): int(at) for at in self.kept()} if mismatched else {}
        found = [
            (place[each.row], each)
            for each in mismatched
            if each.row in place and each.slot in self.inputs.slots_at(place[each.row])
        ]
        for reject in (False, True):
            mine = [(at, each) for at, each in found if (each.severity == "reject") == reject]
            self.note([(at, each.message) for at, each in mine], "mismatched_pair", reject=reject,
                      slots=[each.slot for _, each in mine])  # fmt: skip

    def apply_duplicates(self, thumbnails: Thumbnails) -> None:
        """Link what repeats an earlier sample, and let the policies drop or flag it."""
        kept, columns = self.kept(), self.inputs
        # a sample of the base version is never displaced by a new one
        ranked = kept[np.lexsort((kept, self.kept_N[kept] < 0))]
        media = np.array([list(columns.slots).index(slot) for slot in columns.media], np.int64)
        links = find_duplicates(
            columns.present_NS[np.ix_(ranked, media)], columns.media_N2[ranked], columns.hash_NM[ranked],
            columns.hashed_NM[ranked], radius_bits=self.config.near_radius_bits, confirm=self.config.near_confirm,
            thumbnails=lambda place, slot: thumbnails(int(ranked[place]), slot),
        )  # fmt: skip
        self.exemplar_N[ranked] = ranked[links.exemplar_N]
        self.ranked = ranked
        policies = {"exact": self.config.duplicates, "near": self.config.near_duplicates,
                    "same_media": self.config.near_duplicates}  # fmt: skip
        found: dict[str, list[tuple[int, str]]] = {kind: [] for kind in REPEATS}
        for place in np.flatnonzero(links.exemplar_N != np.arange(len(ranked))).tolist():
            at, other, score = int(ranked[place]), int(self.exemplar_N[ranked[place]]), float(links.similarity_N[place])
            # the same media under other words is another sample, linked but not equal
            same = columns.texts_N[at] == columns.texts_N[other]
            kind = ("exact" if same else "same_media") if links.exact_N[place] else "near"
            self.repeats.append((at, columns.keys[other], kind, score))
            said = f"repeats '{columns.keys[other]}' (row {columns.row_N[other]}, similarity {score:.3f})"
            found[kind].append((at, said))
        for kind, policy in policies.items():
            if policy == "flag":
                self.note(found[kind], REPEATS[kind], reject=False)
            elif policy == "drop":
                self.settle(found[kind], REPEATS[kind], "dropped")

    def apply_splits(self) -> None:
        """Give each kept row its split; one that links two is dropped."""
        kept = self.ranked[self.verdict_N[self.ranked] == KEPT]
        shares = {str(split): part for split, part in self.config.splits.items()}
        fixed_N = self._own_splits()
        # what a sample repeats may have been rejected since; the first that is left stands for it
        _, first, cluster = np.unique(self.exemplar_N[kept], return_index=True, return_inverse=True)
        exemplar = kept[first[cluster]]
        linked = (self.inputs.group_N[kept] >= 0) | (exemplar != kept) | np.isin(kept, exemplar[exemplar != kept])
        if len(kept) < FEW_UNITS:
            linked[:] = True
        alone = kept[~linked]
        split_N = np.where(fixed_N[alone] >= 0, fixed_N[alone], self.kept_N[alone])
        free = np.flatnonzero(split_N < 0)
        keys = self.inputs.keys.gather(alone[free])
        split_N[free] = [self._code(by_hash(key, shares, self.seed)) for key in keys]
        self.split_N[alone] = split_N
        self._place(kept[linked], exemplar[linked], fixed_N, shares, len(alone))

    def _place(self, kept: Int, exemplar: Int, fixed_N: Code, shares: Mapping[str, float], alone: int) -> None:
        """Splits of samples that are linked to others."""
        place = {int(at): index for index, at in enumerate(kept)}
        groups, keys = self.inputs.groups, self.inputs.keys
        members = [
            Member(keys[at], groups[group] if group >= 0 else None, self._name(fixed_N[at]),
                   self._name(self.kept_N[at]), place[first])
            for at, group, first in zip(kept.tolist(), self.inputs.group_N[kept].tolist(), exemplar.tolist(),
                                        strict=True)
        ]  # fmt: skip
        bridges: list[tuple[int, str]] = []
        repeated = {at: key for at, key, _, _ in self.repeats}
        for at, placement in zip(kept.tolist(), assign(members, shares, self.seed, alone=alone), strict=True):
            if placement.split is not None:
                self.split_N[at] = self._code(placement.split)
                continue
            assert placement.bridges is not None
            one, other = placement.bridges
            said = f"links the splits '{one}' and '{other}'"
            bridges.append((at, said + (f"; repeats '{repeated[at]}'" if at in repeated else "")))
        self.settle(bridges, "bridges_splits", "dropped")

    def _name(self, code: int) -> str | None:
        return self.splits[code] if code >= 0 else None

    def _own_splits(self) -> Code:
        """Codes of the splits that the user's column or the held-out values give, −1 for none."""
        names = [SPLIT_SPELLINGS.get(name.strip().lower(), name) for name in self.inputs.owns]
        # the last one stands for "none"
        codes = np.array([*(self._code(name) for name in names), -1], np.int8)
        found = codes[self.inputs.own_N]
        if self.config.holdout is not None:
            found = np.where((found < 0) & self.inputs.held_N, np.int8(self._code(self.config.holdout.split)), found)
        return found

    # ------------------------------------------------------------ the outcome

    def conclude(self) -> Decision:
        """Tables, counts and the gate. Raises IntegrityError if an input is lost or counted twice."""
        codes = np.bincount(self.verdict_N, minlength=len(VERDICTS)).tolist()
        counts = {"inputs": len(self.inputs), **dict(zip(VERDICTS, codes, strict=True))}
        check_counts(counts)
        kept = self.kept()
        found = np.bincount(self.split_N[kept], minlength=len(self.splits))
        splits = {self.splits[code]: int(count) for code, count in enumerate(found) if count}
        splits = {split: splits[split] for split in sorted(splits, key=split_rank)}
        settled = pl.concat(self.settled)
        gate = self._gate(counts, splits, settled)
        return Decision(self._table(settled), self.inputs.content_NB, self._quarantine(), counts, splits, tuple(gate))

    def _quarantine(self) -> pl.DataFrame:
        # a row that policy drops is no longer only flagged: its story is in the verdicts
        dropped = self.inputs.row_N[self.verdict_N == VERDICTS.index("dropped")]
        notes = pl.concat(self.notes)
        return notes.filter(~pl.col("row").is_in(dropped.tolist())).sort(
            "row", "stage", pl.col("slot").fill_null(""), "reason", maintain_order=True
        )

    def _table(self, settled: pl.DataFrame) -> pl.DataFrame:
        """One row per input, in the order of rows."""
        index = pl.Series(np.arange(len(self.inputs)), dtype=pl.Int64)
        is_kept = self.verdict_N == KEPT
        known = self.kept_N >= 0
        change = np.where(is_kept, np.where(known, np.where(self.same_N, 1, 2), 0), -1)
        links = pl.DataFrame(self.repeats, schema={"index": pl.Int64, "exemplar": pl.String, "repeats": pl.String,
                                                   "similarity": pl.Float64}, orient="row")  # fmt: skip
        dropped = pl.DataFrame(
            [(at, list(slots)) for at, slots in self.inputs.dropped.items()],
            schema={"index": pl.Int64, "dropped_slots": pl.List(pl.String)}, orient="row",
        )  # fmt: skip
        split_N = np.where(is_kept, self.split_N, -1)
        table = pl.DataFrame({
            "index": index, "row": self.inputs.row_N, "key": self.inputs.keys,
            "verdict": named(self.verdict_N, VERDICTS), "split": named(split_N, self.splits),
            "change": named(change, ("new", "unchanged", "changed")),
        })  # fmt: skip
        for part in (settled.select("index", "reason", "message"), links, dropped):
            table = table.join(part, on="index", how="left", maintain_order="left")
        return table.drop("index").with_columns(pl.col("dropped_slots").fill_null([]))

    def _gate(self, counts: Mapping[str, int], splits: Mapping[str, int], settled: pl.DataFrame) -> list[str]:
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
        reasons += self._shares(counts["inputs"], settled)
        leaks = self._leaks()
        if leaks:
            reasons.append(f"{leaks} samples repeat a sample of another split, wanted none")
        return reasons

    def _shares(self, inputs: int, settled: pl.DataFrame) -> list[str]:
        """Reasons that hit more of the inputs than the gate allows."""
        said = []
        rows = settled.select("reason", row=pl.Series(self.inputs.row_N[settled["index"].to_numpy()], dtype=pl.Int64))
        hits = pl.concat([rows, *(notes.select("reason", "row") for notes in self.notes)])
        for code, most in self.config.gate.max_share.items():
            hit = hits.filter(pl.col("reason") == code)["row"].n_unique()
            if hit > most * inputs:
                said.append(f"'{code}' hits {hit} of {inputs} inputs ({hit / inputs:.1%}), wanted at most {most:.1%}")
        return said

    def _leaks(self) -> int:
        """Kept samples whose cluster, or group, is in another split. The splits leave none; this counts again."""
        kept = self.kept()
        apart = self._apart(kept, self.exemplar_N[kept])
        grouped = np.flatnonzero(self.inputs.group_N[kept] >= 0)
        apart[grouped] |= self._apart(kept[grouped], self.inputs.group_N[kept[grouped]])
        return int(apart.sum())

    def _apart(self, kept: Int, together: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Which samples are in another split than the first one of what should stay together."""
        _, first, member = np.unique(together, return_index=True, return_inverse=True)
        apart: npt.NDArray[np.bool_] = self.split_N[kept] != self.split_N[kept[first[member]]]
        return apart


def _folded(key: str) -> str:
    return unicodedata.normalize("NFC", key).casefold()
