"""`mmgen generate`: what is given on the command line, to files."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmgen import promotions
from mmgen.errors import ConfigError
from mmgen.store import Store


@dataclass(frozen=True)
class Wish:
    """What is asked for. given: slot → text, or the path of a file. guidance, steps: None for the model's own.

    words: temperature, top_k, top_p, beams and prefix, as `Model.generate` takes them.
    """

    given: dict[str, str | Path]
    to: tuple[str, ...]
    num: int
    guidance: float | None
    steps: int | None
    seed: int
    words: dict[str, Any] = field(default_factory=dict)


def given_slots(text: str | None, image: Path | None, audio: Path | None, more: list[str]) -> dict[str, str | Path]:
    """Slot → text or path. A value of NAME=VALUE is a text until the model says otherwise. Raises ConfigError."""
    given: dict[str, str | Path] = {}
    for name, value in (("text", text), ("image", image), ("audio", audio)):
        if value is not None:
            given[name] = value
    for name, value in named_values("--slot", more).items():
        if name in given:
            raise ConfigError(f"--slot: '{name}' is given twice")
        given[name] = value
    for name, value in given.items():
        if isinstance(value, Path) and not value.is_file():
            raise ConfigError(f"--{name}: no such file {value}")
    return given


def named_values(option: str, pairs: list[str]) -> dict[str, str]:
    """NAME → VALUE of pairs NAME=VALUE. Raises ConfigError."""
    found: dict[str, str] = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator or not name:
            raise ConfigError(f"{option}: wanted NAME=VALUE, came '{pair}'")
        if name in found:
            raise ConfigError(f"{option}: '{name}' is given twice")
        found[name] = value
    return found


def make(reference: str, wish: Wish, out: Path, store: str, device: str) -> dict[str, Any]:
    """Make the samples and write them. Returns {"files": [path], "model", "seed"}. Raises UserError."""
    if not Path(reference).is_dir():
        # a wrong name is answered before torch takes its seconds
        promotions.resolve(reference, Store(store))
    # a library's remarks are for logs, and this command keeps none
    logging.disable(logging.WARNING)
    from mmgen.generate import load

    model = load(reference, store, device)
    given = {name: _as(value, model.slots.get(name)) for name, value in wish.given.items()}
    made = model.generate(
        slots=given, to=wish.to, num=wish.num, guidance=wish.guidance, steps=wish.steps, seed=wish.seed, **wish.words
    )
    return {"files": [str(path) for path in made.save(out)], "model": reference, "seed": wish.seed}


def _as(value: str | Path, modality: str | None) -> str | Path:
    return Path(value) if modality in ("image", "audio") else value
