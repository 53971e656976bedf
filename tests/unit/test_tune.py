"""`mmgen tune`: real searches on the tiny line, killed and gone on with; what is refused; the recipe it writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.tune import _recipe
from mmgen import artifact as artifacts
from mmgen.config import Config, build, load
from mmgen.errors import ConfigError, OutsideError, UserError
from mmgen.identity import config_part
from mmgen.mlflow_client import client_of
from mmgen.runtime import Runtime
from mmgen.store import Store
from mmgen.tune import _alone, changed, default_space, laid_upon, nested, tune, until
from tests.tiny_line import PARTS, TRAIN, Line, config_of, copied

ROOT = Path(__file__).resolve().parents[2]
SPACE = {
    "generator.train.learning_rate": {"low": 1e-4, "high": 1e-1, "log": True},
    "generator.width": {"low": 8, "high": 24},
    "generator.sampler": {"choices": ["euler", "heun"]},
}


def tuning(**more: Any) -> Config:
    settings = {"trials": 3, "space": SPACE, "steps": 8, "looks": 4, **more}
    train = {**TRAIN, "ema_decay": 0.9, "checkpoint_steps": 3}
    return config_of(tune=settings, generator={**PARTS["generator"], "train": train})


@pytest.fixture
def line(tmp_path: Path) -> Line:
    return copied(tmp_path)


def test_three_trials_killed_and_gone_on_with_are_those_of_a_search_that_was_not(tmp_path: Path) -> None:
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
    whole, broken, config = copied(tmp_path / "whole"), copied(tmp_path / "broken"), tuning()
    (tmp_path / "config.json").write_text(json.dumps(config.to_json()))
    command = [sys.executable, "-m", "tests.unit.tune_worker", broken.store.uri, str(tmp_path / "config.json"), "13"]
    # in the fifth step of the second trial, after its checkpoint
    killed = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True)
    assert killed.returncode == -9, killed.stderr[-3000:]
    assert broken.store.walk("runs/checkpoints")
    versions = [each.ref for each in artifacts.history(broken.store, "model", "tiny")]
    resumed = tune(config, broken.runtime)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mmgen.tune.log_trials", lambda *_: None)
        unbroken = tune(config, whole.runtime)
    assert [each.number for each in resumed.trials] == [1, 2, 3]
    assert resumed.study == unbroken.study
    for mine, theirs in zip(resumed.trials, unbroken.trials, strict=True):
        assert (mine.params, mine.value, mine.looks, mine.state) == (
            theirs.params, theirs.value, theirs.looks, theirs.state,
        )  # fmt: skip
    assert not broken.store.walk("runs/checkpoints")
    assert [each.ref for each in artifacts.history(broken.store, "model", "tiny")] == versions, "commits nothing"
    _judge(config, resumed, broken)
    _look_at_mlflow(broken.store, resumed.study)
    said = len(broken.said)
    assert tune(config, broken.runtime) == resumed, "a finished search is not searched again"
    assert len(broken.said) == said
    more = tune(config, broken.runtime, trials=4)
    assert more.trials[:3] == resumed.trials
    assert len(more.trials) == 4


def _judge(config: Config, found: Any, line: Line) -> None:
    own = {
        path: getattr(config.generator, path.split(".")[1], None) for path in ("generator.width", "generator.sampler")
    }
    first = found.trials[0]
    assert {path: first.params[path] for path in own} == own, "the first trial is the configuration as it is"
    assert first.params["generator.train.learning_rate"] == config.generator.train.learning_rate
    assert [step for step, _ in first.looks] == [2, 4, 6, 8]
    assert first.value == first.looks[-1][1]
    assert found.best.value == min(each.value for each in found.trials if each.state == "complete")
    best = changed(config, found.best.params)
    assert config_part("train-fusion", best) == config_part("train-fusion", config)
    assert [line_ for line_ in line.said if line_.startswith("trial ")][-1].startswith("trial 3: ")


def _look_at_mlflow(store: Store, study: str) -> None:
    with client_of(store) as client:
        experiment = client.get_experiment_by_name("tiny-tune")
        assert experiment is not None
        runs = client.search_runs([experiment.experiment_id], f"tags.`mmgen.study` = '{study}'")
    parents = [run.info.run_id for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert len(parents) == 1
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == set(parents)
    assert sorted(run.data.tags["mmgen.trial"] for run in children) == ["1", "2", "3"]
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert all(set(run.data.params) == set(SPACE) and "loss" in run.data.metrics for run in children)


def test_trials_that_come_to_nothing_are_counted_with_their_reason(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmgen.tune.log_trials", lambda *_: None)
    space = {"fusion.width": {"choices": [8, 0]}}
    with pytest.raises(ConfigError, match=r"fusion\.width"):
        tune(config_of(tune={"space": space}), line.runtime)
    settings = {"space": {"fusion.train.warmup_steps": {"low": 0, "high": 3}}, "trials": 2, "metric": "los"}
    with pytest.raises(UserError, match="did you mean 'loss'"):
        tune(config_of(tune=settings), line.runtime)
    hopeless = {**settings, "metric": "loss", "steps": 30, "direction": "maximize"}
    train = {**TRAIN, "learning_rate": 1e-3}
    found = tune(config_of(tune=hopeless, fusion={"width": 8, "train": train}), line.runtime)
    assert found.step == "train-fusion"
    assert found.best.value == max(each.value for each in found.trials if each.value is not None)
    assert all(each.value is None or each.value > 0 for each in found.trials)


def test_the_default_space_is_around_the_configuration() -> None:
    config = config_of()
    space = default_space(config)
    rate = config.generator.train.learning_rate
    assert space["generator.train.learning_rate"].low == rate / 4
    assert set(space) >= {"generator.train.weight_decay", "generator.dropout"}
    assert until(config) == "train-fusion"
    assert until(config_of(tune={"space": {"fusion.width": {"low": 8, "high": 16}}})) == "extract"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"space": {"codecs.image.depth": {"low": 1, "high": 2}}}, "wanted settings of generator or of fusion"),
        ({"space": {"generator.width": {"low": 8, "high": 9}, "fusion.width": {"low": 8, "high": 9}}}, "one network"),
        ({"space": {"generator.width": {"low": 9, "high": 8}}}, "low < high"),
        ({"space": {"generator.width": {"low": 0, "high": 8, "log": True}}}, "log: wanted low above 0"),
        ({"space": {"generator.width": {"low": 1, "high": 8, "choices": [1]}}}, "came both"),
    ],
)
def test_what_cannot_be_searched_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        config_of(tune=settings)


def test_a_setting_that_is_not_there_is_named_with_the_nearest(line: Line) -> None:
    space = {"generator.train.learning_rat": {"low": 1e-4, "high": 1e-2}}
    with pytest.raises(ConfigError, match="learning_rate"):
        tune(config_of(tune={"space": space}), line.runtime)


def test_one_search_of_a_name_at_a_time(line: Line) -> None:
    with _alone(line.runtime, "tiny"), pytest.raises(OutsideError, match="another search of tiny"):
        tune(tuning(), line.runtime)


def test_a_remote_store_is_refused() -> None:
    with pytest.raises(ConfigError, match="wanted a local store"):
        tune(tuning(), Runtime(Store("memory://there")))


def test_searching_is_no_part_of_what_is_trained() -> None:
    assert config_part("train-generator", config_of()) == config_part("train-generator", config_of(tune={"trials": 3}))


def test_nested_and_laid_upon() -> None:
    assert nested({"a.b": 1, "a.c.d": 2}) == {"a": {"b": 1, "c": {"d": 2}}}
    assert laid_upon({"a": {"b": 1, "x": 0}, "y": 1}, {"a": {"b": 2}}) == {"a": {"b": 2, "x": 0}, "y": 1}


@pytest.mark.parametrize("folder", ["", "elsewhere"])
def test_the_best_recipe_is_the_configuration_with_the_best_settings(tmp_path: Path, folder: str) -> None:
    mine = tmp_path / "mine.yaml"
    raw: dict[str, Any] = {"name": "mine", "source": {"path": "pairs.csv", "text": "t"}, "generator": {"width": 64}}
    mine.write_text(yaml.safe_dump(raw))
    (tmp_path / "elsewhere").mkdir()
    target = tmp_path / folder / "best.yaml"
    params = {"generator.width": 32, "generator.train.learning_rate": 1.25e-05}
    answer = {"metric": "loss", "best": {"value": 0.5, "number": 2, "params": params}, "trials": [1, 2, 3]}
    target.write_text(_recipe(mine, target, load(mine), answer))
    found, wanted = load(target), changed(load(mine), params)
    assert found == wanted
    assert wanted.generator.train.model_copy(update={"learning_rate": 1e-3}) == build(raw).generator.train
    assert target.read_text().startswith("# The best trial of `mmgen tune mine.yaml`: loss 0.5 in trial 2 of 3")
