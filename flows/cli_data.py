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
    def diff(
        one: Annotated[str, typer.Argument(metavar="A", help="A data set version: name@version.")],
        other: Annotated[str, typer.Argument(metavar="B", help="Another one.")],
        store: StoreOption = STORE,
        as_json: Json = False,
    ) -> None:
        """Say what changed from one data set version to another."""
        from flows import version_answers

        answer(as_json, version_answers.differed(store, one, other), version_answers.show_differed)

    @app.command()
    def trace(
        key: Annotated[str, typer.Argument(metavar="KEY", help="The key of a sample.")],
        dataset: Annotated[str | None, typer.Option(metavar="NAME", help="Only in this data set.")] = None,
        store: StoreOption = STORE,
        as_json: Json = False,
    ) -> None:
        """Show a sample's way: row, batch, verdict, shard, features, models."""
        from flows import version_answers

        answer(as_json, version_answers.traced(store, key, dataset), version_answers.show_traced)

    @app.command()
    def export(
        ref: Annotated[str, typer.Argument(metavar="REF", help="A data set version: name[@version].")],
        folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new or empty folder.")],
        layout: Annotated[
            str,
            typer.Option(
                metavar="LAYOUT",
                help="plain: numbered tars. hf: Parquet for Hugging Face. energon: tars with what it prepares. "
                "img2dataset: tars, tables and stats as it writes them.",
            ),
        ] = "plain",
        force: Annotated[bool, typer.Option("--force", help="Replace what is in the folder.")] = False,
        store: StoreOption = STORE,
        as_json: Json = False,
    ) -> None:
        """Write a data set version as a plain folder that other tools read."""
        from flows import version_answers

        made = version_answers.exported(store, ref, folder, layout, force=force)
        answer(as_json, made, version_answers.show_exported)

    @app.command()
    def verify(
        ref: Annotated[str | None, typer.Argument(metavar="[REF]", help="[kind:]name[@version|@alias]")] = None,
        everything: Annotated[bool, typer.Option("--all", help="Every artifact of the store.")] = False,
        store: StoreOption = STORE,
        as_json: Json = False,
    ) -> None:
        """Re-hash the files of an artifact, or of all, and name each damaged one."""
        from flows import version_answers
        from flows.endings import SaidNo

        found = version_answers.verified(store, ref, everything=everything)
        answer(as_json, found, version_answers.show_verified)
        if found["damaged"]:
            raise SaidNo(f"{found['ref']}: {len(found['damaged'])} of {found['files']} files are damaged")

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
