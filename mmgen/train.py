"""`train-fusion` and `train-generator`: features → networks, through the one loop."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from mmgen.artifact import Artifact, Draft, canonical_json
from mmgen.batches import Loader, Samples, open_samples
from mmgen.codec_set import CodecSet, weights_of
from mmgen.config import Config
from mmgen.encoders.config import EncoderConfig
from mmgen.encoders.foreign_text import give_tokenizer
from mmgen.encoders.specs import encoder_spec, encoder_start
from mmgen.errors import ConfigError
from mmgen.features import FeatureSet
from mmgen.fit import history
from mmgen.generators.config import ConcatBaselineConfig, JointFlowConfig
from mmgen.generators.label_report import label_report
from mmgen.generators.table import GENERATORS
from mmgen.identity import Identity, identity
from mmgen.initial import ROLE
from mmgen.maker import load_fusion, load_network, new_fusion, new_generator, with_embeddings
from mmgen.preprocess.text import TextPreprocess
from mmgen.records import Modality
from mmgen.runtime import Progress, Runtime, circumstance
from mmgen.store import sha256
from mmgen.training.checkpoint import Checkpoint
from mmgen.training.config import TrainConfig
from mmgen.training.loop import Callbacks, Trained, mean_loss, seed_of, train
from mmgen.training.parallel import World, joined
from mmgen.training.start import start

FUSION_SET: FeatureSet = "tensors"


def train_fusion(config: Config, inputs: Mapping[str, Artifact], runtime: Runtime) -> Artifact:
    """model:name-fusion: any subset of slots → one embedding. inputs: roles features, codecs."""
    with joined(runtime.device) as world:
        bench = Bench(runtime, inputs, world, FUSION_SET)
        spec = as_recorded(config.fusion.kind, fusion_args(config, bench.codecs))
        seed, init = seed_of(config.seed, *b"fusion"), config.fusion.init
        job = Job("fusion", f"{config.name}-fusion", config.fusion.train, seed, spec, init.what if init else None)
        return bench.train(job, new_fusion, identity("train-fusion", config, inputs))


def train_generator(config: Config, inputs: Mapping[str, Artifact], runtime: Runtime) -> Artifact:
    """model:name: the generator. inputs: roles features, codecs, fusion.

    One that has a label head reports on the validation rows after every epoch and on the test rows at the end.
    """
    settings = config.generator
    with joined(runtime.device) as world:
        bench = Bench(runtime, inputs, world, GENERATORS[settings.kind].feature_set)
        spec = as_recorded(settings.kind, GENERATOR_ARGS[settings.kind](config, bench.codecs, inputs))
        seed, init = seed_of(config.seed, *b"generator"), settings.init
        job = Job("generator", config.name, settings.train, seed, spec, init.what if init else None)
        return bench.train(job, new_generator, identity("train-generator", config, inputs))


def fusion_still_good(
    config: Config, kept: Artifact, inputs: Mapping[str, Artifact], runtime: Runtime
) -> tuple[bool, str]:
    """Whether a pinned fusion's loss on new validation rows is near the one that it was committed with."""
    return _still_good(config.fusion.pin.refit_below, new_fusion, kept, inputs, runtime)


def generator_still_good(
    config: Config, kept: Artifact, inputs: Mapping[str, Artifact], runtime: Runtime
) -> tuple[bool, str]:
    """Whether a pinned generator's loss on new validation rows is near the one that it was committed with."""
    return _still_good(config.generator.pin.refit_below, new_generator, kept, inputs, runtime)


def _still_good(
    floor: float | None, make: Maker, kept: Artifact, inputs: Mapping[str, Artifact], runtime: Runtime
) -> tuple[bool, str]:
    """refit_below is compared with the committed validation loss as a share of the new one: 1 is as good as then."""
    then = (kept.facts["validation"] or {}).get("loss")
    if floor is None or then is None:
        return True, "validation loss not looked at"
    with joined(runtime.device) as world:
        bench = Bench(runtime, inputs, world, kept.facts["feature_set"])
        network = load_network(make, kept.facts, runtime.store.read(kept.file("weights").path)).to(world.device)
        now = bench.validation(network, int(kept.facts["seed"]), int(kept.facts["batch_size"]))
    if now is None or now["loss"] <= then:
        return True, "validation loss is no worse"
    share = then / now["loss"] if then > 0 else 0.0
    return share >= floor, f"validation loss {now['loss']:.4f}, was {then:.4f} ({share:.2f}, refit_below {floor:.2f})"


