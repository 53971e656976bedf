"""The base of every configuration model: frozen, unknown keys refused. A room's own settings sit beside its code."""

from __future__ import annotations

import re
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer


class Settings(BaseModel):
    """A part of a configuration. Units are in the names of its fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: fields that came after others had been recorded without them: at their default they are still left out
    later: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _recorded(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        plain: dict[str, Any] = dump(self)
        fields = type(self).model_fields
        unused = {name for name in self.later if getattr(self, name) == fields[name].get_default()}
        return {name: value for name, value in plain.items() if name not in unused} if unused else plain


def plain_word(word: str) -> str:
    """`word`, which becomes a part of file names. Raises ValueError for any but letters, digits, `_` and `-`."""
    if not re.fullmatch(r"\w[\w-]*", word):
        raise ValueError(f"wanted a name of letters, digits, '_' and '-', came '{word}'")
    return word
