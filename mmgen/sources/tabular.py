"""Tables: CSV, TSV, JSON lines (packed or not), Parquet. Records keep their number, whatever is wrong before them."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import os
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any

from mmgen.errors import SourceError, unknown_name
from mmgen.sources.config import SourceConfig
from mmgen.sources.fetching import Patience
from mmgen.sources.rows import Columns, Roots, Row, rejected, strict_json, to_row
from mmgen.uris import read_uri

#: cells longer than this are a broken quote rather than a text
MAX_CELL_CHARS = 16 << 20
#: lines longer than this are cut into several, so that none has to fit into memory
MAX_LINE_CHARS = 64 << 20
PACKED = ".gz"
#: JSON lines have no header: columns are those of this many first records
HEAD_RECORDS = 1000
DELIMITERS = {"csv": ",;\t|", "tsv": "\t"}
SUFFIXES = {"csv": "csv", "tsv": "tsv", "tab": "tsv", "txt": "csv", "jsonl": "jsonl", "ndjson": "jsonl", "json": "json",
            "parquet": "parquet", "pq": "parquet"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Bad:
    """A record that cannot be read."""

    reason: str
    message: str


Record = Mapping[str, Any] | Bad


class TableSource:
    """A table file and the columns that matter. Paths in its cells are relative to the table's folder."""

    def __init__(self, config: SourceConfig, columns: Columns) -> None:
        self.path, self.columns = config.path, columns
        self.roots = Roots(config.path.rpartition("/")[0] if "://" in config.path else os.path.dirname(config.path),
                           config.allow_roots)  # fmt: skip

    def rows(self) -> Iterator[Row]:
        """See `Source.rows`."""
        names, records = open_table(self.path)
        self.columns.check(names, self.path)
        columns = self.columns.with_all_meta(names)
        for number, record in enumerate(records):
            if isinstance(record, Bad):
                yield rejected(number, "", record.reason, record.message)
            else:
                yield to_row(number, record, columns, self.roots)


def format_of(path: str) -> str:
    """csv, tsv, jsonl, json or parquet, by the file's suffix. Raises SourceError."""
    suffix = path.rsplit("/", 1)[-1].lower().removesuffix(PACKED).rsplit(".", 1)[-1]
    if suffix not in SUFFIXES:
        raise SourceError(f"source.path: {path}: {unknown_name('table suffix', suffix, SUFFIXES)}")
    if path.lower().endswith(PACKED) and SUFFIXES[suffix] == "parquet":
        raise SourceError(f"source.path: {path}: Parquet is packed inside; unpack it once with gzip -d")
    return SUFFIXES[suffix]


def open_table(path: str) -> tuple[list[str], Iterator[Record]]:
    """The column names of a table, and its records in order. Raises SourceError if it cannot be read at all."""
    kind = format_of(path)
    opened = _opener(path)
    match kind:
        case "csv" | "tsv":
            return _delimited(opened, path, DELIMITERS[kind])
        case "jsonl":
            return _headed(_json_lines(opened))
        case "json":
            return _headed(_json_list(opened, path))
        case _:
            return _parquet(opened, path)


# opens the table's bytes anew: once for its head, once when its records are asked for, so that none stays open
_Opener = Callable[[], IO[bytes]]


def _opener(path: str) -> _Opener:
    opened = _plain_opener(path)
    return (lambda: _unpacked(opened(), path)) if path.lower().endswith(PACKED) else opened


def _unpacked(stream: IO[bytes], path: str) -> IO[bytes]:
    """What a gzip stream holds, read as it is asked for. Raises SourceError where it is broken."""
    return io.BufferedReader(_Unpacked(stream, path))


class _Unpacked(io.RawIOBase):
    def __init__(self, stream: IO[bytes], path: str) -> None:
        self._stream, self._packed, self._path = gzip.GzipFile(fileobj=stream), stream, path

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        return self._stream.seek(offset, whence)

    def readinto(self, buffer: Any, /) -> int:
        try:
            data = self._stream.read(len(buffer))
        except (OSError, EOFError, zlib.error) as error:
            raise SourceError(f"source.path: {self._path}: not a whole gzip file: {error}") from error
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._packed.close()
        super().close()


def _plain_opener(path: str) -> _Opener:
    try:
        if "://" in path:
            data = Patience()(lambda: read_uri(path))
            return lambda: io.BytesIO(data)
        with open(path, "rb"):
            return lambda: open(path, "rb")
    except FileNotFoundError:
        raise SourceError(f"source.path: {path}: no such file") from None
    except OSError as error:
        raise SourceError(f"source.path: {path}: {error.strerror}") from error


