"""Nothing in the project depends on the machine it was written on, and no name says nothing."""

from __future__ import annotations

import re

import pytest

from tests.guards.source import ROOT, modules, tracked

# written in halves, so that this file passes its own test
_MACHINE = [
    r"/(?:wo" r"rk|ro" r"ot|opt|Users|mnt)/\w",
    r"/ho" r"me/\w",
    r"pypi\.o" r"rg|python" r"hosted\.org|download\.pyt" r"orch|deb\.deb" r"ian|registry\.np" r"mjs|npm" r"mirror",
]
_EMPTY_NAMES = {"utils.py", "util.py", "common.py", "helpers.py", "helper.py", "misc.py", "manager.py", "base_utils.py"}
_LEFTOVERS = re.compile(r"\b(?:TO" r"DO|FIX" r"ME|XX" r"X)\b|raise NotImplemented" r"Error")


def _texts() -> list[tuple[str, str]]:
    found = []
    for path in tracked():
        data = path.read_bytes()
        if b"\0" not in data[:8192]:
            found.append((str(path.relative_to(ROOT)), data.decode("utf-8")))
    return found


@pytest.mark.parametrize("pattern", _MACHINE)
def test_no_machine_paths_and_no_registry_hosts(pattern: str) -> None:
    hits = [
        f"{name}:{number}: {line.strip()[:120]}"
        for name, text in _texts()
        for number, line in enumerate(text.splitlines(), 1)
        if re.search(rf"(?<![\w.$}}]){pattern}", line)
    ]
    assert not hits, "\n".join(hits)


def test_no_file_is_named_for_nothing() -> None:
    assert not [str(path) for path in tracked() if path.name in _EMPTY_NAMES]


def test_nothing_is_left_for_later() -> None:
    hits = [f"{path.relative_to(ROOT)}" for path in modules().values() if _LEFTOVERS.search(path.read_text())]
    assert not hits


def test_nothing_large_and_nothing_generated_is_committed() -> None:
    large = {str(path.relative_to(ROOT)): path.stat().st_size for path in tracked() if path.stat().st_size > 2 << 20}
    assert not large
    # the scores of a benchmark of hours are kept, so that the next run goes on from it: tables of numbers, no data
    results = ROOT / "benchmarks" / "results"
    generated = [
        str(path)
        for path in tracked()
        if path.suffix in (".pyc", ".safetensors", ".tar", ".parquet", ".arrow")
        and not (path.suffix == ".parquet" and path.is_relative_to(results) and path.stat().st_size < 256 << 10)
    ]
    assert not generated
