from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmgen.errors import ConfigError
from mmgen.records import MediaRef
from mmgen.sources.rows import Columns, Refused, Roots, rejected, to_row, with_clean_text

COLUMNS = Columns(
    key="id",
    texts={"text": ("caption", "caption_2")},
    media={"image": ("picture", "image")},
    label="label",
    group="who",
    split="part",
    meta=("note",),
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "data" / "sub").mkdir(parents=True)
    (tmp_path / "data" / "sub" / "a.png").write_bytes(b"")
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "b.png").write_bytes(b"")
    (tmp_path / "data-2").mkdir()
    return tmp_path / "data"


HOSTILE = [
    "../secret/b.png", "sub/../../secret/b.png", "/etc/passwd", "../data-2/x.png", "../../../../../../etc/passwd",
    "file:///etc/passwd", "http://169.254.169.254/latest", "s3://bucket/key", "sub/\0.png", "..",
    "..\\secret\\b.png", "sub\\a.png", "C:\\secret\\b.png",
]  # fmt: skip


@pytest.mark.parametrize("path", HOSTILE)
def test_paths_that_leave_the_source_are_refused(root: Path, path: str) -> None:
    with pytest.raises(Refused):
        Roots(str(root)).resolve(path)


@pytest.mark.parametrize("path", ["sub/a.png", "./sub/a.png", "sub/../sub/a.png", "missing.png", ".../x.png"])
def test_paths_inside_resolve(root: Path, path: str) -> None:
    assert Roots(str(root)).resolve(path).startswith(f"{root}/")


def test_an_absolute_path_inside_resolves(root: Path) -> None:
    assert Roots(str(root)).resolve(str(root / "sub" / "a.png")) == str(root / "sub" / "a.png")


@given(st.lists(st.sampled_from(["..", ".", "sub", "a.png", "", "secret", "data"]), max_size=8))
def test_no_spelling_gets_out(pieces: list[str]) -> None:
    roots = Roots("/nowhere/data")
    try:
        found = roots.resolve("/".join(pieces))
    except Refused:
        return
    assert f"{found}/".startswith("/nowhere/data/")


def test_links_out_of_the_source_are_refused_and_links_within_followed(root: Path) -> None:
    (root / "file.png").symlink_to(root.parent / "secret" / "b.png")
    (root / "folder").symlink_to(root.parent / "secret")
    (root / "inner.png").symlink_to(root / "sub" / "a.png")
    roots = Roots(str(root))
    for path in ("file.png", "folder/b.png"):
        with pytest.raises(Refused, match="link"):
            roots.resolve(path)
    assert roots.resolve("inner.png") == str(root / "inner.png")


def test_allowed_roots_open_folders_and_addresses(root: Path) -> None:
    roots = Roots(str(root), [str(root.parent / "secret"), "https://pictures.example/set"])
    assert roots.resolve("../secret/b.png") == str(root.parent / "secret" / "b.png")
    assert roots.resolve("https://pictures.example/set/1.png") == "https://pictures.example/set/1.png"
    for url in (
        "https://pictures.example/set/../private/1.png",
        "https://pictures.example/settings",
        "https://other/1.png",
    ):
        with pytest.raises(Refused):
            roots.resolve(url)


HIDDEN = ["%2e%2e/private.png", "sub/%2E./x.png", "..%2fprivate.png", "%252e%252e/x.png", "a%5c..%5cx.png", "%2e/x.png"]


@pytest.mark.parametrize("path", HIDDEN)
def test_steps_that_only_a_server_would_see_are_refused(path: str) -> None:
    roots = Roots("https://pictures.example/set")
    for written in (path, f"https://pictures.example/set/{path}"):
        with pytest.raises(Refused, match=r"hides a|lies outside"):
            roots.resolve(written)


@pytest.mark.parametrize("path", ["a%20b.png", "100%.png", "x.png?of=%2e%2e%2f", "caf%C3%A9.png", "a%2Eb.png"])
def test_other_escapes_are_part_of_an_address(path: str) -> None:
    assert Roots("https://pictures.example/set").resolve(path) == f"https://pictures.example/set/{path}"


def test_percent_signs_are_part_of_a_local_name(root: Path) -> None:
    assert Roots(str(root)).resolve("sub/%2e%2e.png") == str(root / "sub" / "%2e%2e.png")


def test_links_in_a_circle_lead_nowhere(root: Path) -> None:
    (root / "one").symlink_to(root / "two")
    (root / "two").symlink_to(root / "one")
    (root / "deep").symlink_to(root)
    roots = Roots(str(root))
    for path in ("one", "one/a.png", "deep/deep/sub/a.png"):
        assert roots.resolve(path) == str(root / path)


def test_a_remote_source_keeps_its_own_paths() -> None:
    roots = Roots("s3://bucket/pairs")
    assert roots.resolve("images/1.png") == "s3://bucket/pairs/images/1.png"
    assert roots.resolve("s3://bucket/pairs/1.png") == "s3://bucket/pairs/1.png"
    for path in ("../other/1.png", "s3://bucket/pairs-2/1.png", "file:///etc/passwd", "/../../x"):
        with pytest.raises(Refused):
            roots.resolve(path)


