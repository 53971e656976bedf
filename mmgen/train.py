"""`train-fusion` and `train-generator`: features → networks, through the one loop."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from mmgen.artifact import Artifact, Draft, canonical_json
from mmgen.batches import Batch, Loader, Samples, open_samples
from mmgen.codec_set import CodecSet, weights_of
from mmgen.config import Config
from mmgen.errors import ConfigError
from mmgen.features import FeatureSet
from mmgen.fit import history
from mmgen.generators.config import ConcatBaselineConfig, JointFlowConfig
from mmgen.generators.table import GENERATORS
from mmgen.identity import Identity, identity
from mmgen.maker import load_fusion, new_fusion, new_generator, with_embeddings
from mmgen.preprocess.text import TextPreprocess
from mmgen.runtime import Runtime, circumstance
from mmgen.store import sha256
from mmgen.training.checkpoint import Checkpoint
from mmgen.training.config import TrainConfig
from mmgen.training.loop import Callbacks, Loss, Trained, seed_of, train
from mmgen.training.parallel import World, joined


def train_fusion(config: Config, inputs: Mapping[str, Artifact], runtime: Runtime) -> Artifact:
    """model:name-fusion: any subset of slots → one embedding. inputs: roles features, codecs."""
    what = identity("train-fusion", config, inputs)
    with joined(runtime.device) as world:
        data = _Data.open(runtime, inputs, "tensors", world)
        spec = as_recorded(config.fusion.kind, fusion_args(config, data.codecs))
        seed = seed_of(config.seed, *b"fusion")
        fusion = _fresh(new_fusion, spec, seed, world)

        def loss(batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
            found: dict[str, Tensor] = fusion.loss(batch, rng)  # type: ignore[operator]
            return found

        job = Job("fusion", spec, config.fusion.train, seed, what)
        return _train_and_commit(job, f"{config.name}-fusion", fusion, loss, data, inputs, runtime, world)


def train_generator(config: Config, inputs: Mapping[str, Artifact], runtime: Runtime) -> Artifact:
    """model:name: the generator. inputs: roles features, codecs, fusion."""
    what = identity("train-generator", config, inputs)
    settings = config.generator
    with joined(runtime.device) as world:
        kind = GENERATORS[settings.kind]
        data = _Data.open(runtime, inputs, kind.feature_set, world)
        spec = as_recorded(settings.kind, GENERATOR_ARGS[settings.kind](config, data.codecs, inputs["fusion"]))
        seed = seed_of(config.seed, *b"generator")
        generator = _fresh(new_generator, spec, seed, world)
        if spec["args"].get("embedding_width"):
            # frozen, so embedded once and not at every step
            fusion = load_fusion(runtime.store, inputs["fusion"], world.device)
            tensors = _Data.open(runtime, inputs, "tensors", world).samples
            data = replace(data, samples=with_embeddings(data.samples, tensors, fusion, data.codecs, world.device))

        def loss(batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
            found: dict[str, Tensor] = generator.loss(batch, rng)  # type: ignore[operator]
            return found

        job = Job("generator", spec, settings.train, seed, what)
        return _train_and_commit(job, config.name, generator, loss, data, inputs, runtime, world)


def fusion_still_good(
    config: Config, kept: Artifact, inputs: Mapping[str, Artifact], runtime: Runtime
) -> tuple[bool, str]:
    """Whether a pinned fusion still answers well on validation rows of new data, by its `pin.refit_below`."""
    return _still_good(config.fusion.pin.refit_below, kept)


def generator_still_good(
    config: Config, kept: Artifact, inputs: Mapping[str, Artifact], runtime: Runtime
) -> tuple[bool, str]:
    """Whether a pinned generator may stand for new data, by its `pin.refit_below`."""
    return _still_good(config.generator.pin.refit_below, kept)


def _still_good(floor: float | None, kept: Artifact) -> tuple[bool, str]:
    return True, f"{kept.ref} has no score of its own to look at (refit_below {floor})"


# ---------------------------------------------------------------- how networks are made


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
    settings = config.fusion.model_dump(mode="json", exclude={"kind", "train", "pin"})
    modalities = {slot: codecs.modality(slot) for slot in codecs.slots}
    return {"modalities": modalities, "shapes": value_shapes(codecs), "classes": len(codecs.labels), **settings}


def joint_flow_args(config: Config, codecs: CodecSet, fusion: Artifact) -> dict[str, Any]:
    """Constructor arguments of the joint flow: latent shapes, width of the fusion embedding, settings."""
    assert isinstance(config.generator, JointFlowConfig)
    settings = config.generator.model_dump(mode="json", exclude={"kind", "train", "pin", "fusion_condition"})
    shapes = {slot: list(codecs.latent_shape(slot)) for slot in codecs.slots}
    width = fusion.facts["args"]["width"] if config.generator.fusion_condition else None
    return {"slots": shapes, "embedding_width": width, **settings}


def concat_baseline_args(config: Config, codecs: CodecSet, fusion: Artifact) -> dict[str, Any]:
    """Constructor arguments of the baseline: shapes of values, encoders by name, target, classes."""
    settings = config.generator
    assert isinstance(settings, ConcatBaselineConfig)
    return {
        "modalities": {slot: codecs.modality(slot) for slot in codecs.slots},
        "shapes": value_shapes(codecs),
        "encoders": {slot: encoder.kind for slot, encoder in settings.encoders.items()},
        "widths": {slot: encoder.width for slot, encoder in settings.encoders.items()},
        "target": settings.target,
        "classes": len(codecs.labels),
        "label_weight": settings.label_weight,
        "weights": {slot: encoder.weights for slot, encoder in settings.encoders.items() if encoder.weights},
    }


GENERATOR_ARGS: dict[str, Callable[[Config, CodecSet, Artifact], dict[str, Any]]] = {
    "joint_flow": joint_flow_args,
    "concat_baseline": concat_baseline_args,
}


def _fresh(
    make: Callable[[Mapping[str, Any]], nn.Module], spec: Mapping[str, Any], seed: int, world: World
) -> nn.Module:
    """A new network whose first weights depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make(spec).to(world.device)


