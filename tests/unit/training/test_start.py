"""Weights of an earlier network into a fresh one: which are taken, and what is said where they do not fit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mmgen.codec_set import weights_of
from mmgen.encoders.foreign import Adapted, Adapter
from mmgen.errors import ConfigError
from mmgen.training.start import start


class Net(nn.Module):
    """A trunk with an adapter, a projection and a head; and bytes that are no weights."""

    def __init__(self, classes: int = 3, words: int = 5) -> None:
        super().__init__()
        self.trunk = Adapted(nn.Linear(4, 4), Adapter(4, 2))
        self.project, self.head = nn.Linear(4, 4), nn.Linear(4, classes)
        self.register_buffer("our_tokenizer", torch.full((words,), words, dtype=torch.uint8))
        for each in self.parameters():
            nn.init.normal_(each)


def taken(what: str) -> set[str]:
    torch.manual_seed(0)
    earlier, fresh = Net(), Net()
    before = {name: each.clone() for name, each in fresh.state_dict().items()}
    names = start(fresh, weights_of(earlier), what, "model:old@1")
    now, wanted = fresh.state_dict(), earlier.state_dict()
    assert all(torch.equal(now[name], wanted[name]) for name in names)
    changed = {name for name in now if not torch.equal(now[name], before[name])}
    assert changed == set(names)
    return {name.rsplit(".", 1)[0] for name in names}


def test_each_part_takes_its_own_tensors() -> None:
    adapters = {"trunk.adapter.norm", "trunk.adapter.down", "trunk.adapter.up"}
    assert taken("all") == {"trunk.block", "project", "head"} | adapters
    assert taken("trunk") == {"trunk.block"}
    assert taken("adapters") == adapters
    assert taken("heads") == {"project", "head"}


def test_a_head_of_other_classes_is_an_error_and_the_trunk_is_not() -> None:
    with pytest.raises(ConfigError, match=r"tensor 'head.weight': wanted \(5, 4\), model:old@1 has \(3, 4\)"):
        start(Net(classes=5), weights_of(Net()), "all", "model:old@1")
    assert start(Net(classes=5), weights_of(Net()), "trunk", "model:old@1")


def test_a_tensor_that_is_missing_or_left_over_is_named_and_a_part_that_is_not_there_too() -> None:
    plain = nn.Sequential(nn.Linear(4, 4))
    with pytest.raises(ConfigError, match=r"wanted a tensor '0.weight' of \(4, 4\), model:old@1 has none"):
        start(plain, weights_of(nn.Linear(4, 4)), "all", "model:old@1")
    with pytest.raises(ConfigError, match=r"has a tensor '1.bias' that this network has not"):
        start(plain, weights_of(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))), "all", "model:old@1")
    with pytest.raises(ConfigError, match="this network has no adapters"):
        start(plain, weights_of(plain), "adapters", "model:old@1")


def test_the_datas_own_tokenizer_is_kept() -> None:
    fresh = Net(words=9)
    start(fresh, weights_of(Net(words=5)), "all", "model:old@1")
    assert fresh.our_tokenizer.tolist() == [9] * 9
