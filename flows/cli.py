"""The command line `mmgen`. What is heavy is imported inside the commands: `mmgen --help` needs no torch or Prefect."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from flows import cli_data, cli_samples
from flows.endings import Group, SaidNo, ending

STEPS = {
    "ingest": "Read a source into staging: probe every sample, count every row.",
    "validate": "Check, find duplicates, quarantine with reasons, assign splits, write the data report.",
    "shard": "Write the kept samples as the shards of a dataset version.",
    "fit": "Fit codecs and judges, and freeze the evaluation set.",
    "extract": "Make features of every shard: tensors, latents, embeddings.",
    "train-fusion": "Train the fusion: any subset of slots to one embedding.",
    "train-generator": "Train the generator: any slots to any slots.",
    "evaluate": "Score the generator on the frozen evaluation set.",
    "register": "Gate, package and register the model.",
}


app = typer.Typer(
    name="mmgen", cls=Group, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False,
    help="From raw text-image-audio pairs to a registered any-to-any generator.",
)  # fmt: skip

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="The configuration of the line.")]
Ref = Annotated[str, typer.Argument(metavar="REF", help="[kind:]name[@version|@alias]")]
StoreOption = Annotated[
    str, typer.Option("--store", metavar="DIR", envvar="MMGEN_STORE", help="The store: a folder or a URL.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of stdout.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Processes for batches of work; default: one per core.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, …")]
Verify = Annotated[bool, typer.Option("--verify", help="Re-hash what is there instead of trusting recorded sizes.")]
Rehash = Annotated[bool, typer.Option("--rehash", help="Read every source file again.")]
Refit = Annotated[bool, typer.Option("--refit", help="Make fitted things anew.")]
Rebuild = Annotated[bool, typer.Option("--rebuild", help="Build the data version without a base.")]
InitFrom = Annotated[
    str | None, typer.Option("--init-from", metavar="REF", help="Start training from this earlier model's weights.")
]
Init = Annotated[str, typer.Option("--init", metavar="PART", help="Which of them: all, trunk, adapters or heads.")]
STORE = "mmgen-store"


def _cores() -> int:
    return max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def _options(
    workers: int | None, device: str, verify: bool, rehash: bool, refit: bool, rebuild: bool
) -> dict[str, Any]:
    """The circumstance of a run, as flows.line_run.Options takes it."""
    return {
        "workers": workers or _cores(),
        "device": device,
        "verify": verify,
        "rehash": rehash,
        "refit": refit,
        "rebuild": rebuild,
    }


def _answer(as_json: bool, answer: dict[str, Any], show: Callable[[dict[str, Any]], None]) -> None:
    """The result of a command: for a program one line of JSON, for a person `show`."""
    if as_json:
        print(json.dumps(answer, ensure_ascii=False, allow_nan=False))
    else:
        show(answer)


# ---------------------------------------------------------------- the line


@app.command()
def demo(
    name: Annotated[str, typer.Argument(help="spoken_digits, scenes or vqa.")] = "spoken_digits",
    store: StoreOption = STORE,
    rows: Annotated[
        int | None, typer.Option(min=1, help="Make only so many triples, scenes, or training pictures of vqa.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A few hundred rows and steps, with floors of their own.")
    ] = False,
    workers: Workers = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """The whole line on a data set made from packages alone."""
    from flows.demo import configure
    from flows.terminal import Watch

    with Watch() as watch:
        config = configure(name, store, rows, quick, watch)
    _line(config, store, {"workers": workers or _cores(), "device": device}, as_json)


@app.command()
def run(
    config: ConfigFile,
    store: StoreOption = STORE,
    first: Annotated[str | None, typer.Option("--from", metavar="STEP", help="Begin with this step.")] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="STEP", help="End with this step.")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Say what would run and why, and do nothing.")] = False,
    workers: Workers = None,
    device: Device = "auto",
    verify: Verify = False,
    rehash: Rehash = False,
    refit: Refit = False,
    rebuild: Rebuild = False,
    profile: Annotated[bool, typer.Option("--profile", help="Measure where the time of each training goes.")] = False,
    init_from: InitFrom = None,
    init: Init = "all",
    as_json: Json = False,
) -> None:
    """Bring everything up to date, from the source to the registered model. What is unchanged is not done again."""
    from mmgen import steps
    from mmgen.config import load

    steps.select(first, until)
    options = _options(workers, device, verify, rehash, refit, rebuild)
    settings = _started(load(config), store, init_from, init)
    if plan:
        from flows.plan import make_plan, show_plan

        _answer(as_json, make_plan(settings, store, options, first, until), show_plan)
        return
    _line(settings, store, options | {"profile": profile}, as_json, first, until)


def _started(config: Any, store: str, init_from: str | None, init: str, step: str | None = None) -> Any:
    """The configuration with the model to start from that the command names."""
    from mmgen.initial import start_from
    from mmgen.store import Store

    return config if init_from is None else start_from(config, init_from, init, Store(store), step)


def _step_command(name: str) -> Callable[..., None]:
    def command(
        config: ConfigFile,
        store: StoreOption = STORE,
        workers: Workers = None,
        device: Device = "auto",
        verify: Verify = False,
        rehash: Rehash = False,
        refit: Refit = False,
        rebuild: Rebuild = False,
        as_json: Json = False,
    ) -> None:
        from mmgen.config import load

        options = _options(workers, device, verify, rehash, refit, rebuild)
        _line(load(config), store, options, as_json, name, name)

    return command


def _training_command(name: str) -> Callable[..., None]:
    def command(
        config: ConfigFile,
        store: StoreOption = STORE,
        workers: Workers = None,
        device: Device = "auto",
        verify: Verify = False,
        rehash: Rehash = False,
        refit: Refit = False,
        rebuild: Rebuild = False,
        init_from: InitFrom = None,
        init: Init = "all",
        as_json: Json = False,
    ) -> None:
        from mmgen.config import load

        options = _options(workers, device, verify, rehash, refit, rebuild)
        _line(_started(load(config), store, init_from, init, name), store, options, as_json, name, name)

    return command


for _name, _help in STEPS.items():
    if _name != "evaluate":
        _made = _training_command(_name) if _name.startswith("train-") else _step_command(_name)
        app.command(_name, help=f"{_help} One step of the line.")(_made)


@app.command()
def evaluate(
    target: Annotated[
        str,
        typer.Argument(
            metavar="CONFIG.yaml|REF|DIRECTORY", help="The line's configuration, a model, or a folder of made samples."
        ),
    ],
    store: StoreOption = STORE,
    against: Annotated[
        str | None,
        typer.Option(metavar="DATASET@VERSION", help="Whose judges and test keys a folder is held against."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for tables and page; default for a folder: evaluation.")
    ] = None,
    workers: Workers = None,
    device: Device = "auto",
    verify: Verify = False,
    rehash: Rehash = False,
    refit: Refit = False,
    rebuild: Rebuild = False,
    as_json: Json = False,
) -> None:
    """Score the generator on the frozen evaluation set (one step of the line); or any model, or a folder of samples."""
    from flows import evaluation

    if Path(target).is_dir():
        made = evaluation.directory(Path(target), store, against, device, out or Path("evaluation"))
        _answer(as_json, made, evaluation.show_directory)
        return
    evaluation.refuse(against, "--against", "a folder of made samples")
    if target.endswith((".yaml", ".yml")):
        from mmgen.config import load

        evaluation.refuse(out, "--out", "a model or a folder of made samples")
        options = _options(workers, device, verify, rehash, refit, rebuild)
        _line(load(target), store, options, as_json, "evaluate", "evaluate")
        return
    _answer(as_json, evaluation.model(target, store, device, out), evaluation.show_model)


def _line(
    config: Any, store: str, options: dict[str, Any], as_json: bool, first: str | None = None, until: str | None = None
) -> None:
    from flows.launch import run_line
    from flows.screen import show_run
    from flows.summary import summarise
    from flows.terminal import Watch
    from mmgen.store import Store

    opened = Store(store)
    with Watch() as watch:
        record = run_line(config, opened, options, watch, first=first, until=until)
    answer = summarise(opened, record.steps) | {"run": record.run, "log": opened.full(record.log)}
    _answer(as_json, answer, lambda found: show_run(found, store))
    if answer["gate"]:
        raise SaidNo(f"the model was registered and not promoted: {answer['gate']}")


@app.command()
def tune(
    config: ConfigFile,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Trials to be finished, earlier ones included; default: what CONFIG says.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="BEST.yaml", help="The best recipe; default: CONFIG-best.yaml beside CONFIG.")
    ] = None,
    store: StoreOption = STORE,
    workers: Workers = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Search settings by validation loss, trial after trial, and write the best as a recipe."""
    from flows.tune import show_tuned, tuned

    options = _options(workers, device, False, False, False, False)
    _answer(as_json, tuned(config, store, options, trials, out), show_tuned)


