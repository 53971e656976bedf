"""Kernels whose result does not depend on timing."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch

from mmgen.errors import ConfigError


@contextlib.contextmanager
def deterministic(on: bool, what: str) -> Iterator[None]:
    """Within this torch uses deterministic kernels only, and refuses what has none. Afterwards all is as it was.

    cuBLAS reads its workspace's setting when CUDA starts, so a process that used CUDA before may need it from outside:
    CUBLAS_WORKSPACE_CONFIG=:4096:8. Raises ConfigError for an operation without such a kernel.
    """
    if not on:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    mode, warned = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        said = " ".join(str(error).split())[:300]
        raise ConfigError(f"{what}: deterministic: wanted kernels that are, came {said}") from error
    finally:
        torch.use_deterministic_algorithms(mode, warn_only=warned)
        torch.backends.cudnn.benchmark = benchmark
