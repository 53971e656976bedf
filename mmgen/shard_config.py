"""Settings of `shard`."""

from __future__ import annotations

from pydantic import Field

from mmgen.settings import Settings


class ShardConfig(Settings):
    """Caps of one shard, and the seed of the order within an increment."""

    max_samples: int = Field(1_000, ge=1)
    max_bytes: int = Field(256 << 20, ge=1)
    #: at least this many shards for each split of the first increment, as far as there are samples
    min_shards_per_split: int = Field(1, ge=1)
