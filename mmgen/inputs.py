"""All inputs of a staging as columns: what the verdicts need of each, some hundred and fifty bytes a row.

The facts of a row are several times that, so they are read chunk by chunk and never stand in memory together.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from json.encoder import encode_basestring
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import polars as pl

from mmgen.errors import IntegrityError
from mmgen.records import Modality
from mmgen.validate_config import ValidateConfig

if TYPE_CHECKING:
    # pandera takes a second to import, and workers that write shards come by here
    from data_schemas.facts import Failure

#: perceptual hash columns by modality
HASH_COLUMN = {"image": "phash", "audio": "ahash"}
NOTE_SCHEMA: dict[str, Any] = {
    "row": pl.Int64, "key": pl.String, "stage": pl.String, "slot": pl.String,
    "reason": pl.String, "severity": pl.String, "message": pl.String,
}  # fmt: skip
SETTLED_SCHEMA: dict[str, Any] = {
    "index": pl.Int64, "verdict": pl.String, "reason": pl.String, "message": pl.String,
}  # fmt: skip

#: odd, so that multiplying by it loses no bit (the golden ratio's, as Fibonacci hashing has it)
_MIX = np.uint64(0x9E3779B97F4A7C15)

Int = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]
Word = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive inputs: their facts, what ingest found wrong with them, and where the facts break their schema."""

    facts: pl.DataFrame
    rejections: pl.DataFrame
    broken: Sequence[Failure] = ()


@dataclass(frozen=True)
class Inputs:
    """N inputs in the order of their rows. M: slots that are media, S: all slots.

    there_N: ingest has facts of it; it rejected the others as a whole. group_N, own_N: codes into `groups`, `owns`
    (the user's own names of splits), −1 for none. held_N: its metadata says that it is held out. present_NS: present
    and not dropped. media_N2: 128 bits of which media a row has and of their digests, equal where both are.
    hash_NM: perceptual hash, where hashed_NM. ext_NM: code into `exts`. texts_N: 64 bits of its texts.
    content_NB: sha256 of all that it is in a shard, B = 32. notes: what is wrong so far, a row of the quarantine each.
    settled: the first reason against each that is not kept. dropped: index → slots that were dropped.
    """

    slots: Mapping[str, Modality]
    media: tuple[str, ...]
    row_N: Int
    keys: pl.Series
    there_N: Bool
    group_N: npt.NDArray[np.int32]
    groups: tuple[str, ...]
    own_N: npt.NDArray[np.int32]
    owns: tuple[str, ...]
    held_N: Bool
    present_NS: Bool
    media_N2: Word
    hash_NM: Word
    hashed_NM: Bool
    ext_NM: npt.NDArray[np.int8]
    exts: tuple[str, ...]
    texts_N: Word
    content_NB: npt.NDArray[np.uint8]
    notes: pl.DataFrame
    settled: pl.DataFrame
    dropped: Mapping[int, tuple[str, ...]]

    def __len__(self) -> int:
        return len(self.row_N)

    def slots_at(self, index: int) -> list[str]:
        """The slots of an input that are present and not dropped."""
        return [slot for slot, there in zip(self.slots, self.present_NS[index], strict=True) if there]


def gather(chunks: Iterable[Chunk], slots: Mapping[str, Modality], config: ValidateConfig) -> Inputs:
    """Read all chunks, in the order of their rows, under the policies for bad slots and for what is held out.

    slots: name → modality. Raises IntegrityError for facts that break their schema as a whole, for a row that comes
    twice, and for one that is flagged and has no facts.
    """
    gathered = _Gathered(slots, config)
    for chunk in chunks:
        gathered.add(chunk)
    return gathered.done()


class _Names:
    """Names by code, in the order in which they came."""

    def __init__(self) -> None:
        self.codes: dict[str, int] = {}

    def of(self, names: Iterable[str | None]) -> list[int]:
        codes = self.codes
        return [-1 if name is None else codes.setdefault(name, len(codes)) for name in names]


