"""`mmgen tune`: the line up to the features, the search, and the best trial's recipe as a file."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import yaml

from flows.terminal import Watch, stdout, table
from mmgen.config import Config, load
from mmgen.errors import ConfigError
from mmgen.runtime import Runtime
from mmgen.store import Store

_MARK = "# The best trial of `mmgen tune"


def tuned(path: Path, store: str, options: dict[str, Any], trials: int | None, out: Path | None) -> dict[str, Any]:
    """Bring what the search trains on up to date, search, and write the best recipe.

    {"study", "step", "metric", "trials": [{"number", "state", "value", "params", "looks", "seconds", "why"}], "best":
    one of them, "recipe": its path}. Raises ConfigError (a file in the way), and what the line and the search raise.
    """
    from flows.launch import run_line
    from mmgen.tune import tune, until

    config, target = load(path), out or path.with_name(f"{path.stem}-best.yaml")
    _check_free(target)
    opened = Store(store)
    with Watch() as watch:
        run_line(config, opened, options, watch, first=None, until=until(config))
        runtime = Runtime(opened, workers=options["workers"], device=options["device"], progress=watch)
        with _device(runtime):
            found = tune(config, runtime, trials)
    answer = {
        "study": found.study, "step": found.step, "metric": config.tune.metric,
        "trials": [each.to_json() for each in found.trials], "best": found.best.to_json(), "recipe": str(target),
    }  # fmt: skip
    target.write_text(_recipe(path, target, config, answer), encoding="utf-8")
    return answer


@contextlib.contextmanager
def _device(runtime: Runtime) -> Any:
    from flows.lease import device_lease

    if runtime.device == "cpu":
        yield
        return
    with device_lease(say=runtime.progress.say):
        yield


def _check_free(target: Path) -> None:
    if target.exists() and not target.read_text(encoding="utf-8").startswith(_MARK):
        raise ConfigError(f"{target}: exists already, and no search wrote it; --out FILE writes another")


def _recipe(path: Path, target: Path, config: Config, answer: dict[str, Any]) -> str:
    """CONFIG.yaml with the best trial's settings laid upon it, as `mmgen run` takes it."""
    from mmgen.tune import laid_upon, overrides

    best = answer["best"]
    whole = laid_upon(yaml.safe_load(path.read_text(encoding="utf-8")), overrides(config, best["params"]))
    if target.resolve().parent != path.resolve().parent and "path" in (whole.get("source") or {}):
        # paths are relative to the file that names them
        whole["source"]["path"] = config.source.path
    said = f"{answer['metric']} {best['value']:.6g} in trial {best['number']} of {len(answer['trials'])}"
    head = f"{_MARK} {path.name}`: {said}, on validation rows.\n"
    return head + yaml.safe_dump(whole, sort_keys=False, allow_unicode=True)


def show_tuned(answer: dict[str, Any]) -> None:
    """Print the trials, the best of them, and what to do with it."""
    console = stdout()
    settings = sorted({path for trial in answer["trials"] for path in trial["params"]})
    rows = []
    for trial in answer["trials"]:
        value = "" if trial["value"] is None else f"{trial['value']:.5f}"
        mark = "best" if trial["number"] == answer["best"]["number"] else trial["state"]
        params = [_short(trial["params"].get(path)) for path in settings]
        rows.append((str(trial["number"]), mark, value, f"{trial['seconds']:.1f} s", *params))
    console.print(table(("trial", "", answer["metric"], "", *settings), rows))
    console.print(f"\nrecipe      {answer['recipe']}\nnext        mmgen run {answer['recipe']}")


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
