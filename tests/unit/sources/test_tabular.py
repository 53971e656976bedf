from __future__ import annotations

import csv
import gzip
import io
import json
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_schemas.source import source_schema
from mmgen import config as configs
from mmgen.errors import ConfigError, SourceError
from mmgen.sources.config import SourceConfig
from mmgen.sources.rows import Columns, Row, with_clean_text
from mmgen.sources.table import open_source
from mmgen.sources.tabular import Bad, TableSource, format_of, open_table

COLUMNS = Columns(key="key", texts={"text": ("caption",)})


def read(path: Path, columns: Columns = COLUMNS) -> list[Row]:
    return [with_clean_text(row) for row in TableSource(SourceConfig(path=str(path)), columns).rows()]


def written(tmp_path: Path, data: bytes, name: str = "t.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(data)
    return path


def told(rows: list[Row]) -> list[tuple[int, str | None, str]]:
    """(number, text, reason) of each row."""
    return [
        (row.number, row.sample.texts.get("text", ("",))[0] if row.sample else None,
         row.rejections[0].reason if row.rejections else "")
        for row in rows
    ]  # fmt: skip


cells = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(cells, cells), min_size=1, max_size=8), st.sampled_from(["\r\n", "\n"]), st.sampled_from(",;\t|")
)
def test_whatever_csv_writes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], end: str, delimiter: str
) -> None:
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator=end, delimiter=delimiter, quoting=csv.QUOTE_ALL)
    writer.writerows([("key", "caption"), *rows])
    data = stream.getvalue()
    found = read(written(tmp_path_factory.mktemp("csv"), data.encode()))
    assert [(row.sample.key, row.sample.texts["text"][0]) for row in found if row.sample] == rows
    assert [row.number for row in found] == list(range(len(rows)))


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_rows_or_one_clear_error(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    for name, head in (("t.csv", b"key,caption\n"), ("t.jsonl", b'{"key": "a", "caption": "b"}\n')):
        path = written(tmp_path_factory.mktemp("any"), head + data, name)
        rows = read(path)
        assert [row.number for row in rows] == list(range(len(rows)))
        assert all(row.sample or row.rejections for row in rows)


def test_byte_order_mark_crlf_quoted_newlines_and_blank_lines(tmp_path: Path) -> None:
    data = '\ufeffkey,caption\r\na,"two\r\nlines, ""quoted"""\r\n\r\nb,plain\r\n'.encode()
    assert told(read(written(tmp_path, data))) == [(0, 'two\r\nlines, "quoted"', ""), (1, "plain", "")]


def test_utf16_is_read(tmp_path: Path) -> None:
    assert told(read(written(tmp_path, "key,caption\na,grüß\n".encode("utf-16")))) == [(0, "grüß", "")]


def test_short_long_and_malformed_rows_are_counted_and_the_others_keep_their_numbers(tmp_path: Path) -> None:
    data = b'key,caption\na,one\nb\nc,three,more\nd,"x"y\ne,five\n'
    assert told(read(written(tmp_path, data))) == [
        (0, "one", ""), (1, None, "short_row"), (2, None, "long_row"), (3, None, "malformed_row"), (4, "five", ""),
    ]  # fmt: skip


def test_an_open_quote_is_a_rejected_row_not_a_lost_one(tmp_path: Path) -> None:
    found = told(read(written(tmp_path, b'key,caption\na,one\nb,"never closed\nc,three\n')))
    assert found == [(0, "one", ""), (1, None, "malformed_row"), (2, "three", "")]
    # the next quote would close it, in the middle of another row
    found = told(read(written(tmp_path, b'key,caption\na,"open\nb,"two"\nc,"x\ny"\n')))
    assert found == [(0, None, "malformed_row"), (1, "two", ""), (2, "x\ny", "")]


def test_an_open_quote_takes_no_more_than_a_cell_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmgen.sources.tabular.MAX_CELL_CHARS", 1_000)
    rows = [b"k%d,caption %d" % (number, number) for number in range(5_000)]
    rows[7] = b'k7,"open'
    try:
        found = told(read(written(tmp_path, b"\n".join([b"key,caption", *rows]))))
    finally:
        csv.field_size_limit(131_072)
    assert len(found) == 5_000
    assert [each for each in found if each[2]] == [(7, None, "malformed_row")]
    messages = read(written(tmp_path, b'key,caption\na,b\nc,"d\ne,f\n'))
    assert messages[1].rejections[0].message == "line 3: unexpected end of data"


def test_latin1_cells_are_rejected_and_others_read(tmp_path: Path) -> None:
    found = told(read(written(tmp_path, b"key,caption\na,caf\xe9\nb,ok\n")))
    assert found == [(0, None, "not_utf8"), (1, "ok", "")]


def test_tsv_keeps_commas(tmp_path: Path) -> None:
    assert told(read(written(tmp_path, b"key\tcaption\na\tone, two\n", "t.tsv"))) == [(0, "one, two", "")]


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"", "came an empty file"), (b"\n", "came an empty file"), (b"key,caption,key\n", "column 'key' occurs twice")],
)
def test_a_file_without_a_usable_header_is_a_source_error(tmp_path: Path, data: bytes, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        read(written(tmp_path, data))


def test_a_missing_column_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown column 'caption': did you mean 'captoin'"):
        read(written(tmp_path, b"key,captoin\na,b\n"))


def test_json_lines_with_bad_ones_among_them(tmp_path: Path) -> None:
    lines = [
        '\ufeff{"key": 1, "caption": "one"}',
        "",
        "{broken",
        "[1, 2]",
        '{"key": "d", "caption": null}',
        '{"key": "e"}',
    ]
    found = told(read(written(tmp_path, "\n".join(lines).encode(), "t.jsonl")))
    assert found == [(0, "one", ""), (1, None, "malformed_row"), (2, None, "malformed_row"), (3, "", ""), (4, "", "")]


def test_lone_surrogates_in_json_are_rejected(tmp_path: Path) -> None:
    lines = b'{"key": "a", "caption": "\\ud800"}\n{"key": "b", "caption": ["ok", "\\udfff"]}\n'
    assert [reason for _, _, reason in told(read(written(tmp_path, lines, "t.jsonl")))] == ["not_utf8", "not_utf8"]


def test_a_json_list_is_a_table(tmp_path: Path) -> None:
    data = json.dumps([{"key": "a", "caption": "one"}, 7]).encode()
    assert told(read(written(tmp_path, data, "t.json"))) == [(0, "one", ""), (1, None, "malformed_row")]
    with pytest.raises(SourceError, match="wanted a JSON list"):
        read(written(tmp_path, b'{"key": "a"}', "o.json"))


def test_parquet_with_embedded_bytes_and_lists(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    table = pl.DataFrame(
        {"key": [1, 2], "caption": [["one", "eins"], None], "image": [{"bytes": b"png", "path": "a.png"}, None]}
    )
    table.write_parquet(path)
    columns = Columns(key="key", texts={"text": ("caption",)}, media={"image": ("image", "image")})
    first, second = read(path, columns)
    assert first.sample is not None
    assert second.sample is not None
    assert (first.sample.key, first.sample.texts["text"]) == ("1", ("one", "eins"))
    assert first.sample.media["image"].data == b"png"
    assert (second.sample.texts, second.sample.media) == ({}, {})


def test_broken_parquet_is_a_source_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="not a Parquet file"):
        read(written(tmp_path, b"PAR1 nothing", "t.parquet"))


def test_a_missing_file_and_an_unknown_suffix_are_source_errors(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such file"):
        read(tmp_path / "nowhere.csv")
    with pytest.raises(SourceError, match="unknown table suffix 'csw': did you mean 'csv'"):
        format_of("x.csw")


def test_a_huge_cell_is_a_rejected_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmgen.sources.tabular.MAX_CELL_CHARS", 100)
    _, records = open_table(str(written(tmp_path, b"key,caption\na," + b"x" * 200 + b"\nb,ok\n")))
    limit = csv.field_size_limit()
    try:
        found = list(records)
    finally:
        # the limit is the whole process's
        csv.field_size_limit(131_072)
    assert limit == 100
    assert isinstance(found[0], Bad)
    assert found[-1] == {"key": "b", "caption": "ok"}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.text("ab", max_size=2), st.text("xy ", max_size=3)), min_size=1, max_size=5))