@dataclass
class _Gathered:
    slots: Mapping[str, Modality]
    config: ValidateConfig
    columns: dict[str, list[Any]] = field(default_factory=dict)
    dropped: dict[int, tuple[str, ...]] = field(default_factory=dict)
    count: int = 0
    last: int = -1

    def __post_init__(self) -> None:
        self.media = tuple(slot for slot, modality in self.slots.items() if modality != "text")
        self.groups, self.owns, self.exts = _Names(), _Names(), _Names()
        self.notes = [pl.DataFrame(schema=NOTE_SCHEMA)]
        self.settled = [pl.DataFrame(schema=SETTLED_SCHEMA)]

    def add(self, chunk: Chunk) -> None:
        facts, rejections = chunk.facts, chunk.rejections.sort("row", pl.col("slot").fill_null(""), "reason")
        rows = np.union1d(facts["row"].to_numpy(), rejections["row"].to_numpy())
        place = np.searchsorted(rows, facts["row"].to_numpy())
        if len(rows) and (rows[0] <= self.last or len(np.unique(place)) != len(place)):
            raise IntegrityError("staging: a row number occurs twice; ingest it again")
        there = np.zeros(len(rows), np.bool_)
        there[place] = True
        dropped = self._findings(rejections, rows, there)
        self._schema(chunk.broken, facts, place)
        keys = pl.DataFrame({"row": rows}).join(
            pl.concat([facts.select("row", "key"), rejections.select("row", "key")]).unique("row", keep="first"),
            on="row", how="left", maintain_order="left",
        )["key"].fill_null("")  # fmt: skip
        present = {slot: facts[f"{slot}.present"].to_numpy().copy() for slot in self.slots}
        for index, mine in dropped.items():
            for slot in mine:
                present[slot][place == index] = False
        self._put(rows, there, keys)
        self._put_facts(facts, place, len(rows), present)
        self.dropped |= {self.count + index: mine for index, mine in dropped.items()}
        self.count, self.last = self.count + len(rows), int(rows[-1]) if len(rows) else self.last

    # ------------------------------------------------------------ what is wrong

    def _findings(self, found: pl.DataFrame, rows: Int, there: Bool) -> dict[int, tuple[str, ...]]:
        """Take ingest's rejections over. A bad slot of a row that has facts is the policy's to judge.

        Returns index in the chunk → slots to drop.
        """
        index = np.searchsorted(rows, found["row"].to_numpy())
        found = found.with_columns(index=pl.Series(index, dtype=pl.Int64), there=pl.Series(there[index]))
        forgotten = pl.col("reason") == "forgotten"
        rejects = (pl.col("severity") == "reject") & ~forgotten
        bad_slot = rejects & pl.col("there") & pl.col("slot").is_in(list(self.slots)).fill_null(value=False)
        left_out = bad_slot if self.config.on_bad_slot == "drop_slot" else pl.lit(value=False)
        noted = found.filter(~forgotten).with_columns(
            severity=pl.when(left_out).then(pl.lit("flag")).otherwise("severity"),
            message=pl.when(left_out).then("slot dropped: " + pl.col("message")).otherwise("message"),
        )
        self.notes.append(noted.select(*NOTE_SCHEMA))
        against = found.filter((rejects & ~left_out) | forgotten).unique("index", keep="first", maintain_order=True)
        self._settle(against.with_columns(verdict=pl.when(forgotten).then(pl.lit("dropped"))
                                          .otherwise(pl.lit("quarantined"))))  # fmt: skip
        lost = set(index[~there[index]].tolist()) - set(against["index"].to_list())
        if lost:
            raise IntegrityError(f"staging: row {rows[min(lost)]} is flagged but has no facts; ingest it again")
        slots = found.filter(left_out).group_by("index").agg(pl.col("slot").unique().sort())
        return {each: tuple(mine) for each, mine in slots.iter_rows()}

    def _settle(self, against: pl.DataFrame) -> None:
        self.settled.append(against.select(pl.col("index") + self.count, "verdict", "reason", "message"))

    def _schema(self, broken: Sequence[Failure], facts: pl.DataFrame, place: Int) -> None:
        """A row that breaks the facts schema is rejected. Raises IntegrityError if a whole column does."""
        notes, against = [], []
        for each in broken:
            said = f"column '{each.column}': wanted {each.check}, came {each.value}"
            if each.index is None:
                raise IntegrityError(f"staging facts: {said}; ingest again")
            row, key = facts.select("row", "key").row(each.index)
            notes.append((row, key or "", "validate", None, "schema", "reject", said))
            against.append((int(place[each.index]), "quarantined", "schema", said))
        self.notes.append(pl.DataFrame(notes, schema=NOTE_SCHEMA, orient="row"))
        self._settle(pl.DataFrame(against, schema=SETTLED_SCHEMA, orient="row"))

    # ------------------------------------------------------------ what they are

    def _put(self, rows: Int, there: Bool, keys: pl.Series) -> None:
        for name, values in (("row_N", rows.astype(np.int64)), ("there_N", there), ("keys", keys)):
            self.columns.setdefault(name, []).append(values)

    def _put_facts(self, facts: pl.DataFrame, place: Int, count: int, present: Mapping[str, Bool]) -> None:
        """The columns that follow from facts; nothing, where a row has none."""

        def put(name: str, values: Any, dtype: Any, fill: Any = 0, shape: tuple[int, ...] = ()) -> None:
            column = np.full((count, *shape), fill, dtype)
            column[place] = values
            self.columns.setdefault(name, []).append(column)

        media, height = self.media, facts.height
        put("group_N", self.groups.of(facts["group"]), np.int32, -1)
        put("own_N", self.owns.of(facts["split"]), np.int32, -1)
        put("held_N", _held(facts, self.config), np.bool_)
        put("texts_N", facts["texts"].hash().to_numpy(), np.uint64)
        put("present_NS", _side([present[slot] for slot in self.slots], height), np.bool_, shape=(len(self.slots),))
        put("media_N2", _side([self._mixed(facts, present, seed) for seed in (1, 2)], height), np.uint64, shape=(2,))
        words = [_words(facts[f"{slot}.{HASH_COLUMN[self.slots[slot]]}"]) for slot in media]
        put("hash_NM", _side([word for word, _ in words], height), np.uint64, shape=(len(media),))
        put("hashed_NM", _side([there for _, there in words], height), np.bool_, shape=(len(media),))
        codes = [np.array(self.exts.of(facts[f"{slot}.ext"] if f"{slot}.ext" in facts.columns else [None] * height),
                          np.int8) for slot in media]  # fmt: skip
        put("ext_NM", _side(codes, height), np.int8, -1, shape=(len(media),))
        put("content_NB", content_digests(facts, self.slots, present), np.uint8, shape=(32,))

    def _mixed(self, facts: pl.DataFrame, present: Mapping[str, Bool], seed: int) -> Word:
        """64 bits of which media each row has and what they are. Hashes are uniform: a weighted sum will do."""
        mixed = np.zeros(facts.height, np.uint64)
        for slot in self.media:
            words = facts[f"{slot}.sha256"].hash(seed).to_numpy()
            mixed = mixed * _MIX + np.where(present[slot], words | np.uint64(1), np.uint64(0))
        return mixed

    def done(self) -> Inputs:
        def whole(name: str) -> Any:
            # each column is joined and let go before the next
            return np.concatenate(self.columns.pop(name))

        if not self.count:
            self.add(Chunk(_no_facts(self.slots), pl.DataFrame(schema=NOTE_SCHEMA)))
        keys = pl.concat(self.columns.pop("keys"), rechunk=True)
        arrays = {name: whole(name) for name in list(self.columns)}
        return Inputs(
            self.slots, self.media, keys=keys, groups=tuple(self.groups.codes), owns=tuple(self.owns.codes),
            exts=tuple(self.exts.codes), notes=pl.concat(self.notes), settled=pl.concat(self.settled),
            dropped=self.dropped, **arrays,
        )  # fmt: skip


