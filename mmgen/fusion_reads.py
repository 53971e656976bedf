"""What a fusion model learns from, as its constructor's arguments: cached features, labels that are no class index."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import Any

import torch
from sklearn.metrics import mean_absolute_error, precision_recall_fscore_support, r2_score
from torch import nn

from mmgen import embeddings
from mmgen.artifact import Artifact
from mmgen.batches import Batch, Samples
from mmgen.codec_set import CodecSet
from mmgen.config import Config
from mmgen.errors import ConfigError
from mmgen.fusion.fusion import Fusion
from mmgen.fusion.targets import TARGET, Target, labels_of, read_targets
from mmgen.maker import new_fusion


def cached_args(config: Config, codecs: CodecSet, features: Artifact) -> dict[str, Any]:
    """`cached` of the fusion's constructor; nothing for one that reads tensors, end to end. Raises ConfigError."""
    if config.fusion.features == "tensors":
        return {}
    if config.fusion.features == "latents":
        return {"cached": {"shapes": {slot: list(codecs.latent_shape(slot)) for slot in codecs.slots}, "fronts": {}}}
    encoders, sets = config.extract.encoders, features.facts["sets"]
    if not encoders or embeddings.identity_of(encoders, sets["tensors"]) != sets.get("embeddings"):
        raise ConfigError(
            f"fusion.features: embeddings wants those of extract.encoders, which {features.ref} does not have; "
            "name an encoder for each slot there and run `extract`"
        )
    fronts = {slot: {"kind": each.kind, "width": each.width} for slot, each in encoders.items()}
    return {"cached": {"shapes": {slot: [1, each["width"]] for slot, each in fronts.items()}, "fronts": fronts}}


def target_args(config: Config, samples: Samples) -> dict[str, Any]:
    """`target` and `classes` of the fusion's constructor, from training labels; nothing where they are class indices.

    Raises ConfigError for a number that is none.
    """
    settings = config.fusion.labels
    if settings.kind == "classification":
        return {}
    target = read_targets(settings.kind, *labels_of(samples), settings.separator)
    return {"target": asdict(target), "classes": target.outputs}


def fusion_maker(config: Config, codecs: CodecSet, device: torch.device) -> Callable[[Mapping[str, Any]], nn.Module]:
    """Makes a fresh fusion that has the frozen encoders whose embeddings were cached, if it reads those."""

    def make(spec: Mapping[str, Any]) -> nn.Module:
        network = new_fusion(spec)
        assert isinstance(network, Fusion)
        for slot, front in network.cached.fronts.items() if network.cached else ():
            settings = config.extract.encoders[slot].model_dump()
            front.load_state_dict(embeddings.frozen(codecs, slot, settings, device).state_dict())
        return network

    return make


@torch.no_grad()
def target_report(network: Fusion, batches: Iterable[Batch]) -> dict[str, Any] | None:
    """What the head gets right of labels that are no class index; None without labels.

    multi_label: micro, macro and weighted F1, and precision, recall, F1 and support of each class. regression: mean
    absolute error in the labels' own unit, and R². batches: of the feature set that the fusion learns from.
    """
    target = network.target
    assert target is not None
    wanted, came = [], []
    for batch in batches:
        counts_B = batch.masks[TARGET].any(1) & (batch.weights_B > 0)
        if bool(counts_B.any()) and network.head is not None:
            wanted.append(batch.values[TARGET][counts_B].cpu())
            came.append(network.head.guess(network.logits(network.read(batch)))[counts_B].cpu())
    if not wanted:
        return None
    return _report(target, torch.cat(wanted), torch.cat(came))


def _report(target: Target, wanted: torch.Tensor, came: torch.Tensor) -> dict[str, Any]:
    if target.kind == "regression":
        truth, guess = ((each[:, 0] * target.std + target.mean).numpy() for each in (wanted, came))
        # R² of one row, or of equal ones, is not defined
        fit = float(r2_score(truth, guess)) if len(truth) > 1 and truth.std() > 0 else None
        return {"mean_absolute_error": float(mean_absolute_error(truth, guess)), "r2": fit, "n": len(truth)}
    truth, guess = wanted.numpy(), came.numpy()
    found: dict[str, Any] = {
        f"{kind}_f1": float(precision_recall_fscore_support(truth, guess, average=kind, zero_division=0)[2])
        for kind in ("micro", "macro", "weighted")
    }
    each = precision_recall_fscore_support(truth, guess, average=None, zero_division=0)
    names = ("precision", "recall", "f1", "support")
    by_class = {
        label: {name: float(numbers[at]) for name, numbers in zip(names, each, strict=True)}
        for at, label in enumerate(target.names)
    }
    return found | {"classes": by_class, "n": len(truth)}
