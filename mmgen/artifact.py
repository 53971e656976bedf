"""Artifacts: what a step commits. A reference, a fingerprint, a manifest, its files, its lineage.

A manifest is put create-only after all its files: what has no manifest does not exist (law 4).
The fingerprint holds identity only; machine, time, commit and library versions are `circumstance` (law 3).
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from mmgen.errors import ConfigError, IntegrityError, StoreError, UnknownReference, unknown_name
from mmgen.store import Store, sha256, sha256_stream

FORMAT = 1
READABLE_FORMATS = (1,)

Kind = Literal[
    "staging", "pairs", "verdicts", "dataset", "codecs", "features", "model", "judges", "evalset", "scores", "promotion"
]
KINDS: tuple[Kind, ...] = get_args(Kind)
#: roles of inputs that are recorded but are no part of what an artifact is, as `base` is none (law 5)
ADVICE = frozenset({"pair_scores"})

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_REFERENCE = re.compile(r"(?:(?P<kind>[a-z]+):)?(?P<name>[^@:/]+)(?:@(?P<at>[A-Za-z0-9._-]+))?")


def check_name(name: str) -> str:
    """`name` if it can name an artifact (lower case, digits, '.', '_', '-'; at most 63). Raises ConfigError."""
    if not _NAME.fullmatch(name):
        raise ConfigError(f"wanted lower-case letters, digits, '.', '_' or '-' (at most 63), came '{name}'")
    return name


def canonical_json(value: Any) -> bytes:
    """The one JSON spelling of `value`: sorted keys, no spaces, UTF-8. Raises ValueError for NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def fingerprint(**identity: Any) -> str:
    """sha256 over the canonical JSON of what makes a result what it is. Never paths, devices, workers, time."""
    return hashlib.sha256(canonical_json(identity)).hexdigest()


@dataclass(frozen=True, slots=True)
class Reference:
    """`[kind:]name[@version|@alias]`; an alias names a model that was promoted."""

    name: str
    kind: Kind | None = None
    version: int | None = None
    alias: str | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read a reference. Raises UnknownReference for what does not fit the grammar."""
        match = _REFERENCE.fullmatch(text)
        if not match:
            raise UnknownReference(f"reference '{text}': wanted [kind:]name[@version|@alias]")
        kind = match["kind"]
        if kind is not None and kind not in KINDS:
            raise UnknownReference(unknown_name("kind", kind, KINDS))
        at = match["at"]
        version = int(at) if at and at.isdigit() else None
        return cls(match["name"], kind, version, at if version is None else None)

    def __str__(self) -> str:
        at = self.version if self.version is not None else self.alias
        return (f"{self.kind}:" if self.kind else "") + self.name + (f"@{at}" if at is not None else "")


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file that a manifest names. path: relative to the store. role: what it is to the artifact ("shard"…)."""

    path: str
    size: int
    sha256: str
    role: str
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Link:
    """An input of an artifact: its reference and its fingerprint."""

    ref: str
    fingerprint: str


