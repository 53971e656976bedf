"""The modalities by name."""

from __future__ import annotations

from collections.abc import Mapping

from mmgen.modalities.audio import AudioMedia
from mmgen.modalities.config import CheckConfig
from mmgen.modalities.image import ImageMedia
from mmgen.modalities.probing import Finding, Media, Probe
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


_SPELLINGS = {
    "jpeg": "jpg", "jpe": "jpg", "jfif": "jpg", "tiff": "tif", "wave": "wav", "aif": "aiff", "aifc": "aiff",
    "oga": "ogg", "opus": "ogg",
}  # fmt: skip


def declared(name: str) -> str | None:
    """The canonical extension that a file's name claims; None if it claims none that is known.

    >>> declared("photos/Cat.JPEG")
    'jpg'
    """
    suffix = name.rpartition("/")[2].rpartition(".")[2].lower()
    known = _SPELLINGS.get(suffix, suffix)
    return known if any(known in media.extensions for media in MODALITIES.values()) and "." in name else None


def mismatch(claimed: str | None, probe: Probe, limits: CheckConfig) -> list[Finding]:
    """That bytes are of another type than their name claims; they are judged, and named, by what they are."""
    severity = limits.severity.get("type_mismatch", "flag")
    if claimed is None or probe.ext is None or claimed == probe.ext or severity == "off":
        return []
    return [Finding("type_mismatch", severity, f"its name says {claimed}, its bytes are {probe.ext}")]