def test_a_record_becomes_a_sample_with_its_alternatives(root: Path) -> None:
    record = {"id": "k 1", "caption": "one", "caption_2": "eins", "picture": "sub/a.png", "label": " 7 ", "who": "ann",
              "part": "test", "note": "n", "other": "x"}  # fmt: skip
    row = to_row(3, record, COLUMNS, Roots(str(root)))
    sample = row.sample
    assert sample is not None
    assert (sample.row, sample.key, sample.label, sample.group, sample.split) == (3, "k 1", "7", "ann", "test")
    assert sample.texts == {"text": ("one", "eins")}
    assert sample.media == {"image": MediaRef(str(root / "sub" / "a.png"), None, "sub/a.png")}
    assert sample.meta == {"note": "n"}
    assert row.rejections == ()


def test_blank_and_null_cells_are_missing_which_is_normal(root: Path) -> None:
    row = to_row(
        0, {"id": 5, "caption": "", "caption_2": None, "picture": " ", "label": None}, COLUMNS, Roots(str(root))
    )
    assert row.sample is not None
    assert (row.sample.key, row.sample.texts, row.sample.media, row.sample.label) == ("5", {}, {}, None)
    assert row.rejections == ()


def test_a_row_without_its_key_is_rejected_and_without_a_key_column_numbered(root: Path) -> None:
    roots = Roots(str(root))
    row = to_row(2, {"id": "", "caption": "x"}, COLUMNS, roots)
    assert row.sample is None
    assert [each.reason for each in row.rejections] == ["missing_key"]
    numbered = to_row(2, {"caption": "x"}, Columns(texts={"text": ("caption",)}), roots)
    assert numbered.sample is not None
    assert numbered.sample.key == "2"


def test_a_refused_path_rejects_its_slot_and_leaves_the_rest(root: Path) -> None:
    row = to_row(0, {"id": "a", "caption": "x", "picture": "../secret/b.png"}, COLUMNS, Roots(str(root)))
    assert row.sample is not None
    assert row.sample.texts == {"text": ("x",)}
    assert row.sample.media == {}
    assert [(each.slot, each.reason, each.severity, each.stage) for each in row.rejections] == [
        ("image", "path_refused", "reject", "source")
    ]
    assert "source.allow_roots" in row.rejections[0].message


@pytest.mark.parametrize("cell", [b"bytes", {"bytes": b"bytes", "path": "/etc/passwd"}])
def test_embedded_bytes_win_over_paths(root: Path, cell: object) -> None:
    row = to_row(0, {"id": "a", "picture": cell}, COLUMNS, Roots(str(root)))
    assert row.sample is not None
    assert row.sample.media["image"].data == b"bytes"
    assert row.sample.media["image"].uri is None


@pytest.mark.parametrize(("cell", "text"), [(7, "7"), (7.0, "7"), (0.5, "0.5"), (True, "True")])
def test_numbers_are_written_plainly(root: Path, cell: object, text: str) -> None:
    row = to_row(0, {"id": "a", "label": cell}, COLUMNS, Roots(str(root)))
    assert row.sample is not None
    assert row.sample.label == text


def test_a_list_of_texts_is_alternatives(root: Path) -> None:
    row = to_row(0, {"id": "a", "caption": ["one", "", "eins"], "caption_2": "un"}, COLUMNS, Roots(str(root)))
    assert row.sample is not None
    assert row.sample.texts == {"text": ("one", "eins", "un")}


@pytest.mark.parametrize("field", ["id", "caption", "label", "note", "picture"])
def test_words_that_are_no_utf8_reject_the_row(root: Path, field: str) -> None:
    record = {"id": "a", "caption": "x", field: "caf\udce9"}
    row = with_clean_text(to_row(0, record, COLUMNS, Roots(str(root))))
    assert row.sample is None
    assert [each.reason for each in row.rejections] == ["not_utf8"]
    row.rejections[0].key.encode()


def test_clean_rows_stay_as_they_are(root: Path) -> None:
    row = to_row(0, {"id": "ä", "caption": "数字"}, COLUMNS, Roots(str(root)))
    assert with_clean_text(row) is row
    broken = rejected(1, "", "short_row", "why")
    assert with_clean_text(broken) is broken


@pytest.mark.parametrize(
    ("known", "message"),
    [
        (["id", "captoin"], r"slot 'text': x\.csv has unknown column 'caption': did you mean 'captoin'"),
        (
            ["caption", "caption_2", "picture", "label", "who", "part", "note", "idx"],
            r"source\.key: .*did you mean 'idx'",
        ),
    ],
)
def test_a_missing_column_is_answered_with_the_nearest(known: list[str], message: str) -> None:
    columns = COLUMNS if "idx" in known else Columns(key="id", texts={"text": ("caption",)})
    with pytest.raises(ConfigError, match=message):
        columns.check(known, "x.csv")
