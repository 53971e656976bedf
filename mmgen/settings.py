"""The base of every configuration model: frozen, unknown keys refused. A room's own settings sit beside its code."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """A part of a configuration. Units are in the names of its fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")
