"""The matcher of scenes reads the renderer's own pictures, and no pictures that hold nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.scene_matcher import match
from mmgen.sources.scenes import (
    ASKED,
    FONT,
    SIZE_PX,
    Scene,
    background_of,
    combinations,
    held_out,
    layout,
    render,
)  # fmt: skip

pytestmark = pytest.mark.skipif(not Path(FONT).is_file(), reason="the emoji font is not installed")


def picture(scene: Scene, seed: int) -> np.ndarray:
    rng = np.random.default_rng([2027, seed])
    return render(layout(scene, rng), background_of(rng))


def test_at_least_eleven_of_twelve_held_out_scenes_are_read_right() -> None:
    held = [scene for scene in combinations() if held_out(scene)]
    chosen = [ASKED, *held[:: len(held) // 11][:11]]
    assert len({len(scene) for scene in chosen}) == 2, "scenes of one fact and of two"
    assert len({fact.relation for scene in chosen for fact in scene}) == 3
    assert sum(match(picture(scene, seed)) == scene for seed, scene in enumerate(chosen)) >= 11


def test_nothing_is_seen_where_nothing_is() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (SIZE_PX, SIZE_PX, 3), dtype=np.uint8)
    assert match(np.full((SIZE_PX, SIZE_PX, 3), 230, np.uint8)) == ()
    assert match(noise) == ()
