"""Staging: batches of rows as tars of source bytes, tables of facts, tables of rejections.

A batch is named by the digest of all it was made from, and shared by every staging that has the same rows:
`staging/batches/<digest>.tar`, `.tar.idx`, `.parquet` (facts), `.rejections.parquet`, and `.json`, which commits it.
"""

from __future__ import annotations

import bisect
import io
import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import polars as pl

from mmgen.artifact import Artifact, FileEntry
from mmgen.errors import IntegrityError
from mmgen.modalities.config import CheckConfig, ScanConfig
from mmgen.modalities.probing import Derived, Finding, Probe
from mmgen.modalities.scans import scan_kind
from mmgen.modalities.table import MODALITIES, mismatch
from mmgen.records import Modality, Rejection
from mmgen.runtime import keep_freed_memory
from mmgen.sources.reading import Reading, checked, derive, embedded_name, fetch, read, read_cut
from mmgen.store import Store, sha256
from mmgen.tars import TarIndex, TarReader, TarWriter, pack, safe_key

FOLDER = "staging/batches"
#: tars of a staging that are open at once, with their indexes
OPEN_TARS = 64
REJECTIONS: dict[str, Any] = {
    "row": pl.Int64, "key": pl.String, "stage": pl.String, "slot": pl.String,
    "reason": pl.String, "severity": pl.String, "message": pl.String,
}  # fmt: skip
_TYPES: dict[type, Any] = {int: pl.Int64, float: pl.Float64, str: pl.String}


@dataclass(frozen=True, slots=True)
class Batch:
    """A committed batch. inputs = rows (with facts) + rejected (as a whole); reasons: reason → findings."""

    inputs: int
    rows: int
    rejected: int
    reasons: Mapping[str, int]
    files: tuple[FileEntry, ...]


def member_name(row: int, slot: str, ext: str) -> str:
    """Name of a slot's bytes in a staging tar."""
    return f"{row:09d}.{safe_key(slot)}.{ext}"


def facts_columns(slots: Mapping[str, Modality]) -> dict[str, Any]:
    """Names and types of the facts table; see data_schemas/facts.py for their meaning."""
    columns: dict[str, Any] = {"row": pl.Int64}
    columns |= dict.fromkeys(("key", "label", "group", "split", "meta", "texts"), pl.String)
    for slot, modality in slots.items():
        own = {"present": pl.Boolean, "sha256": pl.String, "bytes": pl.Int64, "ext": pl.String}
        own |= {name: _TYPES[kind] for name, kind in MODALITIES[modality].facts.items()}
        columns |= {f"{slot}.{name}": kind for name, kind in own.items()}
    return columns


# ---------------------------------------------------------------- reading


def find_batch(store: Store, name: str, *, rehash: bool = False) -> Batch | None:
    """The committed batch of this name whose files are there with their recorded sizes (and bytes, if `rehash`)."""
    path = f"{FOLDER}/{name}.json"
    try:
        data = store.read(path)
        raw = json.loads(data)
        files = tuple(FileEntry(**entry) for entry in raw["files"])
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        # one that cannot be read is made again
        return None
    for entry in files:
        if store.size(entry.path) != entry.size or (rehash and sha256(store.read(entry.path)) != entry.sha256):
            return None
    # the committing file is named in manifests too: what no manifest names is garbage
    own = FileEntry(path, len(data), sha256(data), "batch", {"first_row": files[0].facts["first_row"]})
    return Batch(**{**raw, "files": (*files, own)})


def read_facts(store: Store, staging: Artifact) -> pl.DataFrame:
    """The facts of all rows of a staging, in row order."""
    return pl.concat([pl.read_parquet(store.local_path(entry.path)) for entry in staging.by_role("facts")])


def each_batch(store: Store, staging: Artifact) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    """(facts, rejections) of batch after batch, in row order."""
    for facts, rejections in zip(staging.by_role("facts"), staging.by_role("rejections"), strict=True):
        yield pl.read_parquet(store.local_path(facts.path)), pl.read_parquet(store.local_path(rejections.path))


class StagedMedia:
    """Random access to the bytes of a staging, by row and slot. Few of its tars are open at once."""

    def __init__(self, store: Store, staging: Artifact) -> None:
        self._store = store
        tars = staging.by_role("tar")
        self._firsts, self._paths = [int(entry.facts["first_row"]) for entry in tars], [entry.path for entry in tars]
        self._readers: OrderedDict[str, TarReader] = OrderedDict()

    def read(self, row: int, slot: str, ext: str) -> bytes:
        """The source's bytes of a slot. Raises KeyError if it was not staged, IntegrityError if they changed."""
        path = self._paths[bisect.bisect_right(self._firsts, row) - 1]
        if path not in self._readers:
            if len(self._readers) >= OPEN_TARS:
                self._readers.popitem(last=False)[1].close()
            try:
                index = TarIndex.from_bytes(self._store.read(f"{path}.idx"), f"{path}.idx")
                self._readers[path] = TarReader(self._store.local_path(path), index)
            except FileNotFoundError as error:
                raise IntegrityError(f"{path}: it or its index is gone (purged, perhaps); run ingest again") from error
        self._readers.move_to_end(path)
        return self._readers[path].read(member_name(row, slot, ext))

    def close(self) -> None:
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()

    def __enter__(self) -> StagedMedia:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


