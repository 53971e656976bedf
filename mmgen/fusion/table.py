"""Ways to fuse by the name that a configuration gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mmgen.encoders.specs import Spec, Start
from mmgen.errors import ConfigError, unknown_name
from mmgen.fusion.fuse import ConcatFuse, GatedFuse
from mmgen.fusion.fusion import Fusion
from mmgen.records import Modality

FUSES: dict[str, type[ConcatFuse] | type[GatedFuse]] = {"concat": ConcatFuse, "gated": GatedFuse}


def make_fusion(
    kind: str,
    *,
    modalities: Mapping[str, Modality],
    shapes: Mapping[str, Sequence[int]],
    encoders: Mapping[Modality, Spec],
    classes: int,
    width: int,
    label_weight: float = 1.0,
    contrastive_weight: float = 1.0,
    augment: bool = True,
    weights: Mapping[Modality, Start] | None = None,
) -> Fusion:
    """A fresh Fusion (see there) that fuses in the way `kind`. Raises ConfigError for an unknown one."""
    if kind not in FUSES:
        raise ConfigError(unknown_name("fusion", kind, FUSES))
    return Fusion(
        fuse=FUSES[kind](len(modalities), width), modalities=modalities, shapes=shapes, encoders=encoders,
        classes=classes, width=width, label_weight=label_weight, contrastive_weight=contrastive_weight, augment=augment,
        weights=weights,
    )  # fmt: skip
