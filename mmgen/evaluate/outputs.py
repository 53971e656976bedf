"""A directory of made samples, whoever made them, as values beside an exam.

How files are named says what they are: `<key>.<ext>` or `<key>.<slot>.<ext>` as in a shard (keys written as there),
`<key>-<slot>.<ext>`, `<key>-<sample>-<slot>.<ext>`; and `<condition>-<sample>-<slot>.<ext>` with three digits or more
for each number, as `mmgen generate` writes them, whose condition nobody knows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mmgen.codec_set import CodecSet
from mmgen.errors import SourceError, UnknownReference
from mmgen.evaluate import measure
from mmgen.evaluate.exam import Exam
from mmgen.evaluate.measure import Made
from mmgen.evaluate.scorer import Scorer
from mmgen.evaluate.scores import Score
from mmgen.modalities.table import MODALITIES
from mmgen.records import Modality
from mmgen.tars import safe_key

_NUMBERED = re.compile(r"(?P<group>\d{3,}-\d{3,})-(?P<slot>\w+)")
_SAMPLE = re.compile(r"(?P<key>.+)-\d+-(?P<slot>\w+)")
_KEYED = re.compile(r"(?P<key>.+)[-.](?P<slot>\w+)")
#: why a file is not judged
NO_MEDIA, NO_SLOT, NO_KEY = "no text, image or sound by its name", "no slot of this name and modality", "no such key"
UNREADABLE, REPEATED = "unreadable", "a second file of one sample's slot"


@dataclass(frozen=True, slots=True)
class Place:
    """What a name says. group: of the files of one sample. row: in the exam, -1 where the condition is not known."""

    group: str
    slot: str
    row: int


@dataclass
class Outputs:
    """names: slot → files (N,). values: slot → (N, …). places: slot → what names said. unmatched: reason → files."""

    files: int = 0
    names: dict[str, list[Path]] = field(default_factory=dict)
    values: dict[str, Tensor] = field(default_factory=dict)
    places: dict[str, list[Place]] = field(default_factory=dict)
    unmatched: dict[str, list[str]] = field(default_factory=dict)

    @property
    def matched(self) -> int:
        """Files that are judged: files = matched + unmatched."""
        return sum(map(len, self.places.values()))

    def rows(self, slot: str) -> Tensor:
        """Rows of the exam (N,)."""
        return torch.tensor([place.row for place in self.places[slot]], dtype=torch.long)


def read_outputs(folder: Path, exam: Exam, codecs: CodecSet) -> Outputs:
    """All files below a folder. Raises UnknownReference if none of them can be judged."""
    found, compact = Outputs(), dict[str, list[np.ndarray]]()
    rows = {safe_key(key): row for row, key in enumerate(exam.real.keys)}
    modalities = {slot: codecs.modality(slot) for slot in codecs.slots}
    seen: set[tuple[str, str]] = set()
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        found.files += 1
        place = named(path.name, rows, modalities)
        if not isinstance(place, str) and (place.group, place.slot) in seen:
            place = REPEATED
        if not isinstance(place, str):
            how = codecs.preprocesses[place.slot]
            try:
                compact.setdefault(place.slot, []).append(how.compact(path.read_bytes(), path.name))
            except SourceError:
                place = UNREADABLE
        if isinstance(place, str):
            found.unmatched.setdefault(place, []).append(str(path.relative_to(folder)))
            continue
        seen.add((place.group, place.slot))
        found.names.setdefault(place.slot, []).append(path)
        found.places.setdefault(place.slot, []).append(place)
    if not found.places:
        raise UnknownReference(_nothing(folder, found, exam, codecs))
    for slot in found.places:
        value = codecs.preprocesses[slot].value(torch.from_numpy(np.stack(compact[slot])))
        found.values[slot] = value.to(exam.real.labels_B.device)
    return found


def _nothing(folder: Path, found: Outputs, exam: Exam, codecs: CodecSet) -> str:
    slot = next(iter(codecs.slots))
    ending = codecs.preprocesses[slot].extension
    why = "; ".join(f"{len(names)} × {reason} ({names[0]})" for reason, names in sorted(found.unmatched.items()))
    return (
        f"{folder}: wanted files such as 000-000-{slot}.{ending} or {safe_key(exam.real.keys[0])}.{slot}.{ending}, "
        f"came {found.files} files of which none fits" + (f": {why}" if why else "")
    )


def named(name: str, rows: Mapping[str, int], modalities: Mapping[str, Modality]) -> Place | str:
    """What a file's name says, or why it says nothing. rows: safe key → row; modalities: slot → its modality."""
    stem, _, ending = name.rpartition(".")
    modality = next((each for each, media in MODALITIES.items() if ending.lower() in media.extensions), None)
    if modality is None or not stem:
        return NO_MEDIA
    mine = [slot for slot, each in modalities.items() if each == modality]
    if stem in rows:
        # the slot of the modality's name, as in a shard; or the only one
        slot = modality if modality in mine else mine[0] if len(mine) == 1 else None
        return Place(stem, slot, rows[stem]) if slot else NO_SLOT
    if (match := _NUMBERED.fullmatch(stem)) and match["slot"] in mine:
        return Place(match["group"], match["slot"], -1)
    said = [match for pattern in (_SAMPLE, _KEYED) if (match := pattern.fullmatch(stem))]
    for match in said:
        if match["slot"] in mine and match["key"] in rows:
            return Place(stem.removesuffix(match["slot"])[:-1], match["slot"], rows[match["key"]])
    return NO_KEY if not said or any(match["slot"] in mine for match in said) else NO_SLOT


def score_outputs(outputs: Outputs, scorer: Scorer) -> list[Score]:
    """All rows: what is said of the real samples, then each slot of the directory, then whether its slots agree."""
    rows = scorer.ceilings()
    features: dict[str, Tensor] = {}
    for slot, value in outputs.values.items():
        seen = scorer.features.of(slot, value)
        if seen is not None:
            features[slot] = seen
        asked = outputs.rows(slot).to(value.device)
        rows += scorer.made(Made("", slot, asked, value), seen)
    return _agreement(outputs, scorer, features) + rows


def _agreement(outputs: Outputs, scorer: Scorer, features: Mapping[str, Tensor]) -> list[Score]:
    """Whether the judges name one class for the slots of a sample, of the samples that have all slots."""
    at = {slot: {place.group: n for n, place in enumerate(outputs.places[slot])} for slot in features}
    if len(at) < 2:
        return []
    whole = sorted(set.intersection(*({*groups} for groups in at.values())))
    if not whole:
        return []
    return measure.joint_coherence(
        scorer.panel, {slot: features[slot][[at[slot][group] for group in whole]] for slot in features}
    )
