"""The one training loop: it learns, stops and goes on exactly, skips what is not finite, and never asks the device."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from mmgen.batches import Batch, Loader
from mmgen.errors import ConfigError, GateError
from mmgen.store import Store
from mmgen.training.checkpoint import Checkpoint
from mmgen.training.config import TrainConfig
from mmgen.training.loop import Callbacks, Trained, bf16_works, mean_loss, train
from mmgen.training.parallel import World
from tests.feature_sets import samples, shard

ALONE = World(0, 1, torch.device("cpu"))
IDENTITY = "ab" * 32


class Net(nn.Module):
    """Classifies the tiny images; its loss draws noise and drops out, as real ones do."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.layers = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 3))

    def loss(self, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        x = batch.values["image"].flatten(1)
        x = x + 0.1 * torch.randn(x.shape, generator=rng)
        each_B = functional.cross_entropy(self.layers(x).float(), batch.labels_B, reduction="none")
        weight = batch.weights_B.sum()
        return {"loss": (each_B * batch.weights_B).sum() / weight, "rows": weight.detach()}


def loader(batch_size: int = 8, count: int = 21, **more: Any) -> Loader:
    values: dict[str, Callable[[Tensor], Tensor]] = {"image": lambda compact: compact.float() / 127.5 - 1}
    return Loader(samples([shard(count)]), batch_size=batch_size, slots=["image"], to_value=values, **more)


def config(**more: Any) -> TrainConfig:
    return TrainConfig(**{"steps": 30, "batch_size": 8, "learning_rate": 1e-2, "ema_decay": 0.9, **more})


def run(net: nn.Module, settings: TrainConfig, **more: Any) -> Trained:
    given = more.pop("loader", None) or loader(settings.batch_size)
    loss = more.pop("loss", net.loss)
    return train(net, loss, given, settings, world=ALONE, seed=1, what="net", bf16=False, **more)


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize("optimizer", ["adam", "adamw"])
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_the_loss_goes_down(optimizer: str, schedule: str) -> None:
    trained = run(Net(), config(steps=300, optimizer=optimizer, schedule=schedule, warmup_steps=10))
    assert trained.curves.loss[-1] < 0.5 * trained.curves.loss[0]
    assert (trained.steps, trained.skipped) == (300, 0)
    assert not trained.module.training


def test_the_same_seed_gives_the_same_weights() -> None:
    first, second = run(Net(), config()), run(Net(), config())
    assert same(first.module, second.module)
    assert first.curves.loss == second.curves.loss


def test_the_callers_random_stream_is_left_alone() -> None:
    torch.manual_seed(5)
    wanted = torch.rand(2)
    torch.manual_seed(5)
    run(Net(), config(steps=2))
    assert torch.equal(torch.rand(2), wanted)


class Killed(Exception):
    """Stands for a kill -9."""


@pytest.mark.parametrize("stop", [1, 7, 25, 29])
def test_a_killed_training_goes_on_as_if_it_had_not_been(stop: int, store: Store) -> None:
    whole = run(Net(), config(checkpoint_steps=1))
    checkpoint = Checkpoint(store, IDENTITY)
    net, calls = Net(), 0

    def dying(batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        nonlocal calls
        calls += 1
        if calls > stop:
            raise Killed
        return net.loss(batch, rng)

    with pytest.raises(Killed):
        run(net, config(checkpoint_steps=1), loss=dying, checkpoint=checkpoint)
    again = Net()
    nn.init.zeros_(again.layers[0].weight)  # type: ignore[arg-type]
    resumed = run(again, config(checkpoint_steps=1), checkpoint=checkpoint)
    assert same(resumed.module, whole.module)
    assert resumed.curves == whole.curves
    assert resumed.samples == whole.samples


def test_a_finished_training_is_not_trained_again(store: Store) -> None:
    checkpoint = Checkpoint(store, IDENTITY)
    whole = run(Net(), config(), checkpoint=checkpoint)

    def never(batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        raise AssertionError("trained again")

    again = run(Net(), config(), loss=never, checkpoint=checkpoint)
    assert same(again.module, whole.module)
    checkpoint.clear()
    assert store.walk("runs") == []


def test_a_checkpoint_of_another_training_or_a_broken_one_is_not_taken(store: Store) -> None:
    run(Net(), config(), checkpoint=Checkpoint(store, IDENTITY))
    assert Checkpoint(store, IDENTITY[:16] + "cd" * 24).load() is None
    (path,) = Checkpoint(store, IDENTITY).paths()
    data = store.read(path)
    for cut in (0, 4, 100, len(data) - 3):
        store.write(path, data[:cut])
        assert Checkpoint(store, IDENTITY).load() is None


def test_steps_that_are_not_finite_change_nothing_and_are_counted() -> None:
    net, reference = Net(), Net()
    bad = {3, 4, 11}

    def loss(batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        found = net.loss(batch, rng)
        step = run_steps.pop(0)
        return {**found, "loss": found["loss"] * (float("nan") if step in bad else 1.0)}

    run_steps = list(range(12))
    before: dict[int, dict[str, Tensor]] = {}

    def keep(step: int, means: dict[str, float]) -> None:
        before[step] = copy.deepcopy(net.state_dict())

    trained = run(net, config(steps=12, ema_decay=None), loss=loss, callbacks=Callbacks(on_read=keep))
    assert trained.skipped == len(bad)
    assert all(torch.isfinite(weight).all() for weight in net.parameters())
    assert torch.isfinite(torch.tensor(trained.curves.loss)).all()
    assert not same(net, reference)


def test_a_single_bad_step_leaves_the_weights_as_they_were() -> None:
    net, reference = Net(), Net()

    def loss(batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        return {"loss": net.loss(batch, rng)["loss"] * float("inf")}

    trained = run(net, config(steps=1, ema_decay=None, weight_decay=0.5), loss=loss)
    assert (trained.skipped, same(net, reference)) == (1, True)


def test_a_training_that_stays_not_finite_stops_with_a_clear_error() -> None:
    net = Net()

    def loss(batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        return {"loss": net.loss(batch, rng)["loss"] * float("nan")}

    with pytest.raises(GateError, match=r"net: .*not finite for 25 steps.*max_bad_steps 20"):
        run(net, config(steps=300), loss=loss)


def test_the_loop_does_not_ask_the_device_between_readings(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    readings: list[int] = []
    for name in ("item", "tolist", "__bool__", "__float__"):
        original = getattr(Tensor, name)

        def counted(self: Tensor, *args: Any, _name: str = name, _original: Any = original) -> Any:
            asked.append(_name)
            return _original(self, *args)

        monkeypatch.setattr(Tensor, name, counted)
    run(Net(), config(steps=100), callbacks=Callbacks(on_read=lambda step, means: readings.append(len(asked))))
    per_reading = [after - before for before, after in itertools.pairwise(readings)]
    assert len(readings) == 4
    # the reading itself, and the ends of the epochs in between: never once per step
    assert max(per_reading) <= 3 + 25 // 3 + 1
    steps_only: list[str] = []
    asked.clear()
    run(Net(), config(steps=2), loader=loader(8, 4000))
    steps_only += asked
    assert len(steps_only) <= 3


def test_epochs_are_a_budget_and_each_is_told_with_its_mean_loss() -> None:
    told: list[tuple[int, float]] = []
    settings = config(steps=None, epochs=4, ema_decay=None, learning_rate=1e-6, schedule="constant")
    trained = run(Net(), settings, callbacks=Callbacks(on_epoch=lambda epoch, loss: told.append((epoch, loss))))
    assert trained.steps == 4 * 3
    assert trained.samples == 4 * 21
    assert [epoch for epoch, _ in told] == [1, 2, 3, 4]
    assert told[0][1] == pytest.approx(mean_loss(Net(), Net().loss, loader(), 0), abs=0.25)


def test_slices_of_a_batch_sum_to_the_batch() -> None:
    """Without noise, any number of slices gives the same losses and weights, padding rows included."""

    class Plain(Net):
        def loss(self, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
            logits = self.layers(batch.values["image"].flatten(1))
            each_B = functional.cross_entropy(logits, batch.labels_B, reduction="none")
            return {"loss": (each_B * batch.weights_B).sum() / batch.weights_B.sum()}

    results = []
    for slices in (1, 2, 4):
        net = Plain()
        net.layers[2] = nn.Identity()
        results.append(run(net, config(slices=slices)))
    for other in results[1:]:
        assert other.curves.loss == pytest.approx(results[0].curves.loss, rel=1e-4)
        for mine, theirs in zip(results[0].module.parameters(), other.module.parameters(), strict=True):
            assert torch.allclose(mine, theirs, atol=1e-4)


def test_slices_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of the 3 slices"):
        config(slices=3)
    with pytest.raises(ConfigError, match="slices"):
        train(
            Net(), Net().loss, loader(24, rank=0, world=2), config(batch_size=24, slices=3),
            world=World(0, 2, ALONE.device), seed=0, what="x",
        )  # fmt: skip


def test_bf16_is_used_where_it_has_instructions_and_still_learns() -> None:
    trained = train(
        (net := Net()), net.loss, loader(), config(steps=200), world=ALONE, seed=1, what="net",
        bf16=bf16_works(ALONE.device) or None,
    )  # fmt: skip
    assert trained.bf16 == bf16_works(ALONE.device)
    assert all(weight.dtype == torch.float32 for weight in trained.module.parameters())
    assert trained.curves.loss[-1] < 0.6 * trained.curves.loss[0]