def test_a_table_that_keeps_the_contract_loses_no_row(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    table = pl.DataFrame({"key": [key for key, _ in rows], "caption": [text for _, text in rows]})
    try:
        source_schema(key="key", texts=["caption"]).validate(table, lazy=True)
    except Exception as error:  # noqa: BLE001 - pandera's, whatever it is: such a table promises nothing
        assert "SchemaError" in type(error).__name__  # noqa: PT017
        return
    path = tmp_path_factory.mktemp("contract") / "t.csv"
    table.write_csv(path)
    assert all(row.sample and row.sample.texts and not row.rejections for row in read(path))


# ---------------------------------------------------------------- what JSON allows and tables do not mean


def json_rows(tmp_path: Path, *lines: str, **source: Any) -> list[Row]:
    (tmp_path / "t.jsonl").write_text("\n".join(lines) + "\n")
    said = {"path": str(tmp_path / "t.jsonl"), "key": "k", "text": "text", **source}
    made = configs.build({"name": "x", "source": said})
    return list(open_source(made.source, made.slots).rows())


def test_a_name_that_occurs_twice_in_an_object_is_a_malformed_row(tmp_path: Path) -> None:
    rows = json_rows(tmp_path, '{"k": "a", "text": "x"}', '{"k": "b", "text": "x", "text": "y"}',
                     '{"k": "c", "text": "z", "more": {"n": 1, "n": 2}}')  # fmt: skip
    assert [row.sample is None for row in rows] == [False, True, True]
    assert rows[1].rejections[0].reason == "malformed_row"
    assert "'text' occurs twice" in rows[1].rejections[0].message
    assert "'n' occurs twice" in rows[2].rejections[0].message


def test_nan_is_missing_and_infinity_is_no_json(tmp_path: Path) -> None:
    rows = json_rows(tmp_path, '{"k": "a", "text": "x", "label": NaN}', '{"k": "b", "text": "x", "label": Infinity}',
                     label="label")  # fmt: skip
    assert rows[0].sample is not None
    assert rows[0].sample.label is None
    assert rows[1].rejections[0].reason == "malformed_row"


def test_a_number_that_is_none_is_missing_in_parquet_too(tmp_path: Path) -> None:
    table = pl.DataFrame({"k": ["a", "b"], "text": ["x", "y"], "label": [1.0, float("nan")]})
    table.write_parquet(tmp_path / "t.parquet")
    source = {"path": str(tmp_path / "t.parquet"), "key": "k", "text": "text", "label": "label"}
    made = configs.build({"name": "x", "source": source})
    samples = [row.sample for row in open_source(made.source, made.slots).rows()]
    assert [sample.label for sample in samples if sample] == ["1", None]


def test_all_other_columns_are_metadata_and_the_language_is_kept(tmp_path: Path) -> None:
    line = '{"k": "a", "text": "x", "lang": "de", "site": "s", "year": 1999, "empty": null}'
    (row,) = json_rows(tmp_path, line, meta="*", language="lang")
    assert row.sample is not None
    assert row.sample.meta == {"site": "s", "year": "1999", "language": "de"}
    (row,) = json_rows(tmp_path, line, language="lang")
    assert row.sample is not None
    assert row.sample.meta == {"language": "de"}


# ---------------------------------------------------------------- packed tables, and types of Parquet


@pytest.mark.parametrize(
    ("name", "data"),
    [("t.csv.gz", b"key,caption\na,one\nb,two\n"), ("T.TSV.GZ", b"key\tcaption\na\tone\nb\ttwo\n"),
     ("t.jsonl.gz", b'{"key": "a", "caption": "one"}\n{"key": "b", "caption": "two"}\n'),
     ("t.json.gz", b'[{"key": "a", "caption": "one"}, {"key": "b", "caption": "two"}]')],
)  # fmt: skip
def test_packed_tables_are_read_and_broken_ones_are_a_clear_error(tmp_path: Path, name: str, data: bytes) -> None:
    packed = gzip.compress(data)
    assert told(read(written(tmp_path, packed, name))) == [(0, "one", ""), (1, "two", "")]
    for broken in (packed[:-9], data, packed[:10] + bytes(20)):
        with pytest.raises(SourceError, match="not a whole gzip file"):
            read(written(tmp_path, broken, name))


def test_packed_parquet_is_answered_with_what_to_do() -> None:
    with pytest.raises(SourceError, match="gzip -d"):
        format_of("t.parquet.gz")


def test_a_line_without_an_end_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmgen.sources.tabular.MAX_LINE_CHARS", 1_000)
    long = b'{"key": "b", "caption": "' + b"x" * 2_500 + b'"}'
    found = told(read(written(tmp_path, b'{"key": "a", "caption": "one"}\n' + long + b"\n{}", "t.jsonl")))
    assert [each[2] for each in found] == ["", *["malformed_row"] * 3, "missing_key"]
    found = told(read(written(tmp_path, b"key,caption\na," + b"y" * 2_500 + b"\nb,two\n")))
    assert found[-1][1] == "two"


def test_every_type_of_parquet_becomes_a_sensible_word(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    when = datetime(2026, 1, 2, 3, 4, 5)  # noqa: DTZ001 - a column without a zone
    cells: dict[str, tuple[pa.Array, str]] = {
        "dictionary": (pa.array(["x"]).dictionary_encode(), "x"),
        "whole": (pa.array([7], pa.int8()), "7"),
        "gaps": (pa.array([7.0]), "7"),
        "decimal": (pa.array([Decimal("1.50")], pa.decimal128(9, 2)), "1.50"),
        "date": (pa.array([when.date()]), "2026-01-02"),
        "moment": (pa.array([when], pa.timestamp("us")), "2026-01-02 03:04:05"),
        "zoned": (pa.array([when], pa.timestamp("ms", "UTC")), "2026-01-02 03:04:05+00:00"),
        "fine": (pa.array([1_767_323_045_000_000_001], pa.timestamp("ns")), "2026-01-02 03:04:05.000000001"),
        "truth": (pa.array([True]), "True"),
        "words": (pa.array([["a", "ü"]]), '["a", "ü"]'),
        "object": (pa.array([{"a": 1, "b": when}]), '{"a": 1, "b": "2026-01-02 03:04:05"}'),
        "map": (pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())), '[["k", 1]]'),
        "bytes": (pa.array([b"xyz"]), "3 bytes"),
        "file": (pa.array([{"bytes": None, "path": "a.png"}]), "a.png"),
        "none": (pa.array([[]], pa.list_(pa.string())), ""),
        "null": (pa.nulls(1), ""),
        "large": (pa.array(["x" * 10], pa.large_string()), "x" * 10),
        "view": (pa.array(["v"], pa.string_view()), "v"),
    }
    table = pa.table({"key": ["a"], "caption": ["c"], **{name: array for name, (array, _) in cells.items()}})
    pq.write_table(table, tmp_path / "t.parquet")
    (row,) = read(tmp_path / "t.parquet", Columns(key="key", texts={"text": ("caption",)}, all_meta=True))
    assert row.sample is not None
    assert row.sample.meta == {name: word for name, (_, word) in cells.items() if word}
    for name, (_, word) in cells.items():
        (row,) = read(tmp_path / "t.parquet", Columns(key="key", texts={"text": ("caption",)}, label=name))
        assert row.sample is not None
        assert row.sample.label == (word or None)


