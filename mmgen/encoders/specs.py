"""From settings to what an encoder is made of: plain data that a manifest holds, and where its first weights lie.

What is made of it (`spec`) is complete without the model's folder; where the weights come from (`start`) is
circumstance, and only the first making of an encoder needs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmgen.encoders.config import (
    EncoderConfig,
    OwnEncoder,
    TorchaudioEncoder,
    TorchvisionEncoder,
    TransformersEncoder,
)
from mmgen.encoders.foreign_text import their_tokenizer
from mmgen.encoders.transformers_models import architecture_of
from mmgen.errors import ConfigError
from mmgen.preprocess.audio import AudioPreprocess
from mmgen.preprocess.image import ImagePreprocess
from mmgen.preprocess.table import Preprocess
from mmgen.preprocess.text import TextPreprocess
from mmgen.pretrained import folder_of, read_json

#: what makes an encoder: its name alone, or for one of another library {"kind", …} as plain data
Spec = str | Mapping[str, Any]
#: where its first weights lie: a path, for one of another library {"weights"} or {"source", "revision"}
Start = str | Mapping[str, Any]


def encoder_spec(settings: EncoderConfig | str, how: Preprocess, slot: str) -> Spec:
    """What `make_encoder` makes the encoder of a slot from; how: the slot's preprocessing.

    Raises ConfigError for a model that cannot be read, or does not read the slot's modality.
    """
    if isinstance(settings, str):
        return settings
    if isinstance(settings, OwnEncoder):
        return settings.kind
    plain = settings.model_dump(mode="json", exclude={"width", "weights", "source", "revision", "output", "max_tokens"})
    wanted = settings.kind.rsplit("_", 1)[1]
    if wanted != how.modality:
        raise ConfigError(f"encoders.{slot}.kind: {settings.kind} reads {wanted}, this slot is {how.modality}")
    if isinstance(settings, TorchvisionEncoder):
        assert isinstance(how, ImagePreprocess)
        return {**plain, "ours": [how.mean, how.std]}
    if isinstance(settings, TorchaudioEncoder):
        assert isinstance(how, AudioPreprocess)
        return {**plain, "rate_hz": how.sample_rate_hz}
    folder = folder_of(settings.source, settings.revision, f"encoders.{slot}.source")
    architecture = architecture_of(folder, how.modality)
    return {**plain, "architecture": architecture, **_made_ready(settings, folder, architecture["config"], how)}


def _made_ready(
    settings: TransformersEncoder, folder: Path, config: Mapping[str, Any], how: Preprocess
) -> dict[str, Any]:
    """How the model wants its values, from the files beside it."""
    if isinstance(how, TextPreprocess):
        _, pad_id = their_tokenizer(folder)
        # RoBERTa counts its positions from behind the one of padding
        behind = pad_id + 1 if "roberta" in str(config.get("model_type")) else 0
        most = int(config.get("max_position_embeddings", 512)) - behind
        if settings.max_tokens is not None and settings.max_tokens > most:
            raise ConfigError(f"encoders.….max_tokens: wanted at most {most}, as the model, came {settings.max_tokens}")
        return {"pad_id": pad_id, "max_tokens": settings.max_tokens or min(most, 2 * how.max_tokens)}
    beside = read_json(folder, "preprocessor_config.json")
    beside = beside or read_json(folder, "processor_config.json")
    if isinstance(how, ImagePreprocess):
        beside = beside.get("image_processor", beside)
        side = config.get("image_size") or _side(beside.get("crop_size") or beside.get("size")) or 224
        mean, std = (beside.get(name) or [0.5, 0.5, 0.5] for name in ("image_mean", "image_std"))
        return {"ours": [how.mean, how.std], "size_px": _side(side), "mean": mean, "std": std}
    assert isinstance(how, AudioPreprocess)
    return {"rate_hz": how.sample_rate_hz, "preprocessor": beside.get("feature_extractor", beside)}


def _side(size: Any) -> int | None:
    """The side of the square that a processor's setting means."""
    if isinstance(size, Mapping):
        return next((int(size[name]) for name in ("height", "shortest_edge") if name in size), None)
    if isinstance(size, list | tuple):
        return int(size[0])
    return int(size) if size else None


def encoder_start(settings: EncoderConfig | str) -> Start | None:
    """Where the first weights of an encoder come from; None: random."""
    if isinstance(settings, str):
        return None
    if isinstance(settings, TransformersEncoder):
        return {"source": settings.source, "revision": settings.revision}
    if isinstance(settings, OwnEncoder):
        return settings.weights
    return {"weights": settings.weights} if settings.weights is not None else None
