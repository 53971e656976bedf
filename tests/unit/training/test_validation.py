"""Looks at the validation loss: they change nothing, the best weights can be taken, patience ends a training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mmgen.batches import Batch
from mmgen.errors import ConfigError
from mmgen.store import Store
from mmgen.training.best import Best
from mmgen.training.checkpoint import Checkpoint
from mmgen.training.config import TrainConfig, counted
from mmgen.training.loop import Callbacks, mean_loss
from tests.unit.training.test_loop import IDENTITY, Killed, Net, config, loader, run, same


def validate(module: nn.Module) -> float:
    assert isinstance(module, Net)
    assert not module.training
    torch.rand(3)  # a look may draw as it likes
    return mean_loss(module, module.loss, loader(8, 9), 3)


def told(*losses: float) -> Callable[[nn.Module], float]:
    left: Iterator[float] = iter(losses)
    return lambda module: next(left)


def kept_at(net: Net) -> tuple[dict[int, dict[str, Tensor]], Callable[[int, float], None]]:
    """Weights by step, and the callback of a look that keeps them."""
    found: dict[int, dict[str, Tensor]] = {}

    def keep(step: int, loss: float) -> None:
        found[step] = {name: tensor.clone() for name, tensor in net.state_dict().items()}

    return found, keep


def test_looks_change_neither_draws_nor_weights() -> None:
    plain = run(Net(), config())
    looked = run(Net(), config(validate_steps=4), callbacks=Callbacks(validate=validate))
    assert same(plain.module, looked.module)
    assert looked.curves.loss == plain.curves.loss
    assert looked.curves.looks == [4, 8, 12, 16, 20, 24, 28, 30]
    assert looked.curves.validation[-1] == validate(looked.module.eval())


def test_the_best_weights_are_taken_where_asked_for() -> None:
    losses = (3.0, 1.0, 2.0, 4.0)
    net = Net()
    found, keep = kept_at(net)
    settings = config(steps=20, validate_steps=5, take="best", ema_decay=None)
    trained = run(net, settings, callbacks=Callbacks(validate=told(*losses), on_look=keep))
    assert (trained.taken, trained.steps) == (10, 20)
    assert all(torch.equal(tensor, found[10][name]) for name, tensor in trained.module.state_dict().items())
    last = run(Net(), config(steps=20, validate_steps=5, ema_decay=None), callbacks=Callbacks(validate=told(*losses)))
    assert last.taken == 20
    assert all(torch.equal(tensor, found[20][name]) for name, tensor in last.module.state_dict().items())


def test_patience_ends_a_training() -> None:
    settings = config(steps=100, validate_steps=5, patience=2, take="best")
    trained = run(Net(), settings, callbacks=Callbacks(validate=told(3.0, 2.0, 2.0, math.nan, 1.0)))
    assert (trained.steps, trained.taken) == (20, 10)


@pytest.mark.parametrize("stop", [9, 11, 20])
def test_the_best_goes_on_with_a_killed_training(stop: int, store: Store) -> None:
    settings = config(steps=100, validate_steps=5, patience=3, take="best", checkpoint_steps=4)
    losses = (3.0, 1.0, 2.0, 1.5, 1.2)

    def looking(module: nn.Module) -> float:
        # by the place in the training, as a real loss is, and not by how often it was asked
        return losses[at[0] // 5 - 1]

    at = [0]
    net = Net()

    def counting(limit: float) -> Callable[[Batch, torch.Generator], dict[str, Tensor]]:
        def loss(batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
            at[0] += 1
            if at[0] > limit:
                raise Killed
            return net.loss(batch, rng)

        return loss

    more: dict[str, Any] = {"callbacks": Callbacks(validate=looking)}
    whole = run(net, settings, loss=counting(math.inf), **more)
    assert (whole.steps, whole.taken) == (25, 10)
    net, at[0] = Net(), 0
    checkpoint = Checkpoint(store, IDENTITY, 2)
    with pytest.raises(Killed):
        run(net, settings, loss=counting(stop), checkpoint=checkpoint, **more)
    found = checkpoint.load()
    assert found is not None
    net, at[0] = Net(), found.counters["step"]
    resumed = run(net, settings, loss=counting(math.inf), checkpoint=checkpoint, **more)
    assert (resumed.steps, resumed.taken, resumed.curves) == (whole.steps, whole.taken, whole.curves)
    assert same(resumed.module, whole.module)
    net, at[0] = Net(), 0
    again = run(net, settings, loss=counting(0), checkpoint=checkpoint, **more)
    assert same(again.module, whole.module), "a training that patience ended is not gone on with"


def test_looks_without_anything_to_look_at_are_refused() -> None:
    with pytest.raises(ConfigError, match="net: validate_steps: wanted validation rows"):
        run(Net(), config(validate_steps=4))
    for more in ({"take": "best"}, {"patience": 2}):
        with pytest.raises(ValueError, match="wanted validate_steps beside it"):
            config(**more)


def test_what_is_not_lower_is_not_better() -> None:
    best, net = Best(), Net()
    for step, loss in enumerate((math.nan, 2.0, 2.0, math.inf), 1):
        best.look(step, loss, net)
    assert (best.loss, best.step, best.since) == (2.0, 2, 2)
    assert Best.restored(Best().counters(), {}) == Best()


def test_settings_that_are_not_used_leave_no_trace() -> None:
    """What was trained before they came is found by the same fingerprint; where it is kept is no part of any."""
    plain = TrainConfig(steps=1).model_dump(mode="json")
    assert not {"validate_steps", "keep_last", "compile", "back_off_steps"} & plain.keys()
    used = TrainConfig(steps=1, validate_steps=5, take="best", deterministic=True, keep_last=4, compile=True)
    dumped = used.model_dump(mode="json")
    assert TrainConfig.model_validate(dumped) == used
    kept = counted({"generator": {"width": 8, "train": dumped}, "deterministic": 1})
    assert kept == {"generator": {"width": 8, "train": {**plain, "validate_steps": 5, "take": "best"}},
                    "deterministic": 1}  # fmt: skip
