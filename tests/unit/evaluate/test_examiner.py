"""The examiner: which sets it asks for, perplexity where there are probabilities, and means that stay apart."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from mmgen.batches import Batch
from mmgen.evaluate.config import EvaluateConfig
from mmgen.evaluate.exam import Exam
from mmgen.evaluate.examiner import Examiner, _summary
from mmgen.evaluate.intervals import wilson
from mmgen.evaluate.measure import Panel
from mmgen.evaluate.scores import COHERENCE, score
from mmgen.runtime import Runtime
from mmgen.store import Store

VOCABULARY = 12


def real(rows: int = 10) -> Batch:
    ids = torch.full((rows, 6), 0)
    ids[:, 0], ids[:, 1:4], ids[:, 4] = 1, 7, 2
    values = {"text": ids, "image": torch.zeros(rows, 1, 4, 4), "audio": torch.zeros(rows, 4, 4)}
    masks = {slot: torch.ones(rows, 1, dtype=torch.bool) for slot in values}
    return Batch(values, masks, torch.full((rows,), -1), torch.ones(rows), [f"k{row}" for row in range(rows)])


class EvenOdds:
    """Every id as likely as any other; sees what it is given."""

    slots = makes = ("audio", "image", "text")
    generator: Any = SimpleNamespace(log_probability=True)

    def __init__(self) -> None:
        self.seen: list[Batch] = []

    def log_probability(self, given: Batch, slot: str, ids_BL: Tensor) -> Tensor:
        self.seen.append(given)
        each = torch.full(ids_BL.shape, -math.log(VOCABULARY))
        return each.masked_fill((ids_BL == 0) | (ids_BL == 1), 0.0)


def examiner(store: Store, maker: Any, **settings: Any) -> Examiner:
    panel = Panel({"text": "text", "image": "image", "audio": "audio"}, {}, {})
    return Examiner(EvaluateConfig(**settings), maker, panel, "not run: no labels", "not run", Runtime(store))


def test_every_slot_is_asked_from_every_set_of_the_others_single_inputs_first(store: Store) -> None:
    asked = examiner(store, EvenOdds()).sets(Exam("test", real(), {}))
    assert asked[:6] == [
        (("audio",), "image"), (("audio",), "text"), (("image",), "audio"), (("image",), "text"),
        (("text",), "audio"), (("text",), "image"),
    ]  # fmt: skip
    assert set(asked[6:]) == {
        (("audio", "image"), "text"), (("audio", "text"), "image"), (("image", "text"), "audio"),
    }  # fmt: skip


def test_a_set_that_no_sample_has_whole_is_not_asked(store: Store) -> None:
    batch = real(4)
    batch.masks["audio"][:2] = False
    batch.masks["image"][2:] = False
    asked = examiner(store, EvenOdds()).sets(Exam("test", batch, {}))
    assert (("audio", "image"), "text") not in asked
    assert (("audio", "text"), "image") in asked


def test_samples_are_drawn_as_the_settings_say(store: Store) -> None:
    draws = examiner(store, EvenOdds(), steps=7, candidates=5, seed=3).draws(1.5)
    assert (draws.sampling.steps, draws.sampling.candidates, draws.sampling.guidance, draws.seed) == (7, 5, 1.5, 3)


def test_perplexity_of_even_odds_is_the_vocabulary_and_the_text_itself_is_not_given(store: Store) -> None:
    maker = EvenOdds()
    (row,) = examiner(store, maker)._perplexity(real(), ("image",), "text")
    assert (row.metric, row.given, row.made, row.n) == ("perplexity", "image", "text", 10)
    assert row.value == pytest.approx(VOCABULARY)
    assert not maker.seen[0].masks["text"].any()
    assert maker.seen[0].masks["image"].all()
    maker.generator = SimpleNamespace()
    assert examiner(store, maker)._perplexity(real(), ("image",), "text") == []


def test_means_over_one_two_and_three_inputs_stand_apart() -> None:
    rows = [
        score(COHERENCE, given.split("+"), ["text"], "j", wilson(hits, 10))
        for given, hits in (("a", 2), ("b", 4), ("a+b", 6), ("a+c", 8), ("a+b+c", 9))
    ]
    found = {row.metric: row.value for row in _summary(rows)}
    assert found == pytest.approx({"mean_coherence": 0.3, "mean_coherence_of_2": 0.7, "mean_coherence_of_3": 0.9})
