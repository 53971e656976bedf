"""The space of a slot: its scale, which samples are held against which, and that collapse shows in every distance."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mmgen.evaluate import scores
from mmgen.evaluate.measure import Made, Panel
from mmgen.evaluate.spaces import Features, Space, distances, floors

ROWS, WIDTH = 240, 6


def drawn(seed: int, count: int = ROWS) -> Tensor:
    """Four classes of vectors, far from the origin."""
    noise = torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed))
    return 50 + noise + 8 * torch.nn.functional.one_hot(torch.arange(count) % 4, WIDTH)


@pytest.fixture
def space() -> Space:
    return Space.of("image", "image@1", torch.arange(ROWS) + 10, drawn(0), seed=0)


def measured(space: Space, features: Tensor, rows: Tensor | None = None) -> dict[str, float]:
    asked = torch.full((len(features),), -1) if rows is None else rows
    made = Made("text", "image", asked, features)
    return {row.metric: row.value for row in distances(space, made, features, 20, 0)}


def test_real_samples_have_mean_0_and_variance_1_in_all(space: Space) -> None:
    assert space.real_ND.mean(dim=0).abs().max() < 1e-6
    assert float(space.real_ND.square().sum(dim=1).mean()) == pytest.approx(1)
    torch.testing.assert_close(space.scaled(drawn(0)), space.real_ND)


def test_a_good_generator_is_within_reach_of_the_floors(space: Space) -> None:
    floor, found = {row.metric: row for row in floors(space, 20, 0)}, measured(space, drawn(7))
    assert found["frechet_distance"] < 2 * floor["frechet_floor"].high
    assert found["judge_kernel_distance"] < 2 * floor["judge_kernel_floor"].high
    assert found["coverage"] > floor["coverage_real"].low - 0.05
    assert {row.judge for row in floor.values()} == {"image@1"}
    assert {row.n for row in floor.values()} == {ROWS // 2}


def test_always_the_mean_has_a_frechet_distance_of_1_and_covers_nothing(space: Space) -> None:
    found = measured(space, drawn(0).mean(dim=0).expand(ROWS, -1))
    assert found["frechet_distance"] == pytest.approx(1, abs=0.05)
    assert found["coverage"] < 0.05


def test_half_of_the_classes_show_in_every_distance(space: Space) -> None:
    half, whole = drawn(7, 2 * ROWS), measured(space, drawn(7))
    found = measured(space, half[torch.arange(2 * ROWS) % 4 < 2])
    assert found["coverage"] == pytest.approx(0.5, abs=0.06)
    for metric in ("frechet_distance", "judge_kernel_distance"):
        assert found[metric] > 3 * abs(whole[metric])


def test_the_frechet_distance_is_of_as_many_as_its_floor_and_of_other_conditions(space: Space) -> None:
    asked = space.rows
    beyond = space.beyond(asked)
    assert len(beyond) == len(space.second)
    assert not torch.isin(asked[beyond], space.rows[space.first]).any()
    # conditions that nobody knows are taken as they come, not more than there are real ones
    assert len(space.beyond(torch.full((1_000,), -1))) == len(space.first)


def test_few_samples_give_no_rows_instead_of_an_error() -> None:
    small = Space.of("image", "image@1", torch.arange(3), drawn(0, 3), seed=0)
    assert floors(small, 5, 0) == []
    assert distances(small, Made("", "image", torch.tensor([0]), drawn(1, 1)), drawn(1, 1), 5, 0) == []
    one = Space.of("image", "image@1", torch.arange(1), drawn(0, 1), seed=0)
    assert floors(one, 5, 0) == []


def test_features_are_the_judges_or_without_labels_the_fusions() -> None:
    class Sees:
        def features(self, value: Tensor) -> Tensor:
            return value * 2

        def classify(self, features_BD: Tensor) -> Tensor:
            return features_BD

    value = torch.ones(2, 3)
    judged = Features(
        Panel({"a": "image", "b": "text"}, {"image": Sees()}, {"image": "image@4"}), lambda slot, v: v + 1
    )
    assert (judged.name("a"), judged.name("b")) == ("image@4", None)
    seen = judged.of("a", value)
    assert seen is not None
    assert bool((seen == 2).all())
    assert judged.of("b", value) is None
    bare = Features(Panel({"a": "image"}, {}, {}), lambda slot, v: v + 1)
    assert bare.name("a") == "fusion"
    assert Features(Panel({"a": "image"}, {}, {}), None).of("a", value) is None
    assert scores.COVERAGE + scores.REAL == "coverage_real"
