"""`train-fusion` and `train-generator`: features → networks, through the one loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import torch
from torch import nn

from mmgen.adversarial import learner_of
from mmgen.artifact import Artifact, Draft, fingerprint
from mmgen.batches import Loader, Samples, ToValue, open_samples
from mmgen.beside import with_embeddings, with_ids
from mmgen.codec_set import CodecSet, weights_of
from mmgen.config import Config
from mmgen.encoders.foreign_text import give_tokenizer
from mmgen.errors import ConfigError
from mmgen.features import FeatureSet
from mmgen.fit import history
from mmgen.fusion.fusion import Fusion
from mmgen.fusion.targets import Target, with_targets
from mmgen.fusion_reads import cached_args, fusion_maker, target_args, target_report
from mmgen.generators.autoregressive import IDS_SUFFIX, Autoregressive
from mmgen.generators.config import JointFlowConfig
from mmgen.generators.label_report import label_report
from mmgen.generators.table import GENERATORS
from mmgen.identity import Identity, identity
from mmgen.initial import ROLE
from mmgen.maker import load_fusion, load_network, new_fusion, new_generator
from mmgen.network_args import GENERATOR_ARGS, as_recorded, fusion_args
from mmgen.preprocess.text import TextPreprocess
from mmgen.pretrain import Texts, pretrain_text
from mmgen.runtime import Progress, Runtime, circumstance
from mmgen.store import sha256
from mmgen.training.checkpoint import Checkpoint
from mmgen.training.config import TrainConfig
from mmgen.training.loop import Callbacks, Trained, mean_losses, seed_of, train
from mmgen.training.parallel import World, joined
from mmgen.training.start import start

FUSION_SET: FeatureSet = "tensors"
# {"kind", "args"} → a fresh network
Maker = Callable[[Mapping[str, Any]], nn.Module]


def train_fusion(config: Config, inputs: Mapping[str, Artifact], runtime: Runtime) -> Artifact:
    """model:name-fusion: any subset of slots → one embedding. inputs: roles features, codecs."""
    with joined(runtime.device) as world:
        bench = Bench(runtime, inputs, world, config.fusion.features)
        make = fusion_maker(config, bench.codecs, world.device)
        return bench.train(fusion_job(config, bench), make, identity("train-fusion", config, inputs))


def train_generator(config: Config, inputs: Mapping[str, Artifact], runtime: Runtime) -> Artifact:
    """model:name: the generator. inputs: roles features, codecs, fusion.

    One that has a label head reports on the validation rows after every epoch and on the test rows at the end.
    """
    settings = config.generator
    with joined(runtime.device) as world:
        bench = Bench(runtime, inputs, world, GENERATORS[settings.kind].feature_set)
        return bench.train(generator_job(config, bench), new_generator, identity("train-generator", config, inputs))


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


# ---------------------------------------------------------------- training


@dataclass(frozen=True)
class Job:
    """One training. what: its name in progress and files; name: of the artifact; spec: {"kind", "args"}.

    pretrain: what a fusion's text encoders learn before it.
    init: which part of the network comes from the model of the role init; None where there is none.
    """

    what: str
    name: str
    train: TrainConfig
    seed: int
    spec: dict[str, Any]
    pretrain: TrainConfig | None = None
    init: str | None = None


def fusion_job(config: Config, bench: Bench) -> Job:
    """The training of the configured fusion."""
    settings, seed = config.fusion, seed_of(config.seed, *b"fusion")
    spec = as_recorded(settings.kind, fusion_args(config, bench.codecs) | bench.learned_args(config))
    what = settings.init.what if settings.init else None
    return Job("fusion", f"{config.name}-fusion", settings.train, seed, spec, settings.pretrain, what)


def generator_job(config: Config, bench: Bench) -> Job:
    """The training of the configured generator."""
    settings, seed = config.generator, seed_of(config.seed, *b"generator")
    spec = as_recorded(settings.kind, GENERATOR_ARGS[settings.kind](config, bench.codecs, bench.inputs))
    if isinstance(settings, JointFlowConfig):
        spec["args"] |= bench.unseen()
    init = getattr(settings, "init", None)
    return Job("generator", config.name, settings.train, seed, spec, init=init.what if init else None)


class Bench:
    """The features of a step, opened, and the training of a network on them."""

    def __init__(self, runtime: Runtime, inputs: Mapping[str, Artifact], world: World, feature_set: FeatureSet) -> None:
        self.runtime, self.inputs, self.world, self.feature_set = runtime, inputs, world, feature_set
        self.codecs = CodecSet.load(runtime.store, inputs["codecs"])
        self._opened: dict[tuple[str, bool], Samples | None] = {}

    def train(self, job: Job, make: Maker, what: Identity) -> Artifact:
        """Train a fresh network and commit it."""
        network: Any = self._fresh(make, job)
        draft = Draft(self.runtime.store, "model", job.name, what.fingerprint)
        checkpoint = Checkpoint(self.runtime.store, what.fingerprint, job.train.keep_last)
        before = Checkpoint(self.runtime.store, fingerprint(pretrain=what.fingerprint))
        more = self._pretrained(network, job, draft, before) if job.pretrain else {}
        reports = Reports(self, network, job.train, self.runtime.progress)
        trained = self.fit(network, job, checkpoint, Callbacks(on_epoch=reports.epoch))
        report = reports.end() or self.target_report(network, job.train.batch_size)
        made = self._commit(draft, job, what, trained, report, more)
        if self.world.first:
            checkpoint.clear()
            before.clear()
        return made

    def trial(self, job: Job, make: Maker, checkpoint: Checkpoint, callbacks: Callbacks) -> Trained:
        """Train a fresh network and commit nothing."""
        return self.fit(self._fresh(make, job), job, checkpoint, callbacks)

    def fit(self, network: Any, job: Job, checkpoint: Checkpoint, callbacks: Callbacks) -> Trained:
        """Train `network`. Raises ConfigError where there are no samples to train on, or none that were asked for."""
        samples = self._samples("train", network)
        if samples is None:
            raise ConfigError(f"{job.what}: wanted training samples, there are none; look at the splits of `validate`")
        if job.train.validate_steps and callbacks.validate is None and self.rows("validation"):
            callbacks = replace(callbacks, validate=lambda held: self._look(held, job))
        profiles = self.runtime.profiles
        learner: Any = learner_of(network, seed_of(job.seed, *b"adversary")).to(self.world.device)
        trained = train(
            learner, learner.loss, self._loader(samples, job.train.batch_size, job.seed), job.train, world=self.world,
            seed=job.seed, what=job.what, checkpoint=checkpoint, callbacks=callbacks, progress=self.runtime.progress,
            profile=profiles is not None,
        )  # fmt: skip
        if profiles is not None and trained.profile is not None:
            profiles[job.what] = trained.profile
        return replace(trained, module=network)

    def _look(self, network: nn.Module, job: Job) -> float:
        return self.losses(network, job.seed, job.train.batch_size)["loss"]

    def rows(self, split: str) -> int:
        """How many samples a split has."""
        entries = self.inputs["features"].by_role("features")
        mine = [each.facts for each in entries if (each.facts["set"], each.facts["split"]) == (self.feature_set, split)]
        return sum(int(facts["samples"]) for facts in mine)

    def _pretrained(self, network: nn.Module, job: Job, draft: Draft, checkpoint: Checkpoint) -> dict[str, Any]:
        """The text encoders of a fusion, trained in place; what the manifest says of it."""
        assert job.pretrain is not None
        hows = {slot: how for slot, how in self.codecs.preprocesses.items() if isinstance(how, TextPreprocess)}
        if not hows:
            raise ConfigError("fusion.pretrain: wanted a text slot, this data has none; leave pretrain out")
        samples = self._samples("train", network)
        assert samples is not None
        texts = Texts(list(hows), next(iter(hows.values())), samples, self._samples("validation", network))
        seed = seed_of(job.seed, *b"pretrain")
        trained, record = pretrain_text(
            network, texts, job.pretrain, seed, self.world, checkpoint, self.runtime.progress
        )
        draft.put("pretrain.jsonl", history(trained), "history")
        return {"pretrain": record}

    def validation(self, network: nn.Module, seed: int, batch_size: int) -> dict[str, float] | None:
        """{"loss", "n"} over the validation rows, with noise that depends on the seed alone; None if there are none."""
        found = self.losses(network, seed, batch_size)
        return {"loss": found["loss"], "n": self.rows("validation")} if found else None

    def losses(self, network: nn.Module, seed: int, batch_size: int) -> dict[str, float]:
        """All that the network's loss gives over the validation rows; empty if there are none."""
        samples = self._samples("validation", network)
        if samples is None:
            return {}
        alone = replace(self.world, rank=0, size=1)
        held: Any = network
        return mean_losses(held.eval(), held.loss, self._loader(samples, batch_size, seed, alone), seed)

    def unseen(self) -> dict[str, list[list[str]]]:
        """`unseen` of the flow's constructor: pairs of slots that no training row has both of; nothing if all have."""
        samples = open_samples(self.runtime.store, self.inputs["features"], self.feature_set, "train")
        if samples is None:
            return {}
        has = {slot: counts > 0 for slot, counts in sorted(samples.counts.items())}
        never = [[one, other] for one, other in combinations(has, 2) if not (has[one] & has[other]).any()]
        return {"unseen": never} if never else {}

    def learned_args(self, config: Config) -> dict[str, Any]:
        """The fusion's constructor arguments that come from the features: what is cached, what labels are."""
        samples = open_samples(self.runtime.store, self.inputs["features"], FUSION_SET, "train")
        cached = cached_args(config, self.codecs, self.inputs["features"])
        return cached | (target_args(config, samples) if samples is not None else {})

    def target_report(self, network: nn.Module, batch_size: int) -> dict[str, Any] | None:
        """What a fusion's head gets right of the test rows, where labels are no class index; else None."""
        samples = self._samples("test", network) if isinstance(getattr(network, "target", None), Target) else None
        if samples is None:
            return None
        assert isinstance(network, Fusion)
        return target_report(network.eval(), self._loader(samples, batch_size, 0, replace(self.world, rank=0, size=1)))

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
        """A split's features; beside latents, where the network wants them, token ids and fusion embeddings."""
        beside = bool(getattr(network, "embedding_width", None))
        if (split, beside) not in self._opened:
            self._opened[split, beside] = self._open(split, network, beside)
        return self._opened[split, beside]

    def _open(self, split: str, network: nn.Module, beside: bool) -> Samples | None:
        store, features = self.runtime.store, self.inputs["features"]
        samples = open_samples(store, features, self.feature_set, split)
        target = getattr(network, "target", None)
        if samples is not None and isinstance(target, Target):
            samples = with_targets(samples, target)
        written: tuple[str, ...] = network.targets if isinstance(network, Autoregressive) else ()
        if samples is None or not (written or beside):
            return samples
        tensors = open_samples(store, features, FUSION_SET, split)
        assert tensors is not None
        samples = with_ids(samples, tensors, written)
        if not beside:
            return samples
        # frozen, so embedded once and not at every step
        fusion = load_fusion(store, self.inputs["fusion"], self.world.device)
        return with_embeddings(samples, tensors, fusion, self.codecs, self.world.device)

    def _loader(self, samples: Samples, batch_size: int, seed: int, world: World | None = None) -> Loader:
        place = world or self.world
        to_value: dict[str, ToValue] = {slot: how.value for slot, how in self.codecs.preprocesses.items()}
        if self.feature_set != "tensors":
            to_value = {name: torch.Tensor.long for name in samples.layouts if name.endswith(IDS_SUFFIX)}
        return Loader(
            samples, batch_size=batch_size, seed=seed, device=place.device, rank=place.rank, world=place.size,
            to_value=to_value,
        )  # fmt: skip

    def _commit(
        self,
        draft: Draft,
        job: Job,
        what: Identity,
        trained: Trained,
        report: Mapping[str, Any] | None,
        more: Mapping[str, Any],
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
            **({"taken": trained.taken} if trained.curves.looks else {}),
            "train_shards": {
                str(entry.facts["digest"]): int(entry.facts["samples"])
                for entry in self.inputs["features"].by_role("features")
                if entry.facts["split"] == "train"
            },
            **more,
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
