"""`mmgen evaluate` of a model and of a directory: what it prints, writes and keeps, and what excludes what."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from data_schemas.scores import Scores
from flows import cli
from flows.endings import ending
from flows.evaluation import side_by_side
from mmgen import artifact
from mmgen.generate import load
from tests.tiny_line import Line, copied


@pytest.fixture
def line(tmp_path: Path) -> Line:
    return copied(tmp_path)


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = ending(cli.app, list(arguments))
    out, err = capsys.readouterr()
    return code, out, err


def test_a_model_is_scored_once_and_its_scores_are_kept(
    line: Line, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("evaluate", "tiny@1", "--store", line.store.uri, "--device", "cpu")
    code, out, _ = said(capsys, *asked, "--out", str(tmp_path / "out"), "--json")
    answer = json.loads(out.splitlines()[-1])
    assert (code, answer["model"], answer["ran"]) == (0, "model:tiny@1", True)
    assert {row["metric"] for row in answer["scores"]} >= {"mean_coherence", "mean_coherence_of_2", "joint_coherence"}
    assert {Path(path).name for path in answer["files"]} == {"card.html", "card.json", "scores-test.parquet"}
    Scores.validate(pl.read_parquet(tmp_path / "out" / "scores-test.parquet"))
    (made,) = artifact.history(line.store, "scores", "tiny")
    assert made.ref == answer["artifact"]
    code, out, _ = said(capsys, *asked)
    assert code == 0
    assert "unchanged: scores:tiny@1" in out
    assert "mean_coherence_of_2" in out
    assert len(artifact.history(line.store, "scores", "tiny")) == 1


def test_a_directory_that_generate_wrote_is_scored_and_nothing_is_committed(
    line: Line, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = load("tiny@1", line.store, "cpu")
    model.generate(to=("text", "image", "audio"), num=7, steps=2).save(tmp_path / "made")
    (tmp_path / "made" / "notes.md").write_text("mine")
    asked = ("evaluate", str(tmp_path / "made"), "--store", line.store.uri, "--against", "tiny@1", "--device", "cpu")
    code, out, err = said(capsys, *asked, "--out", str(tmp_path / "out"))
    assert (code, err) == (0, "")
    assert "21 of 22 files judged" in out
    assert "not judged: 1 × no text, image or sound by its name (notes.md)" in out
    assert "joint_coherence" in out
    page = (tmp_path / "out" / "scores.html").read_text()
    assert page.count("<audio") >= 7
    assert "notes.md" in page
    assert "<script" not in page
    Scores.validate(pl.read_parquet(tmp_path / "out" / "scores.parquet"))
    assert artifact.history(line.store, "scores", "tiny") == []
    code, out, _ = said(capsys, *asked, "--out", str(tmp_path / "out"), "--json")
    assert json.loads(out.splitlines()[-1])["matched"] == 21


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nothing@1",), "nothing"),
        (("nowhere.yaml",), "no such configuration file"),
        (("tiny@1", "--against", "tiny"), "--against: wanted a folder"),
        (("nowhere.yaml", "--out", "x"), "--out: wanted a model"),
        (("dataset:tiny@1",), "wanted a model that generates"),
    ],
)
def test_a_mistake_is_one_line(
    line: Line, arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = said(capsys, "evaluate", *arguments, "--store", line.store.uri)
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1


def test_pages_do_not_go_where_what_is_judged_lies(
    line: Line, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "made").mkdir()
    folder = str(tmp_path / "made")
    code, _, err = said(capsys, "evaluate", folder, "--store", line.store.uri, "--out", folder)
    assert code == 2
    assert "--out: wanted another folder" in err


def test_scores_of_slots_stand_side_by_side_with_those_of_real_data() -> None:
    rows = [
        {"metric": metric, "made": made, "value": value}
        for metric, made, value in (
            ("judge_accuracy", "image", 0.99), ("coverage_real", "image", 0.96), ("coherence", "image", 0.9),
            ("coverage", "image", 0.5), ("bleu", "text", 40.0), ("joint_coherence", "image+text", 0.7),
            ("memorised", "image", 0.01), ("memorised", "image", 0.02), ("frechet_floor", "image", 0.1),
        )
    ]  # fmt: skip
    assert side_by_side(rows, ["image", "text"]) == [
        ("coherence", "0.900 (0.990)", ""),
        ("coverage", "0.500 (0.960)", ""),
        ("bleu", "", "40.000"),
        ("memorised", "0.010", ""),
    ]
