"""What `mmgen forget` does and answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flows.answers import refuse_while_running
from flows.terminal import write
from mmgen import artifact, promotions
from mmgen.errors import ConfigError, UnknownReference
from mmgen.forget import Forgotten, forget, known_holders
from mmgen.forgotten import Ledger
from mmgen.holders import Holders
from mmgen.store import Store

SHOWN = 8


def forgot(
    store: str, keys: Sequence[str], listed: Path | None, dataset: str | None, *, purge: bool, dry_run: bool
) -> dict[str, Any]:
    """{"name", "keys", "base", "dataset", "shards", "held_by", "trained", "mlflow", "purged", "rerendered", "dry_run"}.

    dataset: the reference of the new version, None if none was needed. purged: files deleted. rerendered:
    paths of reports, cards and verdicts that were made again without the samples. Raises ConfigError,
    UnknownReference, and GateError if a purge meets a run that is going on.
    """
    opened, wanted = Store(store), frozenset([*keys, *_read(listed)])
    if not wanted:
        raise ConfigError("forget: wanted at least one KEY, or --list FILE; came none")
    name = dataset or _only_name(opened)
    if dry_run:
        made = Forgotten(known_holders(opened, name, wanted, Ledger.read(opened, name)), None, None)
    else:
        if purge:
            refuse_while_running(opened, "forget --purge")
        made = forget(opened, name, wanted, purge=purge)
    return {
        "name": name,
        "keys": len(wanted),
        "base": made.base.ref if made.base else None,
        "dataset": made.made.ref if made.made else None,
        "shards": made.made.facts["shards"] if made.made else None,
        "held_by": [each.ref for each in _holding(made.holders)],
        "trained": [each.ref for each in made.holders.trained],
        "mlflow": _in_mlflow(opened, name, made.holders),
        "purged": len(made.purged),
        "rerendered": list(made.rerendered),
        "dry_run": dry_run,
    }


def _read(listed: Path | None) -> list[str]:
    if listed is None:
        return []
    try:
        return [line.rstrip("\r") for line in listed.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--list: wanted a UTF-8 file with a key on each line, came '{listed}': {error}") from error


def _only_name(store: Store) -> str:
    names = artifact.names(store, "dataset")
    if not names:
        raise UnknownReference(f"forget: wanted a store with a data set, {store.uri} has none")
    if len(names) != 1:
        raise ConfigError(f"forget: wanted --dataset NAME, one of: {', '.join(names)} (in {store.uri})")
    return names[0]


def _holding(holders: Holders) -> list[artifact.Artifact]:
    return [*holders.pairs, *holders.datasets, *holders.features, *holders.evalsets]


def _in_mlflow(store: Store, name: str, holders: Holders) -> list[str]:
    """What of them may be in MLflow, which mmgen only adds to: logged reports, models' packages with their cards."""
    reports = [f"experiment {name}-data: the report of {name}@{each.version}" for each in holders.verdicts]
    trained = {each.ref for each in holders.trained}
    models = [
        f"registered model {promotion.name}, version {(promotion.facts.get('mlflow') or {}).get('version', '?')}"
        for promoted in artifact.names(store, "promotion")
        for promotion in promotions.ledger(store, promoted)
        if promotion.facts["model"] in trained
    ]
    return reports + models


def show_forgot(answer: dict[str, Any]) -> None:
    """Print what was done, what still holds the samples, and who learned from them."""
    count = answer["keys"]
    keys = f"{count} {'key' if count == 1 else 'keys'} of {answer['name']}"
    if answer["dry_run"]:
        write(f"{keys}: nothing was done (--dry-run)")
    else:
        write(f"{keys} forgotten: the next ingest leaves them out")
    if answer["dataset"]:
        shards = answer["shards"]
        said = f"shards: {shards['written']} written, {shards['shared']} shared"
        write(f"{answer['dataset']}: made from {answer['base']}; {said}")
    elif not answer["dry_run"]:
        write("no new version: the newest good one has none of them")
    if answer["purged"]:
        write(f"{answer['purged']} files deleted; their versions say so (`mmgen verify`)")
    if answer["rerendered"]:
        pages = [path.rpartition("/")[2] for path in answer["rerendered"]]
        reports, cards = _count(pages, "report.html", "report"), _count(pages, "card.html", "card")
        write(f"rendered again without them: {reports}, {cards}")
    if not answer["purged"]:
        _list("bytes are still in", answer["held_by"], "; --purge deletes them")
    _list("learned from them", answer["trained"], "")
    _list("may be in MLflow, delete there", answer["mlflow"], "")


def _count(pages: Sequence[str], name: str, word: str) -> str:
    found = pages.count(name)
    return f"{found} {word}" if found == 1 else f"{found} {word}s"


def _list(title: str, names: Sequence[str], then: str) -> None:
    if names:
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        write(f"{title}: {', '.join(names[:SHOWN])}{more}{then}")
