"""Any slots to any slots: the Python API behind the commands, and the package that a model is shipped as.

A package is a folder: `config.json`, `tokenizer.json`, and safetensors of each codec, the vocoder if one was learned,
the fusion and the generator. It needs no store.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmgen import artifact as artifacts
from mmgen import promotions
from mmgen.artifact import Artifact, canonical_json
from mmgen.asking import Asked, Given, each_condition, named_slots
from mmgen.codec_set import CodecSet
from mmgen.conditions import beginnings, check_pairs, conditions, read_given, sampling, steering, targets
from mmgen.editing import Span, hole_of, shares
from mmgen.errors import ConfigError, IntegrityError, UnknownReference, unknown_name
from mmgen.generators.sampling import Steering
from mmgen.maker import Maker, load_network, new_fusion, new_generator
from mmgen.preprocess.text import TextPreprocess
from mmgen.store import Store
from mmgen.training.loop import seed_of
from mmgen.training.parallel import pick_device

FORMAT = 1
CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
VOCODER = "vocoder.safetensors"
# samples made at once: part of what a seed means
ROWS = 64


# ---------------------------------------------------------------- what comes out


@dataclass(frozen=True)
class Generated:
    """What `generate` made. rows: one for each sample, {"row": condition, "sample": 0…, slot: str or file bytes}."""

    rows: list[dict[str, Any]]
    extensions: dict[str, str]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, slot: str) -> list[Any]:
        """All samples of one slot: strings of a text slot, bytes of PNG or WAV of the others."""
        if slot not in self.extensions:
            raise KeyError(unknown_name("slot", slot, self.extensions))
        return [row[slot] for row in self.rows]

    def save(self, folder: str | Path) -> list[Path]:
        """Write `<condition>-<sample>-<slot>.<png|wav|txt>` for each; returns the paths."""
        target = Path(folder)
        target.mkdir(parents=True, exist_ok=True)
        paths = []
        for row in self.rows:
            for slot, extension in self.extensions.items():
                path = target / f"{row['row']:03d}-{row['sample']:03d}-{slot}.{extension}"
                made = row[slot]
                path.write_bytes(made.encode() if isinstance(made, str) else made)
                paths.append(path)
        return paths


# ---------------------------------------------------------------- the model


@dataclass(frozen=True)
class Model:
    """A loaded model. about: what its package says of itself (name, lineage, defaults)."""

    maker: Maker
    about: dict[str, Any]

    @property
    def slots(self) -> dict[str, str]:
        """Slot → modality."""
        return {slot: settings.modality for slot, settings in self.maker.codecs.slots.items()}

    def generate(
        self,
        text: str | Sequence[str] | None = None,
        image: Given | Sequence[Given] | None = None,
        audio: Given | Sequence[Given] | None = None,
        *,
        slots: Mapping[str, Given | Sequence[Given]] | None = None,
        to: Sequence[str] | str = (),
        num: int = 1,
        guidance: float | None = None,
        pairs: Mapping[tuple[str, str], float] | None = None,
        negative: Mapping[str, Given] | None = None,
        mix: Sequence[tuple[float, Mapping[str, Given]]] = (),
        strength: float | None = None,
        sampler: str | None = None,
        shift: float = 1.0,
        steps: int | None = None,
        seed: int = 0,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        beams: int | None = None,
        prefix: Mapping[str, str | Sequence[str]] | None = None,
        candidates: int | None = None,
    ) -> Generated:
        """Make the slots `to` (all that are not given, if empty) from what is given, `num` samples of each condition.

        text, image, audio: of the slots of these names; `slots` for others. A list is one condition per entry, all
        lists of one length; a single value goes with each of them. Nothing given: `num` samples of the joint.
        guidance: 1 follows the model, more follows the condition closer; pairs: (given, made) → the guidance of that
        pair in place of it. negative: slots to move away from. mix: (weight, slots): what is made follows the weighted
        mean of these conditions, several inputs of one slot or of several; what is given belongs to each.
        strength: vary a slot that is given and made too, 1 altogether, less stays nearer.
        sampler: euler, heun or dpm; shift: more than 1 puts more of its steps near the noise.
        temperature, top_k, top_p, beams: of models that write texts token by token (see `Sampling`). prefix: text slot
        → what its texts begin with, one for all or one per condition; best whole words, without a space behind them.
        candidates: samples made for each one that is kept, the one that goes best with what is given by the model's own
        fusion (see `agreement`).
        The same seed gives the same bytes on one machine. Raises ConfigError, UnknownReference, SourceError.
        """
        wanted = (to,) if isinstance(to, str) else tuple(to)
        asked = Asked(
            guidance, pairs or {}, negative or {}, tuple(mix), strength, sampler, shift, steps, temperature, top_k,
            top_p, beams, prefix or {}, candidates,
        )  # fmt: skip
        return _generate(self, each_condition(named_slots(text, image, audio, slots)), wanted, num, asked, seed)

    def inpaint(
        self,
        slot: str,
        value: Given,
        hole: Given | Span,
        *,
        slots: Mapping[str, Given] | None = None,
        num: int = 1,
        guidance: float | None = None,
        sampler: str | None = None,
        steps: int | None = None,
        resamplings: int = 4,
        seed: int = 0,
    ) -> Generated:
        """Make a part of an image or sound anew, `num` times; all around it stays, pixel for pixel.

        hole: of an image the file of a mask of its size, white where it is made anew; of a sound (start, stop) in
        seconds. slots: what else is given. resamplings: how often each step is taken so that both fit (RePaint).
        Raises ConfigError, UnknownReference, SourceError.
        """
        asked = Asked(guidance=guidance, sampler=sampler, steps=steps)
        return _inpaint(self, {slot: value}, hole, dict(slots or {}), num, asked, resamplings, seed)

    def interpolate(
        self,
        one: Mapping[str, Given],
        other: Mapping[str, Given],
        num: int = 5,
        *,
        slots: Mapping[str, Given] | None = None,
        steps: int | None = None,
    ) -> Generated:
        """`num` samples on the way from one sample to another, which are its ends. Nothing is drawn.

        one, other: values of the same slots. slots: what else is given, all along. For a way between two conditions
        of what is made see `mix` of `generate`. Raises ConfigError, UnknownReference, SourceError.
        """
        return _interpolate(self, one, other, num, dict(slots or {}), steps)


def rows(
    model: Model,
    given: Sequence[Mapping[str, Given]],
    *,
    to: Sequence[str] = (),
    num: int = 1,
    asked: Asked | None = None,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """One row per sample, {"row", "sample", slot: str or bytes}; each condition says for itself which slots it has."""
    return _generate(model, given, tuple(to), num, asked or Asked(), seed).rows


def _generate(
    model: Model, given: Sequence[Mapping[str, Given]], to: tuple[str, ...], num: int, asked: Asked, seed: int
) -> Generated:
    maker = model.maker
    named = {slot for row in (*given, *(mixed for _, mixed in asked.mix)) for slot in row}
    to = targets(maker, named | set(asked.negative), to or tuple(slot for slot in maker.makes if slot not in named))
    if num < 1:
        raise ConfigError(f"num: wanted at least 1, came {num}")
    check_pairs(asked.pairs, maker.slots, named, to)
    how = sampling(model.about.get("defaults", {}), asked, bool(named or asked.negative))
    led = steering(maker, given, to, asked)
    condition, begun = conditions(maker, given), beginnings(maker, asked.prefix, to, len(given))
    places = torch.arange(len(given)).repeat_interleave(num)
    found: list[dict[str, Any]] = [{"row": int(p), "sample": at % num} for at, p in enumerate(places)]
    for start in range(0, len(places), ROWS):
        part = places[start : start + ROWS].to(maker.device)
        rng = torch.Generator(maker.device).manual_seed(seed_of(seed, start))
        prefix = {slot: ids_BL[part] for slot, ids_BL in begun.items()}
        values = maker.make(condition.take(part), to, how, rng, None if led is None else led.take(part), prefix)
        for slot in to:
            for at, each in enumerate(_files(maker, slot, values[slot]), start=start):
                found[at][slot] = each
    return Generated(found, {slot: maker.codecs.preprocesses[slot].extension for slot in to})


def _files(maker: Maker, slot: str, value: Tensor) -> Sequence[str | bytes]:
    how = maker.codecs.preprocesses[slot]
    return how.texts(value) if isinstance(how, TextPreprocess) else how.files(value)


def _inpaint(
    model: Model, given: Mapping[str, Given], hole: Given | Span, more: Mapping[str, Given],
    num: int, asked: Asked, resamplings: int, seed: int,
) -> Generated:  # fmt: skip
    ((slot, value),), maker = given.items(), model.maker
    to = targets(maker, {slot, *more}, (slot,))
    if num < 1:
        raise ConfigError(f"num: wanted at least 1, came {num}")
    read = hole if isinstance(hole, tuple | bytes) else read_given(hole, "hole")
    cut = hole_of(maker.codecs, slot, read_given(value, model.slots[slot]), read)
    start, keep = cut.value.to(maker.device), cut.keep_T[None].to(maker.device)
    led = Steering(start={slot: start}, keep={slot: keep}, resamplings=resamplings)
    condition, how = conditions(maker, [more]), sampling(model.about.get("defaults", {}), asked, bool(more))
    found = []
    for first in range(0, num, ROWS):
        part = torch.zeros(min(ROWS, num - first), dtype=torch.long, device=maker.device)
        rng = torch.Generator(maker.device).manual_seed(seed_of(seed, first))
        values = maker.make(condition.take(part), to, how, rng, led.take(part))
        found += cut.files(values[slot])
    return Generated([{"row": 0, "sample": at, slot: data} for at, data in enumerate(found)],
                     {slot: cut.how.extension})  # fmt: skip


def _interpolate(
    model: Model, one: Mapping[str, Given], other: Mapping[str, Given], num: int, more: Mapping[str, Given],
    steps: int | None,
) -> Generated:  # fmt: skip
    maker, way = model.maker, shares(num)
    if set(one) != set(other):
        raise ConfigError(f"interpolate: wanted both ends of the same slots, came {sorted(one)} and {sorted(other)}")
    to = targets(maker, {*one, *more}, tuple(one))
    ends = [conditions(maker, [end]) for end in (one, other)]
    ends = [replace(end, values={slot: end.values[slot] for slot in to}) for end in ends]
    how = sampling(model.about.get("defaults", {}), Asked(guidance=1.0, steps=steps), False)
    values = maker.interpolate(ends[0], ends[1], way, conditions(maker, [more]), how)
    made = {slot: _files(maker, slot, values[slot]) for slot in to}
    found = [{"row": 0, "sample": at, **{slot: made[slot][at] for slot in to}} for at in range(num)]
    return Generated(found, {slot: maker.codecs.preprocesses[slot].extension for slot in to})


# ---------------------------------------------------------------- packages


def package_files(
    store: Store, codecs: Artifact, fusion: Artifact, generator: Artifact, defaults: Mapping[str, float] | None = None
) -> dict[str, bytes]:
    """Name → bytes of a package: everything that `generate` needs, nothing that only training did.

    defaults: "guidance", "joint_guidance", "steps" and "candidates" for those who do not say.
    """
    files: dict[str, bytes] = {}
    about: dict[str, Any] = {
        "format": FORMAT,
        "name": generator.name,
        "lineage": {"codecs": codecs.ref, "fusion": fusion.ref, "generator": generator.ref},
        "slots": codecs.config["slots"],
        "labels": codecs.facts["labels"],
        "defaults": dict(defaults or {}),
        "codecs": {m: {**spec, "weights": f"codec-{m}.safetensors"} for m, spec in codecs.facts["codecs"].items()},
        "scale": codecs.facts["scale"],
        "tokenizer": TOKENIZER if codecs.by_role("tokenizer") else None,
    }
    for modality in codecs.facts["codecs"]:
        files[f"codec-{modality}.safetensors"] = store.read(codecs.file(f"codec:{modality}").path)
    if codecs.facts.get("vocoder"):
        about["vocoder"] = {**codecs.facts["vocoder"], "weights": VOCODER}
        files[VOCODER] = store.read(codecs.file("vocoder").path)
    if about["tokenizer"]:
        files[TOKENIZER] = store.read(codecs.file("tokenizer").path)
    for part, made in (("fusion", fusion), ("generator", generator)):
        files[f"{part}.safetensors"] = store.read(made.file("weights").path)
        args = {name: value for name, value in made.facts["args"].items() if name != "weights"}
        about[part] = {"kind": made.facts["kind"], "args": args, "weights": f"{part}.safetensors"}
    files[CONFIG] = json.dumps(json.loads(canonical_json(about)), indent=1, sort_keys=True, ensure_ascii=False).encode()
    return files


def save_package(
    store: Store,
    codecs: Artifact,
    fusion: Artifact,
    generator: Artifact,
    folder: str | Path,
    defaults: Mapping[str, float] | None = None,
) -> Path:
    """Write the package of a generator (see `package_files`) into a folder (made if missing); returns it."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    for name, data in package_files(store, codecs, fusion, generator, defaults).items():
        (target / name).write_bytes(data)
    return target


