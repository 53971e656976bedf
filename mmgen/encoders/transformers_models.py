"""transformers' models as trunks: which class reads a modality, made from plain settings, filled from their folders."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmgen.errors import ConfigError
from mmgen.pretrained import CONFIG, folder_of, library, read_json, whole
from mmgen.records import Modality

# models of two modalities: the tower that reads one of them, and where its settings stand
_TOWERS: dict[tuple[str, Modality], tuple[str, str]] = {
    ("clip", "image"): ("CLIPVisionModel", "vision_config"),
    ("clip", "text"): ("CLIPTextModel", "text_config"),
    ("siglip", "image"): ("SiglipVisionModel", "vision_config"),
    ("siglip", "text"): ("SiglipTextModel", "text_config"),
    ("clap", "audio"): ("ClapAudioModel", "audio_config"),
    ("clap", "text"): ("ClapTextModel", "text_config"),
}
_PARTS: dict[Modality, str] = {"image": "vision_model", "text": "text_model", "audio": "audio_model"}
_LONE: dict[str, str] = {"clap_audio_model": "ClapAudioModel", "clap_text_model": "ClapTextModel"}


def architecture_of(folder: Path, modality: Modality) -> dict[str, Any]:
    """{"class", "config"}: what reads `modality` of the model in `folder`, as plain data. Raises ConfigError."""
    transformers = library("transformers")
    raw = read_json(folder, CONFIG)
    kind = str(raw.get("model_type", ""))
    try:
        config = transformers.AutoConfig.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        said = " ".join(str(error).split())[:200]
        raise ConfigError(f"{folder}: wanted a model of transformers, its {CONFIG} says '{kind}': {said}") from error
    if (kind, modality) in _TOWERS:
        name, part = _TOWERS[kind, modality]
        config = getattr(config, part)
    elif any(known == kind for known, _ in _TOWERS):
        raise ConfigError(f"{folder}: {kind} reads no {modality}")
    elif kind in _LONE:
        name = _LONE[kind]
    elif type(config) in transformers.MODEL_MAPPING:
        name = transformers.MODEL_MAPPING[type(config)].__name__
    else:
        raise ConfigError(f"{folder}: '{kind}' is no encoder that transformers makes by itself")
    plain: dict[str, Any] = json.loads(config.to_json_string())
    if "apply_spec_augment" in plain:
        # drawn from numpy's global state, which no seed of ours sets
        plain["apply_spec_augment"] = False
    return {"class": name, "config": plain}


def new_tower(architecture: Mapping[str, Any]) -> nn.Module:
    """A random model of {"class", "config"}."""
    kind = getattr(library("transformers"), architecture["class"])
    settings = {name: value for name, value in architecture["config"].items() if not name.startswith("_")}
    made: nn.Module = kind(kind.config_class(**settings))
    return made


def load_tower(trunk: nn.Module, weights: Mapping[str, Any], modality: Modality) -> nn.Module:
    """The same model with the weights of {"source", "revision"}. Raises ConfigError."""
    transformers = library("transformers")
    folder = folder_of(weights["source"], weights.get("revision"), f"encoders.{modality}.source")
    kind = str(read_json(folder, CONFIG).get("model_type", ""))
    config: Any = trunk.config
    if (kind, modality) not in _TOWERS:
        made: nn.Module = whole(type(trunk), folder, config=config, dtype=torch.float32)
        return made
    # some towers do not find their own tensors among those of the whole model, so that is read and one is taken
    both = whole(transformers.MODEL_MAPPING[transformers.CONFIG_MAPPING[kind]], folder, dtype=torch.float32)
    tower: nn.Module = getattr(both, _PARTS[modality])
    trunk.load_state_dict(tower.state_dict())
    return trunk


def blocks_of(trunk: nn.Module) -> nn.ModuleList | None:
    """The longest list of blocks of one class, where the model has one width; None where it has several."""
    settings: Any = trunk.config
    lists = [each for each in trunk.modules() if isinstance(each, nn.ModuleList) and len({type(m) for m in each}) == 1]
    if not lists or hasattr(settings, "depths") or not hasattr(settings, "hidden_size"):
        return None
    return max(lists, key=len)
