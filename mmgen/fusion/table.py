"""Ways to fuse, and heads, by the name that a configuration gives them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from mmgen.encoders.specs import Spec, Start
from mmgen.encoders.table import make_encoder
from mmgen.errors import ConfigError, unknown_name
from mmgen.fusion.attack import Attack
from mmgen.fusion.cached import Cached
from mmgen.fusion.fuse import ConcatFuse, CrossAttentionFuse, GatedFuse, LowRankFuse
from mmgen.fusion.fusion import Fusion
from mmgen.fusion.heads import ClassificationHead, Head, MultiLabelHead, RegressionHead, TaggingHead
from mmgen.fusion.targets import Target
from mmgen.records import Modality

FUSES: dict[str, type[ConcatFuse] | type[GatedFuse] | type[LowRankFuse] | type[CrossAttentionFuse]] = {
    "concat": ConcatFuse,
    "gated": GatedFuse,
    "low_rank": LowRankFuse,
    "cross_attention": CrossAttentionFuse,
}
HEADS: dict[str, type[Head]] = {
    "classification": ClassificationHead,
    "multi_label": MultiLabelHead,
    "regression": RegressionHead,
    "sequence_tagging": TaggingHead,
}


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
    rank: int = 4,
    bottlenecks: int = 4,
    depth: int = 2,
    hide: float = 0.0,
    adversarial: Mapping[str, Any] | None = None,
    cached: Mapping[str, Any] | None = None,
    target: Mapping[str, Any] | None = None,
    weights: Mapping[Modality, Start] | None = None,
    tokens: bool = False,
) -> Fusion:
    """A fresh Fusion (see there) that fuses in the way `kind`. Raises ConfigError for an unknown one.

    adversarial: epsilon, steps, rate, weight. cached: shapes, and fronts: slot to the kind and width of its encoder.
    target: the fields of a Target.
    """
    found = Target(**{**target, "names": tuple(target["names"])}) if target else None
    attack, weight = None, 1.0
    if adversarial:
        attack = Attack(adversarial["epsilon"], adversarial["steps"], adversarial["rate"])
        weight = adversarial["weight"]
    return Fusion(
        fuse=make_fuse(kind, len(modalities), width, rank, bottlenecks, depth), modalities=modalities, shapes=shapes,
        encoders=encoders, classes=classes, width=width, label_weight=label_weight,
        contrastive_weight=contrastive_weight, augment=augment, cached=_cached(cached, modalities, shapes),
        head=HEADS[found.kind] if found else ClassificationHead, target=found, hide=hide, adversarial=attack,
        adversarial_weight=weight, weights=weights, tokens=tokens,
    )  # fmt: skip


def make_fuse(kind: str, slots: int, width: int, rank: int, bottlenecks: int, depth: int) -> nn.Module:
    """A way to fuse so many slots. Raises ConfigError for an unknown one."""
    if kind not in FUSES:
        raise ConfigError(unknown_name("fusion", kind, FUSES))
    chosen: Callable[..., nn.Module] = FUSES[kind]
    match kind:
        case "low_rank":
            return chosen(slots, width, rank)
        case "cross_attention":
            return chosen(slots, width, bottlenecks, depth)
        case _:
            return chosen(slots, width)


def _cached(
    spec: Mapping[str, Any] | None, modalities: Mapping[str, Modality], shapes: Mapping[str, Sequence[int]]
) -> Cached | None:
    if spec is None:
        return None
    fronts = {
        slot: make_encoder(each["kind"], modalities[slot], tuple(shapes[slot]), each["width"])
        for slot, each in spec["fronts"].items()
    }
    return Cached(spec["shapes"], fronts)
