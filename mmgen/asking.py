"""What can be asked of a model, and the words that say it: on the command line, and to a served model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmgen.errors import ConfigError

# a text itself; of an image or sound its bytes, or a path or URI
Given = str | bytes | Path


@dataclass(frozen=True)
class Asked:
    """How samples are asked for (see Model.generate); None: what the model's package says."""

    guidance: float | None = None
    pairs: Mapping[tuple[str, str], float] = field(default_factory=dict)
    negative: Mapping[str, Given] = field(default_factory=dict)
    mix: Sequence[tuple[float, Mapping[str, Given]]] = ()
    strength: float | None = None
    sampler: str | None = None
    shift: float = 1.0
    steps: int | None = None
    #: of texts that are written token by token
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    beams: int | None = None
    #: text slot → what its texts begin with, one for all conditions or one for each
    prefix: Mapping[str, str | Sequence[str]] = field(default_factory=dict)
    candidates: int | None = None


def named_slots(text: Any, image: Any, audio: Any, slots: Mapping[str, Any] | None) -> dict[str, Any]:
    """Slot → what is given of it."""
    named = {"text": text, "image": image, "audio": audio} | dict(slots or {})
    return {slot: value for slot, value in named.items() if value is not None}


def each_condition(given: Mapping[str, Given | Sequence[Given]]) -> list[dict[str, Given]]:
    """One mapping per condition; a single value goes with each entry of the lists. Raises ConfigError."""
    single = {slot: value for slot, value in given.items() if isinstance(value, str | bytes | Path)}
    lists = {slot: list(value) for slot, value in given.items() if not isinstance(value, str | bytes | Path)}
    lengths = {slot: len(value) for slot, value in lists.items()}
    if len(set(lengths.values())) > 1 or 0 in lengths.values():
        raise ConfigError(f"generate: wanted lists of one length, came {lengths}")
    count = next(iter(lengths.values()), 1)
    return [{**single, **{slot: value[row] for slot, value in lists.items()}} for row in range(count)]


# ---------------------------------------------------------------- in words


def read_named(words: Iterable[str], option: str) -> dict[str, str]:
    """NAME=VALUE of each word. option: what an error calls them. Raises ConfigError."""
    named: dict[str, str] = {}
    for word in words:
        name, separator, value = word.partition("=")
        if not separator or not name:
            raise ConfigError(f"{option}: wanted NAME=VALUE, came '{word}'")
        if name in named:
            raise ConfigError(f"{option}: '{name}' is given twice")
        named[name] = value
    return named


def read_mix(words: Iterable[str], option: str) -> tuple[tuple[float, dict[str, str]], ...]:
    """WEIGHT:NAME=VALUE of each word, a condition of its own. Raises ConfigError."""
    found = []
    for word in words:
        weight, separator, rest = word.partition(":")
        if not separator or "=" not in rest:
            raise ConfigError(f"{option}: wanted WEIGHT:NAME=VALUE, came '{word}'")
        found.append((_number(weight, option, word), read_named([rest], option)))
    return tuple(found)


def read_guidance(words: Iterable[str], option: str) -> tuple[float | None, dict[tuple[str, str], float]]:
    """(guidance or None, pairs): each word a number, or GIVEN:MADE=NUMBER. Raises ConfigError."""
    guidance, pairs = None, {}
    for word in words:
        pair, separator, number = word.rpartition("=")
        if not separator:
            guidance = _number(word, option, word)
            continue
        given, colon, made = pair.partition(":")
        if not (given and colon and made):
            raise ConfigError(f"{option}: wanted a number or GIVEN:MADE=NUMBER, came '{word}'")
        pairs[given, made] = _number(number, option, word)
    return guidance, pairs


def _number(text: str, option: str, word: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise ConfigError(f"{option}: wanted a number, came '{text}' in '{word}'")
    return found