# ---------------------------------------------------------------- planning


def write_plan(store: Store, name: str, rows: Sequence[Mapping[str, Any]], embedded: Mapping[str, bytes]) -> None:
    """Put what `stage` needs of a batch: its rows as JSON, and the bytes that lie in the source's own table."""
    data, _ = pack({**embedded, "rows.json": json.dumps(rows, ensure_ascii=False).encode()})
    store.write(f"{FOLDER}/{name}.plan.tar", data)


def is_planned(store: Store, name: str) -> bool:
    """Whether the plan of this batch is there."""
    return store.exists(f"{FOLDER}/{name}.plan.tar")


def _read_plan(store: Store, name: str) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    import tarfile

    path = f"{FOLDER}/{name}.plan.tar"
    data = store.read(path)
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            members = {info.name: stream.read() for info in tar if (stream := tar.extractfile(info)) is not None}
        return json.loads(members.pop("rows.json")), members
    except (tarfile.TarError, OSError, EOFError, KeyError, ValueError) as error:
        store.delete(path)
        raise IntegrityError(f"{path}: not a whole plan, it was deleted; run ingest again") from error


# ---------------------------------------------------------------- staging


def stage(
    store_uri: str, name: str, slots: Mapping[str, Modality], checks: Mapping[str, Any], scan: Mapping[str, Any]
) -> None:
    """Stage the planned batch of this name: read, check and measure every slot, write, commit.

    Plain values only, so that it runs in another process or on another machine. Raises SourceError if a file
    changed since it was planned.
    """
    keep_freed_memory()
    store = Store(store_uri)
    reading = Reading(slots, CheckConfig.model_validate(checks), ScanConfig.model_validate(scan))
    try:
        rows, embedded = _read_plan(store, name)
    except FileNotFoundError:
        # a task that is done again, or two runs of the same source: the first one that finished took the plan away
        if find_batch(store, name) is None:
            raise IntegrityError(f"staging batch {name[:12]}: neither its plan nor its files are there") from None
        return
    embedded |= fetch(rows, reading, embedded)
    with store.pieces(FOLDER) as tar:
        stager = _Stager(reading, embedded, TarWriter(tar))
        for row in rows:
            stager.add(row)
        index = stager.tar.close()
        tar.commit(f"{FOLDER}/{name}.tar")
    _commit(store, name, stager, index, rows)
    store.delete(f"{FOLDER}/{name}.plan.tar")


class _Found(NamedTuple):
    """A slot's bytes, their digest, and what was found in them."""

    data: bytes
    sha256: str
    probe: Probe


