"""`fit`: what is learned from a dataset once and then pinned (law 15): tokenizer, codecs, vocoder, judges, the
evaluation set.

A part whose configuration did not change is adopted from an earlier version, not trained again, unless the policy
says that the data outgrew it; the reason is recorded with each part.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mmgen import artifact as artifacts
from mmgen.artifact import Artifact, Draft, FileEntry, fingerprint
from mmgen.batches import Samples
from mmgen.codec_set import CodecSet, codec_names, read_slots, weights_of
from mmgen.codecs.config import AudioCodecConfig, IstftConfig, PretrainedCodecConfig
from mmgen.config import Config
from mmgen.errors import ConfigError
from mmgen.evalset import fit_evalset
from mmgen.extract import Plan, ensure, known_files, tensor_plan
from mmgen.features import FeatureShard
from mmgen.fit_judges import fit_judges, load_judges
from mmgen.fit_parts import Bench, fit_codec, fit_tokenizer, latent_scale, load_codec, part_seed, reconstruction
from mmgen.fit_vocoder import Recordings, fit_vocoder
from mmgen.identity import STEP_VERSIONS, identity
from mmgen.preprocess.table import preprocesses
from mmgen.preprocess.text import Tokenizer
from mmgen.records import Modality
from mmgen.runtime import Runtime, circumstance
from mmgen.store import sha256
from mmgen.training.checkpoint import Checkpoint
from mmgen.training.loop import Trained
from mmgen.training.parallel import World, joined


def fit(config: Config, inputs: Mapping[str, Artifact], runtime: Runtime) -> Artifact:
    """Fit codecs:name; commits judges:name and evalset:name before it. inputs: role dataset.

    Raises ConfigError (no training samples), GateError (a training that diverged).
    """
    with joined(runtime.device) as world:
        return _Fit(config, inputs["dataset"], runtime, _bench(runtime, world)).run()


def _bench(runtime: Runtime, world: World) -> Bench:
    return Bench(runtime.store, world, runtime.progress, runtime.profiles)


def still_good(config: Config, kept: Artifact, inputs: Mapping[str, Artifact], runtime: Runtime) -> tuple[bool, str]:
    """Whether pinned codecs still reconstruct the validation rows of new data at `codecs.pin.refit_below` or better."""
    floor = config.codecs.pin.refit_below
    if floor is None:
        return True, "reconstruction not looked at (refit_below is off)"
    with joined(runtime.device) as world:
        codecs = CodecSet.load(runtime.store, kept).to(world.device)
        plan = tensor_plan(kept.config["slots"], kept.by_role("tokenizer"))
        samples = _samples(runtime, inputs["dataset"], plan, "validation", kept.facts["labels"] or ())
        if samples is None:
            return True, "no validation rows to look at"
        found = reconstruction(codecs, samples, {}, world.device)
    slot, worst = min(((slot, score["score"]) for slot, score in found.items()), key=lambda pair: pair[1])
    return worst >= floor, f"reconstruction of new validation rows {worst:.3f} ({slot}), refit_below {floor:.3f}"


def labels_of(config: Config, dataset: Artifact) -> tuple[str, ...]:
    """Class names in index order; none where there are no labels, or more than `judges.max_classes`."""
    names = dataset.facts.get("labels") or []
    return tuple(names) if 2 <= len(names) <= config.judges.max_classes else ()


def train_shards(dataset: Artifact) -> dict[str, int]:
    """Media shard digest → samples of the training split."""
    return {
        str(entry.facts["digest"]): int(entry.facts["samples"])
        for entry in dataset.by_role("shard")
        if entry.facts["split"] == "train"
    }


def _samples(
    runtime: Runtime, dataset: Artifact, plan: Plan, split: str, labels: tuple[str, ...] | list[str]
) -> Samples | None:
    entries = ensure(runtime, dataset, plan, known_files(runtime.store, dataset.name), splits=(split,))
    shards = [FeatureShard.open(runtime.store.local_path(entry.path)) for entry in entries]
    return Samples(shards, labels) if shards else None


@dataclass
class _Part:
    """A fitted part. record: what codecs.facts["parts"] says of it."""

    name: str
    files: list[FileEntry]
    record: dict[str, Any]
    #: what the artifact's facts say beyond the record
    facts: dict[str, Any] = field(default_factory=dict)
    checkpoint: Checkpoint | None = None


class _Fit:
    """One run of the step."""

    def __init__(self, config: Config, dataset: Artifact, runtime: Runtime, bench: Bench) -> None:
        self.config, self.dataset, self.runtime, self.bench = config, dataset, runtime, bench
        self.store, self.device = runtime.store, bench.world.device
        self.what = identity("fit", config, {"dataset": dataset})
        # a slot that no sample has (a folder without sounds, say) is no part of the model
        present = {slot for slot, fact in dataset.facts["slots"].items() if fact["present"]}
        self.slots: dict[str, Any] = {slot: how for slot, how in self.what.config["slots"].items() if slot in present}
        self.by_modality: dict[Modality, list[str]] = {}
        for slot in self.slots:
            self.by_modality.setdefault(config.slots[slot].modality, []).append(slot)
        named = codec_names(read_slots(self.slots))
        self.by_codec: dict[str, list[str]] = {}
        for slot in self.slots:
            self.by_codec.setdefault(named[slot], []).append(slot)
        self.labels = labels_of(config, dataset)
        self.past = artifacts.history(self.store, "codecs", config.name)
        self.shards = train_shards(dataset)
        self.draft = Draft(self.store, "codecs", config.name, self.what.fingerprint)

    def run(self) -> Artifact:
        parts = [self._tokenizer()] if "text" in self.by_modality else []
        words = parts[0].files if parts else []
        plan = tensor_plan(self.slots, words)
        train = self._split(plan, "train")
        if train is None:
            raise ConfigError("fit: wanted training samples, the dataset has none")
        validation = self._split(plan, "validation")
        tokenizer = Tokenizer.from_json(self.store.read(words[0].path)) if words else None
        hows = preprocesses(read_slots(self.slots), tokenizer)
        for codec, slots in self.by_codec.items():
            basis = parts[0].record["fingerprint"] if hows[slots[0]].modality == "text" else None
            parts.append(self._codec(codec, slots, hows[slots[0]], (train, validation), basis))
        sounds = self.config.codecs.audio
        if (
            "audio" in self.by_modality
            and isinstance(sounds, AudioCodecConfig)
            and isinstance(sounds.vocoder, IstftConfig)
        ):
            parts.append(self._vocoder(sounds.vocoder, hows))
        test = self._split(plan, "test")
        basis = parts[0].record["fingerprint"] if words else None
        # a judge looks at values of one size: those of the codec that has its modality's name
        judged = {modality: self.by_codec[modality] for modality in self.by_modality}
        judges = fit_judges(
            self.config, self.dataset, self.runtime, self.bench, hows, judged, self.labels, basis, train, test
        )
        evalset = fit_evalset(self.config, self.dataset, self.runtime, judges)
        return self._commit(parts, train if validation is None else validation, judges, evalset)

    def _split(self, plan: Plan, split: str) -> Samples | None:
        return _samples(self.runtime, self.dataset, plan, split, self.labels)

    def _commit(self, parts: list[_Part], shown: Samples, judges: Artifact, evalset: Artifact) -> Artifact:
        """shown: what is reconstructed for the report."""
        for part in parts:
            for entry in part.files:
                self.draft.adopt(entry)
        fitted = [part for part in parts if "spec" in part.facts]
        made = {part.facts["codec"]: part.facts["spec"] for part in fitted}
        scale = {slot: numbers for part in parts for slot, numbers in part.facts.get("scale", {}).items()}
        weights = {part.facts["codec"]: self.store.read(part.files[0].path) for part in fitted}
        words = [entry for entry in self.draft.files if entry.role == "tokenizer"]
        # reconstruction is of values: no vocoder is asked for it
        codecs = CodecSet.build(
            slots=self.slots, made=made, scale=scale, weights=weights,
            tokenizer=self.store.read(words[0].path) if words else None, labels=self.labels,
        ).to(self.device)  # fmt: skip
        judged = load_judges(self.store, judges, self.device)
        found = reconstruction(codecs, shown, judged, self.device)
        facts = {
            "slots": {slot: settings["modality"] for slot, settings in self.slots.items()},
            "labels": list(self.labels) or None,
            "codecs": made,
            "vocoder": next((part.facts["vocoder"] for part in parts if "vocoder" in part.facts), None),
            "scale": scale,
            "reconstruction": found,
            "judges": judges.ref,
            "evalset": evalset.ref,
            "parts": {part.name: part.record for part in parts},
            # growth is counted from the part that has seen least
            "train_shards": min(
                (part.record["train_shards"] for part in parts if part.name != "tokenizer"),
                key=lambda s: sum(s.values()),
            ),
        }
        result = self.draft.commit(
            step="fit", config=self.what.config | {"slots": self.slots}, inputs={"dataset": self.dataset.link},
            facts=facts, pin=self.what.pin,
            circumstance=circumstance(device=str(self.device), processes=self.bench.world.size),
        )  # fmt: skip
        for part in parts:
            if part.checkpoint is not None and self.bench.world.first:
                part.checkpoint.clear()
        return result

    # ------------------------------------------------------------ parts

    def _earlier(self, name: str, pin: str) -> tuple[Artifact | None, str]:
        """The newest version whose part may be adopted, and why there is none."""
        if self.runtime.refit:
            return None, "--refit"
        same = [old for old in self.past if old.facts["parts"].get(name, {}).get("pin") == pin]
        whole = [old for old in same if not artifacts.damaged(self.store, old)]
        if not whole:
            return None, "its configuration changed" if self.past else "first time"
        return whole[0], ""

    def _outgrown(self, record: Mapping[str, Any], old: Artifact, *, scored: bool = True) -> str:
        """Why the policy refits a part of unchanged configuration; empty if it does not.

        scored: whether the part has its share in what `refit_below` looks at, the reconstruction of values.
        """
        policy, seen = self.config.codecs.pin, record["train_shards"]
        grown = sum(rows for digest, rows in self.shards.items() if digest not in seen) / max(1, sum(seen.values()))
        if policy.refit_growth is not None and grown >= policy.refit_growth:
            return f"{grown:.0%} new training rows since {old.ref} (refit_growth {policy.refit_growth:.0%})"
        if scored and policy.refit_below is not None and grown > 0:
            good, reason = still_good(self.config, old, {"dataset": self.dataset}, self.runtime)
            return "" if good else reason
        return ""

    def _record(self, pin: str, why: str) -> dict[str, Any]:
        return {
            "pin": pin,
            "fingerprint": fingerprint(pin=pin, dataset=self.dataset.fingerprint),
            "why": why,
            "train_shards": self.shards,
        }

    def _tokenizer(self) -> _Part:
        """Byte-level, so it never stops to work on new data: refitted only by configuration or on request."""
        slots = self.by_modality["text"]
        size = self.config.codecs.text.vocab_size
        pin = fingerprint(part="tokenizer", version=STEP_VERSIONS["fit"], vocab_size=size, slots=slots)
        old, why = self._earlier("tokenizer", pin)
        if old is not None:
            return _Part("tokenizer", [old.file("tokenizer")], dict(old.facts["parts"]["tokenizer"]))
        shards = [entry for entry in self.dataset.by_role("shard") if entry.facts["split"] == "train"]
        data = fit_tokenizer(self.store, shards, slots, size)
        entry = self._put(f"tokenizer-{sha256(data)[:8]}.json", data, "tokenizer")
        return _Part("tokenizer", [entry], self._record(pin, why))

    def _codec(
        self, codec: str, slots: list[str], how: Any, data: tuple[Samples, Samples | None], basis: str | None
    ) -> _Part:
        """data: training samples, and validation samples if there are any."""
        train, validation = data
        name, settings = f"codec:{codec}", getattr(self.config.codecs, how.modality)
        pretrained = isinstance(settings, PretrainedCodecConfig)
        declared = {slot: {k: v for k, v in self.slots[slot].items() if k != "column"} for slot in slots}
        counted = {key: value for key, value in self.what.config["codecs"][how.modality].items() if key != "vocoder"}
        pin = fingerprint(
            part=name, version=STEP_VERSIONS["fit"], settings=counted, slots=declared, seed=self.config.seed,
            tokenizer=basis,
        )  # fmt: skip
        old, why = self._earlier(name, pin)
        if old is not None:
            record = dict(old.facts["parts"][name])
            if pretrained:
                # there is no training that new data could ask for
                record["train_shards"] = self.shards
            why = "" if pretrained else self._outgrown(record, old)
            if not why:
                self.runtime.progress.say(f"fit: {name} is adopted from {old.ref}, its configuration is unchanged")
                facts = {
                    "codec": codec,
                    "spec": old.facts["codecs"][codec],
                    "scale": {slot: old.facts["scale"][slot] for slot in slots},
                }
                curves = [entry for entry in old.by_role("history") if entry.path.endswith(f"/codec-{codec}.jsonl")]
                return _Part(name, [old.file(name), *curves], record, facts)
        record = self._record(pin, why)
        if pretrained:
            spec, loaded = load_codec(settings, how)
            weights = weights_of(loaded)
            files = [self._put(f"codec-{codec}-{sha256(weights)[:8]}.safetensors", weights, name)]
            network = loaded.to(self.device).eval().requires_grad_(False)
            scale = {slot: latent_scale(network, how, train.pooled([slot]), self.device) for slot in slots}
            return _Part(name, files, record, {"codec": codec, "spec": spec, "scale": scale})
        checkpoint = Checkpoint(self.store, record["fingerprint"], settings.train.keep_last)
        spec, trained = fit_codec(
            self.bench, settings, how, train.pooled(slots), part_seed(self.config.seed, name), checkpoint,
            None if validation is None else validation.pooled(slots),
        )  # fmt: skip
        weights = weights_of(trained.module)
        files = [self._put(f"codec-{codec}-{sha256(weights)[:8]}.safetensors", weights, name)]
        files.append(self._put(f"codec-{codec}.jsonl", history(trained), "history"))
        record |= {"steps": trained.steps, "skipped": trained.skipped}
        scale = {slot: latent_scale(trained.module, how, train.pooled([slot]), self.device) for slot in slots}
        return _Part(name, files, record, {"codec": codec, "spec": spec, "scale": scale}, checkpoint)

    def _vocoder(self, settings: IstftConfig, hows: Mapping[str, Any]) -> _Part:
        slots = self.by_modality["audio"]
        declared = {slot: {k: v for k, v in self.slots[slot].items() if k != "column"} for slot in slots}
        pin = fingerprint(
            part="vocoder", version=STEP_VERSIONS["fit"], settings=settings.model_dump(mode="json"), slots=declared,
            seed=self.config.seed,
        )  # fmt: skip
        old, why = self._earlier("vocoder", pin)
        if old is not None:
            record = dict(old.facts["parts"]["vocoder"])
            why = self._outgrown(record, old, scored=False)
            if not why:
                self.runtime.progress.say(f"fit: vocoder is adopted from {old.ref}, its configuration is unchanged")
                curves = [entry for entry in old.by_role("history") if entry.path.endswith("/vocoder.jsonl")]
                return _Part("vocoder", [old.file("vocoder"), *curves], record, {"vocoder": old.facts["vocoder"]})
        record = self._record(pin, why)
        checkpoint = Checkpoint(self.store, record["fingerprint"])
        shards = [entry for entry in self.dataset.by_role("shard") if entry.facts["split"] == "train"]
        with Recordings(self.store, shards, {slot: hows[slot] for slot in slots}, settings.segment_seconds) as sounds:
            spec, trained = fit_vocoder(
                self.bench, settings, hows[slots[0]], sounds, part_seed(self.config.seed, "vocoder"), checkpoint
            )
        data = weights_of(trained.module)
        files = [self._put(f"vocoder-{sha256(data)[:8]}.safetensors", data, "vocoder")]
        files.append(self._put("vocoder.jsonl", history(trained), "history"))
        record |= {"steps": trained.steps, "skipped": trained.skipped}
        return _Part("vocoder", files, record, {"vocoder": spec}, checkpoint)

    def _put(self, name: str, data: bytes, role: str) -> FileEntry:
        """Write a file of this version; `_commit` names it, in the order of the parts."""
        entry = self.draft.put(name, data, role)
        self.draft.files.remove(entry)
        return entry


def history(trained: Trained) -> bytes:
    """A training's curves as JSON lines: step, rate, norm, loss and its parts; a look's are step and validation."""
    curves = trained.curves
    rows = [
        {"step": step, "rate": curves.rate[at], "norm": curves.norm[at]}
        | {name: values[at] for name, values in curves.parts.items()}
        for at, step in enumerate(curves.step)
    ]
    looks = [{"step": step, "validation": loss} for step, loss in zip(curves.looks, curves.validation, strict=True)]
    rows = sorted([*rows, *looks], key=lambda row: row["step"])
    return "".join(json.dumps(row) + "\n" for row in rows).encode()
