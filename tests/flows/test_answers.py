"""The small commands read manifests and answer with plain data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flows import cli
from flows.answers import size
from flows.endings import ending
from mmgen import steps
from mmgen.artifact import Draft
from mmgen.runtime import Runtime
from mmgen.store import Store
from tests import hand_made
from tests.data_sources import table_config, write_source


@pytest.fixture
def filled(store: Store) -> Store:
    hand_made.line(store)
    return store


def ask(capsys: pytest.CaptureFixture[str], store: Store, *arguments: str) -> tuple[int, Any, str]:
    code = ending(cli.app, [*arguments, "--store", store.uri, "--json"])
    out, err = capsys.readouterr()
    return code, json.loads(out.splitlines()[-1]), err


def test_a_listing_names_every_artifact_and_its_kind(filled: Store, capsys: pytest.CaptureFixture[str]) -> None:
    _, answer, _ = ask(capsys, filled, "ls")
    refs = [each["ref"] for each in answer["artifacts"]]
    assert "model:digits@1" in refs
    _, answer, _ = ask(capsys, filled, "ls", "model")
    assert {each["kind"] for each in answer["artifacts"]} == {"model"}


def test_an_artifact_is_shown_with_its_inputs(filled: Store, capsys: pytest.CaptureFixture[str]) -> None:
    _, answer, _ = ask(capsys, filled, "show", "digits")
    assert answer["ref"] == "model:digits@1"
    assert answer["inputs"]["fusion"] == "model:digits-fusion@1"
    assert isinstance(answer["aliases"], list)


def test_verify_finds_a_changed_byte_and_says_no(filled: Store, capsys: pytest.CaptureFixture[str]) -> None:
    code, answer, err = ask(capsys, filled, "verify", "model:digits@1")
    assert (code, answer["damaged"], err) == (0, [], "")
    path = next(path for path in filled.walk("models/digits/") if "manifest" not in path and "claim" not in path)
    data = filled.read(path)
    Path(filled.full(path)).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    code, answer, err = ask(capsys, filled, "verify", "model:digits@1")
    assert code == 1
    assert path in answer["damaged"][0]
    assert "model:digits@1" in err


def test_what_no_manifest_names_could_go(filled: Store, capsys: pytest.CaptureFixture[str]) -> None:
    _, before, _ = ask(capsys, filled, "gc", "--dry-run")
    Draft(filled, "model", "digits", "f" * 64).put("half.bin", b"1234", "weights")
    _, after, _ = ask(capsys, filled, "gc", "--dry-run")
    new = {each["path"] for each in after["files"]} - {each["path"] for each in before["files"]}
    assert any(path.endswith("half.bin") for path in new)
    assert after["bytes"] > before["bytes"]
    assert filled.exists(next(iter(new))), "a dry run deletes nothing"


def test_what_has_no_page_says_so(filled: Store, capsys: pytest.CaptureFixture[str]) -> None:
    code, answer, _ = ask(capsys, filled, "report", "codecs:digits")
    assert code == 2
    assert "no page of its own" in answer["error"]


def test_what_is_young_is_spared_and_told(filled: Store, capsys: pytest.CaptureFixture[str]) -> None:
    filled.write("datasets/x/shards/train-1.tar", b"left by a run that died")
    _, listed, _ = ask(capsys, filled, "gc", "--dry-run")
    _, kept, _ = ask(capsys, filled, "gc")
    assert [(len(each["files"]), each["spared"]) for each in (listed, kept)] == [(1, 1), (0, 1)]
    assert ending(cli.app, ["gc", "--store", filled.uri]) == 0
    assert "1 were spared: written in the last 24 hours" in capsys.readouterr().out
    _, gone, _ = ask(capsys, filled, "gc", "--older-than", "0")
    assert ([each["path"] for each in gone["files"]], gone["spared"]) == (["datasets/x/shards/train-1.tar"], 0)


def test_a_report_that_is_gone_is_not_one_that_never_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(tmp_path / "store")
    for _ in steps.run(
        table_config(write_source(tmp_path / "source", 20)), Runtime(store), steps.select(None, "shard")
    ):
        pass
    assert ask(capsys, store, "report", "tiny")[0] == 0
    store.delete("datasets/tiny/versions/1/report.html")
    code, answer, _ = ask(capsys, store, "report", "tiny")
    assert code == 1
    assert "datasets/tiny/versions/1/report.html is gone" in answer["error"]


@pytest.mark.parametrize(
    "arguments", [["ls"], ["show", "digits"], ["verify", "model:digits"], ["runs"], ["gc", "--dry-run"]]
)
def test_a_person_gets_text_and_no_colours(
    arguments: list[str], filled: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ending(cli.app, [*arguments, "--store", filled.uri]) == 0
    out, err = capsys.readouterr()
    assert out.strip()
    assert err == ""
    assert "\x1b" not in out


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2_000_000, "2.0 MB"), (5e12, "5000.0 GB")]
)
def test_sizes_are_for_people(count: int, text: str) -> None:
    assert size(count) == text


def test_checks_shows_every_rule_with_its_effect_and_settings_on_a_narrow_screen(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.data_answers import checked, show_checked

    monkeypatch.setenv("COLUMNS", "80")
    answer = checked()
    show_checked(answer)
    shown = capsys.readouterr().out
    lines = shown.splitlines()
    for rule in answer["checks"]:
        (line,) = [line for line in lines if line.split(" ")[0] == rule["code"]]
        assert line.split()[1] == rule["effect"]
        for key, value in rule["settings"].items():
            assert key in shown
            assert value is None or isinstance(value, list) or f"= {json.dumps(value)}" in " ".join(shown.split())
    assert "…" not in shown
