"""`mmgen generate`, `inpaint` and `interpolate`: what is given on the command line, to files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.terminal import without_remarks
from mmgen import promotions
from mmgen.asking import Asked, read_named
from mmgen.errors import ConfigError
from mmgen.store import Store

if TYPE_CHECKING:
    from mmgen.generate import Generated, Model


@dataclass(frozen=True)
class Wish:
    """What is asked for. given: slot → text, or the path of a file. to: what is made, where a command says it."""

    given: dict[str, str | Path]
    num: int
    seed: int = 0
    asked: Asked = field(default_factory=Asked)
    to: tuple[str, ...] = ()


def given_slots(text: str | None, image: Path | None, audio: Path | None, more: list[str]) -> dict[str, str | Path]:
    """Slot → text or path. A value of NAME=VALUE is a text until the model says otherwise. Raises ConfigError."""
    given: dict[str, str | Path] = {}
    for name, value in (("text", text), ("image", image), ("audio", audio)):
        if value is not None:
            given[name] = value
    for name, said in read_named(more, "--slot").items():
        if name in given:
            raise ConfigError(f"--slot: '{name}' is given twice")
        given[name] = said
    for name, value in given.items():
        if isinstance(value, Path) and not value.is_file():
            raise ConfigError(f"--{name}: no such file {value}")
    return given


def hole_of(text: str) -> Path | tuple[float, float]:
    """A mask's file, or START:STOP in seconds. Raises ConfigError."""
    start, separator, stop = text.partition(":")
    try:
        if separator:
            return float(start), float(stop)
    except ValueError:
        pass
    if not Path(text).is_file():
        raise ConfigError(f"--hole: wanted the file of a mask or START:STOP in seconds, came '{text}'")
    return Path(text)


def make(reference: str, wish: Wish, out: Path, store: str, device: str) -> dict[str, Any]:
    """Make the samples and write them. Returns {"files": [path], "model", "seed"}. Raises UserError."""

    def made(model: Model) -> Generated:
        asked = wish.asked
        return model.generate(
            slots=_files(model, wish.given), to=wish.to, num=wish.num, guidance=asked.guidance, pairs=asked.pairs,
            negative=_files(model, asked.negative),
            mix=[(weight, _files(model, mixed)) for weight, mixed in asked.mix],
            strength=asked.strength, sampler=asked.sampler, shift=asked.shift, steps=asked.steps, seed=wish.seed,
            temperature=asked.temperature, top_k=asked.top_k, top_p=asked.top_p, beams=asked.beams, prefix=asked.prefix,
            candidates=asked.candidates,
        )  # fmt: skip

    return _made(made, reference, out, store, device) | {"seed": wish.seed}


def inpaint(
    reference: str, slot: str, hole: Path | tuple[float, float], wish: Wish, out: Path, store: str, device: str
) -> dict[str, Any]:
    """As `make`, of a slot that is given and has a hole."""

    def made(model: Model) -> Generated:
        given = _files(model, wish.given)
        value = given.pop(slot)
        return model.inpaint(
            slot, value, hole, slots=given, num=wish.num, guidance=wish.asked.guidance, sampler=wish.asked.sampler,
            steps=wish.asked.steps, seed=wish.seed,
        )  # fmt: skip

    return _made(made, reference, out, store, device) | {"seed": wish.seed}


def interpolate(
    reference: str, one: dict[str, str], other: dict[str, str], wish: Wish, out: Path, store: str, device: str
) -> dict[str, Any]:
    """As `make`, on the way from one to the other."""

    def made(model: Model) -> Generated:
        first, last = _files(model, one), _files(model, other)
        return model.interpolate(first, last, wish.num, slots=_files(model, wish.given), steps=wish.asked.steps)

    return _made(made, reference, out, store, device)


def _made(made: Callable[[Model], Generated], reference: str, out: Path, store: str, device: str) -> dict[str, Any]:
    if not Path(reference).is_dir():
        # a wrong name is answered before torch takes its seconds
        promotions.resolve(reference, Store(store))
    with without_remarks():
        from mmgen.generate import load

        found = made(load(reference, store, device))
    return {"files": [str(path) for path in found.save(out)], "model": reference}


def _files(model: Model, given: Any) -> dict[str, Any]:
    """Paths where the model's slots are files."""
    files = ("image", "audio")
    return {name: Path(value) if model.slots.get(name) in files else value for name, value in given.items()}
