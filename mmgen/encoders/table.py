"""Encoders by name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from mmgen.encoders.base import Encoder
from mmgen.encoders.convolutional import ConvEncoder, ResNet18Encoder
from mmgen.encoders.foreign import ForeignEncoder
from mmgen.encoders.foreign_text import TransformersText
from mmgen.encoders.pictures import TorchvisionImage, TransformersImage
from mmgen.encoders.recurrent import RowsEncoder, TextEncoder
from mmgen.encoders.sounds import TorchaudioAudio, TransformersAudio
from mmgen.encoders.specs import Spec, Start
from mmgen.encoders.transformer import TransformerMelEncoder, TransformerTextEncoder
from mmgen.errors import ConfigError, unknown_name
from mmgen.records import Modality

ENCODERS: dict[str, type[Encoder]] = {
    "bilstm_text": TextEncoder,
    "bilstm_rows": RowsEncoder,
    "cnn_image": ConvEncoder,
    "cnn_mel": ConvEncoder,
    "resnet18_image": ResNet18Encoder,
    "transformer_mel": TransformerMelEncoder,
    "transformer_text": TransformerTextEncoder,
    "torchvision_image": TorchvisionImage,
    "torchaudio_audio": TorchaudioAudio,
    "transformers_image": TransformersImage,
    "transformers_text": TransformersText,
    "transformers_audio": TransformersAudio,
}


def make_encoder(
    spec: Spec, modality: Modality, shape: tuple[int, ...], width: int | None = 256, weights: Start | None = None
) -> Encoder:
    """The encoder of `spec` (see encoders.specs) for a slot of `modality` whose values have `shape` (see Encoder).

    width: None is a foreign trunk's own. weights: where the first tensors come from: local safetensors of torchvision's
    resnet18, or of this encoder's own tensors; of another library's, see its class. Raises ConfigError for an unknown
    kind, one that cannot read this modality, or weights that do not fit.
    """
    kind = spec if isinstance(spec, str) else str(spec["kind"])
    if kind not in ENCODERS:
        raise ConfigError(unknown_name("encoder", kind, ENCODERS))
    chosen = ENCODERS[kind]
    if modality not in chosen.modalities:
        able = [name for name, each in ENCODERS.items() if modality in each.modalities]
        raise ConfigError(unknown_name(f"encoder for {modality} slots", kind, able))
    if issubclass(chosen, ForeignEncoder):
        return _foreign(chosen, spec, shape, width, weights)
    if not isinstance(weights, str | None) or width is None:
        raise ConfigError(f"encoders: {kind} wants a width, and weights by their path; came {width} and {weights}")
    if chosen is ResNet18Encoder:
        return ResNet18Encoder(shape, width, weights)
    made = chosen(shape, width)
    if weights is not None:
        _start_from(made, kind, weights)
    return made


def _foreign(
    chosen: type[Any], spec: Spec, shape: tuple[int, ...], width: int | None, weights: Start | None
) -> Encoder:
    if isinstance(spec, str) or isinstance(weights, str):
        raise ConfigError(
            f"encoders: {spec if isinstance(spec, str) else spec['kind']} is made from its settings, not from its name "
            "alone; wanted a mapping with kind and model or source"
        )
    settings: Mapping[str, Any] = {name: value for name, value in spec.items() if name != "kind"}
    made: Encoder = chosen(shape, width, weights=weights, **settings)
    return made


def _start_from(encoder: Encoder, kind: str, path: str) -> None:
    """Load the encoder's own tensors. Raises ConfigError."""
    if not Path(path).is_file():
        raise ConfigError(f"encoders.weights: no file at {path}; wanted local safetensors, or null for random")
    try:
        encoder.load_state_dict(load_file(path))
    except (RuntimeError, SafetensorError) as error:
        raise ConfigError(
            f"encoders.weights: {path} is not a {kind} of this size: {' '.join(str(error).split())[:200]}"
        ) from error
