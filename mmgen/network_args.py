"""How networks are made: their constructors' arguments, from the configuration and what came before."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from mmgen.artifact import Artifact, canonical_json
from mmgen.codec_set import CodecSet
from mmgen.config import Config
from mmgen.encoders.config import EncoderConfig
from mmgen.encoders.specs import encoder_spec, encoder_start
from mmgen.errors import ConfigError
from mmgen.generators.config import AdversarialConfig, AutoregressiveConfig, ConcatBaselineConfig, JointFlowConfig
from mmgen.preprocess.text import TextPreprocess
from mmgen.records import Modality


def as_recorded(kind: str, args: Mapping[str, Any]) -> dict[str, Any]:
    """{"kind", "args"} as a manifest will give it back: the order of slots there is the order of a network's layers."""
    spec: dict[str, Any] = json.loads(canonical_json({"kind": kind, "args": args}))
    return spec


def value_shapes(codecs: CodecSet) -> dict[str, list[int]]:
    """Slot → what a network must know of its values: image (C, H, W), audio (M, T), text (L, vocabulary)."""
    return {
        slot: [*how.shape, len(how.tokenizer)] if isinstance(how, TextPreprocess) else list(how.shape)
        for slot, how in codecs.preprocesses.items()
    }


def fusion_args(config: Config, codecs: CodecSet) -> dict[str, Any]:
    """Constructor arguments of the fusion model: shapes of values, classes, settings."""
    other = {"kind", "train", "pin", "labels", "features", "pretrain", "init"}
    settings = config.fusion.model_dump(mode="json", exclude=other)
    modalities = {slot: codecs.modality(slot) for slot in codecs.slots}
    settings |= encoder_args(config.fusion.encoders, codecs)
    return {"modalities": modalities, "shapes": value_shapes(codecs), "classes": len(codecs.labels), **settings}


def encoder_args(encoders: Mapping[Modality, EncoderConfig | str], codecs: CodecSet) -> dict[str, Any]:
    """`encoders`, and `weights` where there are any, of a fusion: what makes the encoder of each modality's slots."""
    specs: dict[str, Any] = {modality: each for modality, each in encoders.items() if isinstance(each, str)}
    starts: dict[str, Any] = {}
    for slot, how in codecs.preprocesses.items():
        if how.modality not in encoders:
            raise ConfigError(f"fusion.encoders: wanted one for {how.modality}, came {', '.join(encoders) or 'none'}")
        # slots of one modality agree in how their values are made
        specs[how.modality] = encoder_spec(encoders[how.modality], how, slot)
        if start_at := encoder_start(encoders[how.modality]):
            starts[how.modality] = start_at
    return {"encoders": specs, **({"weights": starts} if starts else {})}


def joint_flow_args(config: Config, codecs: CodecSet, inputs: Mapping[str, Artifact]) -> dict[str, Any]:
    """Constructor arguments of the joint flow: latent shapes, width of the fusion embedding, settings."""
    assert isinstance(config.generator, JointFlowConfig)
    settings = config.generator.model_dump(mode="json", exclude={"kind", "train", "pin", "init", "fusion_condition"})
    shapes = {slot: list(codecs.latent_shape(slot)) for slot in codecs.slots}
    width = inputs["fusion"].facts["args"]["width"] if config.generator.fusion_condition else None
    return {"slots": shapes, "embedding_width": width, **settings}


def concat_baseline_args(config: Config, codecs: CodecSet, inputs: Mapping[str, Artifact]) -> dict[str, Any]:
    """Constructor arguments of the baseline: shapes of values, encoders by name, target, classes. No other input."""
    settings = config.generator
    assert isinstance(settings, ConcatBaselineConfig)
    assert inputs
    encoders = settings.encoders
    return {
        "modalities": {slot: codecs.modality(slot) for slot in codecs.slots},
        "shapes": value_shapes(codecs),
        "encoders": {slot: encoder_spec(each, codecs.preprocesses[slot], slot) for slot, each in encoders.items()},
        "widths": {slot: encoder.width for slot, encoder in encoders.items()},
        "target": settings.target,
        "classes": len(codecs.labels),
        "label_weight": settings.label_weight,
        "hide": settings.hide,
        "weights": {slot: start for slot, each in encoders.items() if (start := encoder_start(each))},
    }


def adversarial_args(config: Config, codecs: CodecSet, inputs: Mapping[str, Artifact]) -> dict[str, Any]:
    """Constructor arguments of the adversarial generator: latent shapes, width of the fusion embedding, settings."""
    assert isinstance(config.generator, AdversarialConfig)
    settings = config.generator.model_dump(mode="json", exclude={"kind", "train", "pin", "fusion_condition"})
    shapes = {slot: list(codecs.latent_shape(slot)) for slot in codecs.slots}
    width = inputs["fusion"].facts["args"]["width"] if config.generator.fusion_condition else None
    return {"slots": shapes, "embedding_width": width, **settings}


def autoregressive_args(config: Config, codecs: CodecSet, inputs: Mapping[str, Artifact]) -> dict[str, Any]:
    """Constructor arguments of the autoregressive generator: latent shapes, its texts' size, settings."""
    assert isinstance(config.generator, AutoregressiveConfig)
    settings = config.generator.model_dump(mode="json", exclude={"kind", "train", "pin", "fusion_condition"})
    texts = {slot: how for slot, how in codecs.preprocesses.items() if isinstance(how, TextPreprocess)}
    targets = settings["targets"] or list(texts)
    if not targets or not set(targets) <= set(texts):
        raise ConfigError(f"generator.targets: wanted text slots that the data has ({list(texts)}), came {targets}")
    shapes = {slot: list(codecs.latent_shape(slot)) for slot in codecs.slots}
    width = inputs["fusion"].facts["args"]["width"] if config.generator.fusion_condition else None
    how = texts[targets[0]]
    sizes = {"vocabulary": len(how.tokenizer), "length": how.max_tokens, "embedding_width": width}
    return {**settings, "slots": shapes, "targets": targets, **sizes}


GENERATOR_ARGS: dict[str, Callable[[Config, CodecSet, Mapping[str, Artifact]], dict[str, Any]]] = {
    "joint_flow": joint_flow_args,
    "concat_baseline": concat_baseline_args,
    "adversarial": adversarial_args,
    "autoregressive": autoregressive_args,
}
