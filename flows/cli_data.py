"""Commands about data: what is checked, what a version holds, what is forgotten, what nothing needs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

Answer = Callable[[bool, dict[str, Any], Callable[[dict[str, Any]], None]], None]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of stdout.")]
StoreOption = Annotated[
    str, typer.Option("--store", metavar="DIR", envvar="MMGEN_STORE", help="The store: a folder or a URL.")
]
STORE = "mmgen-store"


def add(app: typer.Typer, answer: Answer) -> None:
    """Put the commands on `app`. answer: shows a result to a program or a person."""

    @app.command()
    def checks(as_json: Json = False) -> None:
        """List every rule: its code, where it is applied, what it does, its thresholds."""
        from flows import data_answers

        answer(as_json, data_answers.checked(), data_answers.show_checked)

    @app.command()
    def forget(
        keys: Annotated[list[str] | None, typer.Argument(metavar="[KEY]...", help="Keys of samples.")] = None,
        dataset: Annotated[
            str | None, typer.Option(metavar="NAME", help="The data set; may be left out if there is one only.")
        ] = None,
        listed: Annotated[Path | None, typer.Option("--list", help="A file with a key on each line.")] = None,
        purge: Annotated[bool, typer.Option("--purge", help="Delete their bytes from all versions, for good.")] = False,
        dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what holds them.")] = False,
        store: StoreOption = STORE,
        as_json: Json = False,
    ) -> None:
        """Make a version without these samples, and never take them in again."""
        from flows import forget_answers

        made = forget_answers.forgot(store, keys or [], listed, dataset, purge=purge, dry_run=dry_run)
        answer(as_json, made, forget_answers.show_forgot)

    @app.command()
    def gc(
        dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what nothing needs.")] = False,
        older_than: Annotated[float, typer.Option(min=0, metavar="HOURS", help="Spare what was written since.")] = 24.0,
        store: StoreOption = STORE,
        as_json: Json = False,
    ) -> None:
        """Delete the files of the store that nothing names."""
        from flows import answers

        found = answers.garbage(store, dry_run=dry_run, older_than_hours=older_than)
        answer(as_json, found, answers.show_garbage)
