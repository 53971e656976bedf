"""What the commands about versions answer: diff, trace, export, verify."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flows.answers import size
from flows.terminal import Watch, stdout, table, write
from mmgen import artifact, catalog, promotions
from mmgen.artifact import Artifact
from mmgen.dataset import open_dataset
from mmgen.diff import diff
from mmgen.errors import ConfigError, IntegrityError, UnknownReference, unknown_name
from mmgen.export import export
from mmgen.store import Store
from mmgen.tombstones import purged
from mmgen.trace import trace


def differed(store: str, one: str, other: str) -> dict[str, Any]:
    """mmgen.diff.diff of two versions. Raises UnknownReference."""
    opened = Store(store)
    return diff(opened, open_dataset(one, opened).version, open_dataset(other, opened).version)


def show_differed(answer: dict[str, Any]) -> None:
    """Print what changed, on a screen."""
    out = stdout()
    write(f"{answer['one']} -> {answer['other']}")
    rows = [(name, f"{old:,}", f"{new:,}", f"{new - old:+,}")
            for group in ("counts", "splits") for name, (old, new) in answer[group].items()]  # fmt: skip
    out.print(table(("", "before", "after", "change"), rows))
    counts, shards = answer["samples"], answer["shards"]
    write("samples: " + ", ".join(f"{count:,} {name}" for name, count in counts.items()))
    write("shards: " + ", ".join(f"{count:,} {name}" for name, count in shards.items()))
    for name in ("added", "removed"):
        _list(name, answer[name], counts[name])
    _list("changed", [f"{each['key']} ({', '.join(each['parts'])})" for each in answer["changed"]], counts["changed"])
    _list("moved", [f"{each['key']} ({each['from']} to {each['to']})" for each in answer["moved"]], counts["moved"])
    _list("settings that differ", answer["settings"], len(answer["settings"]))


def _list(title: str, names: Sequence[str], count: int, shown: int = 8) -> None:
    if names:
        more = f" and {count - shown:,} more" if count > shown else ""
        write(f"{title}: {', '.join(names[:shown])}{more}")


def traced(store: str, key: str, dataset: str | None) -> dict[str, Any]:
    """{"key", "found": mmgen.trace.trace}. Raises UnknownReference."""
    opened = Store(store)
    known = sorted({*artifact.names(opened, "dataset"), *artifact.names(opened, "verdicts")})
    if dataset is not None and dataset not in known:
        raise UnknownReference(f"--dataset: {unknown_name('dataset', dataset, known)}")
    return {"key": key, "found": trace(opened, key, [dataset] if dataset else known)}


def show_traced(answer: dict[str, Any]) -> None:
    """Print a sample's way, newest version first."""
    for found in answer["found"]:
        for version in found["versions"]:
            write(f"{version['ref']}: {_judged(version)}")
            if version["batch"]:
                write(f"  row {version['row']}, of the batch {version['batch']}")
            if version["shard"]:
                write(f"  {version['shard']}")
                rows = [(f"  {each['name']}", str(each["offset"]), size(each["length"]), each["sha256"][:16])
                        for each in version["members"]]  # fmt: skip
                stdout().print(table(("  member", "offset", "bytes", "sha256"), rows))
            for each in version["others"]:
                write(f"  row {each['row']} has this key too: {_judged(each)}")
        if found["forgotten"]:
            write(f"forgotten: ingest leaves it out of {found['name']}")
        _list("features", found["features"], len(found["features"]))
        _list("evaluation sets", found["evalsets"], len(found["evalsets"]))
        _list("learned from it", found["trained"], len(found["trained"]))


def _judged(version: Mapping[str, Any]) -> str:
    if version["verdict"] == "kept":
        return f"kept, in {version['split']}"
    return f"{version['verdict']}, {version['reason']}: {version['message']}"


def exported(store: str, ref: str, folder: Path, layout: str, *, force: bool) -> dict[str, Any]:
    """{"dataset", "layout", "folder", "files", "bytes"}. Raises ConfigError, UnknownReference, IntegrityError."""
    opened = Store(store)
    version = open_dataset(ref, opened).version
    with Watch() as watch:
        files = export(opened, version, folder, layout, watch, force=force)
    total = sum(path.stat().st_size for path in files)
    return {"dataset": version.ref, "layout": layout, "folder": str(folder), "files": len(files), "bytes": total}


def show_exported(answer: dict[str, Any]) -> None:
    """Print where it is."""
    write(f"{answer['dataset']} ({answer['layout']}): {answer['files']} files, {size(answer['bytes'])}")
    write(answer["folder"])


def verified(store: str, ref: str | None, *, everything: bool = False) -> dict[str, Any]:
    """{"ref", "artifacts", "files", "bytes", "damaged": [line per file], "purged": [path]}.

    A file that several artifacts share is read once, and named with all of them; a manifest that cannot be read is a
    damaged file. Raises ConfigError, UnknownReference.
    """
    if (ref is None) != everything:
        raise ConfigError("verify: wanted either REF or --all")
    opened = Store(store)
    artifacts, damaged = _all(opened) if ref is None else ([promotions.resolve(ref, opened)], [])
    unread = len(damaged)
    named: dict[str, list[Artifact]] = {}
    gone: set[str] = set()
    for each in artifacts:
        mine = purged(opened, each) & {entry.path for entry in each.files}
        gone |= mine
        for entry in each.files:
            if entry.path not in mine:
                named.setdefault(entry.path, []).append(each)
    with Watch() as watch, watch.bar("verify: files", len(named)) as bar:
        for path, holders in named.items():
            line = artifact.damage(opened, next(entry for entry in holders[0].files if entry.path == path), rehash=True)
            if line:
                damaged.append(line + (f" ({', '.join(each.ref for each in holders)})" if everything else ""))
            bar.advance(1)
    total = sum({entry.path: entry.size for each in artifacts for entry in each.files if entry.path in named}.values())
    return {
        "ref": artifacts[0].ref if ref else f"{len(artifacts) + unread} artifacts",
        "artifacts": len(artifacts) + unread, "files": len(named) + unread, "bytes": total,
        "damaged": damaged, "purged": sorted(gone),
    }  # fmt: skip


def _all(store: Store) -> tuple[list[Artifact], list[str]]:
    """All artifacts, and a line for each manifest that cannot be read. Raises UnknownReference if there is none."""
    artifacts, broken = [], []
    for path in catalog.manifests(store):
        try:
            artifacts.append(Artifact.from_json(store.read(path), path))
        except IntegrityError as error:
            broken.append(str(error))
    if not artifacts and not broken:
        raise UnknownReference(f"verify: wanted a store with artifacts, {store.uri} has none")
    return artifacts, broken


def show_verified(answer: dict[str, Any]) -> None:
    """Print the damaged files, or that there are none."""
    gone = f", {len(answer['purged'])} were purged (`mmgen forget --purge`)" if answer["purged"] else ""
    good = f"{answer['ref']}: {answer['files']} files, {size(answer['bytes'])}, are as recorded{gone}"
    write("\n".join(answer["damaged"]) or good)