# ---------------------------------------------------------------- training


@dataclass(frozen=True)
class Job:
    """One training of a step. what: its name in progress and files."""

    what: str
    spec: dict[str, Any]
    train: TrainConfig
    seed: int
    identity: Identity


@dataclass(frozen=True)
class _Data:
    """Training features and what turns them into values. device: where values are made."""

    samples: Samples
    codecs: CodecSet
    feature_set: FeatureSet
    world: World

    @classmethod
    def open(cls, runtime: Runtime, inputs: Mapping[str, Artifact], feature_set: FeatureSet, world: World) -> _Data:
        codecs = CodecSet.load(runtime.store, inputs["codecs"])
        samples = open_samples(runtime.store, inputs["features"], feature_set, "train")
        if samples is None:
            raise ConfigError("wanted training samples, the features have none; look at the splits of `validate`")
        return cls(samples, codecs, feature_set, world)

    def loader(self, batch_size: int, seed: int) -> Loader:
        to_value = {slot: how.value for slot, how in self.codecs.preprocesses.items()}
        return Loader(
            self.samples, batch_size=batch_size, seed=seed, device=self.world.device,
            to_value=to_value if self.feature_set == "tensors" else None,
            rank=self.world.rank, world=self.world.size,
        )  # fmt: skip


def _train_and_commit(
    job: Job,
    name: str,
    module: nn.Module,
    loss: Loss,
    data: _Data,
    inputs: Mapping[str, Artifact],
    runtime: Runtime,
    world: World,
    callbacks: Callbacks | None = None,
) -> Artifact:
    draft = Draft(runtime.store, "model", name, job.identity.fingerprint)
    checkpoint = Checkpoint(runtime.store, job.identity.fingerprint)
    trained = train(
        module, loss, data.loader(job.train.batch_size, job.seed), job.train, world=world, seed=job.seed,
        what=job.what, checkpoint=checkpoint, callbacks=callbacks, progress=runtime.progress,
    )  # fmt: skip
    made = _commit(draft, job, trained, data, inputs, world)
    if world.first:
        checkpoint.clear()
    return made


def _commit(
    draft: Draft, job: Job, trained: Trained, data: _Data, inputs: Mapping[str, Artifact], world: World
) -> Artifact:
    weights = weights_of(trained.module)
    draft.put(f"{job.what}-{sha256(weights)[:8]}.safetensors", weights, "weights")
    draft.put(f"{job.what}.jsonl", history(trained), "history")
    facts = {
        **job.spec,
        "feature_set": data.feature_set,
        "slots": {slot: data.codecs.modality(slot) for slot in data.codecs.slots},
        "labels": list(data.codecs.labels) or None,
        "parameters": sum(weight.numel() for weight in trained.module.parameters()),
        "steps": trained.steps,
        "skipped": trained.skipped,
        "samples": trained.samples,
        "loss": trained.curves.loss[-1] if trained.curves.loss else None,
        "train_shards": {
            str(entry.facts["digest"]): int(entry.facts["samples"])
            for entry in inputs["features"].by_role("features")
            if entry.facts["split"] == "train"
        },
    }
    return draft.commit(
        step=f"train-{job.what}", config=job.identity.config, facts=facts, pin=job.identity.pin,
        inputs={role: given.link for role, given in inputs.items()},
        circumstance=circumstance(
            device=str(world.device), processes=world.size, seconds=round(trained.seconds, 2),
        ),
    )  # fmt: skip

