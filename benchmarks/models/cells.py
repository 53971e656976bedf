"""The cells of the comparison: one contender on one variant of the data with one seed and one budget."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.environments import PEERS, environment
from benchmarks.models import lines, settings
from mmgen import artifact as artifacts
from mmgen import config as configs
from mmgen.store import Store

ROOT = Path(__file__).parents[2]
FLOW, BASELINE = "joint_flow", "concat_baseline"


@dataclass(frozen=True, slots=True)
class Cell:
    """minutes: of processor time. setting: of a peer's grid; -1 for the chosen one, or ours."""

    contender: str
    variant: str
    seed: int
    minutes: float
    setting: int = -1

    @property
    def name(self) -> str:
        word = f"-s{self.setting}" if self.setting >= 0 else ""
        return f"{self.contender}-{self.variant}-seed{self.seed}-{self.minutes:g}min{word}"


def tuning() -> Iterator[Cell]:
    """Every setting of every peer, on the complete set, for a short budget; judged on the validation split."""
    for peer, grid in settings.GRID.items():
        for number in range(len(grid)):
            yield Cell(peer, "complete", 0, settings.TUNING_S / 60, number)


def comparison(best: str) -> Iterator[Cell]:
    """The table: everyone on both variants; ours and the best peer with all seeds; the curves."""
    full = settings.BUDGET_S / 60
    for variant in ("complete", "half"):
        for seed in settings.SEEDS:
            yield Cell(FLOW, variant, seed, full)
        for peer in settings.GRID:
            for seed in settings.SEEDS if peer == best else settings.SEEDS[:1]:
                yield Cell(peer, variant, seed, full)
        yield Cell(BASELINE, variant, 0, full)
    for minutes in settings.CURVE_MINUTES[:-1]:
        yield Cell(FLOW, "complete", 0, minutes)
        yield Cell(best, "complete", 0, minutes)
    yield Cell(FLOW, "most", 0, full)
    for pairs in settings.PAIRS:
        yield Cell(FLOW, f"pairs-{pairs}", 0, full)


# ---------------------------------------------------------------- what is asked of ours