def load_package(folder: str | Path, device: str = "auto") -> Model:
    """A model from its package. Raises UnknownReference (no package there), IntegrityError (not a whole one)."""
    root = Path(folder)
    if not (root / CONFIG).is_file():
        raise UnknownReference(f"{folder}: wanted the folder of a model package with a {CONFIG}, it has none")
    return _assembled({path.name: path.read_bytes() for path in root.iterdir() if path.is_file()}, str(folder), device)


def _assembled(files: Mapping[str, bytes], where: str, device: str) -> Model:
    about = json.loads(files[CONFIG])
    if about.get("format") != FORMAT:
        raise IntegrityError(f"{where}: package format {about.get('format')}, this mmgen reads {FORMAT}")
    vocoder = about.get("vocoder")
    networks = (*about["codecs"].values(), about["fusion"], about["generator"], *([vocoder] if vocoder else []))
    named = [spec["weights"] for spec in networks]
    if missing := [name for name in (*named, about["tokenizer"]) if name is not None and name not in files]:
        raise IntegrityError(f"{where}: wanted {missing[0]}, it is missing from the package")
    codecs = CodecSet.build(
        slots=about["slots"],
        made=about["codecs"],
        scale=about["scale"],
        weights={modality: files[spec["weights"]] for modality, spec in about["codecs"].items()},
        tokenizer=files[about["tokenizer"]] if about["tokenizer"] else None,
        labels=tuple(about["labels"] or ()),
        vocoder=(vocoder, files[vocoder["weights"]]) if vocoder else None,
    )
    target = pick_device(device)
    made = [
        load_network(make, about[part], files[about[part]["weights"]]).to(target)
        for part, make in (("fusion", new_fusion), ("generator", new_generator))
    ]
    return Model(Maker(codecs.to(target), made[0], made[1], target), about)


def load(reference: str | Path, store: str | Path | Store | None = None, device: str = "auto") -> Model:
    """A model from a package's folder, or from a reference (`name`, `name@champion`, `models:/…`) in a store.

    store: `$MMGEN_STORE`, else ./mmgen-store, if None. Raises UnknownReference.
    """
    if (Path(reference) / CONFIG).is_file():
        return load_package(reference, device)
    where = store if isinstance(store, Store) else Store(store or os.environ.get("MMGEN_STORE") or "mmgen-store")
    generator = promotions.resolve(str(reference), where)
    if generator.kind != "model" or "fusion" not in generator.inputs:
        raise UnknownReference(f"'{reference}' is {generator.ref}; wanted a model that generates")
    promotion = promotions.promotion_of(where, generator)
    if promotion is not None:
        # what was registered is what is loaded, with its settings
        files = {Path(e.path).name: where.read(e.path) for e in promotion.by_role(promotions.PACKAGE)}
        return _assembled(files, promotion.ref, device)
    codecs, fusion = (artifacts.load_link(where, generator.inputs[role]) for role in ("codecs", "fusion"))
    return _assembled(package_files(where, codecs, fusion, generator), generator.ref, device)
