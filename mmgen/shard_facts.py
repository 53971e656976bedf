"""The facts of rows on their way into shards: read part by part, only where a row is written, and dealt to the shards.

Beside its facts a row has `tar` (the file that holds its bytes, relative to the store), `<slot>@` (offset of a slot's
bytes in it), and `shard` (the number of the shard that it goes into).
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from mmgen.artifact import Artifact, FileEntry
from mmgen.errors import IntegrityError, StoreError
from mmgen.store import Store
from mmgen.tars import TarIndex, safe_key

#: rows that are held at once, or a share of all where that is more: so many fragments at most go to the disk
HELD_ROWS, MOST_BUCKETS = 8_192, 256
#: what the facts of any slot say of it, where it is absent
ABSENT = {
    "present": pl.lit(value=False), "sha256": pl.lit(None, pl.String),
    "bytes": pl.lit(None, pl.Int64), "ext": pl.lit(None, pl.String),
}  # fmt: skip
# (row, key, slot, ext) → the name of a slot's bytes in the tar that has them
Member = Callable[[int, str, str, str], str]


@dataclass(frozen=True, slots=True)
class Part:
    """Rows whose facts are one table and whose bytes are one tar.

    first: the number of its first row. shift: what `row` of its facts lacks to be that number.
    """

    first: int
    shift: int
    facts: FileEntry
    tar: FileEntry


def staged_parts(staging: Artifact) -> list[Part]:
    """The batches of a staging, whose facts have the rows' numbers in the source."""
    pairs = zip(staging.by_role("facts"), staging.by_role("tar"), strict=True)
    return [Part(int(facts.facts["first_row"]), 0, facts, tar) for facts, tar in pairs]


class Facts:
    """What is known of rows and where their bytes lie, by the rows' places in `kept`.

    kept: `row` (ascending), `split`, `digest` (bytes). dropped: `row`, `dropped_slots` of the rows that lose a slot.
    """

    def __init__(
        self, store: Store, parts: Sequence[Part], slots: Mapping[str, str], member: Member,
        kept: pl.DataFrame, dropped: pl.DataFrame | None = None,
    ) -> None:  # fmt: skip
        self._store, self._parts, self._slots, self._member = store, parts, slots, member
        self._kept = kept.select("row", "split", "digest")
        self._dropped = dropped if dropped is not None and dropped.height else None

    def sizes(self, places_M: np.ndarray) -> np.ndarray:
        """Bytes of each row's members in a tar (M,), headers and padding included, roughly. places_M: ascending."""
        present = [name for slot in self._slots for name in (f"{slot}.present", f"{slot}.bytes")]
        size = pl.col("texts").str.len_chars() + pl.col("meta").str.len_chars() + 1536
        for slot in self._slots:
            mine = pl.col(f"{slot}.bytes").fill_null(0) + 1024
            size = size + pl.when(pl.col(f"{slot}.present")).then(mine).otherwise(0)
        size_M = np.empty(len(places_M), np.int64)
        for part, start, end in self._reads(places_M):
            table = self._read(part, places_M[start:end], ["row", "texts", "meta", *present])
            size_M[start:end] = table.select(size.cast(pl.Int64)).to_series().to_numpy()
        return size_M

    def tables(self, places_M: np.ndarray, shard_M: np.ndarray) -> Iterator[pl.DataFrame]:
        """The rows at these places as they go into shards, a table per part. shard_M: of each row."""
        for part, start, end in self._reads(places_M):
            table = self._read(part, places_M[start:end], None)
            where = self._where(part, table)
            yield table.with_columns(*where, pl.Series("shard", shard_M[start:end], pl.Int32))

    def _reads(self, places_M: np.ndarray) -> Iterator[tuple[Part, int, int]]:
        """The parts that hold any of the places, with the span of them that they hold."""
        edges = np.searchsorted(self._kept["row"].to_numpy()[places_M], [part.first for part in self._parts[1:]])
        for part, start, end in zip(self._parts, [0, *edges], [*edges, len(places_M)], strict=True):
            if start < end:
                yield part, int(start), int(end)

    def _read(self, part: Part, places_M: np.ndarray, columns: list[str] | None) -> pl.DataFrame:
        """Facts with the split and digest that the verdicts give; slots that they drop are absent."""
        known = self._known(part, columns).with_columns(pl.col("row") + part.shift).drop("digest", strict=False)
        wanted = self._kept[places_M]
        table = known.join(wanted.rename({"split": "assigned"}), on="row", how="inner", maintain_order="right")
        if table.height != wanted.height:
            said = f"{wanted.height} rows are kept, it has facts of {table.height} of them"
            raise IntegrityError(f"{part.facts.path}: {said}; restore it, or run ingest again")
        table = self._without_dropped(table)
        if columns is not None:
            return table
        digest = pl.col("digest").bin.encode("hex")
        return table.with_columns(split=pl.col("assigned").cast(pl.String)).drop("assigned").with_columns(digest)

    def _known(self, part: Part, columns: list[str] | None) -> pl.DataFrame:
        """Facts as they stand in their file; a slot that came after it was written is absent."""
        try:
            facts = pl.scan_parquet(self._store.local_path(part.facts.path), glob=False)
            there = facts.collect_schema()
        except FileNotFoundError:
            raise _missing(part.facts.path) from None
        later = [slot for slot in self._slots if f"{slot}.present" not in there]
        if columns is not None:
            facts = facts.select(name for name in columns if name in there)
        return facts.with_columns(ABSENT[name].alias(f"{slot}.{name}") for slot in later for name in ABSENT).collect()

    def _without_dropped(self, table: pl.DataFrame) -> pl.DataFrame:
        if self._dropped is None:
            return table
        table = table.join(self._dropped, on="row", how="left", maintain_order="left")
        changed = []
        for slot in self._slots:
            gone = pl.col("dropped_slots").list.contains(slot).fill_null(value=False)
            own = [name for name in table.columns if name.startswith(f"{slot}.") and name != f"{slot}.present"]
            changed += [pl.when(gone).then(None).otherwise(pl.col(name)).alias(name) for name in own]
            changed.append((pl.col(f"{slot}.present") & ~gone).alias(f"{slot}.present"))
        return table.with_columns(*changed).drop("dropped_slots")

    def _where(self, part: Part, table: pl.DataFrame) -> list[pl.Series | pl.Expr]:
        """Where the bytes of the rows are. Raises IntegrityError if they are nowhere."""
        path = f"{part.tar.path}.idx"
        try:
            index = TarIndex.from_bytes(self._store.read(path), path)
        except FileNotFoundError:
            raise _missing(path) from None
        if index.sha256 != part.tar.sha256:
            raise IntegrityError(f"{path}: is not the index of the tar that a manifest names; restore it")
        offsets = {member.name: member.offset for member in index.members}
        columns: list[pl.Series | pl.Expr] = [pl.lit(part.tar.path).alias("tar")]
        for slot in (slot for slot, modality in self._slots.items() if modality != "text"):
            rows = table.select("row", "key", f"{slot}.ext", f"{slot}.present").iter_rows()
            names = [self._member(row, key, slot, ext) if present else None for row, key, ext, present in rows]
            lost = next((name for name in names if name is not None and name not in offsets), None)
            if lost is not None:
                raise IntegrityError(
                    f"{part.tar.path}: has no '{lost}', which {part.facts.path} tells of; run ingest again"
                )
            columns.append(pl.Series(f"{slot}@", [offsets[name] if name else None for name in names], pl.Int64))
        return columns


