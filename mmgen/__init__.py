"""mmgen: from raw text-image-audio pairs to a registered any-to-any generator."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from mmgen.generate import Model
    from mmgen.store import Store

__all__ = ["load"]


def load(reference: str | Path, store: str | Path | Store | None = None, device: str = "auto") -> Model:
    """A model that generates, from the folder of its package or by reference: `load("spoken-digits@champion")`.

    store: `$MMGEN_STORE`, else ./mmgen-store, if None. Raises UnknownReference.
    """
    # here, so that `import mmgen` stays free of torch
    from mmgen.generate import load as load_model

    return load_model(reference, store, device)
