"""Tombstones: `purged-<n>.json` beside a manifest names the files of the artifact that were deleted on purpose.

Pages and tables that were made again without what was forgotten are named too, with the digest of what is there now.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Set
from types import MappingProxyType
from typing import Any

from mmgen.artifact import Artifact
from mmgen.store import Store

PREFIX = "purged-"


def purged(store: Store, found: Artifact) -> set[str]:
    """Paths that the artifact's tombstones name: deleted, or made again."""
    return {path for told in _each(store, found) for path in (*told["paths"], *told.get("rerendered", ()))}


def rerendered(store: Store, found: Artifact) -> dict[str, str]:
    """Path → sha256 of what was made again there, as the newest tombstone that names the path says."""
    now: dict[str, str] = {}
    for told in _each(store, found):
        now = {path: digest for path, digest in now.items() if path not in told["paths"]}
        now |= told.get("rerendered", {})
    return now


def _each(store: Store, found: Artifact) -> Iterator[dict[str, Any]]:
    """The artifact's tombstones, oldest first."""
    numbers = [int(name.removeprefix(PREFIX).removesuffix(".json"))
               for name in store.names(found.folder) if name.startswith(PREFIX)]  # fmt: skip
    for number in sorted(numbers):
        yield json.loads(store.read(f"{found.folder}/{PREFIX}{number}.json"))


def put(store: Store, found: Artifact, paths: Set[str], rerendered: Mapping[str, str] = MappingProxyType({})) -> None:
    """Say beside the artifact's manifest that files go, or are made again (path → sha256). Raises StoreError."""
    told: dict[str, Any] = {"paths": sorted(paths)}
    if rerendered:
        told["rerendered"] = dict(sorted(rerendered.items()))
    body = json.dumps(told, indent=1).encode()
    number = 1
    while not store.create(f"{found.folder}/{PREFIX}{number}.json", body):
        number += 1


def is_tombstone(path: str) -> bool:
    """Whether a path of the store is that of a tombstone."""
    return path.rpartition("/")[2].startswith(PREFIX)
