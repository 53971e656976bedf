"""`--init-from`: which earlier model training starts from, what it counts for, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows import cli
from flows.endings import ending
from mmgen import artifact as artifacts
from mmgen import steps
from mmgen.artifact import Artifact
from mmgen.config import Config
from mmgen.errors import ConfigError, UnknownReference
from mmgen.identity import identity
from mmgen.initial import start_from
from mmgen.runtime import Runtime
from mmgen.training.config import InitConfig
from tests.tiny_line import PARTS, Line, config_of, copied

FUSION = "model:tiny-fusion@1"


@pytest.fixture
def line(tmp_path: Path) -> Line:
    return copied(tmp_path)


def perform(line: Line, config: Config, name: str) -> steps.Outcome:
    step = steps.STEPS[name]
    return steps.perform(step, config, steps.gather(step, config, line.runtime, {}), line.runtime)


def short(part: str, **changed: Any) -> Config:
    """A configuration whose training of `part` barely moves the weights that it starts from."""
    train = {"steps": 1, "batch_size": 8, "learning_rate": 1e-9}
    return config_of(**{part: {**PARTS[part], "train": train, **changed}})


def test_training_goes_on_from_the_weights_that_were_named(line: Line) -> None:
    config = start_from(short("fusion"), "tiny-fusion", "all", line.store)
    assert config.fusion.init == InitConfig(ref=FUSION)
    outcome = perform(line, config, "train-fusion")
    earlier, made = line.made["train-fusion"], outcome.artifact
    assert outcome.ran
    assert made.version == 2
    assert _far_apart(line, earlier, made) < 1e-6
    random = perform(line, short("fusion"), "train-fusion").artifact
    assert _far_apart(line, earlier, random) > 1e-3
    assert any("starts from model:tiny-fusion@1" in said for said in line.said)


def _far_apart(line: Line, one: Artifact, other: Artifact) -> float:
    import safetensors.torch

    a, b = (safetensors.torch.load(line.store.read(each.file("weights").path)) for each in (one, other))
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def test_it_is_an_input_part_of_the_identity_and_of_the_lineage(line: Line) -> None:
    config = start_from(short("generator"), "tiny@1", "all", line.store)
    outcome = perform(line, config, "train-generator")
    assert outcome.artifact.inputs["init"] == line.made["train-generator"].link
    assert "model:tiny@1" in artifacts.lineage(line.store, outcome.artifact)
    again = perform(line, config, "train-generator")
    assert (again.ran, again.artifact.ref) == (False, outcome.artifact.ref)
    heads = start_from(short("generator"), "tiny@1", "trunk", line.store)
    inputs = steps.gather(steps.STEPS["train-generator"], config, line.runtime, {})
    assert identity("train-generator", config, inputs).pin != identity("train-generator", heads, inputs).pin
    # by what it is, not by how it is called
    called = config.generator.model_copy(update={"init": InitConfig(ref="tiny@1")})
    renamed = config.model_copy(update={"generator": called})
    assert identity("train-generator", renamed, inputs) == identity("train-generator", config, inputs)
    without = {role: each for role, each in inputs.items() if role != "init"}
    plain = short("generator")
    assert identity("train-generator", plain, without).pin != identity("train-generator", config, inputs).pin


def test_a_setting_that_is_not_used_leaves_no_trace(line: Line) -> None:
    assert "init" not in config_of().to_json()["fusion"]
    assert "init" not in config_of().to_json()["generator"]
    assert not perform(line, config_of(), "train-generator").ran


def test_a_configuration_may_say_it_too_and_survives_being_handed_on(line: Line) -> None:
    config = config_of(fusion={**PARTS["fusion"], "init": {"ref": FUSION, "what": "trunk"}})
    assert Config.model_validate(config.to_json()).fusion.init == config.fusion.init
    found = steps.gather(steps.STEPS["train-fusion"], config, line.runtime, {})
    assert found["init"].ref == FUSION
    assert {each.step for each in steps.plan(config, line.runtime)} == set(steps.NAMES)


def test_a_network_of_another_size_is_an_error_that_names_the_tensor(line: Line) -> None:
    config = start_from(short("fusion", width=16), "tiny-fusion@1", "all", line.store)
    with pytest.raises(ConfigError, match=r"init: tensor '\S+': wanted \(16.*model:tiny-fusion@1 has \(8"):
        perform(line, config, "train-fusion")
    none = start_from(short("fusion"), "tiny-fusion@1", "adapters", line.store)
    with pytest.raises(ConfigError, match="this network has no adapters"):
        perform(line, none, "train-fusion")


def test_what_training_cannot_start_from_is_refused(line: Line) -> None:
    store = line.store
    with pytest.raises(ConfigError, match="wanted a model that train-generator made, tiny-fusion@1 is model:tiny-fus"):
        start_from(config_of(), "tiny-fusion@1", "all", store, "train-generator")
    with pytest.raises(ConfigError, match="wanted a model that train-fusion or train-generator made, dataset:tiny"):
        start_from(config_of(), "dataset:tiny", "all", store)
    with pytest.raises(ConfigError, match=r"--init: .*did you mean 'adapters'"):
        start_from(config_of(), "tiny@1", "adapter", store)
    with pytest.raises(UnknownReference, match="it has 1"):
        start_from(config_of(), "tiny@7", "all", store)
    moving = config_of(fusion={**PARTS["fusion"], "init": {"ref": "tiny-fusion"}})
    with pytest.raises(ConfigError, match=r"fusion.init.ref: tiny-fusion moves to what this step makes"):
        steps.gather(steps.STEPS["train-fusion"], moving, Runtime(store), {})
    other = config_of(fusion={**PARTS["fusion"], "init": {"ref": "tiny@1"}})
    with pytest.raises(ConfigError, match=r"wanted a model that train-fusion made, tiny@1 is model:tiny@1"):
        steps.gather(steps.STEPS["train-fusion"], other, Runtime(store), {})


def test_the_command_line_names_the_model_for_the_step_that_made_it(
    line: Line, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(line.config.to_json()))
    asked = ["run", str(tmp_path / "config.yaml"), "--store", line.store.uri, "--plan", "--json"]

    def planned(*more: str) -> dict[str, bool]:
        assert ending(cli.app, [*asked, *more]) == 0
        answer = json.loads(capsys.readouterr().out.splitlines()[-1])
        return {each["step"]: each["run"] for each in answer["steps"]}

    before = planned()
    assert (before["train-fusion"], before["train-generator"]) == (False, False)
    after = planned("--init-from", "tiny@1", "--init", "trunk")
    assert (after["train-fusion"], after["train-generator"]) == (False, True)
    assert planned("--init-from", "tiny-fusion")["train-fusion"]
    assert ending(cli.app, [*asked, "--init-from", "tiny@9"]) == 2
