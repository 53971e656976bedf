"""Encoders by name."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from mmgen.encoders.base import Encoder
from mmgen.encoders.convolutional import ConvEncoder, ResNet18Encoder
from mmgen.encoders.recurrent import RowsEncoder, TextEncoder
from mmgen.encoders.transformer import TransformerTextEncoder
from mmgen.errors import ConfigError, unknown_name
from mmgen.records import Modality

ENCODERS: dict[str, type[Encoder]] = {
    "bilstm_text": TextEncoder,
    "bilstm_rows": RowsEncoder,
    "cnn_image": ConvEncoder,
    "cnn_mel": ConvEncoder,
    "resnet18_image": ResNet18Encoder,
    "transformer_text": TransformerTextEncoder,
}


def make_encoder(
    kind: str, modality: Modality, shape: tuple[int, ...], width: int = 256, weights: str | None = None
) -> Encoder:
    """The encoder `kind` for a slot of `modality` whose values have `shape` (see Encoder).

    weights: local safetensors of torchvision's resnet18, or of this encoder's own tensors. Raises ConfigError for an
    unknown kind, one that cannot read this modality, or weights that do not fit.
    """
    if kind not in ENCODERS:
        raise ConfigError(unknown_name("encoder", kind, ENCODERS))
    chosen = ENCODERS[kind]
    if modality not in chosen.modalities:
        able = [name for name, each in ENCODERS.items() if modality in each.modalities]
        raise ConfigError(unknown_name(f"encoder for {modality} slots", kind, able))
    if chosen is ResNet18Encoder:
        return ResNet18Encoder(shape, width, weights)
    made = chosen(shape, width)
    if weights is not None:
        _start_from(made, kind, weights)
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
