"""`mmgen forget` and `mmgen gc` as a user types them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flows import cli
from flows.endings import ending
from flows.run_record import recorded_run
from mmgen import steps
from mmgen.runtime import Runtime
from mmgen.store import Store
from tests.data_sources import table_config, write_source


@pytest.fixture
def line(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    config = table_config(write_source(tmp_path / "source", 30), shard={"max_samples": 8})
    for _ in steps.run(config, Runtime(store), ("ingest", "validate", "shard")):
        pass
    return store


def ask(capsys: pytest.CaptureFixture[str], store: Store, *arguments: str) -> tuple[int, Any]:
    code = ending(cli.app, [*arguments, "--store", store.uri, "--json"])
    return code, json.loads(capsys.readouterr().out.splitlines()[-1])


def test_keys_come_from_arguments_and_a_list(line: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "keys.txt").write_bytes(b"\xef\xbb\xbfs0001\r\ns0002\n\n")
    code, answer = ask(capsys, line, "forget", "s0003", "--list", str(tmp_path / "keys.txt"), "--dry-run")
    assert (code, answer["keys"], answer["dataset"], answer["dry_run"]) == (0, 3, None, True)
    assert answer["held_by"] == ["dataset:tiny@1"]
    assert not line.names("forgotten")
    code, answer = ask(capsys, line, "forget", "s0003", "--list", str(tmp_path / "keys.txt"))
    assert (code, answer["dataset"], answer["base"]) == (0, "dataset:tiny@2", "dataset:tiny@1")


def test_an_unknown_key_is_one_line_and_exit_2(line: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert ending(cli.app, ["forget", "s001", "--store", line.uri]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "nothing was forgotten" in err


def test_a_person_reads_what_was_done(line: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert ending(cli.app, ["forget", "s0001", "--purge", "--store", line.uri]) == 0
    out = capsys.readouterr().out
    assert "1 key of tiny forgotten" in out
    assert "files deleted" in out
    assert "rendered again without them: 1 report, 0 cards" in out
    assert ending(cli.app, ["verify", "dataset:tiny@1", "--store", line.uri]) == 0
    assert "were purged" in capsys.readouterr().out
    assert ending(cli.app, ["report", "dataset:tiny@1", "--store", line.uri]) == 0
    assert "versions/1/report.html" in capsys.readouterr().out
    assert ending(cli.app, ["report", "dataset:tiny@2", "--store", line.uri]) == 0
    assert "shards.html" in capsys.readouterr().out


def test_what_was_rendered_again_is_named_and_verified_as_purged(
    line: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    code, answer = ask(capsys, line, "forget", "s0001", "--purge")
    assert code == 0
    folder = "datasets/tiny/versions/1"
    names = ("quarantine.parquet", "report.html", "report.json", "verdicts.parquet")
    again = [f"{folder}/{name}" for name in names]
    assert answer["rerendered"] == again
    assert all(line.exists(path) for path in again)
    code, told = ask(capsys, line, "verify", "--all")
    assert (code, told["damaged"]) == (0, [])
    assert set(again) < set(told["purged"])
    # of what is purged, all is gone but for these
    assert [path for path in told["purged"] if line.exists(path)] == again
    code, answer = ask(capsys, line, "forget", "s0001", "--purge")
    assert (code, answer["purged"], answer["rerendered"]) == (0, 0, [])
    assert ask(capsys, line, "gc", "--older-than", "0")[0] == 0
    assert all(line.exists(path) for path in again)


def test_nothing_is_deleted_while_a_run_goes_on(line: Store, capsys: pytest.CaptureFixture[str]) -> None:
    with recorded_run(line, "tiny"):
        assert ask(capsys, line, "gc")[0] == 1
        assert ask(capsys, line, "gc", "--dry-run")[0] == 0
        assert ask(capsys, line, "forget", "s0001", "--purge")[0] == 1
    assert not line.names("forgotten")
    line.write("staging/batches/left.tar", b"by a run that died")
    code, answer = ask(capsys, line, "gc", "--older-than", "0")
    assert (code, answer["deleted"], [each["path"] for each in answer["files"]]) == (
        0, True, ["staging/batches/left.tar"],
    )  # fmt: skip
