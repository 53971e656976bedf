"""Modality → how its bytes become tensors and come back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from torch import Tensor

from mmgen.errors import ConfigError
from mmgen.modalities.config import AudioSlot, ImageSlot, TextSlot
from mmgen.preprocess.audio import AudioPreprocess
from mmgen.preprocess.image import ImagePreprocess
from mmgen.preprocess.text import TextPreprocess, Tokenizer
from mmgen.records import Modality


class Preprocess(Protocol):
    """bytes ↔ compact tensor ↔ value, for one slot."""

    @property
    def modality(self) -> Modality: ...
    @property
    def extension(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    def compact(self, data: bytes, key: str) -> np.ndarray: ...
    def value(self, compact: Tensor) -> Tensor: ...
    def files(self, value: Tensor) -> list[bytes]: ...


PREPROCESSES: dict[Modality, type] = {
    "text": TextPreprocess,
    "image": ImagePreprocess,
    "audio": AudioPreprocess,
}


def preprocess(slot: str, config: ImageSlot | AudioSlot | TextSlot, tokenizer: Tokenizer | None) -> Preprocess:
    """The preprocessing that a slot's settings declare. Raises ConfigError for a text slot without a tokenizer."""
    declared = config.model_dump(exclude={"modality", "column"})
    if isinstance(config, TextSlot):
        if tokenizer is None:
            raise ConfigError(f"slot '{slot}': a text slot needs a tokenizer; fit one first")
        return TextPreprocess(tokenizer, config.max_tokens)
    made: Preprocess = PREPROCESSES[config.modality](**declared)
    return made


def preprocesses(
    slots: Mapping[str, ImageSlot | AudioSlot | TextSlot], tokenizer: Tokenizer | None
) -> dict[str, Preprocess]:
    """Slot → its preprocessing, in the order of the configuration."""
    return {slot: preprocess(slot, config, tokenizer) for slot, config in slots.items()}
