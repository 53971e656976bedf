"""The bytes that a plan names: of files, of what was embedded in a table, and what is made of scans and videos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from mmgen.errors import SourceError, StoreError
from mmgen.modalities.config import CheckConfig, ScanConfig
from mmgen.modalities.probing import Derived, Finding
from mmgen.modalities.scans import develop, scan_kind
from mmgen.modalities.table import MODALITIES
from mmgen.records import Modality
from mmgen.sources.clips import read_cuts
from mmgen.sources.digests import CONNECTIONS
from mmgen.sources.fetching import Patience
from mmgen.store import sha256
from mmgen.tars import safe_key
from mmgen.uris import read_uri


@dataclass(frozen=True, slots=True)
class Reading:
    """How planned rows are read: slots and their modalities, limits of the checks, how scans become pictures."""

    slots: Mapping[str, Modality]
    limits: CheckConfig
    scan: ScanConfig


def without_headers(
    rows: Sequence[Mapping[str, Any]], embedded: Mapping[str, bytes], reading: Reading
) -> tuple[Sequence[Mapping[str, Any]], Mapping[str, bytes]]:
    """A plan with pictures in place of the scans that came with it: what names a patient never reaches the store.

    Raises ConfigError without the library that reads them.
    """
    scans = {name: kind for name, data in embedded.items() if (kind := scan_kind(data)) is not None}
    if not scans:
        return rows, embedded
    made, kept = [], {name: data for name, data in embedded.items() if name not in scans}
    for row in rows:
        media = dict(row["media"])
        for slot, planned in media.items():
            name = embedded_name(row["row"], slot)
            if name in scans:
                derived = derive(embedded[name], scans[name], slot, reading)
                media[slot] = {**planned, "kind": derived.kind, "findings": [asdict(each) for each in derived.findings]}
                kept |= {name: derived.data} if derived.data else {}
        made.append({**row, "media": media})
    return made, kept


def embedded_name(row: int, slot: str) -> str:
    """Name of a slot's bytes in a plan."""
    return f"{row:09d}.{safe_key(slot)}"


def derive(data: bytes, kind: str, slot: str, reading: Reading) -> Derived:
    """What a scan gives a slot: its picture, or what is wrong with it there."""
    modality = reading.slots[slot]
    if too_large := MODALITIES[modality].refuse_size(len(data), reading.limits):
        return Derived(kind, b"", (too_large,))
    if modality == "image":
        return develop(data, kind, reading.scan, reading.limits)
    return Derived(kind, b"", (Finding("not_audio", "reject", f"wanted sound, came {kind}"),))


def read_cut(row: Mapping[str, Any], reading: Reading) -> dict[str, Derived]:
    """What a row takes of a video, by slot, read in one go. Raises SourceError if the video went away."""
    cuts = {slot: each for slot, each in row["media"].items() if "cut" in each}
    found: dict[str, Derived] = {}
    for uri in sorted({each["uri"] for each in cuts.values()}):
        mine = {slot: (reading.slots[slot], *each["cut"]) for slot, each in cuts.items() if each["uri"] == uri}
        try:
            found |= Patience()(partial(read_cuts, uri, mine, reading.limits))
        except (OSError, StoreError) as error:
            raise SourceError(f"row {row['row']}: {uri} went away while it was ingested: {error}") from error
    return found


def fetch(rows: Sequence[Mapping[str, Any]], reading: Reading, have: Mapping[str, bytes]) -> dict[str, bytes]:
    """The bytes of remote media that the plan does not have, read side by side, by embedded name."""
    wanted = [
        (name, row["row"], each)
        for row in rows for slot, each in row["media"].items()
        if each["uri"] is not None and "://" in each["uri"] and "cut" not in each and "kind" not in each
        and (name := embedded_name(row["row"], slot)) not in have
        and MODALITIES[reading.slots[slot]].refuse_size(each["size"], reading.limits) is None
    ]  # fmt: skip
    if not wanted:
        return {}
    patience = Patience()
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        found = pool.map(lambda each: patience(lambda: read(each[1], each[2])), wanted)
        return {name: data for (name, _, _), data in zip(wanted, found, strict=True)}


def read(row: int, planned: Mapping[str, Any]) -> bytes:
    """The bytes of a file or a span of one. Raises SourceError if they are gone."""
    try:
        return _read_span(planned["uri"], planned["span"], planned["size"], planned.get("named"))
    except OSError as error:
        raise SourceError(f"row {row}: {planned['uri']} went away while it was ingested: {error}; run again") from error


def checked(row: int, planned: Mapping[str, Any], data: bytes) -> str:
    """The sha256 of bytes that were read as planned. Raises SourceError if others were planned."""
    digest = sha256(data)
    if planned["sha256"] not in (None, digest):
        raise SourceError(
            f"row {row}: {planned['uri']} changed while it was ingested, or its time stamp hides a change; "
            "run again with --rehash"
        )
    return digest


def _read_span(uri: str, span: Sequence[int] | None, size: int, named: Sequence[str] | None) -> bytes:
    if span is None:
        return read_uri(uri, limit_bytes=size, named=named)
    return read_uri(uri, offset=span[0], limit_bytes=span[1], named=named)[: span[1]]
