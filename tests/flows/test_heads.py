"""`mmgen head`: a head on a frozen trunk from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flows.cli import main
from tests.tiny_line import copied


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


def test_a_head_is_trained_and_its_scores_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = copied(tmp_path).store.uri
    asked = ("head", "tiny", "--column", "voice", "--steps", "3", "--store", store, "--device", "cpu")
    code, out, _ = call(capsys, *asked)
    assert code == 0
    assert out.splitlines()[0] == "model:tiny-classification-voice@1 on model:tiny-fusion@1"
    assert "label_accuracy" in out
    code, out, _ = call(capsys, *asked, "--json")
    answer = json.loads(out.splitlines()[-1])
    assert answer["artifact"] == "model:tiny-classification-voice@2"
    assert answer["labels"] == [f"v{number}" for number in range(7)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("head", "tiny", "--head", "clasification"), "did you mean 'classification'"),
        (("head", "tyni"), "tyni"),
        (("head", "tiny", "--column", "speaker"), "column"),
    ],
)
def test_a_mistake_is_said_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    code, _, err = call(capsys, *arguments, "--store", copied(tmp_path).store.uri, "--device", "cpu")
    assert code == 2
    assert said in err
