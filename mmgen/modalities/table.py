"""The modalities by name."""

from __future__ import annotations

from collections.abc import Mapping

from mmgen.modalities.audio import AudioMedia
from mmgen.modalities.image import ImageMedia
from mmgen.modalities.probing import Media
from mmgen.modalities.text import TextMedia
from mmgen.records import Modality

MODALITIES: Mapping[Modality, Media] = {"text": TextMedia(), "image": ImageMedia(), "audio": AudioMedia()}


def sniff(data: bytes) -> tuple[Modality, str] | None:
    """(modality, canonical extension) of what `data` is, media before text; None if it is nothing known."""
    order: tuple[Modality, ...] = ("image", "audio", "text")
    for modality in order:
        ext = MODALITIES[modality].sniff(data)
        if ext is not None:
            return modality, ext
    return None
