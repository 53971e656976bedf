"""What the commands about data answer, as plain data, and how a person sees it."""

from __future__ import annotations

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
    """Print the rules."""
    rows = [
        (
            each["code"], each["stage"], each["effect"] + (" *" if each["tunable"] else ""), each["what"],
            # the last word of a key tells which; --json has it whole
            ", ".join(f"{key.rpartition('.')[2]}={value}" for key, value in each["settings"].items()),
        )
        for each in answer["checks"]
    ]  # fmt: skip
    out = stdout()
    out.print(table(("code", "stage", "effect", "what", "settings"), rows))
    out.print("* validate.checks.severity: {CODE: reject | flag | off} changes it")
