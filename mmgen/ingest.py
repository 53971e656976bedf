"""Ingest: a source becomes a staging of checked bytes and facts, batch by batch; unchanged batches are not reread."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from mmgen.addresses import hosts_of
from mmgen.artifact import Artifact, Draft, canonical_json, fingerprint
from mmgen.config import Config
from mmgen.errors import AddressRefused, IntegrityError, SourceError, StoreError
from mmgen.forgotten import Ledger
from mmgen.identity import SCHEMA_VERSION, STEP_VERSIONS, config_part, identity
from mmgen.modalities.table import declared
from mmgen.records import MediaRef, Rejection, Sample
from mmgen.runtime import Bar, Runtime, circumstance
from mmgen.sources.digests import DigestCache, Look, take_fetches
from mmgen.sources.reading import Reading, embedded_name, without_headers
from mmgen.sources.rows import Row, with_clean_text
from mmgen.sources.table import open_source, stamp
from mmgen.sources.unnamed import NamedFiles, as_facts, unnamed
from mmgen.staging import Batch, find_batch, is_planned, stage, write_plan
from mmgen.store import sha256


def ingest(config: Config, inputs: Mapping[str, Artifact], runtime: Runtime) -> Artifact:
    """Read the source of `config` into a staging.

    facts: {"inputs", "rows", "rejected", "reasons"}; inputs = rows with facts + rows rejected as a whole.
    Raises ConfigError, SourceError for a source that is not as declared or has gone away.
    """
    lines = Ledger.read(runtime.store, config.name).lines
    with runtime.progress.bar("reading the source", None) as bar:
        # the look at the source that decided about this run has planned its batches, if nothing changed since
        look = _looked(config, runtime) or _planned(config, runtime, bar)
    fresh = [
        (name, rows) for name, rows in look.batches if find_batch(runtime.store, name, rehash=runtime.verify) is None
    ]
    slots = {name: slot.modality for name, slot in config.slots.items()}
    checks, scan = config.validate_.checks.model_dump(mode="json"), config.source.scan.model_dump(mode="json")
    work = [(runtime.store.uri, name, slots, checks, scan) for name, _ in fresh]
    with runtime.progress.bar("ingest", rows := sum(rows for _, rows in fresh)) as bar:
        runtime.map("ingest", stage, work, runtime.workers_for("ingest", rows))
        bar.advance(rows)
    return _commit(config, inputs, runtime, look, fresh=len(fresh), lines=lines)


def _looked(config: Config, runtime: Runtime) -> Look | None:
    """The last look at the source, if it stands and each of its batches is staged or planned."""
    look = _Plans(config, runtime).last_look()
    if look is None:
        return None
    store, verify = runtime.store, runtime.verify
    there = (find_batch(store, name, rehash=verify) is not None or is_planned(store, name) for name, _ in look.batches)
    return look if all(there) else None


def _planned(config: Config, runtime: Runtime, bar: Bar) -> Look:
    """A look at the source, whose batches are staged or planned from here on."""
    batches, plans = [], _Plans(config, runtime)
    for plan in plans:
        if find_batch(runtime.store, plan.name, rehash=runtime.verify) is None:
            _put(config, runtime, plan)
        batches.append((plan.name, len(plan.rows)))
        bar.advance(len(plan.rows))
    return Look("", tuple(batches), plans.beside)


def source_digest(config: Config, runtime: Runtime, *, prepare: bool = False) -> str:
    """The digest of all that the source says, in its order: what makes ingest's fingerprint.

    Files of unchanged size and change mark are not read, unless `runtime.rehash`; if no file changed at all since the
    last look, nothing is. prepare: write the plans of batches that are not staged, with what was read of remote files,
    for the ingest that follows at once.
    """
    plans = _Plans(config, runtime)
    if (look := plans.last_look()) is not None:
        return _digest(name for name, _ in look.batches)
    names = []
    for plan in plans:
        names.append(plan.name)
        if prepare and find_batch(runtime.store, plan.name) is None:
            _put(config, runtime, plan)
    return _digest(names)


def _digest(names: Iterable[str]) -> str:
    return fingerprint(batches=list(names))


@dataclass(frozen=True, slots=True)
class Pending:
    """What ingest would do. inputs: rows of the source. rows: of batches that are not staged yet, with their bytes."""

    inputs: int
    rows: int
    size_bytes: int


def pending(config: Config, runtime: Runtime) -> Pending:
    """What is new or changed in the source, by batches; a batch with one changed row is read again whole."""
    inputs, rows, size = 0, 0, 0
    for plan in _Plans(config, runtime):
        inputs += len(plan.rows)
        if find_batch(runtime.store, plan.name) is None:
            rows += len(plan.rows)
            size += plan.size_bytes
    return Pending(inputs, rows, size)


def _commit(
    config: Config, inputs: Mapping[str, Artifact], runtime: Runtime, look: Look, *, fresh: int, lines: int
) -> Artifact:
    names = [name for name, _ in look.batches]
    batches = [(name, find_batch(runtime.store, name)) for name in names]
    whole = [batch for _, batch in batches if batch is not None]
    if len(whole) != len(batches):
        lost = next(name for name, batch in batches if batch is None)
        raise IntegrityError(f"staging batch {lost[:12]} is not whole after it was written; run ingest again")
    if Ledger.read(runtime.store, config.name).lines != lines:
        raise StoreError(f"staging:{config.name}: keys were forgotten while its source was read; run ingest again")
    mine = identity("ingest", config, inputs, _digest(names))
    draft = Draft(runtime.store, "staging", config.name, mine.fingerprint)
    for batch in whole:
        for entry in batch.files:
            draft.adopt(entry)
    return draft.commit(
        step="ingest",
        config=mine.config,
        inputs={role: each.link for role, each in inputs.items()},
        facts=_count(whole),
        pin=mine.pin,
        circumstance=circumstance(
            source=config.source.path,
            batches=len(names),
            batches_read=fresh,
            fetches=take_fetches(runtime.store, config.name),
            **look.beside,
        ),
    )


def _count(batches: list[Batch]) -> dict[str, Any]:
    """Sums over all batches. Raises IntegrityError if an input is neither handed on nor rejected (law 6)."""
    inputs, rows, rejected = (sum(getattr(each, name) for each in batches) for name in ("inputs", "rows", "rejected"))
    if inputs != rows + rejected:
        raise IntegrityError(f"ingest: {inputs} inputs are not {rows} rows + {rejected} rejected")
    reasons: dict[str, int] = {}
    for each in batches:
        for reason, count in each.reasons.items():
            reasons[reason] = reasons.get(reason, 0) + count
    return {"inputs": inputs, "rows": rows, "rejected": rejected, "reasons": dict(sorted(reasons.items()))}


# ---------------------------------------------------------------- planning


@dataclass
class _Plan:
    """Rows of one batch as plain data. embedded: bytes that lie in the source's own table, by member name."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    embedded: dict[str, bytes] = field(default_factory=dict)
    size_bytes: int = 0
    name: str = ""


