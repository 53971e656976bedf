"""The last screen of `mmgen run` and `mmgen demo`."""

from __future__ import annotations

import shlex
from typing import Any

from flows.summary import score_rows, shown_scores
from flows.terminal import stdout, table


def show_run(answer: dict[str, Any], store: str) -> None:
    """Print what a run came to: data, scores, model, where to look, and what to do next."""
    console = stdout()
    console.print()
    did = [
        (each["step"], "ran" if each["ran"] else "kept", f"{each['seconds']:.1f} s", each["artifact"])
        for each in answer["steps"]
    ]
    console.print(table(("step", "", "", "artifact"), did))
    if rows := score_rows(shown := shown_scores(answer["scores"])):
        console.print()
        console.print(table(("score", "value", "95% interval", "n"), rows))
        if more := len(answer["scores"]) - len(shown):
            console.print(f"… and {more} more, on the model card")
    console.print()
    for title, text in _lines(answer):
        console.print(f"{title:<12}{text}")
    if answer["examples"]:
        console.print(f"{'examples':<12}{answer['examples'][0]['files'][0].rpartition('/')[0]}")
        for each in answer["examples"]:
            given, made = (path.rpartition("/")[2] for path in each["files"])
            console.print(f"{'':<12}{each['given']} → {each['made']}: {given} → {made}")
    if answer["model"]:
        console.print(f"\nmore          {_generate(answer['model'], store)}")


def _lines(answer: dict[str, Any]) -> list[tuple[str, str]]:
    lines = []
    if answer["dataset"]:
        counts = answer["counts"]
        parts = " + ".join(f"{counts[name]:,} {name}" for name in ("kept", "quarantined", "dropped"))
        lines.append(("dataset", f"{answer['dataset']}: {counts['inputs']:,} inputs = {parts}"))
    if model := answer["model"]:
        aliases = ", ".join(model["aliases"]) or "no alias"
        lines.append(("model", f"{model['name']}@{model['version']} ({aliases})"))
    for title, key in (("data report", "report"), ("model card", "card"), ("samples", "grid"), ("log", "log")):
        if answer[key]:
            lines.append((title, answer[key]))
    return lines


def _generate(model: dict[str, Any], store: str) -> str:
    reference = f"{model['name']}@{model['aliases'][0] if model['aliases'] else model['version']}"
    first = next((name for name, modality in model["slots"].items() if modality == "text"), None)
    others = [name for name in model["makes"] if name != first]
    given: list[str] = []
    # a model that makes nothing beside the example's own slot makes that of nothing
    if first is not None and others:
        given = ["--text", model["example"]] if first == "text" else ["--slot", f"{first}={model['example']}"]
    wanted = ",".join(others or model["makes"])
    return shlex.join(["mmgen", "generate", reference, *given, "--to", wanted, "--num", "4", "--store", store])
