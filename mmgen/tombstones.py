"""Tombstones: `purged-<n>.json` beside a manifest names the files of the artifact that were deleted on purpose."""

from __future__ import annotations

import json
from collections.abc import Set

from mmgen.artifact import Artifact
from mmgen.store import Store

PREFIX = "purged-"


def purged(store: Store, found: Artifact) -> set[str]:
    """Paths that the artifact's tombstones name."""
    paths: set[str] = set()
    for name in store.names(found.folder):
        if name.startswith(PREFIX):
            paths.update(json.loads(store.read(f"{found.folder}/{name}"))["paths"])
    return paths


def put(store: Store, found: Artifact, paths: Set[str]) -> None:
    """Say beside the artifact's manifest that these files go. Raises StoreError."""
    body = json.dumps({"paths": sorted(paths)}, indent=1).encode()
    number = 1
    while not store.create(f"{found.folder}/{PREFIX}{number}.json", body):
        number += 1


def is_tombstone(path: str) -> bool:
    """Whether a path of the store is that of a tombstone."""
    return path.rpartition("/")[2].startswith(PREFIX)