def scaled(train: dict[str, Any], share: float) -> dict[str, Any]:
    """A share of a training's steps, 20 at least, of which at most a fifth warm up."""
    steps = max(20, round(train["steps"] * share))
    return {"train": {"steps": steps, "warmup_steps": min(train["warmup_steps"], steps // 5)}}


@dataclass(frozen=True)
class Pace:
    """What our recipe costs on this machine, in processor seconds: of its steps, and of what has none (latents)."""

    fixed_s: float
    recipe_s: float

    def share(self, minutes: float) -> float:
        """The share of the recipe's steps that stays within so many minutes."""
        return max(0.0, settings.MARGIN * 60 * minutes - self.fixed_s) / self.recipe_s

    @classmethod
    def between(cls, short: tuple[float, float], long: tuple[float, float]) -> Pace:
        """From two trainings: (share, processor seconds)."""
        recipe_s = max(1e-3, (long[1] - short[1]) / (long[0] - short[0]))
        return cls(max(0.0, short[1] - short[0] * recipe_s), recipe_s)


def flow(share: float) -> list[dict[str, Any]]:
    """The recipe with all of its trainings shorter or longer alike."""
    recipe = configs.build({"name": "x", "recipe": "spoken_digits", "source": {"path": "pairs.csv"}}).to_json()
    return [{
        "codecs": {name: scaled(recipe["codecs"][name]["train"], share) for name in ("image", "audio", "text")},
        "fusion": scaled(recipe["fusion"]["train"], share),
        "generator": scaled(recipe["generator"]["train"], share),
    }]  # fmt: skip


def baseline(minutes: float) -> list[dict[str, Any]]:
    """One training for each slot that is made, each with its share of the time; codecs and fusion are not used."""
    source = {"path": "pairs.csv", "text": "caption", "image": "image", "audio": "audio"}
    recipe = configs.build({"name": "x", "recipe": "concat_baseline_text_image_audio", "source": source}).to_json()
    raw = recipe["generator"]
    train = {key: value for key, value in raw["train"].items() if key not in ("epochs", "steps")}
    slots = ("text", "image", "audio")
    return [
        {**lines.TINY, "fusion": {"train": {"steps": 2, "warmup_steps": 0}}, "budget_s": 60 * minutes / len(slots),
         "generator": {**raw, "target": slot, "train": train}}
        for slot in slots
    ]  # fmt: skip


#: the steps that are charged
CHARGED = {FLOW: ("fit", "extract", "train-fusion", "train-generator"), BASELINE: ("train-generator",)}


# ---------------------------------------------------------------- running them


@dataclass(frozen=True)
class Place:
    """Where the comparison works. work: tables, store, what was made. peers: the peers' environment. rows: of the
    whole data set."""

    work: Path
    peers: Path
    rows: int = settings.ROWS
    #: variant → what `prepare` found
    ready: dict[str, tuple[Path, dict[str, artifacts.Artifact]]] = field(default_factory=dict, compare=False)

    @property
    def store(self) -> Store:
        return Store(str(self.work / "store"))

    @property
    def cells(self) -> Path:
        folder = self.work / "cells"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def peer_python(self) -> Path:
        return environment(self.peers, PEERS / "multivae.lock")

    def prepare(self, variant: str) -> tuple[Path, dict[str, artifacts.Artifact]]:
        """See `lines.prepare`."""
        if variant not in self.ready:
            self.ready[variant] = lines.prepare(self.store, self.work / "data", variant, self.rows)
        return self.ready[variant]

    def exam(self, split: str) -> Path:
        """The real values that contenders are asked with and judged on."""
        path = self.cells / f"exam-{split}.npz"
        if not path.exists():
            _, complete = self.prepare("complete")
            keys = lines.exam_keys(self.store, split)
            lines.export(self.store, complete["fit"], complete["extract"], split, path, keys)
        return path

    def train(self, variant: str) -> Path:
        """What peers learn a variant from."""
        path = self.cells / f"train-{variant}.npz"
        if not path.exists():
            _, ready = self.prepare(variant)
            lines.export(self.store, ready["fit"], ready["extract"], "train", path)
        return path

    def costs(self, cell: Cell) -> Path:
        """What a cell took; it is done when this is there."""
        return self.cells / f"{cell.name}.json"

    def made(self, cell: Cell) -> Path:
        """What a cell made."""
        return self.cells / f"{cell.name}.npz"


def run_all(
    place: Place, asked: Sequence[Cell], chosen: dict[str, int], split: str
) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """Each cell with its costs, in order, several at once. What they share is made first, by nobody's time."""
    for cell in asked:
        if not place.costs(cell).exists():
            _share(place, cell, split)
    with ThreadPoolExecutor(settings.JOBS) as pool:
        try:
            yield from zip(asked, pool.map(lambda cell: run(place, cell, chosen, split), asked), strict=True)
        finally:
            pool.shutdown(cancel_futures=True)


def _share(place: Place, cell: Cell, split: str) -> None:
    place.prepare(cell.variant)
    place.exam(split)
    if cell.contender in settings.GRID:
        place.train(cell.variant)
        place.peer_python()
    elif cell.contender == FLOW:
        pace(place)


def run(place: Place, cell: Cell, chosen: dict[str, int], split: str) -> dict[str, Any]:
    """Train and make one cell unless what it made is there; its costs. Raises CalledProcessError."""
    costs = place.costs(cell)
    if costs.exists():
        found: dict[str, Any] = json.loads(costs.read_text(encoding="utf-8"))
        return found
    if cell.contender in settings.GRID:
        request = _request(place, cell) | _peer_request(place, cell, chosen, split)
        found = _asked(
            place, cell, [str(place.peer_python()), str(ROOT / "benchmarks" / "models" / "peer.py")], request
        )
    elif cell.contender == FLOW:
        found = _within(place, cell, flow, pace(place).share(cell.minutes))
    else:
        found = _within(place, cell, baseline, settings.MARGIN * cell.minutes)
    found = asdict(cell) | found
    costs.write_text(json.dumps(found), encoding="utf-8")
    return found


def _within(
    place: Place, cell: Cell, trainings: Callable[[float], list[dict[str, Any]]], size: float
) -> dict[str, Any]:
    """Our trainings, whose budget is steps, planned by their pace. What took more processor time all the same, as it
    does on a machine that is busier than it was then, is trained anew, shorter. size: what `trainings` is asked for."""
    budget_s = 60 * cell.minutes
    for left in reversed(range(settings.TRIES)):
        found = _ours(place, cell, trainings(size), str(place.made(cell)))
        if found["cpu_s"] <= budget_s or not left:
            break
        print(f"{cell.name}: {found['cpu_s']:.0f} s of {budget_s:.0f}, again and shorter", flush=True)
        size *= settings.MARGIN * budget_s / found["cpu_s"]
    return found


def pace(place: Place) -> Pace:
    """Measured once in a work folder, by two short trainings that are charged to nobody, as many of each at once as
    there will be cells: on two processors that share one core each takes longer."""
    path = place.cells / "pace.json"
    if not path.exists():
        twins = [Cell(FLOW, "complete", number, 0.0) for number in range(settings.JOBS)]
        spent = []
        with ThreadPoolExecutor(settings.JOBS) as pool:
            for share in settings.PACE_SHARES:
                each = pool.map(_ours, [place] * len(twins), twins, [flow(share)] * len(twins), [None] * len(twins))
                spent.append((share, statistics.fmean(found["cpu_s"] for found in each)))
        path.write_text(json.dumps(asdict(Pace.between(spent[0], spent[1]))), encoding="utf-8")
    return Pace(**json.loads(path.read_text(encoding="utf-8")))


def _request(place: Place, cell: Cell) -> dict[str, Any]:
    """What is asked of everyone."""
    made = str(place.made(cell))
    return {"seed": cell.seed, "threads": settings.THREADS, "joint": settings.JOINT, "made": made}


def _asked(place: Place, cell: Cell, program: list[str], request: dict[str, Any]) -> dict[str, Any]:
    """The answer of a process of its own, so that its processor time is that of the training."""
    path = place.cells / f"{cell.name}.request.json"
    path.write_text(json.dumps(request), encoding="utf-8")
    done = subprocess.run([*program, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _ours(place: Place, cell: Cell, trainings: list[dict[str, Any]], made: str | None) -> dict[str, Any]:
    """Our trainings in a copy of the store: nothing that another cell trained, or a stopped run of this one, is adopted
    for nothing. made: where samples go; None: none are made."""
    table, _ = place.prepare(cell.variant)
    own = place.work / "stores" / cell.name
    shutil.rmtree(own, ignore_errors=True)
    shutil.copytree(place.work / "store", own)
    request = _request(place, cell) | {
        "made": made, "steps": settings.SAMPLER_STEPS, "table": str(table), "variant": cell.variant, "store": str(own),
        "exam": "digits-complete", "trainings": trainings, "charged": CHARGED[cell.contender],
    }  # fmt: skip
    found = _asked(place, cell, [sys.executable, "-m", "benchmarks.models.ours"], request)
    shutil.rmtree(own)
    return found


def _peer_request(place: Place, cell: Cell, chosen: dict[str, int], split: str) -> dict[str, Any]:
    number = cell.setting if cell.setting >= 0 else chosen[cell.contender]
    return {
        "peer": cell.contender, "settings": settings.GRID[cell.contender][number],
        "train": str(place.train(cell.variant)), "exam": str(place.exam(split)),
        "cpu_seconds": 60 * cell.minutes, "components": settings.COMPONENTS,
        "vocabulary": len(lines.texts_of(place.store).tokenizer),
    }  # fmt: skip