class _Stager:
    """Writes the tar of one batch as its rows come, and collects their facts and rejections."""

    def __init__(self, reading: Reading, embedded: Mapping[str, bytes], tar: TarWriter) -> None:
        self.reading, self.slots, self.limits = reading, reading.slots, reading.limits
        self.embedded, self.tar = embedded, tar
        self.facts: list[dict[str, Any]] = []
        self.rejections: list[Rejection] = []

    def add(self, row: Mapping[str, Any]) -> None:
        """Stage a planned row: its good slots, or nothing if none is left."""
        number, key = row["row"], row["key"]
        mine = [Rejection(**each) for each in row["rejections"]]
        if not row["sample"]:
            self.rejections += mine
            return
        texts = {slot: self._text(slot, row, mine) for slot in self.slots if slot in row["texts"]}
        texts = {slot: good for slot, good in texts.items() if good}
        found: dict[str, _Found] = {}
        clip = read_cut(row, self.reading)
        for slot, modality in self.slots.items():
            if slot in texts:
                data = MODALITIES[modality].encode(texts[slot][0])
                found[slot] = _Found(data, sha256(data), MODALITIES[modality].probe(data, self.limits))
            elif slot in row["media"]:
                media = self._media(slot, modality, row, clip.get(slot))
                mine += _rejections(number, key, slot, media.probe)
                if media.data and not media.probe.rejected:
                    found[slot] = media
        if not found:
            message = "no slot is left" if mine else f"none of {', '.join(self.slots)} is there"
            mine.append(Rejection(number, key, "ingest", None, "no_slots", "reject", message))
        else:
            self._keep(row, texts, found)
        self.rejections += mine

    def _keep(self, row: Mapping[str, Any], texts: Mapping[str, list[str]], found: Mapping[str, _Found]) -> None:
        facts = {name: row[name] for name in ("row", "key", "label", "group", "split")}
        facts |= {"meta": _json(row["meta"]), "texts": _json(texts)}
        facts |= {f"{slot}.present": slot in found for slot in self.slots}
        for slot, (data, digest, probe) in found.items():
            own = {"sha256": digest, "bytes": len(data), "ext": probe.ext, **probe.facts}
            facts |= {f"{slot}.{name}": value for name, value in own.items()}
        self.facts.append(facts)
        names = {member_name(row["row"], slot, str(each.probe.ext)): each for slot, each in found.items()}
        for name, each in sorted(names.items()):
            self.tar.add(name, each.data, each.sha256)

    def _text(self, slot: str, row: Mapping[str, Any], mine: list[Rejection]) -> list[str]:
        """The good alternatives. A bad one among good ones is only noted."""
        probes = [(text, self._probe_text(text)) for text in row["texts"][slot]]
        good = [text for text, probe in probes if not probe.rejected]
        for each in (each for _, probe in probes for each in _rejections(row["row"], row["key"], slot, probe)):
            if good and each.severity == "reject":
                each = replace(each, severity="flag", message=f"alternative left out: {each.message}")
            mine.append(each)
        return good

    def _probe_text(self, text: str) -> Probe:
        return MODALITIES["text"].probe(text.encode("utf-8", "surrogatepass"), self.limits)

    def _media(self, slot: str, modality: Modality, row: Mapping[str, Any], derived: Derived | None) -> _Found:
        """The bytes of a slot, empty if they are rejected or not there. derived: what was taken of a video.

        Raises SourceError if the bytes are gone or others than planned.
        """
        planned, digest = row["media"][slot], ""
        data = self.embedded.get(embedded_name(row["row"], slot))
        if "kind" in planned:
            derived = Derived(planned["kind"], data or b"", tuple(Finding(**each) for each in planned["findings"]))
        elif derived is None:
            if too_large := MODALITIES[modality].refuse_size(planned["size"], self.limits):
                # refused by its size alone: it need not fit into memory
                return _Found(b"", "", Probe(None, {}, (too_large,)))
            data = read(row["row"], planned) if data is None else data
            digest = checked(row["row"], planned, data)
            if (kind := scan_kind(data)) is not None:
                derived = derive(data, kind, slot, self.reading)
        if derived is None:
            return _Found(data or b"", digest, self._probe(modality, data or b"", planned["declared"]))
        if not derived.data:
            return _Found(b"", "", Probe(None, {}, derived.findings))
        probe = self._probe(modality, derived.data, planned["declared"], derived.kind)
        made = replace(probe, findings=(*derived.findings, *probe.findings))
        return _Found(derived.data, sha256(derived.data), made)

    def _probe(self, modality: Modality, data: bytes, declared: str | None, kind: str | None = None) -> Probe:
        """kind: what the file is that the bytes were made of, if they are not the file's own."""
        probe = MODALITIES[modality].probe(data, self.limits)
        if probe.rejected:
            return probe
        found = mismatch(declared, replace(probe, ext=kind) if kind else probe, self.limits)
        return replace(probe, findings=(*probe.findings, *found)) if found else probe


def _rejections(row: int, key: str, slot: str, probe: Probe) -> list[Rejection]:
    return [Rejection(row, key, "ingest", slot, each.reason, each.severity, each.message) for each in probe.findings]


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _commit(store: Store, name: str, stager: _Stager, index: TarIndex, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write what stands beside the batch's tar, then the file that commits them."""
    facts = pl.DataFrame(stager.facts, schema=facts_columns(stager.slots))
    rejections = pl.DataFrame([asdict(each) for each in stager.rejections], schema=REJECTIONS)
    rejected = len({each["row"] for each in rows} - set(facts["row"]))
    reasons: dict[str, int] = {}
    for each in stager.rejections:
        reasons[each.reason] = reasons.get(each.reason, 0) + 1
    first = {"first_row": rows[0]["row"]}
    files = [
        FileEntry(f"{FOLDER}/{name}.tar", index.length, index.sha256, "tar", first),
        _put(store, f"{name}.tar.idx", index.to_bytes(), "index", first),
        _put(store, f"{name}.parquet", _parquet(facts), "facts", {**first, "rows": len(facts)}),
        _put(
            store, f"{name}.rejections.parquet", _parquet(rejections), "rejections", {**first, "rows": len(rejections)}
        ),
    ]
    batch = Batch(len(rows), len(facts), rejected, dict(sorted(reasons.items())), tuple(files))
    store.write(f"{FOLDER}/{name}.json", json.dumps(asdict(batch), sort_keys=True).encode())


def _put(store: Store, name: str, data: bytes, role: str, facts: Mapping[str, Any]) -> FileEntry:
    path = f"{FOLDER}/{name}"
    store.write(path, data)
    return FileEntry(path, len(data), sha256(data), role, facts)


def _parquet(table: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    table.write_parquet(buffer)
    return buffer.getvalue()
