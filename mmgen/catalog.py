"""What is in a store: listings, one artifact in short, and files that nothing names."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from mmgen import artifact
from mmgen.artifact import KINDS, Artifact
from mmgen.errors import UnknownReference, unknown_name
from mmgen.store import Store
from mmgen.tombstones import is_tombstone

# the folders that hold artifacts; everything else in a store (runs, caches, databases) is not ours to judge
ARTIFACT_FOLDERS = (
    "staging", "pairs", "datasets", "features", "codecs", "models", "judges", "evalsets", "scores", "promotions",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Listed:
    """A line of `mmgen ls`."""

    ref: str
    kind: str
    step: str
    time: str
    passed: bool
    fingerprint: str
    size_bytes: int

    @classmethod
    def of(cls, found: Artifact) -> Listed:
        """The line of one artifact; size_bytes counts shared files in each version that names them."""
        time = str(found.circumstance.get("time", ""))
        size = sum(entry.size for entry in found.files)
        return cls(found.ref, found.kind, found.step, time, found.passed, found.fingerprint, size)


def listing(store: Store, kind: str | None = None) -> list[Listed]:
    """Every committed artifact (of one kind, if asked), newest version first. Raises UnknownReference."""
    return [Listed.of(found) for found in everything(store, kind)]


def manifests(store: Store) -> list[str]:
    """Paths of the manifests of all committed artifacts, whether they can be read or not."""
    staged = [f"{artifact.kind_folder('staging', '')}/{entry}/manifest.json" for entry in store.names("staging")]
    return [path for path in staged if store.exists(path)] + [
        artifact.manifest_path(kind, name, number)
        for kind in KINDS if kind != "staging"
        for name in artifact.names(store, kind) for number in reversed(artifact.versions(store, kind, name))
    ]  # fmt: skip


def everything(store: Store, kind: str | None = None) -> list[Artifact]:
    """All committed artifacts, by kind in the order of the line, by name, newest first."""
    if kind is not None and kind not in KINDS:
        raise UnknownReference(unknown_name("kind", kind, KINDS))
    kinds = [each for each in KINDS if kind in (None, each)]
    return [found for each in kinds for name in artifact.names(store, each)
            for found in artifact.history(store, each, name)]  # fmt: skip


def unreferenced(store: Store) -> list[tuple[str, int]]:
    """(path, bytes) of files below the artifact folders that no manifest names: what died runs and `gc` leave.

    Manifests and claims of committed versions are kept; a claim without a manifest belongs to a run that died.
    """
    named: set[str] = set()
    folders: set[str] = set()
    for found in everything(store):
        named.update(entry.path for entry in found.files)
        named.update((found.manifest, f"{found.folder}/claim"))
        folders.add(found.folder)
    paths = [path for folder in ARTIFACT_FOLDERS for path in store.walk(folder)]
    return [(path, store.size(path) or 0) for path in paths if path not in named and not _buried(path, folders)]


def _buried(path: str, folders: set[str]) -> bool:
    """A tombstone of what is committed stays."""
    return is_tombstone(path) and path.rpartition("/")[0] in folders


def old(store: Store, files: list[tuple[str, int]], seconds: float) -> list[tuple[str, int]]:
    """Those of (path, bytes) that nobody wrote to for so long."""
    before = time.time() - seconds
    return [(path, size) for path, size in files if store.modified(path) <= before]


def collect(store: Store, *, older_than_seconds: float) -> list[tuple[str, int]]:
    """Delete what nothing names and nobody wrote to for so long; (path, bytes) of each. Raises StoreError.

    The age spares what a run that is going on has written and not yet named.
    """
    gone = old(store, unreferenced(store), older_than_seconds)
    for path, _ in gone:
        store.delete(path)
    return gone


def summary(found: Artifact) -> dict[str, Any]:
    """What `mmgen show` prints: the manifest, with files counted by role instead of listed."""
    roles: dict[str, dict[str, int]] = {}
    for entry in found.files:
        role = roles.setdefault(entry.role, {"files": 0, "bytes": 0})
        role["files"] += 1
        role["bytes"] += entry.size
    return {
        "ref": found.ref,
        "fingerprint": found.fingerprint,
        "passed": found.passed,
        "step": found.step,
        "inputs": {role: link.ref for role, link in found.inputs.items()},
        "facts": dict(found.facts),
        "files": roles,
        "config": dict(found.config),
        "circumstance": dict(found.circumstance),
        "manifest": found.manifest,
    }