# ---------------------------------------------------------------- CSV and TSV


def _delimited(opened: _Opener, path: str, delimiters: str) -> tuple[list[str], Iterator[Record]]:
    csv.field_size_limit(MAX_CELL_CHARS)
    with _decoded(opened) as text:
        first = text.readline()
        text.seek(0)
        delimiter = max(delimiters, key=first.count)
        try:
            names = next(csv.reader(text, delimiter=delimiter, strict=True), [])
        except csv.Error as error:
            raise SourceError(f"source.path: {path}: its header is not CSV: {error}") from error
    if not any(names):
        raise SourceError(f"source.path: {path}: wanted a header with column names, came an empty file")
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise SourceError(f"source.path: {path}: column '{twice[0]}' occurs twice in its header")
    return names, _csv_records(opened, names, delimiter)


def _decoded(opened: _Opener) -> io.TextIOWrapper:
    stream = opened()
    mark = stream.read(2)
    stream.seek(0)
    if mark in (b"\xff\xfe", b"\xfe\xff"):
        return io.TextIOWrapper(stream, "utf-16", errors="replace", newline="")
    # bytes that are no UTF-8 become lone surrogates, which `with_clean_text` rejects row by row
    return io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="")


class _Lines:
    """The lines of a table, which can be taken back to the second of the record that is being read."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text, self._again = text, deque[str]()
        self.record: list[str] = []
        self.number = 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else self._text.readline(MAX_LINE_CHARS)
        if not line:
            raise StopIteration
        self.number += 1
        self.record.append(line)
        return line

    def take_back(self) -> None:
        """All lines of the record but its first come again."""
        self._again.extendleft(reversed(self.record[1:]))
        self.number -= len(self.record) - 1


def _csv_records(opened: _Opener, names: list[str], delimiter: str) -> Iterator[Record]:
    with _decoded(opened) as text:
        lines = _Lines(text)
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        next(reader)
        while True:
            lines.record.clear()
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                # a quote that nobody closes must not swallow the rows behind it
                lines.take_back()
                reader = csv.reader(lines, delimiter=delimiter, strict=True)
                yield Bad("malformed_row", f"line {lines.number}: {error}")
                continue
            if not cells:
                continue
            if len(cells) == len(names):
                yield dict(zip(names, cells, strict=True))
            else:
                reason = "short_row" if len(cells) < len(names) else "long_row"
                yield Bad(reason, f"line {lines.number}: wanted {len(names)} cells, came {len(cells)}")


# ---------------------------------------------------------------- JSON


def _headed(records: Iterator[Record]) -> tuple[list[str], Iterator[Record]]:
    head = list(itertools.islice(records, HEAD_RECORDS))
    names = dict.fromkeys(name for record in head if not isinstance(record, Bad) for name in record)
    return list(names), itertools.chain(head, records)


def _json_lines(opened: _Opener) -> Iterator[Record]:
    with opened() as stream:
        for number, line in enumerate(iter(lambda: stream.readline(MAX_LINE_CHARS), b""), start=1):
            line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if not line.strip():
                continue
            try:
                value = strict_json(line)
            except (ValueError, RecursionError) as error:
                yield Bad("malformed_row", f"line {number}: not JSON: {error}")
                continue
            yield (
                value
                if isinstance(value, dict)
                else Bad("malformed_row", f"line {number}: wanted an object, came {type(value).__name__}")
            )


def _json_list(opened: _Opener, path: str) -> Iterator[Record]:
    with opened() as stream:
        try:
            values = strict_json(stream.read().decode("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise SourceError(f"source.path: {path}: not JSON: {error}") from error
    if not isinstance(values, list):
        raise SourceError(f"source.path: {path}: wanted a JSON list of objects (or JSON lines in a .jsonl file)")
    for number, value in enumerate(values):
        yield (
            value
            if isinstance(value, dict)
            else Bad("malformed_row", f"item {number}: wanted an object, came {type(value).__name__}")
        )


# ---------------------------------------------------------------- Parquet


def _parquet(opened: _Opener, path: str) -> tuple[list[str], Iterator[Record]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def records() -> Iterator[Record]:
        with opened() as stream:
            try:
                for batch in pq.ParquetFile(stream).iter_batches(batch_size=256):
                    yield from batch.to_pylist()
            except (pa.ArrowException, OSError) as error:
                raise SourceError(f"source.path: {path}: a broken Parquet file: {error}") from error

    with opened() as stream:
        try:
            return list(pq.ParquetFile(stream).schema_arrow.names), records()
        except (pa.ArrowException, OSError) as error:
            raise SourceError(f"source.path: {path}: not a Parquet file: {error}") from error
