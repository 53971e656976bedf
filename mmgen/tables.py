"""Parquet tables of the data steps: the same rows give the same bytes."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator

import polars as pl

from mmgen.artifact import Artifact
from mmgen.errors import IntegrityError, StoreError
from mmgen.store import Store
from mmgen.tombstones import purged


def parquet(table: pl.DataFrame) -> bytes:
    """The Parquet file of a table; no time, path or machine is in it."""
    out = io.BytesIO()
    table.write_parquet(out, compression="zstd", statistics=False)
    return out.getvalue()


def parquet_of(chunks: Iterable[pl.DataFrame]) -> bytes:
    """The Parquet file of a table that comes in chunks of one schema, a row group each. At least one chunk."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    out, writer = io.BytesIO(), None
    for chunk in chunks:
        table = chunk.to_arrow(compat_level=pl.CompatLevel.oldest())
        writer = writer or pq.ParquetWriter(out, table.schema, compression="zstd", write_statistics=False)
        writer.write_table(pa.table(table))
    assert writer is not None
    writer.close()
    return out.getvalue()


def read_parquet(store: Store, path: str, columns: list[str] | None = None) -> pl.DataFrame:
    """A table of the store."""
    return pl.read_parquet(io.BytesIO(store.read(path)), columns=columns)


def each_kept(store: Store, dataset: Artifact, columns: list[str] | None = None) -> Iterator[pl.DataFrame]:
    """The facts of shard after shard of a dataset version, with the assigned `split` and the row's `digest`.

    Raises IntegrityError if they cannot be read, StoreError if they are purged while this reads.
    """
    for entry in dataset.by_role("facts"):
        try:
            yield read_parquet(store, entry.path, columns)
        except (FileNotFoundError, pl.exceptions.PolarsError) as error:
            if entry.path in purged(store, dataset):
                raise StoreError(f"{dataset.ref}: samples of it were purged meanwhile; run the line again") from error
            said = "the splits of its keys are in facts that cannot be read; restore them, or build anew with --rebuild"
            raise IntegrityError(f"{dataset.ref}: {said}: {error}") from error


def read_kept(store: Store, dataset: Artifact) -> pl.DataFrame:
    """The facts of all kept rows of a dataset version. See `each_kept`."""
    tables = list(each_kept(store, dataset))
    return pl.concat(tables, how="diagonal_relaxed") if tables else pl.DataFrame()
