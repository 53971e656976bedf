"""The base of every configuration model: frozen, unknown keys refused. A room's own settings sit beside its code."""

from __future__ import annotations

import re

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """A part of a configuration. Units are in the names of its fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def plain_word(word: str) -> str:
    """`word`, which becomes a part of file names. Raises ValueError for any but letters, digits, `_` and `-`."""
    if not re.fullmatch(r"\w[\w-]*", word):
        raise ValueError(f"wanted a name of letters, digits, '_' and '-', came '{word}'")
    return word
