"""Labels that are sets or numbers: read, laid beside the samples, learned."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from mmgen.batches import Loader
from mmgen.errors import ConfigError
from mmgen.fusion.targets import TARGET, Target, labels_of, read_targets, with_targets
from tests.feature_sets import LABELS, samples, shard
from tests.unit.fusion.test_fusion import batch, make

KEYS = ["a", "b", "c"]


def test_a_set_is_read_at_its_separator() -> None:
    target = read_targets("multi_label", ["cat | dog", None, "dog|bird|"], KEYS)
    assert target.names == ("bird", "cat", "dog")
    assert target.row("dog|cat|fox", "d").tolist() == [0, 1, 1]
    assert read_targets("multi_label", ["a|b"], ["k"], separator=",").names == ("a|b",)


def test_numbers_are_standardised_and_others_refused_by_name() -> None:
    target = read_targets("regression", ["1", "3", None], KEYS)
    assert (target.mean, target.std, target.outputs) == (2.0, 1.0, 1)
    assert target.row("4.5", "d").tolist() == [2.5]
    for bad in ("heavy", "nan", "inf", ""):
        with pytest.raises(ConfigError, match=f"b: label: regression wants a finite number, came '{bad}'"):
            read_targets("regression", ["1", bad, "3"], KEYS)
    assert read_targets("regression", [None, None, None], KEYS).outputs == 0
    assert read_targets("regression", ["7", "7"], KEYS[:2]).std == 1.0


def test_a_class_that_training_did_not_have_is_none() -> None:
    target = read_targets("classification", ["x", "y", "x"], KEYS)
    assert [target.row(label, "k").tolist() for label in ("x", "y", "z")] == [[0], [1], [-1]]


def test_targets_lie_beside_the_samples_and_are_missing_where_there_is_no_label() -> None:
    whole = shard(6)
    whole = replace(whole, labels=["0|1", None, "2", "1", None, "0|2"])
    found = with_targets(samples([whole]), read_targets("multi_label", *labels_of(samples([whole]))))
    given = Loader(found, batch_size=6, shuffle=False).next()
    assert given.masks[TARGET].any(1).tolist() == [True, False, True, True, False, True]
    assert given.values[TARGET].tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 0, 0], [1, 0, 1]]
    assert found.label_names == LABELS


@pytest.mark.parametrize("kind", ["multi_label", "regression"])
def test_a_fusion_learns_them_from_any_slot(kind: str) -> None:
    whole = batch(16)
    rng = np.random.default_rng(0)
    wide = 3 if kind == "multi_label" else 1
    rows = rng.integers(0, 2, (16, 3)) if kind == "multi_label" else rng.normal(size=(16, 1))
    target = Target(kind, ("a", "b", "c")[:wide])
    mask = torch.ones(16, 1, dtype=torch.bool)
    mask[5] = False
    # a row without a label says nonsense, which must not be learned
    values = torch.tensor(rows, dtype=torch.float32)
    nonsense = values.clone()
    nonsense[5] = 100
    fusion = make(classes=wide, augment=False, target=asdict(target))
    taught = replace(whole, values={**whole.values, TARGET: nonsense}, masks={**whole.masks, TARGET: mask})
    optimiser = torch.optim.Adam(fusion.parameters(), lr=3e-3)
    losses = []
    for step in range(120):
        optimiser.zero_grad()
        found = fusion.loss(taught, torch.Generator().manual_seed(step))
        found["loss"].backward()
        optimiser.step()
        losses.append(float(found["label"].detach()))
    assert losses[-1] < 0.2 * losses[0]
    assert ("accuracy" if kind == "multi_label" else "error") in found
    fusion.eval()
    assert fusion.head is not None
    guess = fusion.head.guess(fusion.logits(fusion(whole)))
    there = torch.arange(16) != 5
    assert float((guess - values)[there].abs().mean().detach()) < 0.15