# ---------------------------------------------------------------- before and after it


@app.command()
def init(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A table: csv, tsv, jsonl or parquet.")],
    out: Annotated[
        Path | None, typer.Option(metavar="CONFIG.yaml", help="Where to write; default: beside here.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    as_json: Json = False,
) -> None:
    """Look at a table's columns and write a commented configuration for it."""
    from flows.sniff import write_config

    _answer(as_json, write_config(file, out, force), lambda answer: print(answer["shown"]))


@app.command()
def head(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A fusion model, or a generator that has one.")],
    kind: Annotated[
        str, typer.Option("--head", metavar="KIND", help="classification, multi_label, regression, sequence_tagging.")
    ] = "classification",
    column: Annotated[str, typer.Option(help="Where the labels are: label, or a column of source.meta.")] = "label",
    slot: Annotated[str, typer.Option(help="The text slot whose words are tagged.")] = "text",
    separator: Annotated[str, typer.Option(help="Between the classes of one label.")] = "|",
    steps: Annotated[int, typer.Option(min=1, help="Training steps.")] = 300,
    seed: Annotated[int, typer.Option(help="Of the head's first weights and the order of samples.")] = 0,
    store: StoreOption = STORE,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Train a head for a task of its own on the frozen trunk of a fusion model, and score it on the test split."""
    from flows.heads import Task, show_trained, train

    task = Task(kind, column, slot, separator, steps, seed)
    _answer(as_json, train(model, task, store, device), show_trained)


@app.command("ls")
def list_(
    kind: Annotated[str | None, typer.Argument(metavar="[KIND]", help="Only this kind.")] = None,
    store: StoreOption = STORE,
    as_json: Json = False,
) -> None:
    """List what is in the store."""
    from flows import answers

    _answer(as_json, answers.listed(store, kind), answers.show_listed)


@app.command()
def show(ref: Ref, store: StoreOption = STORE, as_json: Json = False) -> None:
    """Show an artifact: its inputs, facts, files, configuration."""
    from flows import answers

    _answer(as_json, answers.shown(store, ref), answers.show_shown)


@app.command()
def report(ref: Ref, store: StoreOption = STORE, as_json: Json = False) -> None:
    """Print where the data report or model card of an artifact is."""
    from flows import answers

    _answer(as_json, answers.reported(store, ref), lambda answer: print("\n".join(answer["pages"])))


@app.command()
def runs(store: StoreOption = STORE, as_json: Json = False) -> None:
    """List the runs of the line on this store."""
    from flows import answers

    _answer(as_json, answers.ran(store), answers.show_ran)


@app.command()
def deploy(
    config: ConfigFile,
    cron: Annotated[
        str | None, typer.Option(help='When to run, e.g. "0 3 * * *"; without it, only when asked.')
    ] = None,
    gpu: Annotated[bool, typer.Option("--gpu", help="Run extract and training on the gpu pool.")] = False,
    workers: Workers = None,
    store: StoreOption = STORE,
    as_json: Json = False,
) -> None:
    """Put the line on the Prefect server of PREFECT_API_URL, with a schedule."""
    from flows.deployments import apply, show_applied

    _answer(as_json, apply(config, store, cron=cron, gpu=gpu, workers=workers or _cores()), show_applied)


cli_data.add(app, _answer)
cli_samples.add(app, _answer)


def main(arguments: list[str] | None = None) -> None:
    """The console script. Exits with 0, 1 (a gate said no), 2 (the user's mistake), 3 (a fault outside) or 130."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(ending(app, sys.argv[1:] if arguments is None else arguments))


if __name__ == "__main__":
    main()
