"""What `mmgen deploy` and prefect.yaml put onto a server."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows import cli
from flows.endings import ending

ROOT = Path(__file__).parents[2]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "pairs.csv").write_text("text\nhello\n")
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump({"name": "tiny", "source": {"path": "pairs.csv", "text": "text"}}))
    return path


def ask(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return json.loads(answer.read())


def test_a_deployment_carries_its_configuration_schedule_and_limit(
    config: Path, api: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["deploy", str(config), "--cron", "0 3 * * *", "--store", "store", "--workers", "2", "--json"]
    assert ending(cli.app, arguments) == 0
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert answer["deployments"] == ["mmgen-line/tiny"]
    made = ask(f"{api}/deployments/name/mmgen-line/tiny")
    assert made["entrypoint"] == "flows.pipeline.mmgen_line"
    assert made["work_pool_name"] == "cpu"
    assert made["schedules"][0]["schedule"]["cron"] == "0 3 * * *"
    assert made["global_concurrency_limit"]["limit"] == 1
    assert made["concurrency_options"]["collision_strategy"] == "CANCEL_NEW"
    given = made["parameters"]
    assert given["config"]["source"]["path"] == str(config.parent / "pairs.csv")
    assert given["store"] == str(Path("store").absolute()), "a worker has another current folder"
    assert given["options"] == {"workers": 2}
    properties = made["parameter_openapi_schema"]["properties"]
    assert set(properties) == {"config", "store", "first", "until", "options", "elsewhere"}
    assert ask(f"{api}/work_pools/cpu")["type"] == "process"


def test_deploying_again_replaces_and_adds_the_gpu_pool(
    config: Path, api: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ending(cli.app, ["deploy", str(config), "--store", "store"]) == 0
    assert ending(cli.app, ["deploy", str(config), "--store", "store", "--gpu"]) == 0
    assert "prefect worker start --pool gpu --type process" in capsys.readouterr().out
    line = ask(f"{api}/deployments/name/mmgen-line/tiny")
    assert line["parameters"]["elsewhere"] == {"extract": "extract/tiny-gpu", "train": "train/tiny-gpu"}
    assert line["schedules"] == []
    for name in ("extract/tiny-gpu", "train/tiny-gpu"):
        assert ask(f"{api}/deployments/name/{name}")["work_pool_name"] == "gpu"


def test_a_cron_line_that_is_none_is_the_users_mistake(
    config: Path, api: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ending(cli.app, ["deploy", str(config), "--cron", "at dawn"]) == 2
    err = capsys.readouterr().err
    assert "--cron" in err
    assert err.count("\n") == 1


def test_prefect_yaml_names_flows_pools_and_parameters_that_are_there() -> None:
    from prefect.flows import load_flow_from_entrypoint

    from flows.deployments import POOLS

    described = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    for each in described["deployments"]:
        flow = load_flow_from_entrypoint(each["entrypoint"])
        assert set(each.get("parameters", {})) <= set(flow.parameters.properties)
        assert each["work_pool"]["name"] in POOLS
    line = described["deployments"][0]
    assert line["concurrency_limit"] == {"limit": 1, "collision_strategy": "CANCEL_NEW"}
    named = {f"{each['entrypoint'].split('.')[-1]}/{each['name']}" for each in described["deployments"]}
    assert set(line["parameters"]["elsewhere"].values()) <= named
