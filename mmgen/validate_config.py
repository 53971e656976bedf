"""Settings of `validate`: rules, duplicates, splits, gate."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from mmgen.modalities.config import CheckConfig
from mmgen.settings import Settings


class HoldoutConfig(Settings):
    """Samples whose metadata `column` has one of `values` form their own split, never trained on."""

    column: str
    values: tuple[str, ...]
    split: str = "heldout"


class GateConfig(Settings):
    """What stops the line before training."""

    #: kept / inputs
    min_kept: float = Field(0.5, ge=0, le=1)
    #: rows each of train, validation and test must have
    min_rows_per_split: int = Field(1, ge=0)


class ValidateConfig(Settings):
    """How facts become verdicts and splits."""

    checks: CheckConfig = CheckConfig()
    on_bad_slot: Literal["reject", "drop_slot"] = "reject"
    #: what becomes of the later ones among equal samples
    duplicates: Literal["keep", "drop", "flag"] = "drop"
    near_duplicates: Literal["keep", "drop", "flag"] = "flag"
    #: Hamming radius at which 64-bit hashes propose a near-duplicate
    near_radius_bits: int = Field(6, ge=0, le=16)
    #: correlation at which the second measure confirms it
    near_confirm: float = Field(0.98, ge=0, le=1)
    #: shares of the splits
    splits: dict[Literal["train", "validation", "test"], float] = Field(
        default={"train": 0.8, "validation": 0.1, "test": 0.1}
    )
    holdout: HoldoutConfig | None = None
    gate: GateConfig = GateConfig()

    @model_validator(mode="after")
    def _shares(self) -> ValidateConfig:
        if abs(sum(self.splits.values()) - 1) > 1e-6 or min(self.splits.values()) < 0:
            raise ValueError(f"splits: wanted shares that add up to 1, came {self.splits}")
        return self
