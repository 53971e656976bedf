"""Precision, recall, density, coverage: against their definition in loops, and what each of them must tell."""

from __future__ import annotations

import pytest
import torch

from mmgen.evaluate.manifold import manifold


def blobs(count: int, modes: int, seed: int) -> torch.Tensor:
    """Points in `modes` far-apart blobs of the plane, as many in each."""
    drawn = torch.randn(count, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return drawn + 100.0 * (torch.arange(count) % modes)[:, None]


def by_definition(made: torch.Tensor, real: torch.Tensor, k: int) -> tuple[float, float, float, float]:
    """Kynkäänniemi et al. 2019, eq. 2; Naeem et al. 2020, section 3."""

    def ball(own: torch.Tensor) -> list[float]:
        return [sorted(float((a - b).norm()) for b in own)[k] for a in own]

    in_real = [[float((m - r).norm()) <= reach for r, reach in zip(real, ball(real), strict=True)] for m in made]
    in_made = [[float((m - r).norm()) <= reach for m, reach in zip(made, ball(made), strict=True)] for r in real]
    share = [sum(any(row) for row in each) / len(each) for each in (in_real, in_made)]
    density = sum(sum(row) for row in in_real) / (k * len(made))
    coverage = sum(any(row[place] for row in in_real) for place in range(len(real))) / len(real)
    return share[0], share[1], density, coverage


def test_all_four_follow_their_definition() -> None:
    made, real = blobs(30, 2, 0), blobs(40, 3, 1)
    found = manifold(made, real, 5, 0, k=3)
    came = found.precision.value, found.recall.value, found.density.value, found.coverage.value
    assert came == pytest.approx(by_definition(made, real, 3))


def test_samples_of_the_same_kind_score_as_the_theory_says() -> None:
    found = manifold(blobs(400, 4, 0), blobs(400, 4, 1), 50, 0)
    assert found.coverage.value == pytest.approx(1 - 2**-5, abs=0.03)
    assert found.density.value == pytest.approx(1.0, abs=0.1)
    assert found.density.low < found.density.value < found.density.high
    assert min(found.precision.value, found.recall.value) > 0.9


def test_a_collapse_is_precise_and_covers_nothing() -> None:
    real = blobs(400, 4, 1)
    found = manifold(real[:1].expand(400, -1), real, 20, 0)
    assert found.precision.value == 1.0
    assert found.coverage.value < 0.05
    assert found.recall.value < 0.01


def test_half_of_the_modes_cover_about_half() -> None:
    found = manifold(blobs(400, 2, 0), blobs(400, 4, 1), 20, 0)
    assert found.coverage.value == pytest.approx(0.5, abs=0.05)
    assert found.recall.value == pytest.approx(0.5, abs=0.05)
    assert found.precision.value > 0.95


def test_texts_that_are_the_same_again_and_again_cover_each_other() -> None:
    """Equal samples have balls of no size, which equal samples are in nevertheless."""
    same = torch.eye(3).repeat_interleave(20, dim=0)
    found = manifold(same + 1e-9, same, 5, 0)
    assert (found.coverage.value, found.precision.value, found.recall.value) == (1.0, 1.0, 1.0)


def test_as_few_samples_as_neighbours_are_refused() -> None:
    with pytest.raises(ValueError, match="manifold: wanted"):
        manifold(blobs(5, 1, 0), blobs(9, 1, 0), 5, 0)
