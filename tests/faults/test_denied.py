"""What may not be read or written: counted rejections with row numbers, or one clear line; never a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest

from tests.faults.runner import ROOT

pytestmark = pytest.mark.skipif(not hasattr(os, "setuid"), reason="no users here")


@pytest.fixture(scope="module")
def found() -> Iterator[dict[str, Any]]:
    """What each case came to. Below pytest's own folder another account could not even look."""
    with tempfile.TemporaryDirectory(prefix="mmgen-denied-") as folder:
        done = subprocess.run(
            [sys.executable, "-m", "tests.faults.denier", folder],
            cwd=ROOT, capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        yield json.loads(done.stdout.splitlines()[-1])


def test_files_that_may_not_be_read_are_rejections_with_their_rows(found: dict[str, Any]) -> None:
    case = found["files"]
    assert case["status"] == 0, case["said"]
    assert [row for row, _ in case["rows"]] == [3, 7]
    assert all("Permission denied" in message for _, message in case["rows"])
    assert case["counts"] == {"inputs": 12, "kept": 10, "quarantined": 2, "dropped": 0}


@pytest.mark.parametrize("what", ["a table", "the folder of a table", "a folder", "a folder in a folder", "a tar"])
def test_a_source_that_may_not_be_read_is_the_users_to_mend(what: str, found: dict[str, Any]) -> None:
    case = found[what]
    assert case["status"] == 2, case["said"]
    assert len(case["said"].splitlines()) == 1
    assert "Permission denied" in case["said"]
    assert case["path"] in case["said"]


def test_a_store_that_may_not_be_written_is_a_store_error(found: dict[str, Any]) -> None:
    case = found["a store"]
    assert case["status"] == 3, case["said"]
    assert len(case["said"].splitlines()) == 1
    assert "could not write" in case["said"]
    assert "Permission denied" in case["said"]
    assert case["path"] in case["said"]
