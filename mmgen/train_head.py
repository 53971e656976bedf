"""A head for a task of its own on the frozen trunk of a trained fusion model: what `mmgen head` runs.

The trunk is asked once for every sample; the head, one linear layer, learns from what it said. Labels are the data
set's own, or a column of `source.meta`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmgen import promotions
from mmgen.artifact import Artifact, Draft, fingerprint, load_link
from mmgen.batches import VALUE, Batch, Loader, Samples, open_samples
from mmgen.codec_set import CodecSet, load_weights, weights_of
from mmgen.encoders.base import TokenEncoder
from mmgen.errors import ConfigError, UnknownReference, unknown_name
from mmgen.evaluate import scores
from mmgen.evaluate.intervals import wilson
from mmgen.evaluate.label_head import class_rows, rightness
from mmgen.evaluate.per_class import rates
from mmgen.evaluate.scores import Score, score
from mmgen.extract import read_media
from mmgen.features import FeatureShard, SlotLayout, SlotRows
from mmgen.fit import history
from mmgen.fusion.config import HeadConfig
from mmgen.fusion.fusion import Fusion
from mmgen.fusion.heads import NONE, over_rows
from mmgen.fusion.table import HEADS
from mmgen.fusion.tagging import OUTSIDE, read_tags, span_counts, words_of
from mmgen.fusion.targets import TARGET, Target, read_targets, with_targets
from mmgen.maker import load_fusion
from mmgen.preprocess.text import TextPreprocess
from mmgen.runtime import Runtime, circumstance
from mmgen.store import Store, sha256
from mmgen.training.loop import Trained, seed_of, train
from mmgen.training.parallel import World, joined

#: of what a head is made of; goes up when the same settings would give another one
VERSION = 1
ROWS = 256
LABEL = "label"


class TaskHead(nn.Module):
    """A head and its loss over batches whose slots are `value` and TARGET. args: kind, width (of what it reads), K.

    It reads standardised numbers: those of a trunk may lie close together beside what they share.
    """

    mean_D: Tensor
    std_D: Tensor

    def __init__(self, kind: str, width: int, outputs: int) -> None:
        super().__init__()
        self.args: dict[str, Any] = {"kind": kind, "width": width, "outputs": outputs}
        self.head = HEADS[kind](width, outputs)
        self.register_buffer("mean_D", torch.zeros(width))
        self.register_buffer("std_D", torch.ones(width))

    def standardise(self, rows_ND: Tensor) -> None:
        """Take means and standard deviations of these rows, at least 1."""
        self.mean_D.copy_(rows_ND.mean(0))
        self.std_D.copy_(rows_ND.std(0, correction=0).clamp_min(1e-6))

    def forward(self, value: Tensor) -> Tensor:
        """Embeddings (B, D), or states of words (B, W, D), to outputs."""
        return self.head.logits((value - self.mean_D) / self.std_D)

    def loss(self, batch: Batch, rng: torch.Generator | None = None) -> dict[str, Tensor]:
        """`loss`, and how right it is, over rows that have a target."""
        assert rng is None or isinstance(rng, torch.Generator)
        out, target = self(batch.values[VALUE]), self._form(batch.values[TARGET])
        counted_B = batch.masks[TARGET].any(1) & (batch.weights_B > 0)
        if self.args["kind"] == "classification":
            counted_B = counted_B & (target != NONE)
            target = target.clamp_min(0)
        right = over_rows(self.head.right(out.detach(), target), counted_B)
        return {"loss": over_rows(self.head.losses(out, target), counted_B), self.head.shown: right}

    def _form(self, target: Tensor) -> Tensor:
        match self.args["kind"]:
            case "classification":
                return target[:, 0].long()
            case "sequence_tagging":
                return target.long()
            case _:
                return target


def train_head(reference: str, settings: HeadConfig, runtime: Runtime) -> Artifact:
    """Commit model:<name>-<head>: a head for `settings.column`, and its scores on the test split.

    reference: a fusion model, or a generator that was trained beside one. inputs: role trunk. Raises
    UnknownReference, ConfigError (no such column or slot, labels that are not what the head learns).
    """
    store = runtime.store
    trunk = find_trunk(store, reference)
    with joined(runtime.device) as world:
        task = _Task(store, trunk, settings, world.device)
        trained = _train(task, settings, world, runtime)
        found = task.scores(trained.module)
    return _commit(task, trained, found, world)


def find_trunk(store: Store, reference: str) -> Artifact:
    """The fusion model that a reference names or leads to. Raises UnknownReference."""
    found = promotions.resolve(reference, store)
    if found.kind == "model" and "fusion" in found.inputs:
        return load_link(store, found.inputs["fusion"])
    if found.kind != "model" or found.step != "train-fusion":
        raise UnknownReference(f"'{reference}' is {found.ref}; wanted a fusion model, or a generator beside one")
    return found


def load_head(store: Store, made: Artifact) -> tuple[Fusion, TaskHead]:
    """(trunk, head) of what `train_head` made, in evaluation mode."""
    trunk = load_fusion(store, load_link(store, made.inputs["trunk"]))
    assert isinstance(trunk, Fusion)
    head = TaskHead(**made.facts["args"])
    load_weights(head, store.read(made.file("weights").path), made.ref)
    return trunk, head.eval().requires_grad_(False)


def _train(task: _Task, settings: HeadConfig, world: World, runtime: Runtime) -> Trained:
    samples = task.samples("train")
    if samples is None or len(samples.having(TARGET)) == 0 or not task.target.outputs:
        raise ConfigError(f"head: wanted training samples with a {settings.column}, {task.features.ref} has none")
    seed = seed_of(settings.seed, *b"head")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = TaskHead(settings.kind, samples.layouts[VALUE].shape[-1], task.target.outputs).to(world.device)
    rows = torch.from_numpy(np.array(samples.shards[0].slots[VALUE].rows)).flatten(0, -2)
    # a place without a word is all zeros
    head.standardise(rows[rows.any(1)].to(world.device))
    loader = Loader(
        samples, batch_size=settings.train.batch_size, seed=seed, indices=samples.having(TARGET), device=world.device,
        rank=world.rank, world=world.size,
    )  # fmt: skip
    return train(head, head.loss, loader, settings.train, world=world, seed=seed, what="head",
                 progress=runtime.progress)  # fmt: skip


def _commit(task: _Task, trained: Trained, found: list[Score], world: World) -> Artifact:
    settings, trunk, store = task.settings, task.trunk, task.store
    plain = settings.model_dump(mode="json")
    mine = fingerprint(step="head", version=VERSION, config=plain, trunk=trunk.fingerprint)
    name = f"{trunk.name.removesuffix('-fusion')}-{settings.kind.replace('_', '-')}"
    if settings.column != LABEL:
        name += f"-{settings.column.lower()}"
    draft = Draft(store, "model", name, mine)
    weights = weights_of(trained.module)
    draft.put(f"head-{sha256(weights)[:8]}.safetensors", weights, "weights")
    draft.put("head.jsonl", history(trained), "history")
    if found:
        draft.put("scores.parquet", scores.to_parquet(found), "scores")
    facts = {
        "kind": settings.kind, "args": trained.module.args, "target": asdict(task.target), "slots": task.codecs_slots,
        "labels": list(task.target.names), "scores": scores.plain(found), "steps": trained.steps,
        "samples": trained.samples, "train_shards": trunk.facts.get("train_shards", {}),
    }  # fmt: skip
    return draft.commit(
        step="head", config=plain, inputs={"trunk": trunk.link}, facts=facts,
        circumstance=circumstance(device=str(world.device), seconds=round(trained.seconds, 2)),
    )  # fmt: skip


class _Task:
    """The samples of a trunk's data as what a head reads and learns; the trunk answers once for each."""

    def __init__(self, store: Store, trunk: Artifact, settings: HeadConfig, device: torch.device) -> None:
        self.store, self.trunk, self.settings, self.device = store, trunk, settings, device
        self.features = load_link(store, trunk.inputs["features"])
        self.dataset = load_link(store, self.features.inputs["dataset"])
        self.codecs = CodecSet.load(store, load_link(store, trunk.inputs["codecs"]))
        self.codecs_slots = {slot: self.codecs.modality(slot) for slot in self.codecs.slots}
        network = load_fusion(store, trunk, device)
        assert isinstance(network, Fusion)
        self.network = network
        self.tagging = settings.kind == "sequence_tagging"
        self.about = self._about()
        self.target = self._target()

    def _about(self) -> dict[str, dict[str, Any]]:
        """Key → what its media shard says beside its media. Raises ConfigError if no sample has the column."""
        found: dict[str, dict[str, Any]] = {}
        for shard in self.dataset.by_role("shard"):
            with read_media(self.store, shard.path) as reader:
                for safe in reader.keys():  # noqa: SIM118
                    about = json.loads(reader.sample(safe)["json"])
                    found[str(about["key"])] = about
        known = {name for about in found.values() for name in about["meta"]}
        if self.settings.column != LABEL and self.settings.column not in known:
            where = "a column of source.meta"
            raise ConfigError(
                f"head: {unknown_name('column', self.settings.column, [LABEL, *sorted(known)])} ({where})"
            )
        return found

    def label(self, key: str) -> str | None:
        """What the column says of a sample; nothing where it is empty."""
        about = self.about[key]
        said: str | None = about["label"] if self.settings.column == LABEL else about["meta"].get(self.settings.column)
        return said or None

    def _target(self) -> Target:
        samples = open_samples(self.store, self.features, "tensors", "train")
        keys = samples.keys if samples is not None else []
        labels = [self.label(key) for key in keys]
        if not self.tagging:
            return read_targets(self.settings.kind, labels, keys, self.settings.separator)
        tags = {tag for key in keys for tag in self._tags(key) or ()}
        return Target(self.settings.kind, tuple(sorted(tags | {OUTSIDE})))

    # ------------------------------------------------------------ words

    @property
    def text(self) -> TextPreprocess:
        """How the tagged slot is read."""
        how = self.codecs.preprocesses[self.settings.slot]
        assert isinstance(how, TextPreprocess)
        return how

    def _encoder(self) -> TokenEncoder:
        """The trunk's encoder of the tagged slot. Raises ConfigError: it is no text, or has no token states."""
        slot = self.settings.slot
        if self.codecs_slots.get(slot) != "text":
            texts = [name for name, modality in self.codecs_slots.items() if modality == "text"]
            raise ConfigError(f"head: {unknown_name('text slot', slot, texts)}")
        encoder = self.network.encoders[self.network.slots.index(slot)]
        if not isinstance(encoder, TokenEncoder):
            kind = type(encoder).__name__
            raise ConfigError(f"head: {self.trunk.ref} reads {slot} with {kind}, which has no token states")
        return encoder

    def _words(self, key: str) -> str | None:
        """The first text of a sample's slot."""
        texts: list[str | None] = self.about[key]["texts"].get(self.settings.slot) or [None]
        return texts[0]

    def _tags(self, key: str) -> list[str] | None:
        tags, text = self.label(key), self._words(key)
        return None if tags is None or text is None else read_tags(tags, text, key)

    def _places(self, key: str) -> list[int | None]:
        """Where the first token of each word of a sample is in its row of ids."""
        text = self._words(key)
        if text is None:
            return []
        return self.text.tokenizer.places(text, self.text.max_tokens, [start for start, _ in words_of(text)])

    # ------------------------------------------------------------ samples

    @torch.no_grad()
    def samples(self, split: str) -> Samples | None:
        """What the trunk says of each sample of a split, in the slot `value`, with the targets beside it."""
        opened = open_samples(self.store, self.features, "tensors", split)
        if opened is None:
            return None
        to_value = {slot: how.value for slot, how in self.codecs.preprocesses.items()}
        loader = Loader(opened, batch_size=ROWS, to_value=to_value, shuffle=False, device=self.device)
        said = [self._said(batch)[batch.weights_B.cpu() > 0] for batch in loader]
        rows = torch.cat(said).numpy()
        layout = SlotLayout("embedding", rows.shape[1:], "float32")
        each = SlotRows(np.ascontiguousarray(rows, np.float32), np.arange(len(rows) + 1, dtype=np.int32))
        keys = opened.keys
        labels = [self.label(key) for key in keys]
        shard = FeatureShard("embeddings", self.trunk.fingerprint, split, keys, labels, {VALUE: layout}, {VALUE: each})
        return self._with_tags(shard) if self.tagging else with_targets(Samples([shard]), self.target)

    def _said(self, batch: Batch) -> Tensor:
        """Embeddings (B, D) of all that each row has, or states (B, L, H) of the tagged slot's words, at most L."""
        if not self.tagging:
            e_BD: Tensor = self.network(batch)
            return e_BD.cpu()
        value = batch.values[self.settings.slot]
        states_BLH = self._encoder().tokens(value).float().cpu()
        found = torch.zeros_like(states_BLH)
        for row, key in enumerate(batch.keys):
            for word, place in enumerate(self._places(key)[: found.shape[1]]):
                if place is not None:
                    found[row, word] = states_BLH[row, place]
        return found

    def _with_tags(self, shard: FeatureShard) -> Samples:
        """Tag indices (L,) beside the words' states; -1 where there is no word, or none that the encoder saw."""
        words = shard.layouts[VALUE].shape[0]
        layout = SlotLayout("label", (words,), "float32")
        index = {tag: number for number, tag in enumerate(self.target.names)}
        rows: list[list[np.ndarray]] = []
        for key in shard.keys:
            tags, row = self._tags(key), np.full(words, NONE, np.float32)
            for word, (tag, place) in enumerate(zip(tags or (), self._places(key), strict=False)):
                if place is not None and word < words:
                    row[word] = index.get(tag, NONE)
            rows.append([] if tags is None else [row])
        more = SlotRows.stack(rows, layout)
        return Samples([
            replace(shard, layouts={**shard.layouts, TARGET: layout}, slots={**shard.slots, TARGET: more})
        ])  # fmt: skip

    # ------------------------------------------------------------ scores

    @torch.no_grad()
    def scores(self, head: Any) -> list[Score]:
        """Rows of the test samples that have a target; none without any. given: the slots that the trunk read."""
        samples = self.samples("test")
        if samples is None or len(samples.having(TARGET)) == 0:
            return []
        loader = Loader(samples, batch_size=ROWS, indices=samples.having(TARGET), shuffle=False, device=self.device)
        parts = [(batch, batch.weights_B.cpu() > 0) for batch in loader]
        keys = [key for batch, real in parts for key, counts in zip(batch.keys, real.tolist(), strict=True) if counts]
        out = torch.cat([head(batch.values[VALUE]).cpu()[real] for batch, real in parts])
        target = torch.cat([batch.values[TARGET].cpu()[real] for batch, real in parts])
        if self.tagging:
            return self._tag_scores(head.head.guess(out), keys)
        guess, given = head.head.guess(out), list(self.network.slots)
        wanted = target[:, 0].long() if self.target.kind == "classification" else target
        # a class that training did not have cannot be said, and is a miss
        metric, found = rightness(self.target, guess, wanted)
        seed = self.settings.seed
        return [
            score(metric, given, [], "head", found),
            *class_rows(self.target, self.target.names, out, wanted, guess, given, seed, "head"),
        ]

    def _tag_scores(self, guess_NW: Tensor, keys: list[str]) -> list[Score]:
        """Spans of each class, and the share of words whose tag is right. A word that was cut from a text is said O."""
        wanted, came = [], []
        for row, key in zip(guess_NW.tolist(), keys, strict=True):
            wanted.append(self._tags(key) or [])
            places = self._places(key)
            seen = [place is not None and word < len(row) for word, place in enumerate(places)]
            came.append([self.target.names[row[word]] if saw else OUTSIDE for word, saw in enumerate(seen)])
        slot = [self.settings.slot]
        hits = [one == other for each in zip(wanted, came, strict=True) for one, other in zip(*each, strict=True)]
        rows = [score(scores.LABEL_ACCURACY, slot, [], "head", wilson(sum(hits), len(hits)))] if hits else []
        for kind, (right, said, there) in span_counts(wanted, came).items():
            rows += rates(right, said, there, slot, f"head:{kind}")
        return rows
