"""`mmgen tune` as a program meets it: the line up to the features, trials, a recipe that `mmgen run` takes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from mmgen.config import load
from tests.flows.test_commands import finish, start
from tests.tiny_line import config_of


@pytest.mark.slow
def test_a_search_writes_a_recipe_that_runs(tmp_path: Path, server: str) -> None:
    space = {"generator.train.learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}}
    whole = config_of(tune={"trials": 2, "space": space, "looks": 1}).to_json()
    path, store = tmp_path / "tiny.yaml", tmp_path / "store"
    path.write_text(yaml.safe_dump(whole))
    common = ("--store", str(store), "--device", "cpu", "--workers", "1", "--json")
    code, out, err = finish(start("tune", str(path), *common, api=server))
    assert code == 0, err
    answer = json.loads(out.splitlines()[-1])
    assert [trial["number"] for trial in answer["trials"]] == [1, 2]
    recipe = tmp_path / "tiny-best.yaml"
    assert answer["recipe"] == str(recipe)
    best = answer["best"]["params"]["generator.train.learning_rate"]
    assert load(recipe).generator.train.learning_rate == best
    code, out, err = finish(start("run", str(recipe), "--until", "train-generator", "--profile", *common, api=server))
    assert code == 0, err
    ran = json.loads(out.splitlines()[-1])["steps"]
    assert [each["step"] for each in ran if each["ran"]] == ["train-generator"], "all before it is reused"
    assert ran[-1]["profiles"]["generator"]["steps"] == 3
    assert "ms a step" in err
