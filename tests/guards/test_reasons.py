"""Every reason code that the data line gives is in the table of reasons, and nothing else is."""

from __future__ import annotations

import ast

import pytest

from mmgen.config import build
from mmgen.errors import ConfigError
from mmgen.reasons import REASONS
from tests.guards.source import modules, parsed

ROOMS = ("mmgen.sources", "mmgen.modalities", "mmgen.ingest", "mmgen.staging", "mmgen.pairs", "mmgen.inputs",
         "mmgen.verdicts", "mmgen.validate")  # fmt: skip
#: function → the place of the reason among its arguments
GIVERS = {"Finding": 0, "Rule": 0, "Bad": 0, "Rejection": 4, "rejected": 2, "note": 1, "settle": 1}


def literals(node: ast.expr) -> set[str]:
    """The string literals that an expression may give."""
    return {each.value for each in ast.walk(node) if isinstance(each, ast.Constant) and isinstance(each.value, str)}


def given() -> dict[str, str]:
    """Reason → a place that gives it."""
    found = {}
    for module, path in modules().items():
        if not module.startswith(ROOMS):
            continue
        for node in ast.walk(parsed(path)):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            place = GIVERS.get(name)
            if place is not None and len(node.args) > place and isinstance(node.args[place], ast.Constant):
                found |= dict.fromkeys(literals(node.args[place]), f"{path}:{node.lineno}")
    return found


def test_every_given_reason_is_in_the_table() -> None:
    assert given().keys() >= {"zero_bytes", "path_refused", "duplicate_key", "bridges_splits"}
    unknown = {reason: where for reason, where in given().items() if reason not in REASONS}
    assert not unknown, f"add these to mmgen/reasons.py: {unknown}"


def test_every_reason_of_the_table_is_given_somewhere() -> None:
    written = {
        each for module, path in modules().items() if module.startswith(ROOMS) for each in literals(parsed(path))
    }  # fmt: skip
    assert not REASONS.keys() - written, "nothing gives these"


def test_every_threshold_is_a_key_of_the_configuration() -> None:
    from flows.data_answers import checked

    assert len(checked()["checks"]) == len(REASONS)


@pytest.mark.parametrize(("code", "said"), [("blanc", "did you mean 'blank'"), ("truncated", "cannot be changed")])
def test_an_override_of_what_is_not_tunable_is_refused(code: str, said: str) -> None:
    source = {"kind": "table", "path": "x.csv", "text": "t"}
    with pytest.raises(ConfigError, match=said):
        build({"name": "a", "source": source, "validate": {"checks": {"severity": {code: "flag"}}}})