# ---------------------------------------------------------------- arbitrary damage: every record is counted once

#: damage of one record, on one line → the reason it gets, None where it is another good record
CSV_DAMAGE = {
    "good,{n}": None, "": None, '"quoted, and ""doubled""",{n}': None, "=1+1,{n}": None, "short": "short_row",
    "too,many,{n}": "long_row", 'x"y,{n}': None, '"x"y,{n}': "malformed_row", '{n},"open': "malformed_row",
    "caf\udce9,{n}": "not_utf8", ",{n}": "missing_key", "nul\0,{n}": None,
}  # fmt: skip
JSON_DAMAGE = {
    '{{"key": "k{n}", "caption": "c"}}': None, "": None, '{{"key": "k{n}", "caption": null}}': None,
    '{{"key": "k{n}"': "malformed_row", "[{n}]": "malformed_row", "{n}": "malformed_row", "null": "malformed_row",
    '{{"key": "a", "key": "b"}}': "malformed_row", '{{"key": "k{n}", "caption": NaN}}': None,
    '{{"key": "k{n}", "caption": Infinity}}': "malformed_row", '{{"caption": "{n}"}}': "missing_key",
    '{{"key": "caf\udce9"}}': "malformed_row", '{{"key": "k{n}", "caption": "\\ud800"}}': "not_utf8",
    "[" * 5_000: "malformed_row", "  ": None,
}  # fmt: skip