def _side(columns: Sequence[Any], height: int) -> Any:
    return np.stack(columns, axis=1) if columns else np.empty((height, 0))


def _words(digits: pl.Series) -> tuple[Word, Bool]:
    """The numbers that 16 hex digits say, and where there are such."""
    raw = digits.str.decode("hex", strict=False)
    there = (raw.bin.size() == 8).fill_null(value=False)
    found = b"".join(each if good else bytes(8) for each, good in zip(raw, there, strict=True))
    return np.frombuffer(found, ">u8").astype(np.uint64), there.to_numpy()


def _no_facts(slots: Mapping[str, Modality]) -> pl.DataFrame:
    schema: dict[str, Any] = {"row": pl.Int64}
    schema |= dict.fromkeys(("key", "label", "group", "split", "meta", "texts"), pl.String)
    for slot, modality in slots.items():
        schema |= {f"{slot}.present": pl.Boolean, f"{slot}.sha256": pl.String}
        schema |= {f"{slot}.{HASH_COLUMN[modality]}": pl.String} if modality in HASH_COLUMN else {}
    return pl.DataFrame(schema=schema)


def _held(facts: pl.DataFrame, config: ValidateConfig) -> list[bool] | bool:
    holdout = config.holdout
    if holdout is None:
        return False
    return [str(json.loads(meta).get(holdout.column)) in holdout.values for meta in facts["meta"]]


def content_digests(
    facts: pl.DataFrame, slots: Mapping[str, Modality], present: Mapping[str, Bool]
) -> npt.NDArray[np.uint8]:
    """(rows, 32): sha256 of what each row is in a shard: key, label, group, metadata, present texts and media.

    Over the JSON {"group", "key", "label", "media": {slot: sha256}, "meta", "texts"}, keys sorted.
    """
    names = {slot: _quoted(slot) for slot in sorted(slots)}
    digests = {slot: facts[f"{slot}.sha256"].to_list() for slot in slots}
    shown = {slot: present[slot].tolist() for slot in slots}
    words = [slot for slot, modality in slots.items() if modality == "text"]
    found = bytearray()
    columns = facts.select("key", "label", "group", "meta", "texts").iter_rows()
    for at, (key, label, group, meta, texts) in enumerate(columns):
        mine = ", ".join(f'{name}: "{digests[slot][at]}"' for slot, name in names.items() if shown[slot][at])
        if any(not shown[slot][at] and names[slot] in texts for slot in words):
            # the facts have the texts of slots that are dropped, too
            kept = {slot: each for slot, each in json.loads(texts).items() if slot in shown and shown[slot][at]}
            texts = json.dumps(kept, sort_keys=True, ensure_ascii=False)
        content = (
            f'{{"group": {_quoted(group)}, "key": {_quoted(key)}, "label": {_quoted(label)}, '
            f'"media": {{{mine}}}, "meta": {_quoted(meta)}, "texts": {texts}}}'
        )
        found += hashlib.sha256(content.encode()).digest()
    return np.frombuffer(bytes(found), np.uint8).reshape(facts.height, 32)


def _quoted(text: str | None) -> str:
    return "null" if text is None else encode_basestring(text)
