from __future__ import annotations

import csv
import io
import json
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
    assert found == [(0, "one", ""), (1, None, "malformed_row")]


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
