"""Checkpoints: the newest few stay, a damaged one is passed over and said."""

from __future__ import annotations

import pytest
import torch

from mmgen.store import Store
from mmgen.training.checkpoint import FOLDER, Checkpoint
from tests.tiny_line import Lines
from tests.unit.training.test_loop import IDENTITY, Killed, Net, config, run, same


def saved(store: Store, keep_last: int, *steps: int) -> Checkpoint:
    checkpoint = Checkpoint(store, IDENTITY, keep_last)
    for step in steps:
        checkpoint.save(step, {"module": {"w": torch.full((100,), float(step))}, "best": {}}, {"step": step})
    return checkpoint


def test_the_newest_few_stay(store: Store) -> None:
    assert len(saved(store, 1, 3, 6, 9).paths()) == 1
    checkpoint = saved(store, 3, 12, 1_000_000, 15)
    assert len(checkpoint.paths()) == 3
    found = checkpoint.load()
    assert found is not None
    assert (found.counters["step"], found.damaged) == (1_000_000, ())
    assert found.groups["module"]["w"].unique().tolist() == [1_000_000.0]
    assert Checkpoint(store, "cd" * 32).load() is None
    checkpoint.clear()
    assert store.walk("runs") == []


@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped"])
def test_where_the_newest_is_damaged_the_one_before_it_is_taken(store: Store, damage: str) -> None:
    checkpoint = saved(store, 2, 3, 6)
    newest = checkpoint.paths()[-1]
    data = bytearray(store.read(newest))
    data[-7] ^= 1
    cut = {"truncated": data[: len(data) // 2], "empty": data[:0], "flipped": data}
    store.write(newest, bytes(cut[damage]))
    found = checkpoint.load()
    assert found is not None
    assert (found.counters["step"], found.damaged) == (3, (newest,))


def test_a_training_goes_on_exactly_from_before_a_damaged_checkpoint_and_says_so(store: Store) -> None:
    whole = run(Net(), config())
    checkpoint = Checkpoint(store, IDENTITY, 2)
    net = Net()
    left = 20

    def dying(batch: object, rng: torch.Generator) -> dict[str, torch.Tensor]:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed
        return net.loss(batch, rng)  # type: ignore[arg-type]

    with pytest.raises(Killed):
        run(net, config(checkpoint_steps=4), loss=dying, checkpoint=checkpoint)
    newest = checkpoint.paths()[-1]
    store.write(newest, store.read(newest)[:1000])
    lines = Lines()
    resumed = run(Net(), config(checkpoint_steps=4), checkpoint=checkpoint, progress=lines)
    assert lines.said == [f"net: {newest} is damaged; going on from step 16"]
    assert same(resumed.module, whole.module)
    assert resumed.curves == whole.curves


def test_what_a_killed_write_left_is_no_checkpoint(store: Store) -> None:
    checkpoint = saved(store, 2, 3)
    store.write(f"{FOLDER}/.tmp-1-abcd", b"half")
    found = checkpoint.load()
    assert found is not None
    assert found.counters["step"] == 3
