"""Optimiser, schedule, moving average."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from mmgen.training.config import TrainConfig
from mmgen.training.optimise import Average, Optimiser, rate_at


def config(**more: object) -> TrainConfig:
    return TrainConfig(**{"steps": 100, "learning_rate": 0.1, **more})  # type: ignore[arg-type]


def test_the_rate_warms_up_and_falls_to_nothing() -> None:
    settings = config(warmup_steps=10)
    rates = [rate_at(step, 100, settings) for step in range(100)]
    assert rates[0] == pytest.approx(0.01)
    assert rates[9] == rates[10] == pytest.approx(0.1)
    assert rates[55] == pytest.approx(0.05)
    assert rates[99] < 0.001
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))
    assert {rate_at(step, 100, config(schedule="constant")) for step in range(100)} == {0.1}


@pytest.mark.parametrize(("kind", "plain"), [("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam)])
def test_its_steps_are_those_of_torch(kind: str, plain: type[torch.optim.Optimizer]) -> None:
    mine, theirs = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
    theirs.load_state_dict(mine.state_dict())
    wanted = plain(theirs.parameters(), lr=0.1, weight_decay=0.02)  # type: ignore[call-arg]
    optimiser = Optimiser(mine, config(optimizer=kind, weight_decay=0.02, max_grad_norm=None))
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    for _ in range(5):
        optimiser.clear()
        loss = mine(x).square().mean()
        loss.backward()
        optimiser.step(0.1, loss.detach())
        wanted.zero_grad()
        theirs(x).square().mean().backward()
        wanted.step()
    assert torch.allclose(mine.weight, theirs.weight, atol=1e-6)


def test_the_decay_of_the_first_moment_is_a_setting_that_is_written_where_it_is_used() -> None:
    assert "beta1" not in config().model_dump(mode="json")
    assert config(beta1=0.5).model_dump(mode="json")["beta1"] == 0.5
    moments = []
    for settings in (config(), config(beta1=0.5)):
        net = nn.Linear(2, 1, bias=False)
        optimiser = Optimiser(net, settings)
        net(torch.full((1, 2), 0.25)).sum().backward()
        optimiser.step(0.1, torch.zeros(()))
        moments.append(optimiser.state()["exp_avg/weight"].mean().item())
    assert moments == pytest.approx([0.025, 0.125])


def test_moments_that_come_back_lie_as_their_weights_do() -> None:
    """A checkpoint holds them row by row; the weights of a convolution may lie channels last."""

    def trained(stopped: bool) -> nn.Module:
        torch.manual_seed(0)
        net = nn.Conv2d(4, 8, 3).to(memory_format=torch.channels_last)
        x = torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(0))
        optimiser = Optimiser(net, config())
        for step in range(4):
            if stopped and step == 2:
                kept = {name: tensor.contiguous().clone() for name, tensor in optimiser.state().items()}
                optimiser = Optimiser(net, config())
                optimiser.restore(kept)
            optimiser.clear()
            loss = (net(x) - 1).square().mean()
            loss.backward()
            optimiser.step(0.1, loss.detach())
        return net

    assert torch.equal(*(next(trained(stopped).parameters()) for stopped in (False, True)))


def test_gradients_are_clipped_by_their_norm() -> None:
    net = nn.Linear(2, 1, bias=False)
    optimiser = Optimiser(net, config(max_grad_norm=0.5))
    loss = 1000 * net(torch.ones(1, 2)).sum()
    loss.backward()
    norm, bad = optimiser.step(0.0, loss.detach())
    assert norm.item() == pytest.approx(1000 * 2**0.5)
    assert bad.item() == 0
    assert net.weight.grad is not None
    assert net.weight.grad.norm().item() == pytest.approx(0.5, rel=1e-3)


def test_biases_and_norms_do_not_decay() -> None:
    net = nn.Linear(2, 2)
    before = net.bias.detach().clone()
    optimiser = Optimiser(net, config(weight_decay=0.9))
    (net.weight.sum() * 0 + net.bias.sum() * 0).backward()
    weight = net.weight.detach().clone()
    optimiser.step(0.1, torch.zeros(()))
    assert torch.equal(net.bias, before)
    assert not torch.equal(net.weight, weight)


def test_a_weight_that_the_loss_did_not_reach_counts_as_zero() -> None:
    net = nn.ModuleList([nn.Linear(1, 1), nn.Linear(1, 1)])
    optimiser = Optimiser(net, config())
    net[0](torch.ones(1, 1)).sum().backward()
    assert [float(gradient.abs().sum()) > 0 for gradient in optimiser.gradients()] == [True, True, False, False]


def test_the_average_follows_slowly_and_copies_buffers() -> None:
    net = nn.BatchNorm1d(2)
    average = Average(net, 0.5)
    with torch.no_grad():
        net.weight.fill_(3.0)
        net.running_mean.fill_(7.0)  # type: ignore[union-attr]
    average.update(1000)
    assert average.module.weight.tolist() == [2.0, 2.0]  # type: ignore[union-attr, operator]
    assert average.module.running_mean.tolist() == [7.0, 7.0]  # type: ignore[union-attr, operator]
    assert not any(weight.requires_grad for weight in average.module.parameters())
    young = Average(net, 0.999)
    with torch.no_grad():
        net.weight.fill_(4.0)
    young.update(0)
    assert young.module.weight[0].item() == pytest.approx(3.9)  # type: ignore[index, union-attr]
