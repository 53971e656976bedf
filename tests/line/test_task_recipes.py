"""Tasks are slots: the recipe of each, from a table of its own kind to its made slot, through the real steps."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sacrebleu
import soundfile
from PIL import Image

import mmgen
from mmgen import steps
from mmgen.config import build
from mmgen.runtime import Runtime
from mmgen.store import Store
from tests.data_sources import sound

ROWS = 24
TRAIN = {"steps": 2, "batch_size": 8}
SMALL: dict[str, Any] = {
    "validate": {"near_duplicates": "keep"},
    "codecs": {
        "text": {"vocab_size": 262, "width": 16, "heads": 2, "depth": 1, "train": TRAIN},
        "image": {"widths": [8], "depth": 1, "latent_width": 4, "train": TRAIN},
        "audio": {"widths": [8, 8, 8], "depth": 1, "latent_width": 4, "train": TRAIN},
    },
    "judges": {"width": 8, "train": TRAIN},
    "fusion": {"width": 8, "train": TRAIN},
    "generator": {"kind": "joint_flow", "width": 16, "blocks": 1, "train": {**TRAIN, "ema_decay": 0.9}},
}
NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight")
NUMEROS = ("uno", "dos", "tres", "cuatro", "cinco", "seis", "siete", "ocho")


def said(number: int, words: tuple[str, ...] = NUMBERS) -> str:
    return f"{words[number % 8]} {words[number // 8 % 8]} {number}"


def picture(number: int, side: int = 32, style: int = 0) -> bytes:
    """A coloured ramp with a bar whose place is the number's; `style` turns the colours."""
    pixels = np.zeros((side, side, 3), dtype=np.uint8)
    pixels[..., style % 3] = np.linspace(30, 220, side)[None]
    at = number % 8 * side // 8
    pixels[:, at : at + side // 8, (style + 1) % 3] = 200 + number
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


# ---------------------------------------------------------------- how well a task is done


def chrf(made: list[Any], wanted: list[Any]) -> float:
    return float(sacrebleu.corpus_chrf(made, [wanted]).score) / 100


def exact_match(made: list[Any], wanted: list[Any]) -> float:
    return sum(one.strip() == other.strip() for one, other in zip(made, wanted, strict=True)) / len(made)


def rouge_l(made: list[Any], wanted: list[Any]) -> float:
    """Mean F1 of the longest common subsequence of words (Lin 2004)."""

    def common(one: list[str], other: list[str]) -> int:
        lengths = [0] * (len(other) + 1)
        for word in one:
            before = lengths[:]
            for at, each in enumerate(other):
                lengths[at + 1] = before[at] + 1 if word == each else max(lengths[at], before[at + 1])
        return lengths[-1]

    scores = []
    for one, other in zip((text.split() for text in made), (text.split() for text in wanted), strict=True):
        scores.append(2 * common(one, other) / max(1, len(one) + len(other)))
    return sum(scores) / len(scores)


def likeness(made: list[Any], wanted: list[Any]) -> float:
    """1 - mean absolute difference of pixels, of pictures of one size."""
    both = [[np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=float) for data in side]
            for side in (made, wanted)]  # fmt: skip
    return float(1 - np.mean([np.abs(one - other).mean() / 255 for one, other in zip(*both, strict=True)]))


def playable(made: list[Any], wanted: list[Any]) -> float:
    """Share of clips that are sound of the wanted rate and length."""
    heard = [soundfile.read(io.BytesIO(data)) for data in made]
    right = [rate == 16_000 and len(wave) == 16_000 and np.isfinite(wave).all() for wave, rate in heard]
    return sum(right) / len(wanted)


@dataclass(frozen=True)
class Task:
    """row: number → slot → text or the bytes of a file. codecs: what is fitted. size: of a made picture."""

    recipe: str
    source: Mapping[str, str]
    row: Callable[[int], dict[str, str | bytes]]
    given: tuple[str, ...]
    made: str
    score: Callable[[list[Any], list[Any]], float]
    codecs: tuple[str, ...]