def outcome(rows: list[Row]) -> list[str | None]:
    return [row.rejections[0].reason if row.sample is None else None for row in rows]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from(sorted(CSV_DAMAGE)), min_size=1, max_size=12), st.sampled_from(["\n", "\r\n"]),
    st.booleans(), st.booleans(), st.booleans(),
)  # fmt: skip
def test_every_record_of_a_damaged_csv_is_counted_once(
    tmp_path_factory: pytest.TempPathFactory, kinds: list[str], end: str, mark: bool, last: bool, packed: bool
) -> None:
    lines = ["key,caption", *(kind.format(n=number) for number, kind in enumerate(kinds))]
    data = (end.join(lines) + (end if last else "")).encode("utf-8", "surrogateescape")
    data = b"\xef\xbb\xbf" + data if mark else data
    path = written(tmp_path_factory.mktemp("csv"), gzip.compress(data) if packed else data, f"t.csv{'.gz' * packed}")
    rows = read(path)
    assert [row.number for row in rows] == list(range(len(rows)))
    assert outcome(rows) == [CSV_DAMAGE[kind] for kind in kinds if kind]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from(sorted(JSON_DAMAGE)), min_size=1, max_size=12), st.sampled_from(["\n", "\r\n"]),
    st.booleans(), st.booleans(),
)  # fmt: skip
def test_every_record_of_damaged_json_lines_is_counted_once(
    tmp_path_factory: pytest.TempPathFactory, kinds: list[str], end: str, mark: bool, last: bool
) -> None:
    lines = ['{"key": "first", "caption": "x"}', *(kind.format(n=number) for number, kind in enumerate(kinds))]
    data = (end.join(lines) + (end if last else "")).encode("utf-8", "surrogateescape")
    path = written(tmp_path_factory.mktemp("jsonl"), b"\xef\xbb\xbf" + data if mark else data, "t.jsonl")
    rows = read(path)
    assert [row.number for row in rows] == list(range(len(rows)))
    assert outcome(rows) == [None, *(JSON_DAMAGE[kind] for kind in kinds if kind.strip())]
