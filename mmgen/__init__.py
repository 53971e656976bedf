"""mmgen: from raw text-image-audio pairs to a registered any-to-any generator."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from mmgen.dataset import Dataset
    from mmgen.generate import Model
    from mmgen.store import Store

__all__ = ["load", "open"]


def load(reference: str | Path, store: str | Path | Store | None = None, device: str = "auto") -> Model:
    """A model that generates, from the folder of its package or by reference: `load("spoken-digits@champion")`.

    store: `$MMGEN_STORE`, else ./mmgen-store, if None. Raises UnknownReference.
    """
    # here, so that `import mmgen` stays free of torch
    from mmgen.generate import load as load_model

    return load_model(reference, store, device)


def open(reference: str, store: str | Path | Store | None = None) -> Dataset:  # noqa: A001
    """A dataset version to read: `open("my-pairs@3")`; the newest that passed its gate without a version.

    store: `$MMGEN_STORE`, else ./mmgen-store, if None. Raises UnknownReference.
    """
    import os

    from mmgen.dataset import open_dataset
    from mmgen.store import Store

    where = store if store is not None else os.environ.get("MMGEN_STORE", "mmgen-store")
    return open_dataset(reference, where if isinstance(where, Store) else Store(where))
