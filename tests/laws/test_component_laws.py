"""The laws that every codec, vocoder, encoder, fusion and generator of the tables keeps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mmgen.batches import Batch
from mmgen.codec_set import load_weights, weights_of
from mmgen.codecs.table import CODECS, VOCODERS
from mmgen.encoders.table import ENCODERS
from mmgen.fusion.table import FUSES
from mmgen.generators.table import GENERATORS
from tests.laws.components import CASES, ROWS, Case, rng

each_component = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
with_slots = pytest.mark.parametrize(
    "case", [case for case in CASES if case.name.startswith(("fusion", "generator"))], ids=lambda case: case.name
)


def made(case: Case, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return case.make().eval()


def steps(case: Case, module: Any, count: int) -> list[float]:
    """Losses of `count` steps on one batch, with fresh noise at each."""
    batch, optimiser, losses = case.batch(), torch.optim.Adam(module.parameters(), lr=case.rate), []
    module.train()
    for step in range(count):
        torch.manual_seed(step)
        loss = case.loss(module, batch, rng(step))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    module.eval()
    return losses


@torch.no_grad()
def outputs(case: Case, module: Any, batch: Batch | None = None) -> dict[str, Tensor]:
    return case.outputs(module, case.batch() if batch is None else batch)


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def close(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.allclose(one[key], other[key], atol=2e-5, rtol=1e-4) for key in one)


def test_every_entry_of_every_table_has_a_case() -> None:
    known = {case.name.rsplit(":")[1] for case in CASES}
    learned = {kind for kind, each in VOCODERS.items() if each is not None}
    assert known == {*CODECS, *learned, *ENCODERS, *FUSES, *GENERATORS}


@each_component
def test_the_same_seed_gives_the_same_weights_steps_and_outputs(case: Case) -> None:
    first, second, other = made(case), made(case), made(case, seed=1)
    assert steps(case, first, 2) == steps(case, second, 2)
    assert weights_of(first) == weights_of(second) != weights_of(other)
    assert equal(outputs(case, first), outputs(case, second))


@each_component
def test_a_row_does_not_depend_on_the_rows_beside_it(case: Case) -> None:
    module = made(case)
    steps(case, module, 2)
    whole = outputs(case, module)
    for count in (1, 4):
        part = outputs(case, module, case.batch().rows(0, count))
        assert close(part, {name: value[:count] for name, value in whole.items()})


@with_slots
def test_what_stands_in_an_absent_slot_is_never_looked_at(case: Case) -> None:
    module = made(case)
    steps(case, module, 2)
    batch = case.batch()
    for number, slot in enumerate(batch.masks):
        batch.masks[slot][number % ROWS] = False
    poisoned = replace(batch, values=dict(batch.values))
    for slot, value in batch.values.items():
        absent = ~batch.masks[slot].any(dim=1)
        poison = value.clone()
        poison[absent] = 7
        poisoned.values[slot] = poison
        batch.values[slot] = value.clone()
        batch.values[slot][absent] = 0
    # rounding may differ: sorting a batch of texts by length orders its sums
    assert close(outputs(case, module, poisoned), outputs(case, module, batch))
    module.train()
    losses = []
    for each in (poisoned, batch):
        torch.manual_seed(0)
        losses.append(case.loss(module, each, rng()))
    assert torch.allclose(*losses, rtol=1e-4)


@with_slots
def test_a_slot_that_is_there_is_looked_at(case: Case) -> None:
    module, batch = made(case), case.batch()
    steps(case, module, 5)
    before = outputs(case, module, batch)
    for slot, mask in batch.masks.items():
        if not slot.startswith("text"):
            mask[:] = False
            batch.values[slot] = torch.zeros_like(batch.values[slot])
    after = outputs(case, module, batch)
    assert any(not torch.equal(before[name], after[name]) for name in before)


@each_component
def test_it_overfits_one_batch(case: Case) -> None:
    module = made(case)
    losses = steps(case, module, case.steps)
    last = sum(losses[-5:]) / 5
    assert last <= case.fits * losses[0], f"{losses[0]:.3f} fell to {last:.3f} only"


@each_component
def test_it_saves_and_loads_byte_for_byte(case: Case) -> None:
    trained, fresh = made(case), made(case, seed=1)
    steps(case, trained, 2)
    data = weights_of(trained)
    load_weights(fresh, data, case.name)
    assert weights_of(fresh) == data
    assert equal(outputs(case, fresh), outputs(case, trained))
