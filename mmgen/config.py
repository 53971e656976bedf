"""The root configuration: what a user's CONFIG.yaml means once its recipe is merged in. Torch-free."""

from __future__ import annotations

import os
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from mmgen.artifact import check_name
from mmgen.codecs.config import CodecsConfig, JudgesConfig
from mmgen.encoders.config import ExtractConfig
from mmgen.errors import ConfigError, unknown_name
from mmgen.evaluate.config import EvaluateConfig, RegisterConfig
from mmgen.fusion.config import FusionConfig
from mmgen.generators.config import AutoregressiveConfig, ConcatBaselineConfig, GeneratorConfig, JointFlowConfig
from mmgen.modalities.config import AudioSlot, ImageSlot, SlotConfig, TextSlot
from mmgen.settings import Settings, plain_word
from mmgen.shard_config import ShardConfig
from mmgen.sources.config import ClipConfig, IngestConfig, SourceConfig, frame_slots
from mmgen.tune_config import TuneConfig
from mmgen.validate_config import ValidateConfig

RECIPES = Path(__file__).parent / "recipes"
DEFAULT_RECIPE = "small"
DEFAULT_SLOTS: dict[str, type[TextSlot | ImageSlot | AudioSlot]] = {
    "text": TextSlot,
    "image": ImageSlot,
    "audio": AudioSlot,
}


class Config(Settings):
    """One complete configuration. `slots` holds only the active ones: those that the source has a column for."""

    name: str
    recipe: str = DEFAULT_RECIPE
    seed: int = 0
    source: SourceConfig
    slots: dict[str, SlotConfig]
    ingest: IngestConfig = IngestConfig()
    validate_: ValidateConfig = Field(ValidateConfig(), alias="validate")
    shard: ShardConfig = ShardConfig()
    codecs: CodecsConfig = CodecsConfig()
    judges: JudgesConfig = JudgesConfig()
    extract: ExtractConfig = ExtractConfig()
    fusion: FusionConfig = FusionConfig()
    generator: GeneratorConfig = JointFlowConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    registry: RegisterConfig = RegisterConfig()
    tune: TuneConfig = TuneConfig()

    @field_validator("name")
    @classmethod
    def _name(cls, name: str) -> str:
        return check_name(name)

    @field_validator("slots")
    @classmethod
    def _slot_names(cls, slots: dict[str, SlotConfig]) -> dict[str, SlotConfig]:
        for name in slots:
            plain_word(name)
        return slots

    @model_validator(mode="after")
    def _slots_of_parts(self) -> Config:
        for name in self.extract.encoders:
            if name not in self.slots:
                raise ValueError(f"extract.encoders: {unknown_name('slot', name, self.slots)}")
        if isinstance(self.generator, ConcatBaselineConfig):
            for name in (*self.generator.encoders, self.generator.target):
                if name not in self.slots:
                    raise ValueError(f"generator: {unknown_name('slot', name, self.slots)}")
        if isinstance(self.generator, AutoregressiveConfig):
            texts = [name for name, slot in self.slots.items() if slot.modality == "text"]
            for name in self.generator.targets:
                if name not in texts:
                    raise ValueError(f"generator.targets: {unknown_name('text slot', name, texts)}")
        return self

    def to_json(self) -> dict[str, Any]:
        """The configuration as plain data, as a manifest records it."""
        return self.model_dump(mode="json", by_alias=True)


def recipes() -> list[str]:
    """Names of the recipes that come with mmgen."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def load(path: str | Path) -> Config:
    """Read a CONFIG.yaml. Relative source paths are relative to its folder. Raises ConfigError in one line."""
    try:
        raw = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such configuration file; `mmgen init FILE` writes one for a table") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from error
    return build(raw, folder=Path(path).resolve().parent, where=str(path))


def build(raw: Any, *, folder: Path | None = None, where: str = "configuration") -> Config:
    """A Config from plain data: its recipe merged in, inactive slots left out. Raises ConfigError."""
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{where}: wanted a mapping with name and source, came {type(raw).__name__}")
    name = raw.get("recipe", DEFAULT_RECIPE)
    if name not in recipes():
        raise ConfigError(f"{where}: {unknown_name('recipe', str(name), recipes())}")
    merged = _merge(_recipe(name), {**raw, "recipe": name})
    _activate_slots(merged, where)
    source = merged.get("source")
    if folder is not None and isinstance(source, dict) and isinstance(source.get("path"), str):
        path = source["path"]
        if "://" not in path:
            source["path"] = os.path.abspath(folder / Path(path).expanduser())
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(f"{where}: {_explain(error)}") from None


def _recipe(name: str) -> Any:
    """A recipe's settings; one that names another `recipe` is laid upon that one."""
    settings = yaml.safe_load((RECIPES / f"{name}.yaml").read_text(encoding="utf-8"))
    return _merge(_recipe(settings["recipe"]), settings) if "recipe" in settings else settings


