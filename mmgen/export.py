"""Export: a version as a folder that other tools read, with numbered files, every byte checked on its way.

`plain`: `<split>/00000.tar`, with `.parquet`, `.tar.idx` and `_stats.json` beside it, as webdataset reads them.
`hf`: `<split>-00000-of-00003.parquet` with Hugging Face's own features, so that a sample without an image is a null.
`energon`: the same tars with Megatron-Energon's `.nv-meta`. `img2dataset`: tars and tables with its keys and columns.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from mmgen.artifact import Artifact
from mmgen.errors import ConfigError, unknown_name
from mmgen.layouts.energon import energon
from mmgen.layouts.hugging_face import hugging_face
from mmgen.layouts.img2dataset import img2dataset
from mmgen.layouts.plain import plain
from mmgen.runtime import Progress
from mmgen.store import Store

LAYOUTS: Mapping[str, Callable[[Store, Artifact, Path], Iterator[None]]] = {
    "plain": plain, "hf": hugging_face, "energon": energon, "img2dataset": img2dataset,
}  # fmt: skip


def export(
    store: Store, version: Artifact, folder: Path, layout: str, progress: Progress, *, force: bool = False
) -> list[Path]:
    """Write a data set version into `folder`; the files that were written.

    All or nothing: the folder gets its name when it is whole. Raises ConfigError for an unknown layout or a folder that
    has something in it (unless `force`, which replaces it), IntegrityError for bytes that are not as recorded.
    """
    if layout not in LAYOUTS:
        raise ConfigError(f"--layout: {unknown_name('layout', layout, LAYOUTS)}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())) and not force:
        raise ConfigError(f"'{folder}': wanted a new or empty folder; give another one, or --force to replace it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    making = folder.with_name(f".{folder.name}-{secrets.token_hex(4)}")
    try:
        making.mkdir()
        with progress.bar(f"export {version.ref}", len(version.by_role("shard"))) as bar:
            for _ in LAYOUTS[layout](store, version, making):
                bar.advance(1)
        if folder.exists():
            old = folder.with_name(f"{making.name}-old")
            os.replace(folder, old)
            os.replace(making, folder)
            shutil.rmtree(old)
        else:
            os.replace(making, folder)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return sorted(path for path in folder.rglob("*") if path.is_file())
