"""`mmgen init`: a table's columns become a configuration that loads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flows import cli
from flows.endings import ending
from flows.sniff import guess, sniff, write_config
from mmgen import config
from mmgen.errors import ConfigError, SourceError

ROWS = [
    {"id": f"r{n}", "caption": f"a thing number {n}", "picture": f"images/{n}.PNG", "sound": f"{n}.flac",
     "class": str(n % 3), "speaker": f"s{n % 4}", "subset": "train" if n % 5 else "test", "year": "1999"}
    for n in range(20)
]  # fmt: skip


def csv(path: Path, rows: list[dict[str, str]]) -> Path:
    lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_columns_are_told_by_name_and_content(tmp_path: Path) -> None:
    assert guess(sniff(csv(tmp_path / "t.csv", ROWS))) == {
        "key": "id", "text": "caption", "image": "picture", "audio": "sound", "label": "class", "group": "speaker",
        "split": "subset",
    }  # fmt: skip


def test_what_is_written_loads_and_names_the_table(tmp_path: Path) -> None:
    folder = tmp_path / "my data"
    folder.mkdir()
    table = csv(folder / "My Pairs.csv", ROWS)
    written = write_config(table, tmp_path / "line.yaml", force=False)
    loaded = config.load(written["config"])
    assert loaded.name == "my-pairs"
    assert loaded.source.path == str(table)
    assert (loaded.source.key, loaded.source.text, loaded.source.group) == ("id", "caption", "speaker")
    assert set(loaded.slots) == {"text", "image", "audio"}
    assert "year" in Path(written["config"]).read_text(), "what is not used is named"


def test_json_lines_are_looked_at_too(tmp_path: Path) -> None:
    table = tmp_path / "t.jsonl"
    table.write_text("\n".join(json.dumps(row) for row in ROWS))
    assert guess(sniff(table))["image"] == "picture"


@pytest.mark.parametrize("name", ["a: b", "yes", "ünï", "#no", "-", "'", "null"])
def test_any_column_name_survives_yaml(tmp_path: Path, name: str) -> None:
    table = csv(tmp_path / "t.csv", [{name: "images/1.png"}, {name: "images/2.png"}])
    written = write_config(table, tmp_path / "c.yaml", force=False)
    assert config.load(written["config"]).source.image == name


def test_a_file_is_replaced_only_if_told(tmp_path: Path) -> None:
    table = csv(tmp_path / "t.csv", ROWS)
    out = tmp_path / "c.yaml"
    out.write_text("mine")
    with pytest.raises(ConfigError, match="--force"):
        write_config(table, out, force=False)
    assert out.read_text() == "mine"
    write_config(table, out, force=True)
    assert out.read_text() != "mine"


def test_a_table_without_slots_is_refused_with_its_columns(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="looks like text, image or audio; it has n, m"):
        write_config(csv(tmp_path / "t.csv", [{"n": "1", "m": "2"}]), None, force=False)
    assert not list(tmp_path.glob("*.yaml"))


def test_the_command_writes_beside_where_it_is_called(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    csv(tmp_path / "t.csv", ROWS)
    assert ending(cli.app, ["init", "t.csv", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["config"] == "t.yaml"
    assert config.load(tmp_path / "t.yaml").source.path == str(tmp_path / "t.csv")