def _merge(base: Any, over: Any) -> Any:
    """`over` laid upon `base`, mapping by mapping; a mapping of another `kind` replaces the whole."""
    if not (isinstance(base, Mapping) and isinstance(over, Mapping)):
        return over
    if "kind" in over and "kind" in base and over["kind"] != base["kind"]:
        return dict(over)
    return {key: _merge(base[key], over[key]) if key in base and key in over else over.get(key, base.get(key))
            for key in [*base, *(key for key in over if key not in base)]}  # fmt: skip


def _activate_slots(merged: dict[str, Any], where: str) -> None:
    """Leave only slots that the source can fill: a column of their own, or the source's for the default three."""
    source = merged.get("source")
    if not isinstance(source, dict):
        raise ConfigError(f"{where}: source: wanted a mapping with kind and path, came {source!r}")
    slots = dict(merged.get("slots") or {})
    for name, kind in DEFAULT_SLOTS.items():
        if source.get(name) and name not in slots:
            slots[name] = kind().model_dump(mode="json")
    if source.get("kind") == "video":
        slots = _frame_slots(slots, source)
    if source.get("kind", "table") in ("table", "hf_dataset"):
        slots = {name: slot for name, slot in slots.items()
                 if (isinstance(slot, Mapping) and slot.get("column")) or source.get(name)}  # fmt: skip
        if not slots:
            raise ConfigError(
                f"{where}: source: names no column for any slot; wanted at least one of text, image, audio"
            )
    merged["slots"] = slots


def _frame_slots(slots: dict[str, Any], source: Mapping[str, Any]) -> dict[str, Any]:
    """The slots of a video's clips: in place of `image`, and with its settings, one for each of several frames."""
    try:
        frames = ClipConfig.model_validate(source.get("clip", {})).frames
    except ValidationError:
        # refused with the rest of the source
        return slots
    if frames == 1:
        return slots
    usual = slots.get("image") or ImageSlot().model_dump(mode="json")
    own = {name: _merge(usual, slots.get(name, {})) for name in frame_slots(frames)}
    return {name: slot for name, slot in slots.items() if name != "image" and name not in own} | own


def _explain(error: ValidationError) -> str:
    """The first validation error as one line, with the nearest known key."""
    errors = error.errors()
    first = errors[0]
    # pydantic puts the tag of a discriminated union into the path: leave it out where it is no key
    path, model = [], Config
    known: list[str] = []
    for part in first["loc"]:
        known = _keys(model)
        member = _member(model, part)
        if member is not None:
            if _is_tag(model, part):
                model = member
                continue
            model = member
        path.append(str(part))
    where = ".".join(path)
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    match first["type"]:
        case "extra_forbidden":
            return f"{where}: {unknown_name('key', path[-1], known)}{more}"
        case "missing":
            return f"{where}: missing; wanted a value{more}"
        case _:
            if first["type"] == "value_error":  # our own words already say what came
                return f"{where}: ".removeprefix(": ") + first["msg"].removeprefix("Value error, ") + more
            came = "" if isinstance(first["input"], dict | list) else f", came {first['input']!r}"
            return f"{where}: {first['msg']}{came}{more}"


def _variants(model: Any) -> list[type[BaseModel]]:
    """The models that a field's annotation may hold."""
    if isinstance(model, type) and issubclass(model, BaseModel):
        return [model]
    origin = typing.get_origin(model)
    if origin is typing.Annotated:
        return _variants(typing.get_args(model)[0])
    if origin in (types.UnionType, typing.Union):
        return [found for member in typing.get_args(model) for found in _variants(member)]
    return []


def _keys(model: Any) -> list[str]:
    return sorted({info.alias or name for found in _variants(model) for name, info in found.model_fields.items()})


def _is_tag(model: Any, part: Any) -> bool:
    variants = _variants(model)
    return len(variants) > 1 and any(part in _tags(found) for found in variants)


def _tags(model: type[BaseModel]) -> tuple[Any, ...]:
    """Values of the field that tells this variant from others."""
    for name in ("kind", "modality"):
        if name in model.model_fields:
            return typing.get_args(model.model_fields[name].annotation)
    return ()


def _member(model: Any, part: Any) -> Any:
    """What lies at key `part` below an annotation: a field's, a mapping's values', or a union's variant by its tag."""
    if typing.get_origin(model) is dict:
        return typing.get_args(model)[1]
    variants = _variants(model)
    if len(variants) > 1:
        for found in variants:
            if part in _tags(found):
                return found
    for found in variants:
        for name, info in found.model_fields.items():
            if part in (name, info.alias):
                # pydantic keeps a field's discriminator in its metadata; the annotation is enough here
                return info.annotation
    return None
