"""What the small commands answer, as plain data, and how a person sees it. Manifests alone are read."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from flows.run_record import recorded_runs
from flows.terminal import stdout, table, write
from mmgen import artifact, catalog, promotions
from mmgen.artifact import Artifact
from mmgen.errors import GateError, IntegrityError, UnknownReference
from mmgen.store import Store


def listed(store: str, kind: str | None) -> dict[str, Any]:
    """{"artifacts": [catalog.Listed, with "aliases" for models]}."""
    opened = Store(store)
    held: dict[str, list[str]] = {}
    for name in artifact.names(opened, "promotion"):
        for alias, promotion in promotions.aliases(opened, name).items():
            held.setdefault(promotion.facts["model"], []).append(alias)
    lines = catalog.listing(opened, kind)
    return {"artifacts": [dataclasses.asdict(each) | {"aliases": sorted(held.get(each.ref, []))} for each in lines]}


def show_listed(answer: dict[str, Any]) -> None:
    """Print a listing."""
    rows = [
        (
            each["ref"],
            ", ".join(each["aliases"]),
            "" if each["passed"] else "gate said no",
            size(each["size_bytes"]),
            each["time"],
        )
        for each in answer["artifacts"]
    ]
    stdout().print(table(("artifact", "alias", "", "size", "made"), rows) if rows else "nothing yet")


def shown(store: str, ref: str) -> dict[str, Any]:
    """catalog.summary of the artifact, with the aliases of a model."""
    opened = Store(store)
    found = promotions.resolve(ref, opened)
    more = {"aliases": promotions.aliases_of(opened, found)} if found.kind == "model" else {}
    return catalog.summary(found) | more


def show_shown(answer: dict[str, Any]) -> None:
    """Print an artifact as indented JSON: its facts are whatever its step recorded."""
    write(json.dumps(answer, indent=1, ensure_ascii=False))


def reported(store: str, ref: str) -> dict[str, Any]:
    """{"ref", "pages": paths or URLs of its report or card}.

    Raises UnknownReference if it has none, IntegrityError if they are gone.
    """
    opened = Store(store)
    found = promotions.resolve(ref, opened)
    named = _pages(opened, found)
    pages = [path for path in named if opened.exists(path)]
    if named and not pages:
        raise IntegrityError(f"{found.ref}: {named[0]} is gone: lost, or purged (`mmgen forget --purge`)")
    if not pages:
        raise UnknownReference(
            f"{found.ref} has no page of its own: datasets have a data report, promoted models a card"
        )
    return {
        "ref": found.ref,
        "pages": [opened.full(path) if opened.local else f"{opened.uri}/{path}" for path in pages],
    }


def _pages(store: Store, found: Artifact) -> list[str]:
    match found.kind:
        case "dataset" | "verdicts":
            # a version that `forget` made has the page of its shards alone
            report, shards = f"{found.folder}/report.html", f"{found.folder}/shards.html"
            return [shards] if found.step == "forget" else [report]
        case "promotion":
            return [entry.path for entry in found.by_role("card")]
        case "model":
            promotion = promotions.promotion_of(store, found)
            return [entry.path for entry in promotion.by_role("card")] if promotion else []
    return []


def ran(store: str) -> dict[str, Any]:
    """{"runs": [RunRecord.to_json]}, newest first, from the records in the store."""
    return {"runs": recorded_runs(Store(store))}


def show_ran(answer: dict[str, Any]) -> None:
    """Print the runs."""
    rows = [(each["run"], each["name"], each["state"], each["why"].split("\n")[0][:100]) for each in answer["runs"]]
    stdout().print(table(("run", "name", "state", "why"), rows) if rows else "no runs yet")


def garbage(store: str, *, dry_run: bool, older_than_hours: float) -> dict[str, Any]:
    """{"store", "files": [{"path", "bytes"}], "bytes", "deleted", "spared", "hours"}: what no manifest names.

    spared: how many such files are younger than `hours`, and were (or would be) left for a run that may name them.

    Raises GateError if a run goes on.
    """
    opened = Store(store)
    if not dry_run:
        refuse_while_running(opened, "gc")
    every, seconds = catalog.unreferenced(opened), older_than_hours * 3600
    old = catalog.old(opened, every, seconds) if dry_run else catalog.collect(opened, older_than_seconds=seconds)
    found = every if dry_run else old
    return {
        "store": opened.uri,
        "files": [{"path": path, "bytes": count} for path, count in found],
        "bytes": sum(count for _, count in found),
        "deleted": not dry_run,
        "spared": len(every) - len(old),
        "hours": older_than_hours,
    }


def refuse_while_running(store: Store, what: str) -> None:
    """Raises GateError if a run is going on: it may be about to name what would be deleted."""
    going = [each for each in recorded_runs(store) if each["state"] == "running"]
    if going:
        run = going[0]
        raise GateError(
            f"{what}: wanted no run on this store, came {run['run']} of {run['name']} (process {run['pid']} on "
            f"{run['host']}); wait for it or stop it"
        )


def show_garbage(answer: dict[str, Any]) -> None:
    """Print what could go, or went."""
    for each in answer["files"]:
        write(f"{size(each['bytes']):>10}  {each['path']}")
    count = len(answer["files"])
    total = f"{count} {'file' if count == 1 else 'files'}, {size(answer['bytes'])}"
    if not answer["files"]:
        write(f"nothing to delete in {answer['store']}")
    else:
        write(f"{total} deleted" if answer["deleted"] else f"{total}, that nothing names")
    if answer["spared"]:
        said = "were spared" if answer["deleted"] else "of them would be spared"
        hours = f"written in the last {answer['hours']:g} hours, when a run may still name them"
        write(f"{answer['spared']} {said}: {hours} (--older-than HOURS)")


def size(count: int) -> str:
    """Bytes for a person."""
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000 or unit == "GB":
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    raise AssertionError