@dataclass(frozen=True)
class Artifact:
    """A committed result of a step.

    pin: the fingerprint without the data; a fitted artifact of the same pin may be kept for new data (law 15).
    facts: a small JSON summary that later steps and people read (counts, scores, settings).
    passed: what the gate said; True where there is none.
    """

    kind: Kind
    name: str
    version: int
    fingerprint: str
    pin: str
    step: str
    config: Mapping[str, Any]
    inputs: Mapping[str, Link]
    files: tuple[FileEntry, ...]
    facts: Mapping[str, Any]
    passed: bool = True
    circumstance: Mapping[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def ref(self) -> str:
        """`kind:name@version`."""
        return f"{self.kind}:{self.name}@{self.version}"

    @property
    def folder(self) -> str:
        """The version's own folder, relative to the store."""
        return version_folder(self.kind, self.name, self.version, self.fingerprint)

    @property
    def manifest(self) -> str:
        """Where its manifest lies, relative to the store."""
        return f"{self.folder}.json" if self.kind == "promotion" else f"{self.folder}/{manifest_name(self.kind)}"

    @property
    def link(self) -> Link:
        return Link(self.ref, self.fingerprint)

    def by_role(self, role: str) -> tuple[FileEntry, ...]:
        """Its files of one role, in manifest order."""
        return tuple(entry for entry in self.files if entry.role == role)

    def file(self, role: str) -> FileEntry:
        """Its only file of `role`. Raises IntegrityError if there is not exactly one."""
        found = self.by_role(role)
        if len(found) != 1:
            raise IntegrityError(f"{self.ref}: wanted one file of role '{role}', its manifest names {len(found)}")
        return found[0]

    def to_json(self) -> bytes:
        return json.dumps(
            dataclasses.asdict(self), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False
        ).encode()

    @classmethod
    def from_json(cls, data: bytes, where: str) -> Artifact:
        """Read a manifest. Raises IntegrityError if it is not one that this version reads."""
        try:
            raw = json.loads(data)
            if raw.get("format") not in READABLE_FORMATS:
                raise IntegrityError(
                    f"{where}: manifest format {raw.get('format')}, this mmgen reads {READABLE_FORMATS}"
                )
            raw["files"] = tuple(FileEntry(**entry) for entry in raw["files"])
            raw["inputs"] = {role: Link(**link) for role, link in raw["inputs"].items()}
            return cls(**raw)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            said = f"{where}: not a manifest: {error}"
            raise IntegrityError(f"{said}; restore it, or remove it with its version") from error


# ---------------------------------------------------------------- where things lie


def kind_folder(kind: Kind, name: str) -> str:
    """The folder that holds the versions of `name`, relative to the store."""
    match kind:
        case "staging":
            return "staging"
        case "evalset" | "promotion":
            return f"{kind}s/{name}"
        case "dataset" | "verdicts":
            return f"datasets/{name}/versions"
        case "model":
            return f"models/{name}/versions"
        case "pairs" | "codecs" | "features" | "judges" | "scores":
            return f"{kind}/{name}/versions"


def version_folder(kind: Kind, name: str, version: int, fingerprint: str) -> str:
    """The folder of one version. A staging is found by its fingerprint, everything else by its number."""
    return f"staging/{fingerprint[:16]}" if kind == "staging" else f"{kind_folder(kind, name)}/{version}"


def manifest_name(kind: Kind) -> str:
    """Verdicts share their folder with the dataset version that they allot."""
    return "verdicts.json" if kind == "verdicts" else "manifest.json"


def manifest_path(kind: Kind, name: str, version: int) -> str:
    """Where the manifest of a numbered version lies. A promotion's is `<n>.json` beside its folder: a ledger's line."""
    folder = f"{kind_folder(kind, name)}/{version}"
    return f"{folder}.json" if kind == "promotion" else f"{folder}/{manifest_name(kind)}"


def names(store: Store, kind: Kind) -> list[str]:
    """Names that have at least one committed version of `kind`."""
    if kind == "staging":
        return sorted({artifact.name for artifact in _stagings(store)})
    top = kind_folder(kind, "").split("//")[0].rstrip("/")
    return [name for name in store.names(top) if versions(store, kind, name)]


def versions(store: Store, kind: Kind, name: str) -> list[int]:
    """Committed version numbers, ascending."""
    if kind == "staging":
        return []
    folder = kind_folder(kind, name)
    numbers = sorted(int(entry) for entry in store.names(folder) if entry.isdigit())
    return [number for number in numbers if store.exists(manifest_path(kind, name, number))]


def _stagings(store: Store) -> list[Artifact]:
    found = []
    for entry in store.names("staging"):
        path = f"staging/{entry}/manifest.json"
        if store.exists(path):
            found.append(Artifact.from_json(store.read(path), path))
    return found


def load(store: Store, kind: Kind, name: str, version: int) -> Artifact:
    """One committed version. Raises UnknownReference."""
    path = manifest_path(kind, name, version)
    try:
        return Artifact.from_json(store.read(path), path)
    except FileNotFoundError:
        known = versions(store, kind, name)
        has = f"it has {', '.join(map(str, known))}" if known else f"known: {', '.join(names(store, kind)) or 'none'}"
        raise UnknownReference(f"no {kind}:{name}@{version} in {store.uri}; {has}") from None


def load_link(store: Store, link: Link) -> Artifact:
    """The artifact that a manifest's input names."""
    reference = Reference.parse(link.ref)
    assert reference.kind is not None
    if reference.kind == "staging":
        found = find_staging(store, link.fingerprint)
        if found is None:
            raise UnknownReference(f"no {link.ref} with fingerprint {link.fingerprint[:12]} in {store.uri}")
        return found
    assert reference.version is not None
    return load(store, reference.kind, reference.name, reference.version)


def find_staging(store: Store, fingerprint: str) -> Artifact | None:
    """The staging of this fingerprint."""
    path = f"staging/{fingerprint[:16]}/manifest.json"
    return Artifact.from_json(store.read(path), path) if store.exists(path) else None


def history(store: Store, kind: Kind, name: str) -> list[Artifact]:
    """All committed versions, newest first. Stagings by their recorded ordinal."""
    if kind == "staging":
        return sorted((each for each in _stagings(store) if each.name == name), key=lambda each: -each.version)
    return [load(store, kind, name, number) for number in reversed(versions(store, kind, name))]


def latest(store: Store, kind: Kind, name: str, *, passed: bool = False) -> Artifact | None:
    """The newest version (that passed its gate, if asked)."""
    return next((artifact for artifact in history(store, kind, name) if artifact.passed or not passed), None)


def find(store: Store, kind: Kind, name: str, fingerprint: str) -> Artifact | None:
    """The newest version with this fingerprint whose files are present with their recorded sizes."""
    if kind == "staging":
        candidates = [staging] if (staging := find_staging(store, fingerprint)) else []
    else:
        candidates = [artifact for artifact in history(store, kind, name) if artifact.fingerprint == fingerprint]
    return next((artifact for artifact in candidates if not damaged(store, artifact)), None)


# ---------------------------------------------------------------- verify


def damaged(store: Store, artifact: Artifact, *, rehash: bool = False) -> list[str]:
    """One line per file that is missing, of another size or (if `rehash`) of other bytes than recorded."""
    return [line for entry in artifact.files if (line := damage(store, entry, rehash=rehash))]


def damage(store: Store, entry: FileEntry, *, rehash: bool) -> str | None:
    """What is wrong with a file, None if nothing is."""
    size = store.size(entry.path)
    if size != entry.size:
        return f"{entry.path}: " + ("missing" if size is None else f"{size} bytes, recorded {entry.size}")
    if rehash:
        with store.open(entry.path) as stream:
            came = sha256_stream(stream)
        if came != entry.sha256:
            return f"{entry.path}: sha256 {came[:12]}…, recorded {entry.sha256[:12]}…"
    return None


# ---------------------------------------------------------------- commit


class Draft:
    """A version in the making: claims a number, takes files, ends in one create-only put of the manifest.

    A claim is a small create-only file with the fingerprint (or `work`, where the bytes follow from more than that).
    The same work takes the same number and names, after a run that died or beside one; any other work takes the next.
    """

    def __init__(
        self, store: Store, kind: Kind, name: str, fingerprint: str, *, version: int | None = None, work: str = ""
    ) -> None:
        self.store, self.kind, self.name, self.fingerprint = store, kind, check_name(name), fingerprint
        self.work = work or fingerprint
        self.files: list[FileEntry] = []
        self.version = self._claim() if version is None else version
        self.folder = version_folder(kind, name, self.version, fingerprint)
        self.manifest = f"{self.folder}/manifest.json" if kind == "staging" else manifest_path(kind, name, self.version)

    def _claim(self) -> int:
        if self.kind == "staging":
            return 1 + max((artifact.version for artifact in history(self.store, "staging", self.name)), default=0)
        folder = kind_folder(self.kind, self.name)
        number = max((int(entry) for entry in self.store.names(folder) if entry.isdigit()), default=1)
        while not self._claimed(folder, number):
            number += 1
        return number

    def _claimed(self, folder: str, number: int) -> bool:
        """Whether the number is this work's: claimed now, or before by the same work and never committed."""
        if self.store.exists(manifest_path(self.kind, self.name, number)):
            return False
        claim, work = f"{folder}/{number}/claim", self.work.encode()
        return self.store.create(claim, work) or self.store.read(claim) == work

    def put(self, name: str, data: bytes, role: str, **facts: Any) -> FileEntry:
        """Write a file into the version's folder and name it in the manifest."""
        return self.put_at(f"{self.folder}/{name}", data, role, **facts)

    def put_at(self, path: str, data: bytes, role: str, **facts: Any) -> FileEntry:
        """Write a file anywhere in the store (shared, content-addressed files) and name it in the manifest."""
        entry = FileEntry(path, len(data), sha256(data), role, facts)
        if self._theirs(path) in (None, entry.sha256):
            self.store.write(path, data)
        return self.adopt(entry)

    def _theirs(self, path: str) -> str | None:
        """The sha256 that a manifest of this number records for `path`: what another run committed stays as it is."""
        if not path.startswith(f"{self.folder}/") or not self.store.exists(self.manifest):
            return None
        committed = Artifact.from_json(self.store.read(self.manifest), self.manifest)
        return next((entry.sha256 for entry in committed.files if entry.path == path), None)

    def adopt(self, entry: FileEntry) -> FileEntry:
        """Name a file that is already in the store."""
        self.files.append(entry)
        return entry

    def commit(
        self,
        *,
        step: str,
        config: Mapping[str, Any],
        inputs: Mapping[str, Link],
        facts: Mapping[str, Any],
        pin: str = "",
        passed: bool = True,
        circumstance: Mapping[str, Any] | None = None,
    ) -> Artifact:
        """Put the manifest. What another run put first stands if it is the same work, else StoreError: start again."""
        artifact = Artifact(
            self.kind, self.name, self.version, self.fingerprint, pin, step, dict(config), dict(inputs),
            tuple(self.files), dict(facts), passed, dict(circumstance or {}),
        )  # fmt: skip
        path, manifest = self.manifest, artifact.to_json()
        if self.store.create(path, manifest):
            # as a later reader has it: keys sorted, tuples as lists
            return Artifact.from_json(manifest, path)
        winner = Artifact.from_json(self.store.read(path), path)
        if winner.fingerprint != self.fingerprint:
            raise StoreError(f"{artifact.ref}: another run committed this version first; run the command again")
        return winner


def lineage(store: Store, artifact: Artifact) -> dict[str, Artifact]:
    """All that `artifact` was made from, by reference, nearest first; without advice, and what is missing."""
    found, waiting = dict[str, Artifact](), [artifact]
    while waiting:
        for role, link in waiting.pop(0).inputs.items():
            if role in ADVICE or link.ref in found:
                continue
            with contextlib.suppress(UnknownReference):
                found[link.ref] = load_link(store, link)
                waiting.append(found[link.ref])
    return found
