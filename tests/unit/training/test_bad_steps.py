"""Losses that are not finite at given steps: skipped, counted, backed off from, and in the end given up."""

from __future__ import annotations

from collections.abc import Callable, Collection

import pytest
import torch
from torch import Tensor, nn

from mmgen.batches import Batch
from mmgen.errors import ConfigError, GateError
from mmgen.store import Store
from mmgen.training.checkpoint import Checkpoint
from tests.tiny_line import Lines
from tests.unit.training.test_loop import IDENTITY, Killed, Net, config, run, same


def bad_at(
    net: Net, steps: Collection[int], stop: int | None = None, first: int = 0
) -> Callable[..., dict[str, Tensor]]:
    """`net`'s loss, NaN at these steps (from 0)."""
    step = first - 1

    def loss(batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        nonlocal step
        step += 1
        if step == stop:
            raise Killed
        found = net.loss(batch, rng)
        return {**found, "loss": found["loss"] * (float("nan") if step in steps else 1.0)}

    return loss


BAD = {*range(30, 36), *range(55, 60), 80}


def test_many_bad_steps_halve_the_rate_until_they_stop() -> None:
    net, lines = Net(), Lines()
    settings = config(steps=175, schedule="constant")
    trained = run(net, settings, loss=bad_at(net, BAD), progress=lines)
    assert trained.skipped == len(BAD)
    # a reading each 25 steps: 6 bad ones in the second, 5 in the third, 1 in the fourth, none after
    assert [rate / 1e-2 for rate in trained.curves.rate] == [1.0, 1.0, 0.5, 0.25, 0.25, 0.5, 1.0]
    assert [line.rpartition("× ")[2] for line in lines.said] == ["0.5", "0.25", "0.5", "1"]
    assert lines.said[0] == "net: 6 of the steps up to 50 were not finite; learning rate × 0.5"


def test_the_rate_can_be_left_alone() -> None:
    net = Net()
    settings = config(steps=100, schedule="constant", back_off_steps=None)
    trained = run(net, settings, loss=bad_at(net, BAD))
    assert set(trained.curves.rate) == {1e-2}


def test_a_killed_training_is_as_far_backed_off_as_it_was(store: Store) -> None:
    net = Net()
    whole = run(net, config(steps=120), loss=bad_at(net, BAD))
    net, checkpoint = Net(), Checkpoint(store, IDENTITY)
    settings = config(steps=120, checkpoint_steps=31)
    with pytest.raises(Killed):
        run(net, settings, loss=bad_at(net, BAD, stop=70), checkpoint=checkpoint)
    again = Net()
    resumed = run(again, settings, loss=bad_at(again, BAD, first=62), checkpoint=checkpoint)
    assert same(resumed.module, whole.module)
    assert (resumed.curves, resumed.skipped) == (whole.curves, whole.skipped)


def test_one_more_than_may_be_bad_in_a_row_ends_it() -> None:
    net = Net()
    assert run(net, config(steps=50), loss=bad_at(net, range(31, 50))).skipped == 19
    net = Net()
    with pytest.raises(GateError, match="not finite for 20 steps in a row up to step 50"):
        run(net, config(steps=50), loss=bad_at(net, range(30, 50)))


def test_an_operation_without_a_deterministic_kernel_is_a_mistake_of_the_settings() -> None:
    class Filling(Net):
        def loss(self, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
            raise RuntimeError("put_ does not have a deterministic implementation")

    with pytest.raises(ConfigError, match="net: deterministic: wanted kernels that are, came put_"):
        run(Filling(), config(deterministic=True))
    assert not torch.are_deterministic_algorithms_enabled()
    with pytest.raises(RuntimeError):
        run(Filling(), config())


def test_deterministic_kernels_are_asked_for_and_only_while_training() -> None:
    asked = []

    class Asking(Net):
        def loss(self, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
            asked.append(torch.are_deterministic_algorithms_enabled())
            return super().loss(batch, rng)

    plain, exact = run(Asking(), config(steps=3)), run(Asking(), config(steps=3, deterministic=True))
    assert asked == [False] * 3 + [True] * 3
    assert not torch.are_deterministic_algorithms_enabled()
    assert same(plain.module, exact.module)


def test_losses_may_come_with_other_names_at_other_steps() -> None:
    class Turning(Net):
        turn = 0

        def loss(self, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
            self.turn += 1
            found = super().loss(batch, rng)
            return found if self.turn % 5 else {"extra": torch.full((), 3.0), **found}

    trained = run(Turning(), config(steps=50))
    assert trained.curves.loss == pytest.approx(run(Net(), config(steps=50)).curves.loss)
    assert trained.curves.parts["extra"] == [3.0, 3.0]
    assert isinstance(trained.module, nn.Module)
