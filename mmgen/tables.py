"""Parquet tables of the data steps: the same rows give the same bytes."""

from __future__ import annotations

import io

import polars as pl

from mmgen.artifact import Artifact
from mmgen.errors import IntegrityError
from mmgen.store import Store


def parquet(table: pl.DataFrame) -> bytes:
    """The Parquet file of a table; no time, path or machine is in it."""
    out = io.BytesIO()
    table.write_parquet(out, compression="zstd", statistics=False)
    return out.getvalue()


def read_parquet(store: Store, path: str, columns: list[str] | None = None) -> pl.DataFrame:
    """A table of the store."""
    return pl.read_parquet(io.BytesIO(store.read(path)), columns=columns)


def read_kept(store: Store, dataset: Artifact) -> pl.DataFrame:
    """The facts of all kept rows of a dataset version, with the assigned `split` and the row's `digest`.

    Raises IntegrityError if they cannot be read.
    """
    try:
        tables = [read_parquet(store, entry.path) for entry in dataset.by_role("facts")]
    except (FileNotFoundError, pl.exceptions.PolarsError) as error:
        said = "the splits of its keys are in facts that cannot be read; restore them, or build anew with --rebuild"
        raise IntegrityError(f"{dataset.ref}: {said}: {error}") from error
    return pl.concat(tables, how="diagonal_relaxed") if tables else pl.DataFrame()
