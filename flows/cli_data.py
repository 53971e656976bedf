"""Commands about data: what is checked, what a version holds, where a sample went."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

Answer = Callable[[bool, dict[str, Any], Callable[[dict[str, Any]], None]], None]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of stdout.")]


def add(app: typer.Typer, answer: Answer) -> None:
    """Put the commands on `app`. answer: shows a result to a program or a person."""

    @app.command()
    def checks(as_json: Json = False) -> None:
        """List every rule: its code, where it is applied, what it does, its thresholds."""
        from flows import data_answers

        answer(as_json, data_answers.checked(), data_answers.show_checked)
