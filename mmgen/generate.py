"""Any slots to any slots: the Python API behind the commands, and the package that a model is shipped as.

A package is a folder: `config.json`, `tokenizer.json`, and safetensors of each codec, the fusion and the generator.
It needs no store.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mmgen import artifact as artifacts
from mmgen import promotions
from mmgen.artifact import Artifact, canonical_json
from mmgen.batches import Batch
from mmgen.codec_set import CodecSet
from mmgen.errors import ConfigError, IntegrityError, UnknownReference, unknown_name
from mmgen.maker import Maker, load_network, new_fusion, new_generator
from mmgen.preprocess.text import TextPreprocess
from mmgen.store import Store
from mmgen.training.loop import seed_of
from mmgen.training.parallel import pick_device
from mmgen.uris import read_uri
from mmgen.wording import AS_TRAINED, Wording

FORMAT = 1
CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
# samples made at once: part of what a seed means
ROWS = 64
GUIDANCE, JOINT_GUIDANCE, STEPS = 2.0, 1.0, 20

# a text itself; of an image or sound its bytes, or a path or URI
Given = str | bytes | Path


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
        steps: int | None = None,
        seed: int = 0,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        beams: int | None = None,
        prefix: Mapping[str, str | Sequence[str]] | None = None,
    ) -> Generated:
        """Make the slots `to` (all that are not given, if empty) from what is given, `num` samples of each condition.

        text, image, audio: of the slots of these names; `slots` for others. A list is one condition per entry, all
        lists of one length; a single value goes with each of them. Nothing given: `num` samples of the joint.
        temperature, top_k, top_p, beams: of models that write texts token by token (see `Sampling`). prefix: text slot
        → what its texts begin with, one for all or one per condition; best whole words, without a space behind them.
        The same seed gives the same bytes on one machine. Raises ConfigError, UnknownReference, SourceError.
        """
        named = {"text": text, "image": image, "audio": audio} | dict(slots or {})
        given = {slot: value for slot, value in named.items() if value is not None}
        wanted = (to,) if isinstance(to, str) else tuple(to)
        words = Wording(temperature, top_k, top_p, beams, dict(prefix or {}))
        return _generate(self, _conditions(given), wanted, num, guidance, steps, seed, words)


def _conditions(given: Mapping[str, Given | Sequence[Given]]) -> list[dict[str, Given]]:
    """One mapping per condition; a single value goes with each entry of the lists. Raises ConfigError."""
    single = {slot: value for slot, value in given.items() if isinstance(value, str | bytes | Path)}
    lists = {slot: list(value) for slot, value in given.items() if not isinstance(value, str | bytes | Path)}
    lengths = {slot: len(value) for slot, value in lists.items()}
    if len(set(lengths.values())) > 1 or 0 in lengths.values():
        raise ConfigError(f"generate: wanted lists of one length, came {lengths}")
    count = next(iter(lengths.values()), 1)
    return [{**single, **{slot: value[row] for slot, value in lists.items()}} for row in range(count)]


def rows(
    model: Model,
    given: Sequence[Mapping[str, Given]],
    *,
    to: Sequence[str] = (),
    num: int = 1,
    guidance: float | None = None,
    steps: int | None = None,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """One row per sample, {"row", "sample", slot: str or bytes}; each condition says for itself which slots it has."""
    return _generate(model, given, tuple(to), num, guidance, steps, seed).rows


def _generate(
    model: Model,
    given: Sequence[Mapping[str, Given]],
    to: tuple[str, ...],
    num: int,
    guidance: float | None,
    steps: int | None,
    seed: int,
    words: Wording = AS_TRAINED,
) -> Generated:
    maker, defaults = model.maker, model.about.get("defaults", {})
    named = {slot for row in given for slot in row}
    for slot in (*named, *to):
        if slot not in model.slots:
            raise UnknownReference(unknown_name("slot", slot, model.slots))
    to = to or tuple(slot for slot in maker.makes if slot not in named)
    if not to:
        raise ConfigError("generate: every slot is given, nothing is left to make; name what to make with `to`")
    if num < 1:
        raise ConfigError(f"num: wanted at least 1, came {num}")
    if refused := [slot for slot in to if slot not in maker.makes]:
        raise ConfigError(f"this model makes {', '.join(maker.makes)}; asked for {', '.join(refused)}")
    if guidance is None:
        guidance = defaults.get("guidance", GUIDANCE) if named else defaults.get("joint_guidance", JOINT_GUIDANCE)
    steps = int(defaults.get("steps", STEPS)) if steps is None else steps
    condition, prefix = conditions(maker, given), words.beginnings(maker, to, len(given))
    drawn = words.sampling(steps, float(guidance))
    places = torch.arange(len(given)).repeat_interleave(num)
    found: list[dict[str, Any]] = [{"row": int(p), "sample": at % num} for at, p in enumerate(places)]
    for start in range(0, len(places), ROWS):
        part = places[start : start + ROWS].to(maker.device)
        rng = torch.Generator(maker.device).manual_seed(seed_of(seed, start))
        begun = {slot: ids_BL[part] for slot, ids_BL in prefix.items()}
        values = maker.make(condition.take(part), to, drawn, rng, begun)
        for slot in to:
            how = maker.codecs.preprocesses[slot]
            made = how.texts(values[slot]) if isinstance(how, TextPreprocess) else how.files(values[slot])
            for at, each in enumerate(made, start=start):
                found[at][slot] = each
    return Generated(found, {slot: maker.codecs.preprocesses[slot].extension for slot in to})


def conditions(maker: Maker, given: Sequence[Mapping[str, Given]]) -> Batch:
    """`tensors` values of what each row gives; slots that it does not are absent."""
    values, masks = {}, {}
    for slot, how in maker.codecs.preprocesses.items():
        empty = how.value(torch.zeros((1, *how.shape), dtype=getattr(torch, how.dtype)))
        each = [
            maker.codecs.value(slot, _bytes(row[slot], how.modality)) if slot in row else torch.zeros_like(empty)
            for row in given
        ]
        values[slot] = torch.cat(each).to(maker.device)
        masks[slot] = torch.tensor([[slot in row] for row in given], device=maker.device)
    count = len(given)
    labels, weights = torch.full((count,), -1, device=maker.device), torch.ones(count, device=maker.device)
    return Batch(values, masks, labels, weights, [str(row) for row in range(count)])


def _bytes(given: Given, modality: str) -> bytes:
    if isinstance(given, bytes):
        return given
    if modality == "text" and isinstance(given, str):
        return given.encode()
    try:
        return read_uri(str(given))
    except FileNotFoundError:
        raise UnknownReference(f"{modality}: no such file '{given}'") from None


# ---------------------------------------------------------------- packages


def package_files(
    store: Store, codecs: Artifact, fusion: Artifact, generator: Artifact, defaults: Mapping[str, float] | None = None
) -> dict[str, bytes]:
    """Name → bytes of a package: everything that `generate` needs, nothing that only training did.

    defaults: "guidance", "joint_guidance" and "steps" for those who do not say.
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
    named = [spec["weights"] for spec in (*about["codecs"].values(), about["fusion"], about["generator"])]
    if missing := [name for name in (*named, about["tokenizer"]) if name is not None and name not in files]:
        raise IntegrityError(f"{where}: wanted {missing[0]}, it is missing from the package")
    codecs = CodecSet.build(
        slots=about["slots"],
        made=about["codecs"],
        scale=about["scale"],
        weights={modality: files[spec["weights"]] for modality, spec in about["codecs"].items()},
        tokenizer=files[about["tokenizer"]] if about["tokenizer"] else None,
        labels=tuple(about["labels"] or ()),
    )
    target = pick_device(device)
    networks = [
        load_network(make, about[part], files[about[part]["weights"]]).to(target)
        for part, make in (("fusion", new_fusion), ("generator", new_generator))
    ]
    return Model(Maker(codecs.to(target), networks[0], networks[1], target), about)


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