def _missing(path: str) -> IntegrityError:
    return IntegrityError(f"{path}: missing; restore it, or run ingest again")


# ---------------------------------------------------------------- dealt to the shards


def by_shard(tables: Iterable[pl.DataFrame], count_S: np.ndarray, folder: Path | None) -> Iterator[pl.DataFrame]:
    """The rows of each shard in turn, in the order of its tar, from tables whose rows are of any shards.

    count_S: rows of each shard, at least one. folder: where rows wait that memory should not hold; None: the system's
    temporary folder. Raises StoreError if there is no room.
    """
    held_rows = max(HELD_ROWS, int(count_S.sum()) // MOST_BUCKETS)
    # shards that follow each other share a bucket
    bucket_S = (np.cumsum(count_S) - count_S) // held_rows
    with _Spool(folder) as spool:
        held, rows = list[pl.DataFrame](), 0
        for table in tables:
            held.append(table)
            rows += table.height
            if rows >= held_rows:
                spool.put(pl.concat(held), bucket_S)
                held, rows = [], 0
        if held:
            spool.put(pl.concat(held), bucket_S)
        held.clear()
        for bucket in np.unique(bucket_S).tolist():
            yield from in_tar(spool.take(bucket)).partition_by("shard", maintain_order=True)


def in_tar(table: pl.DataFrame) -> pl.DataFrame:
    """The rows by shard, in the order of their members in its tar."""
    names = pl.Series([f"{safe_key(key)}." for key in table["key"]], dtype=pl.String)
    return table.with_columns(names.alias("member")).sort("shard", "member").drop("member")


class _Spool:
    """Rows that wait on the disk, by bucket: one nameless file, gone when it is closed or its process dies."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder or Path(tempfile.gettempdir())
        self._spans: dict[int, list[tuple[int, int]]] = {}
        self._at = 0
        with self._on_disk():
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115

    def __enter__(self) -> _Spool:
        return self

    def __exit__(self, *error: object) -> None:
        with self._on_disk():
            self._file.close()

    def put(self, table: pl.DataFrame, bucket_S: np.ndarray) -> None:
        """Lay the rows into the buckets of their shards. Raises StoreError."""
        numbers = pl.Series("bucket", bucket_S[table["shard"].to_numpy()])
        for (bucket,), rows in table.with_columns(numbers).partition_by("bucket", as_dict=True).items():
            out = io.BytesIO()
            rows.drop("bucket").write_ipc(out, compression="lz4")
            with self._on_disk():
                self._file.write(out.getbuffer())
            self._spans.setdefault(int(bucket), []).append((self._at, out.tell()))
            self._at += out.tell()

    def take(self, bucket: int) -> pl.DataFrame:
        """All rows of a bucket. Raises StoreError."""
        tables = []
        for at, length in self._spans.pop(bucket):
            with self._on_disk():
                self._file.seek(at)
                data = self._file.read(length)
            tables.append(pl.read_ipc(data))
        return pl.concat(tables)

    @contextlib.contextmanager
    def _on_disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            said = error.strerror or str(error)
            raise StoreError(f"could not keep rows in a temporary file in {self._folder}: {said}") from error
