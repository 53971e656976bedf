"""`mmgen evaluate` of a model by its name, or of a directory of made samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flows.summary import score_rows
from flows.terminal import Watch, stdout, table, without_remarks, write
from mmgen import artifact, promotions, steps
from mmgen.artifact import Artifact
from mmgen.config import Config
from mmgen.errors import ConfigError, UnknownReference
from mmgen.report import card, outputs_page
from mmgen.report.score_tables import HELD_OUT, TEST, rows_of
from mmgen.runtime import Runtime
from mmgen.store import Store


def model(reference: str, store: str, device: str, out: Path | None) -> dict[str, Any]:
    """Scores of a model on its evaluation set, committed as the step does; those that are there already are kept.

    {"model", "scores", "passed", "gate", "not_run", "artifact", "ran", "why", "files"}. out: a folder for the tables
    and the card. Raises UnknownReference.
    """
    opened = Store(store)
    generator = promotions.resolve(reference, opened)
    if generator.kind != "model" or "fusion" not in generator.inputs:
        raise UnknownReference(f"'{reference}' is {generator.ref}; wanted a model that generates, or a directory")
    inputs = {role: artifact.load_link(opened, generator.inputs[role]) for role in ("codecs", "fusion")}
    inputs["generator"] = generator
    with without_remarks(), Watch() as watch:
        runtime = Runtime(opened, device=device, progress=watch)
        outcome = steps.perform(steps.STEPS["evaluate"], _config(opened, inputs), inputs, runtime)
    made = outcome.artifact
    return {
        "model": generator.ref,
        "artifact": made.ref,
        "ran": outcome.ran,
        "why": outcome.why,
        "passed": made.passed,
        "gate": list(made.facts["gate"]),
        "not_run": dict(made.facts["not_run"]),
        "scores": list(made.facts["scores"]),
        "files": _written(opened, {**inputs, "scores": made}, out) if out else [],
    }


def _config(store: Store, inputs: Mapping[str, Artifact]) -> Config:
    """A configuration that evaluates a model as it was evaluated last, or one of its name; else by default."""
    generator = inputs["generator"]
    past = artifact.history(store, "scores", generator.name)
    mine = [each for each in past if each.inputs["generator"].fingerprint == generator.fingerprint]
    settings: dict[str, Any] = next((each.config.get("evaluate", {}) for each in (*mine, *past)), {})
    # where the data came from is no part of what `evaluate` does
    source = {"kind": "folder", "path": "."}
    plain = {"name": generator.name, "source": source, "slots": inputs["codecs"].config["slots"], "evaluate": settings}
    return Config.model_validate(plain)


def _written(store: Store, inputs: Mapping[str, Artifact], out: Path) -> list[str]:
    out.mkdir(parents=True, exist_ok=True)
    scored = inputs["scores"]
    why = "evaluated by name"
    html, twin = card.render(store, promotions.lineage(store, inputs), name=scored.name, alias=None, why=why)
    files = {"card.html": html, "card.json": twin}
    for role in (TEST, HELD_OUT):
        files |= {Path(entry.path).name: store.read(entry.path) for entry in scored.by_role(role)}
    for name, data in files.items():
        (out / name).write_bytes(data)
    return [str(out / name) for name in files]


def directory(folder: Path, store: str, against: str | None, device: str, out: Path) -> dict[str, Any]:
    """Scores of the files below a folder: mmgen.evaluate.against.Judged.about, and "out", the files written.

    Raises ConfigError, UnknownReference.
    """
    if out.resolve() == folder.resolve():
        raise ConfigError(f"--out: wanted another folder than the one that is judged, came {out}")
    opened = Store(store)
    with without_remarks():
        from mmgen.evaluate.against import judge_directory
        from mmgen.evaluate.config import EvaluateConfig
        from mmgen.evaluate.scores import to_parquet

        judged = judge_directory(opened, folder, against, EvaluateConfig(), device)
    out.mkdir(parents=True, exist_ok=True)
    parquet = out / "scores.parquet"
    parquet.write_bytes(to_parquet(judged.rows))
    codecs = artifact.Reference.parse(judged.about["judges"])
    slots = artifact.load(opened, "judges", codecs.name, codecs.version or 0).facts["slots"]
    nearest = [(each.facts, each.data) for each in judged.nearest]
    html = outputs_page.render(
        judged.about, rows_of(parquet.read_bytes()), judged.outputs.names, slots, nearest
    )  # fmt: skip
    (out / "scores.html").write_bytes(html)
    return {**judged.about, "out": [str(parquet), str(out / "scores.html")]}


def refuse(given: object, option: str, wanted: str) -> None:
    """Raises ConfigError if an option is given that belongs to another use of the command."""
    if given is not None:
        raise ConfigError(f"{option}: wanted {wanted} to evaluate with it")


def show_model(answer: Mapping[str, Any]) -> None:
    """Print the scores of a model, on a screen."""
    write(f"{answer['model']}: {answer['artifact']}, {'made now' if answer['ran'] else answer['why']}")
    stdout().print(table(("score", "value", "95% interval", "n"), score_rows(answer["scores"])))
    _not_run(answer)
    for reason in answer["gate"]:
        write(f"gate: {reason}")
    if answer["passed"]:
        write("gate: passed")
    for path in answer["files"]:
        write(path)


def show_directory(answer: Mapping[str, Any]) -> None:
    """Print the scores of a directory, on a screen, and what of it was not judged."""
    counts = ", ".join(f"{count} of {slot}" for slot, count in answer["slots"].items())
    write(f"{answer['made']}: {answer['matched']} of {answer['files']} files judged ({counts})")
    write(f"against {answer['evalset']} of {answer['against']}; {answer['keys']} of its keys are named")
    stdout().print(
        table(("score (real data)", *answer["slots"]), side_by_side(answer["scores"], list(answer["slots"])))
    )
    for row in answer["scores"]:
        if "+" in row["made"]:
            write(f"{row['metric']} of {row['made']}: {row['value']:.3f} ({row['low']:.3f}–{row['high']:.3f})")
    for why, names in answer["unmatched"].items():
        write(f"not judged: {names['count']} × {why} ({', '.join(names['first'])})")
    _not_run(answer)
    for path in answer["out"]:
        write(path)


#: a score → what real data, or the judge, reach of it where that is not the score's own name with "_real"
_BESIDE = {"coherence": "judge_accuracy", "frechet_distance": "frechet_floor", "kernel_distance": "kernel_floor",
           "judge_kernel_distance": "judge_kernel_floor"}  # fmt: skip


def side_by_side(rows: Sequence[Mapping[str, Any]], slots: Sequence[str]) -> list[tuple[str, ...]]:
    """(score, value of each slot with that of real data beside it), as text for a table that fits a screen."""
    beside = {row["metric"] for row in rows if row["metric"].endswith("_real")} | {*_BESIDE.values()}
    values: dict[str, dict[str, float]] = {}
    for row in rows:
        values.setdefault(row["metric"], {}).setdefault(row["made"], row["value"])
    lines = []
    for metric in values:
        if metric in beside or not values[metric].keys() & {*slots}:
            continue
        real = values.get(_BESIDE.get(metric, f"{metric}_real"), {})
        cells = [f"{values[metric][slot]:.3f}" if slot in values[metric] else "" for slot in slots]
        more = [
            f" ({real[slot]:.3f})" if cell and slot in real else "" for slot, cell in zip(slots, cells, strict=True)
        ]
        lines.append((metric, *(cell + each for cell, each in zip(cells, more, strict=True))))
    return lines


def _not_run(answer: Mapping[str, Any]) -> None:
    for metric, why in answer["not_run"].items():
        write(f"{metric}: {why}")
