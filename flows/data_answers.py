"""What the commands about data answer, as plain data, and how a person sees it."""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict
from typing import Any

from flows.terminal import stdout, table
from mmgen.reasons import REASONS
from mmgen.sources.config import IngestConfig, SourceConfig
from mmgen.validate_config import ValidateConfig

_OWNERS = {"validate": ValidateConfig(), "ingest": IngestConfig(), "source": SourceConfig(path="")}


def checked() -> dict[str, Any]:
    """{"checks": [{code, stage, effect, what, settings: {key: default}, tunable}]}."""
    return {
        "checks": [
            {"code": code, **asdict(reason), "settings": {key: _default(key) for key in reason.settings}}
            for code, reason in REASONS.items()
        ]
    }


def _default(key: str) -> Any:
    """The default of a dotted configuration key."""
    owner, *path = key.split(".")
    value: Any = _OWNERS[owner].model_dump(mode="json")
    for part in path:
        value = value[part]
    return value


def show_checked(answer: dict[str, Any]) -> None:
    """Print the rules, in the order of the line; under each the settings that it goes by, with their defaults."""
    rows: list[tuple[str, str, str]] = []
    for stage, each in itertools.groupby(answer["checks"], lambda each: each["stage"]):
        rows.append((f"[{stage}]", "", ""))
        for rule in each:
            settings = [f"  {key} = {_shown(value)}" for key, value in rule["settings"].items()]
            rows.append((rule["code"], rule["effect"] + (" *" if rule["tunable"] else ""),
                         "\n".join([rule["what"], *settings])))  # fmt: skip
    out = stdout()
    out.print(table(("code", "effect", "what"), rows))
    out.print("* validate.checks.severity: {CODE: reject | flag | off} changes it")


def _shown(value: Any) -> str:
    """A default as it is written in a configuration."""
    return "null" if value is None else json.dumps(value)