TASKS = (
    Task("captioning", {"image": "image", "text": "text"},
         lambda n: {"image": picture(n), "text": said(n)}, ("image",), "text", chrf, ("image", "text")),
    Task("transcription", {"audio": "audio", "text": "text"},
         lambda n: {"audio": sound(n, 1.0), "text": said(n)}, ("audio",), "text", exact_match, ("audio", "text")),
    Task("text_to_speech", {"audio": "audio", "text": "text"},
         lambda n: {"audio": sound(n, 1.0), "text": said(n)}, ("text",), "audio", playable, ("audio", "text")),
    Task("translation", {}, lambda n: {"original": said(n), "translation": said(n, NUMEROS)},
         ("original",), "translation", chrf, ("text",)),
    Task("summarisation", {}, lambda n: {"document": f"{said(n)} " * 12, "summary": said(n)},
         ("document",), "summary", rouge_l, ("text", "text-summary")),
    Task("dialogue", {}, lambda n: {"turn_1": f"and {said(n)}?", "turn_2": said(n) if n % 2 else "",
                                    "turn_3": said(n + 1) if n % 4 == 1 else "", "reply": said(n + 1)},
         ("turn_1", "turn_2"), "reply", chrf, ("text",)),
    Task("question_answering", {"image": "image"},
         lambda n: {"image": picture(n), "question": f"where is bar {n}?", "answer": NUMBERS[n % 8]},
         ("image", "question"), "answer", exact_match, ("image", "text")),
    Task("style_transfer", {}, lambda n: {"content": picture(n), "style": picture(n + 3, style=n),
                                          "stylised": picture(n, style=n)},
         ("content", "style"), "stylised", likeness, ("image",)),
    Task("image_detailing", {"image": "image", "text": "text"},
         lambda n: {"image": picture(n), "text": said(n), "detailed": picture(n, 64)},
         ("image", "text"), "detailed", likeness, ("image", "image-detailed", "text")),
)  # fmt: skip


def write(task: Task, folder: Path) -> Path:
    """The task's table, its media beside it."""
    folder.mkdir()
    records = []
    for number in range(ROWS):
        record = {"key": f"k{number:02d}"}
        for slot, value in task.row(number).items():
            record[slot] = value if isinstance(value, str) else f"{number}-{slot}.{'wav' if slot == 'audio' else 'png'}"
            if isinstance(value, bytes):
                (folder / record[slot]).write_bytes(value)
        records.append(record)
    with (folder / "table.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, records[0])
        writer.writeheader()
        writer.writerows(records)
    return folder / "table.csv"


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.recipe)
def test_a_task_is_a_recipe_and_a_call(task: Task, tmp_path: Path) -> None:
    source = {"kind": "table", "path": str(write(task, tmp_path / "raw")), "key": "key", **task.source}
    config = build({"name": "task", "recipe": task.recipe, "source": source, **SMALL})
    assert set(config.slots) == set(task.row(0))
    store = Store(tmp_path / "store")
    until = steps.NAMES[: steps.NAMES.index("train-generator") + 1]
    made = {outcome.step: outcome.artifact for outcome in steps.run(config, Runtime(store, device="cpu"), until)}
    assert made["shard"].facts["counts"]["kept"] == ROWS
    assert tuple(sorted(made["fit"].facts["codecs"])) == task.codecs
    model = mmgen.load("task", store=store, device="cpu")
    asked = [1, 5, 9]
    given = {slot: [task.row(number)[slot] for number in asked] for slot in task.given}
    found = model.generate(slots=given, to=task.made, steps=2)
    assert (len(found), set(found.extensions)) == (len(asked), {task.made})
    wanted = [task.row(number)[task.made] for number in asked]
    assert task.score(wanted, wanted) == pytest.approx(1)
    assert 0 <= task.score(found[task.made], wanted) <= 1
