"""Samples whose slots are files of one stem (folders, WebDataset tars): from a group of parts to a row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmgen.errors import StoreError
from mmgen.modalities.config import SlotConfig
from mmgen.records import MediaRef, Modality, Rejection, Sample
from mmgen.sources.config import SourceConfig
from mmgen.sources.rows import Row, alternatives, plain, rejected, strict_json
from mmgen.tars import safe_key

MAX_SIDECAR_BYTES = 1 << 20
EXTENSIONS: Mapping[str, Modality] = {
    **dict.fromkeys(("png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff"), "image"),
    **dict.fromkeys(("dcm", "dicom", "nii", "nii.gz"), "image"),
    **dict.fromkeys(("wav", "flac", "ogg", "mp3", "aiff", "aif"), "audio"),
    **dict.fromkeys(("txt", "caption"), "text"),
    # other spellings of the same
    **dict.fromkeys(("jpe", "jfif"), "image"),
    **dict.fromkeys(("wave", "aifc", "oga", "opus"), "audio"),
    **dict.fromkeys(("text", "transcript"), "text"),
}


@dataclass(frozen=True, slots=True)
class Part:
    """One file of a sample. slot: as its name says, None where it does not. read: its first bytes, up to a limit."""

    name: str
    slot: str | None
    ext: str
    ref: MediaRef
    read: Callable[[int], bytes]
    refused: str | None = None


def split_name(name: str) -> tuple[str, str]:
    """A file's name before its extension, and the extension; `.nii.gz` is one.

    >>> split_name("brain.nii.gz")
    ('brain', 'nii.gz')
    """
    stem, _, ext = name.rpartition(".")
    before, _, inner = stem.rpartition(".")
    return (before, f"{inner}.{ext}") if f"{inner}.{ext}".lower() == "nii.gz" else (stem, ext)


class Grouping:
    """How parts become samples, for one configuration."""

    def __init__(self, config: SourceConfig, slots: Mapping[str, SlotConfig]) -> None:
        self.config, self.slots = config, slots
        own = {"text": config.text, "image": config.image, "audio": config.audio}
        self._fields = {
            slot: settings.column or own.get(slot) or slot
            for slot, settings in slots.items()
            if settings.modality == "text"
        }

    def slot_of(self, part: Part) -> str | None:
        """The slot that a part fills: the one it names, else its modality's own, else the only one of its modality."""
        modality = EXTENSIONS.get(part.ext)
        mine = [slot for slot, settings in self.slots.items() if settings.modality == modality]
        if part.slot is not None:
            return part.slot if part.slot in mine else None
        return modality if modality in mine else (mine[0] if len(mine) == 1 else None)

    def useful(self, part: Part) -> bool:
        """Whether the part says something of a sample; others (a README) are no inputs."""
        return part.ext == "json" or self.slot_of(part) is not None

    def row(self, number: int, stem: str, parts: Sequence[Part]) -> Row:
        """The row of a group of parts."""
        sidecars = [part for part in parts if part.ext == "json"]
        if sidecars and sidecars[0].refused is not None:
            return rejected(number, stem, "path_refused", f"'{sidecars[0].name}': {sidecars[0].refused}")
        try:
            said = _object(sidecars[0].read(MAX_SIDECAR_BYTES)) if sidecars else {}
        except (ValueError, RecursionError) as error:
            return rejected(number, stem, "malformed_sidecar", f"{sidecars[0].name}: wanted a JSON object: {error}")
        except (OSError, StoreError) as error:
            return rejected(number, stem, "file_unreadable", f"{sidecars[0].name}: {error}")
        key = self._key(stem, said)
        if not key:
            return rejected(number, stem, "missing_key", f"{stem}.json: field '{self.config.key}' is empty")
        texts, media, rejections = self._texts(said), dict[str, MediaRef](), list[Rejection]()
        filled: dict[str, str] = {}
        for part in parts:
            slot = self.slot_of(part)
            if slot is None:
                continue
            problem = self._fill(slot, part, filled, texts, media)
            if problem is not None:
                rejections.append(Rejection(number, key, "source", slot, *problem))
        mine = self.config
        meta = said.get("meta") if isinstance(said.get("meta"), Mapping) else {}
        fields = {name: plain(said.get(name)) for name in self._meta_names(said)}
        fields |= {str(name): plain(value) for name, value in dict(meta or {}).items()}
        fields |= {"language": plain(said.get(mine.language))} if mine.language else {}
        sample = Sample(
            number, key, texts, media,
            label=plain(said.get(mine.label or "label")).strip() or _class_of(parts),
            group=plain(said.get(mine.group or "group")).strip() or None,
            split=plain(said.get(mine.split)).strip() or None if mine.split else None,
            meta={name: value for name, value in fields.items() if value},
        )  # fmt: skip
        return Row(number, sample, tuple(rejections))

    def _meta_names(self, said: Mapping[str, Any]) -> Sequence[str]:
        """Fields of the JSON beside a sample that are metadata."""
        mine = self.config
        if mine.meta != "*":
            return mine.meta
        used = {mine.key, mine.label or "label", mine.group or "group", mine.split, mine.language}
        used |= {"key", "texts", "meta"}
        for fields in self._fields.values():
            used |= {fields} if isinstance(fields, str) else set(fields)
        return [name for name in said if name not in used]

    def _fill(
        self,
        slot: str,
        part: Part,
        filled: dict[str, str],
        texts: dict[str, tuple[str, ...]],
        media: dict[str, MediaRef],
    ) -> tuple[str, Any, str] | None:
        """Put a part into its slot; (reason, severity, message) if it does not go."""
        if slot in filled:
            media.pop(slot, None)
            return "ambiguous_slot", "reject", f"both {filled[slot]} and {part.name} are there"
        filled[slot] = part.name
        if part.refused is not None:
            return "path_refused", "reject", f"'{part.name}': {part.refused}"
        if self.slots[slot].modality != "text":
            media[slot] = part.ref
            return None
        try:
            data = part.read(MAX_SIDECAR_BYTES)
            if len(data) > MAX_SIDECAR_BYTES:
                return "too_long", "reject", f"{part.name}: wanted at most {MAX_SIDECAR_BYTES} bytes of text"
            text = data.decode("utf-8-sig").strip("\r\n")
        except UnicodeDecodeError as error:
            return "not_utf8", "reject", f"{part.name}: {error}"
        except (OSError, StoreError) as error:
            return "file_unreadable", "reject", f"{part.name}: {error}"
        # the JSON beside it has all alternatives, of which the text file is one
        if text and slot not in texts:
            texts[slot] = (text,)
        return None

    def _key(self, stem: str, said: Mapping[str, Any]) -> str:
        if self.config.key is not None:
            return plain(said.get(self.config.key))
        own = said.get("key")
        # our own shards escape the key in their members' names, and say it in full inside
        return own if isinstance(own, str) and safe_key(own) == stem else stem

    def _texts(self, said: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
        own = said.get("texts")
        texts = {}
        for slot, fields in self._fields.items():
            found = alternatives(own.get(slot)) if isinstance(own, Mapping) else []
            for name in (fields,) if isinstance(fields, str) else fields:
                found = found or alternatives(said.get(name))
            if found:
                texts[slot] = tuple(found)
        return texts


def _class_of(parts: Sequence[Part]) -> str | None:
    """What a `.cls` beside the sample says: WebDataset's way to write a label."""
    said = next((part for part in parts if part.ext == "cls" and part.slot is None), None)
    return said.read(MAX_SIDECAR_BYTES).decode("utf-8-sig", "replace").strip() or None if said else None


def _object(data: bytes) -> dict[str, Any]:
    value = strict_json(data.decode("utf-8-sig"))
    if not isinstance(value, dict):
        raise ValueError(f"came {type(value).__name__}")
    return value