# ---------------------------------------------------------------- how networks are made

# {"kind", "args"} → a fresh network
Maker = Callable[[Mapping[str, Any]], nn.Module]


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
    settings = config.fusion.model_dump(mode="json", exclude={"kind", "train", "pin", "init"})
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


GENERATOR_ARGS: dict[str, Callable[[Config, CodecSet, Mapping[str, Artifact]], dict[str, Any]]] = {
    "joint_flow": joint_flow_args,
    "concat_baseline": concat_baseline_args,
}


# ---------------------------------------------------------------- training


@dataclass(frozen=True)
class Job:
    """One training. what: its name in progress and files; name: of the artifact; spec: {"kind", "args"}.

    init: which part of the network comes from the model of the role init; None where there is none.
    """

    what: str
    name: str
    train: TrainConfig
    seed: int
    spec: dict[str, Any]
    init: str | None = None


class Bench:
    """The features of a step, opened, and the training of a network on them."""

    def __init__(self, runtime: Runtime, inputs: Mapping[str, Artifact], world: World, feature_set: FeatureSet) -> None:
        self.runtime, self.inputs, self.world, self.feature_set = runtime, inputs, world, feature_set
        self.codecs = CodecSet.load(runtime.store, inputs["codecs"])

    def train(self, job: Job, make: Maker, what: Identity) -> Artifact:
        """Train a fresh network and commit it."""
        network: Any = self._fresh(make, job)
        samples = self._samples("train", network)
        if samples is None:
            raise ConfigError(f"{job.what}: wanted training samples, there are none; look at the splits of `validate`")
        draft = Draft(self.runtime.store, "model", job.name, what.fingerprint)
        checkpoint = Checkpoint(self.runtime.store, what.fingerprint)
        reports = Reports(self, network, job.train, self.runtime.progress)
        trained = train(
            network, network.loss, self._loader(samples, job.train.batch_size, job.seed), job.train, world=self.world,
            seed=job.seed, what=job.what, checkpoint=checkpoint, callbacks=Callbacks(on_epoch=reports.epoch),
            progress=self.runtime.progress,
        )  # fmt: skip
        made = self._commit(draft, job, what, trained, reports.end())
        if self.world.first:
            checkpoint.clear()
        return made

    def validation(self, network: nn.Module, seed: int, batch_size: int) -> dict[str, float] | None:
        """{"loss", "n"} over the validation rows, with noise that depends on the seed alone; None if there are none."""
        samples = self._samples("validation", network)
        if samples is None:
            return None
        alone = replace(self.world, rank=0, size=1)
        loader = self._loader(samples, batch_size, seed, alone)
        held: Any = network
        return {"loss": mean_loss(held.eval(), held.loss, loader, seed), "n": len(samples)}

    def tensors(self, split: str) -> Loader | None:
        """One fixed order of a split's `tensors` values."""
        samples = open_samples(self.runtime.store, self.inputs["features"], "tensors", split)
        if samples is None:
            return None
        to_value = {slot: how.value for slot, how in self.codecs.preprocesses.items()}
        return Loader(samples, batch_size=256, to_value=to_value, shuffle=False, device=self.world.device)

    def _fresh(self, make: Maker, job: Job) -> nn.Module:
        """A new network whose first weights depend on the seed alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(job.seed)
            network = make(job.spec)
        give_tokenizer(network, self.codecs.tokenizer)
        if job.init is not None:
            earlier = self.inputs[ROLE]
            taken = start(network, self.runtime.store.read(earlier.file("weights").path), job.init, earlier.ref)
            self.runtime.progress.say(f"{job.what}: starts from {earlier.ref}, {len(taken)} tensors ({job.init})")
        return network.to(self.world.device)

    def _samples(self, split: str, network: nn.Module) -> Samples | None:
        """A split's features, with the fusion embeddings beside the latents where the network wants them."""
        store, features = self.runtime.store, self.inputs["features"]
        samples = open_samples(store, features, self.feature_set, split)
        if samples is None or not getattr(network, "embedding_width", None):
            return samples
        tensors = open_samples(store, features, FUSION_SET, split)
        assert tensors is not None
        # frozen, so embedded once and not at every step
        fusion = load_fusion(store, self.inputs["fusion"], self.world.device)
        return with_embeddings(samples, tensors, fusion, self.codecs, self.world.device)

    def _loader(self, samples: Samples, batch_size: int, seed: int, world: World | None = None) -> Loader:
        place = world or self.world
        to_value = {slot: how.value for slot, how in self.codecs.preprocesses.items()}
        return Loader(
            samples, batch_size=batch_size, seed=seed, device=place.device, rank=place.rank, world=place.size,
            to_value=to_value if self.feature_set == "tensors" else None,
        )  # fmt: skip

    def _commit(
        self, draft: Draft, job: Job, what: Identity, trained: Trained, report: Mapping[str, Any] | None
    ) -> Artifact:
        weights = weights_of(trained.module)
        draft.put(f"{job.what}-{sha256(weights)[:8]}.safetensors", weights, "weights")
        draft.put(f"{job.what}.jsonl", history(trained), "history")
        facts = {
            **job.spec,
            "feature_set": self.feature_set,
            "slots": {slot: self.codecs.modality(slot) for slot in self.codecs.slots},
            "labels": list(self.codecs.labels) or None,
            "parameters": sum(weight.numel() for weight in trained.module.parameters()),
            "steps": trained.steps,
            "skipped": trained.skipped,
            "samples": trained.samples,
            "seed": job.seed,
            "batch_size": job.train.batch_size,
            "loss": trained.curves.loss[-1] if trained.curves.loss else None,
            "validation": self.validation(trained.module, job.seed, job.train.batch_size),
            "label_report": report,
            "train_shards": {
                str(entry.facts["digest"]): int(entry.facts["samples"])
                for entry in self.inputs["features"].by_role("features")
                if entry.facts["split"] == "train"
            },
        }
        return draft.commit(
            step=f"train-{job.what}", config=what.config, facts=facts, pin=what.pin,
            inputs={role: given.link for role, given in self.inputs.items()},
            circumstance=circumstance(
                device=str(self.world.device), processes=self.world.size, seconds=round(trained.seconds, 2),
                bf16=trained.bf16,
            ),
        )  # fmt: skip


class Reports:
    """What is said while a network with a budget of epochs trains: its loss, and what its label head gets right."""

    def __init__(self, bench: Bench, network: Any, settings: TrainConfig, progress: Progress) -> None:
        self.bench, self.network, self.progress = bench, network, progress
        self.on = settings.epochs is not None
        self.labels = bench.codecs.labels if hasattr(network, "classify") else ()

    def epoch(self, number: int, loss: float) -> None:
        """`Epoch n, train loss: x.xxx`, and the report on the validation rows."""
        if self.on:
            self.progress.say(f"Epoch {number}, train loss: {loss:.3f}")
            self._report("validation", "dev")

    def end(self) -> dict[str, Any] | None:
        """The report on the test rows, shown and as numbers; None without a label head."""
        return self._report("test", "test") if self.on else None

    def _report(self, split: str, word: str) -> dict[str, Any] | None:
        loader = self.bench.tensors(split) if self.labels else None
        found = label_report(self.network.eval(), loader, self.labels) if loader is not None else None
        if found is None:
            return None
        self.progress.say(f"{word} report\n{found.text}")
        return {"micro_f1": found.micro_f1, "macro_f1": found.macro_f1, "weighted_f1": found.weighted_f1, "n": found.n}
