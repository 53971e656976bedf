"""Settings of `validate`: rules, duplicates, splits, gate."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from mmgen.errors import unknown_name
from mmgen.modalities.config import CheckConfig
from mmgen.reasons import REASONS
from mmgen.settings import Settings, plain_word


class HoldoutConfig(Settings):
    """Samples whose metadata `column` has one of `values` form their own split, never trained on."""

    column: str
    values: tuple[str, ...]
    split: str = "heldout"

    @field_validator("split")
    @classmethod
    def _plain(cls, split: str) -> str:
        return plain_word(split)


class GateConfig(Settings):
    """What stops the line before training."""

    #: kept / inputs
    min_kept: float = Field(0.5, ge=0, le=1)
    #: rows each of train, validation and test must have
    min_rows_per_split: int = Field(1, ge=0)
    #: reason code → the largest share of inputs that may be rejected, dropped or flagged for it
    max_share: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field(default_factory=dict)
    #: the largest shift of any measured quantity against the base version, in 0..1 (Kolmogorov-Smirnov's statistic for
    #: numbers, total variation for names, the difference of shares for presence); None: none is too large
    max_drift: float | None = Field(None, ge=0, le=1)

    @field_validator("max_share")
    @classmethod
    def _known(cls, shares: dict[str, float]) -> dict[str, float]:
        for code in shares:
            if code not in REASONS:
                raise ValueError(unknown_name("reason", code, REASONS))
        return shares


class PairsConfig(Settings):
    """When a sample's slots do not belong together, by the scores of a fusion model (see mmgen/pairs.py)."""

    #: how far below the lower quartile of all pairs' similarity, in interquartile ranges, a pair is an outlier: Tukey's
    #: outer fence
    fence_iqr: float = Field(3.0, ge=0)
    #: where the threshold lies: 0 at the fence, 1 at the median of pairs known to be wrong (shuffled ones beyond it)
    toward_wrong: float = Field(0.3, ge=0, le=1)


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
    #: has an effect once a fusion model of this data set exists
    pairs: PairsConfig = PairsConfig()

    @model_validator(mode="after")
    def _shares(self) -> ValidateConfig:
        if abs(sum(self.splits.values()) - 1) > 1e-6 or min(self.splits.values()) < 0:
            raise ValueError(f"splits: wanted shares that add up to 1, came {self.splits}")
        return self
