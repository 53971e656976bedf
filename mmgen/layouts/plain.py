"""Numbered tars with what stands beside them, as webdataset wants them: `<split>/00000.tar`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mmgen.artifact import Artifact
from mmgen.layouts.numbered import checked, facts_of, numbered, sizes, slots_of
from mmgen.report.readme import plain_readme, tar_features
from mmgen.store import Store

_NAMES = {"shard": ".tar", "facts": ".parquet", "index": ".tar.idx", "stats": "_stats.json"}


def plain(store: Store, version: Artifact, folder: Path) -> Iterator[None]:
    """Write it; yields after each shard. Raises IntegrityError."""
    for shard in numbered(version):
        (folder / shard.split).mkdir(exist_ok=True)
        for role, ending in _NAMES.items():
            (folder / f"{shard.stem}{ending}").write_bytes(checked(store, version, shard.files[role]))
        yield
    features = tar_features(facts_of(store, version), slots_of(version))
    readme = plain_readme(version.name, version.version, version.facts, sizes(version), features)
    (folder / "README.md").write_bytes(readme)
