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
from mmgen.errors import ConfigError, StoreError, unknown_name
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
    has something in it (unless `force`, which replaces it), IntegrityError for bytes that are not as recorded,
    StoreError where nothing can be written.
    """
    if layout not in LAYOUTS:
        raise ConfigError(f"--layout: {unknown_name('layout', layout, LAYOUTS)}")
    folder = Path(os.path.abspath(folder))
    _check_place(store, folder, force=force)
    making = folder.with_name(f".{folder.name}-{secrets.token_hex(4)}")
    try:
        making.mkdir(parents=True)
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
    except OSError as error:
        raise StoreError(f"'{folder}': could not be written: {error}") from error
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _check_place(store: Store, folder: Path, *, force: bool) -> None:
    """Raises ConfigError for a place that an export may not take, whatever is forced."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"'{folder}': wanted a folder, this is a file")
    real = folder.resolve()
    if store.local and real.is_relative_to(kept := Path(store.base).resolve()):
        raise ConfigError(f"'{folder}': wanted a folder outside the store '{kept}', which is mmgen's own")
    if folder.exists() and any(folder.iterdir()) and not force:
        raise ConfigError(f"'{folder}': wanted a new or empty folder; give another one, or --force to replace it")
    # a folder that is there is replaced, and whoever stands in it would stand nowhere
    held = [Path.cwd(), *([Path(store.base).resolve()] if store.local else [])]
    if inside := next((each for each in held if each.is_relative_to(real)), None):
        raise ConfigError(f"'{folder}': '{inside}' is in it, and it would be replaced; give another folder")
