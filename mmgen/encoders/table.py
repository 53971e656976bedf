"""Encoders by name."""

from __future__ import annotations

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

    Raises ConfigError for an unknown kind, one that cannot read this modality, or weights where it takes none.
    """
    if kind not in ENCODERS:
        raise ConfigError(unknown_name("encoder", kind, ENCODERS))
    chosen = ENCODERS[kind]
    if modality not in chosen.modalities:
        able = [name for name, each in ENCODERS.items() if modality in each.modalities]
        raise ConfigError(unknown_name(f"encoder for {modality} slots", kind, able))
    if chosen is ResNet18Encoder:
        return ResNet18Encoder(shape, width, weights)
    if weights is not None:
        raise ConfigError(f"encoders.weights: '{kind}' starts at random; only resnet18_image takes a file")
    return chosen(shape, width)
