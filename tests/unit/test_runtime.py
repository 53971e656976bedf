from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
from mmgen.runtime import keep_freed_memory
{first}
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100):
    some = [bytearray(1 << 20) for _ in range(4)]
    del some
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(first: str) -> int:
    said = subprocess.run(
        [sys.executable, "-c", FAULTS.format(first=first)], check=True, capture_output=True, text=True
    )
    return int(said.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives pages back this eagerly, or is told so")
def test_pages_that_were_freed_are_used_again() -> None:
    assert page_faults("keep_freed_memory()") < page_faults("") / 4