def _put(config: Config, runtime: Runtime, plan: _Plan) -> None:
    slots = {name: slot.modality for name, slot in config.slots.items()}
    reading = Reading(slots, config.validate_.checks, config.source.scan)
    write_plan(runtime.store, plan.name, *without_headers(plan.rows, plan.embedded, reading))


class _Plans:
    """The batches of a source, in order: iterate once."""

    def __init__(self, config: Config, runtime: Runtime) -> None:
        self._config, self._runtime = config, runtime
        # what lies beside the source, once it was read whole
        self.beside: Mapping[str, Any] = {}
        self._named_files = NamedFiles()
        self._hosts = hosts_of([config.source.path, *config.source.allow_roots])
        self._forgotten = Ledger.read(runtime.store, config.name)
        # a remote store would get the bytes, to give them back: they are fetched again where they are staged
        self._keep = runtime.store.local
        self._failures = 0
        self._refused = False
        self._identity = {
            "version": STEP_VERSIONS["ingest"], "schema": SCHEMA_VERSION, "config": config_part("ingest", config),
        }  # fmt: skip

    def last_look(self) -> Look | None:
        """What the last whole look at the source found, if all that it saw is as it was."""
        known, source_stamp = self._new_cache(), stamp(self._config.source)
        found = known.unchanged(self._stamp(source_stamp)) if source_stamp is not None else None
        known.close()
        return found

    def _new_cache(self) -> DigestCache:
        return DigestCache(self._runtime.store, self._config.name, rehash=self._runtime.rehash, named=self._hosts)

    def _stamp(self, source_stamp: str) -> str:
        source = self._config.source
        return fingerprint(
            identity=self._identity, source=source_stamp, path=source.path, allow_roots=list(source.allow_roots),
            forgotten=self._forgotten.lines,
        )  # fmt: skip

    def __iter__(self) -> Iterator[_Plan]:
        # before the first row is read: a table that changes meanwhile is looked at again
        source_stamp = stamp(self._config.source)
        with contextlib.closing(self._new_cache()) as self._cache:
            batches = []
            for plan in self._cut():
                batches.append((plan.name, len(plan.rows)))
                yield plan
            if not batches:
                raise SourceError(f"source.path: {self._config.source.path}: has no rows")
            self.beside = as_facts(unnamed(self._config.source, self._config.slots, self._source, self._named_files))
            # where a link led out, whether it still does is not known from sizes and times
            whole = source_stamp is not None and not self._refused
            look = Look(self._stamp(source_stamp), tuple(batches), self.beside) if whole and source_stamp else None
            self._cache.save(look)

    def _cut(self) -> Iterator[_Plan]:
        limits, plan = self._config.ingest, _Plan()
        for at, row in enumerate(self._rows()):
            if row.number != at:
                raise IntegrityError(f"source: row {row.number} came where row {at} was due")
            planned, embedded, size = self._plan(row)
            full = len(plan.rows) >= limits.batch_rows or plan.size_bytes + size > limits.batch_bytes
            if full and plan.rows:
                yield self._named(plan)
                plan = _Plan()
            plan.rows.append(planned)
            plan.embedded |= embedded
            plan.size_bytes += size
        if plan.rows:
            yield self._named(plan)

    def _rows(self) -> Iterator[Row]:
        """The source's rows; digests of their media are looked up ahead of them, remote ones side by side."""
        self._source = open_source(self._config.source, self._config.slots)
        rows = map(with_clean_text, self._source.rows())
        while ahead := list(itertools.islice(rows, self._config.ingest.batch_rows)):
            samples = (row.sample for row in ahead if row.sample is not None)
            refs = [ref for sample in samples for ref in sample.media.values() if ref.uri is not None]
            whole = {ref.uri for ref in refs if ref.uri and not (ref.span or ref.cut)} if self._keep else set()
            self._cache.prefetch((ref.uri for ref in refs if ref.uri is not None), whole)
            yield from ahead

    def _named(self, plan: _Plan) -> _Plan:
        # where the bytes lie is circumstance; what they are, and what is wrong with them, is identity
        rows = [{**row, "media": {slot: _what(each) for slot, each in row["media"].items()}} for row in plan.rows]
        plan.name = fingerprint(**self._identity, rows=sha256(canonical_json(rows)))
        return plan

    def _plan(self, row: Row) -> tuple[dict[str, Any], dict[str, bytes], int]:
        rejections = list(row.rejections)
        self._refused |= any(each.reason == "path_refused" for each in rejections)
        # sidecars are read where the row is made
        failed = next((each.message for each in rejections if each.reason == "file_unreadable"), "")
        sample = row.sample or Sample(row.number, rejections[0].key if rejections else "")
        for each in sample.media.values():
            if each.uri is not None:
                self._named_files.add(each.uri)
        if self._forgotten.line_of(sample.key) is not None:
            return self._blank(row.number, sample.key), {}, 0
        media: dict[str, dict[str, Any]] = {}
        embedded: dict[str, bytes] = {}
        for slot, ref in sample.media.items():
            try:
                media[slot] = self._locate(ref) | {"declared": declared(ref.written)}
            except FileNotFoundError:
                failed = f"'{ref.written}': no such file"
                rejections.append(Rejection(row.number, sample.key, "source", slot, "file_missing", "reject", failed))
            except AddressRefused as error:
                said = f"'{ref.written}': {error}"
                rejections.append(Rejection(row.number, sample.key, "source", slot, "path_refused", "reject", said))
            except (OSError, StoreError) as error:
                failed = f"'{ref.written}': {error}"
                rejections.append(
                    Rejection(row.number, sample.key, "source", slot, "file_unreadable", "reject", failed)
                )
            data = self._cache.take(ref.uri) if ref.uri is not None and ref.span is None else ref.data
            if data is not None and slot in media:
                embedded[embedded_name(row.number, slot)] = data
        self._count_failures(row.number, failed, opened=bool(media))
        planned = {
            "row": row.number, "key": sample.key, "sample": row.sample is not None, "label": sample.label,
            "group": sample.group, "split": sample.split, "meta": dict(sample.meta), "media": media,
            "texts": {slot: list(texts) for slot, texts in sample.texts.items()},
            "rejections": [asdict(each) for each in rejections],
        }  # fmt: skip
        return planned, embedded, sum(each["size"] for each in media.values())

    def _blank(self, number: int, key: str) -> dict[str, Any]:
        """A forgotten row: counted, with nothing that was in it."""
        token = self._forgotten.token(key)
        said = f"forgotten, line {self._forgotten.line_of(key)} of the ledger"
        noted = Rejection(number, token, "ingest", None, "forgotten", "reject", said)
        return {
            "row": number, "key": token, "sample": False, "label": None, "group": None, "split": None, "meta": {},
            "media": {}, "texts": {}, "rejections": [asdict(noted)],
        }  # fmt: skip

    def _locate(self, ref: MediaRef) -> dict[str, Any]:
        """Where a slot's bytes are, how many, and their digest (of the whole file, `of`, if they are a span of it)."""
        if ref.uri is None:
            data = ref.data or b""
            return {"uri": None, "span": None, "size": len(data), "sha256": sha256(data), "of": None}
        digest = self._cache.of(ref.uri)
        found: dict[str, Any] = {"uri": ref.uri, "span": None, "sha256": None, "of": digest.sha256}
        if ref.uri.startswith("http"):
            found["named"] = list(self._hosts)
        if ref.span is not None:
            return found | {"span": list(ref.span), "size": ref.span[1]}
        if ref.cut is not None:
            return found | {"size": ref.cut.size_bytes, "cut": [ref.cut.start_ms, ref.cut.end_ms]}
        return found | {"size": digest.size, "sha256": digest.sha256, "of": None}

    def _count_failures(self, row: int, failed: str, *, opened: bool) -> None:
        """A run of rows whose media cannot be opened means that the source has gone away."""
        if failed:
            self._failures += 1
        elif opened:
            self._failures = 0
        if self._failures >= self._config.ingest.max_consecutive_failures:
            raise SourceError(
                f"source: media of {self._failures} rows in a row, up to row {row}, cannot be opened (last: {failed}). "
                f"Check that the files are where {self._config.source.path} says "
                "(ingest.max_consecutive_failures sets the limit)"
            )


def _what(located: Mapping[str, Any]) -> list[Any]:
    # what its name claims is compared with its bytes, so it counts; where it lies does not
    mine = [located["sha256"], located["of"], located["span"], located["declared"]]
    return [*mine, located["cut"]] if "cut" in located else mine
