"""Measurements with stand-ins: judges that read the class off the value, makers that are right as often as told."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from mmgen.batches import Batch
from mmgen.evaluate import measure, scores
from mmgen.evaluate.measure import Draws, Made, Panel
from mmgen.generators.sampling import Sampling
from mmgen.records import Modality

CLASSES, WIDTH = 5, 12
HOW = Draws(Sampling(steps=1, guidance=1.0), seed=0)


def shown(labels: Tensor) -> Tensor:
    """A value (N, WIDTH) whose largest of the first CLASSES numbers is its class; a judge reads it off."""
    noise = torch.rand(len(labels), WIDTH, generator=torch.Generator().manual_seed(1))
    return noise + 2 * torch.nn.functional.one_hot(labels, WIDTH)


def judge(value: Tensor) -> Tensor:
    return value[:, :CLASSES]


class Reads:
    """A judge that sees the value as it is."""

    def features(self, value: Tensor) -> Tensor:
        return value

    def classify(self, features_BD: Tensor) -> Tensor:
        return judge(features_BD)


def real(rows: int = 200, unlabelled: int = 0) -> Batch:
    labels = torch.arange(rows) % CLASSES
    values = {"text": shown(labels), "image": shown(labels)}
    masks = {slot: torch.ones(rows, 1, dtype=torch.bool) for slot in values}
    labels = labels.clone()
    labels[:unlabelled] = -1
    return Batch(values, masks, labels, torch.ones(rows), [f"k{row}" for row in range(rows)])


def panel(modalities: Mapping[str, Modality] | None = None) -> Panel:
    slots: Mapping[str, Modality] = modalities or {"text": "text", "image": "image"}
    return Panel(slots, dict.fromkeys(slots.values(), Reads()), {each: f"{each}@1" for each in slots.values()})


class Copies:
    """Makes the one given slot's value anew, its class moved by one in the first `wrong` rows of every call."""

    makes = ("text", "image")

    def __init__(self, wrong: int = 0) -> None:
        self.wrong, self.seen = wrong, []  # type: ignore[var-annotated]

    def make(self, given: Batch, to: tuple[str, ...], how: Sampling, rng: torch.Generator) -> dict[str, Tensor]:
        self.seen.append((given, torch.rand((), generator=rng).item()))
        present = [slot for slot, mask in given.masks.items() if mask.any()]
        classes = judge(given.values[present[0]]).argmax(1) if present else torch.zeros(len(given), dtype=torch.long)
        classes[: self.wrong] = (classes[: self.wrong] + 1) % CLASSES
        return {slot: shown(classes) for slot in to}


def made(maker: Copies, batch: Batch, given: str = "text", to: str = "image") -> Made:
    rows = measure.having(batch, given)
    return Made(given, to, rows, measure.make(maker, batch, [given], [to], rows, HOW)[to])


def test_coherence_is_the_share_that_the_judge_puts_in_the_class_of_the_condition() -> None:
    batch = real(100)
    (row,) = measure.coherence(panel(), batch, made(Copies(wrong=10), batch))
    assert (row.metric, row.given, row.made, row.judge) == ("coherence", "text", "image", "image@1")
    assert (row.value, row.n) == (0.9, 100)


def test_rows_without_a_label_are_not_counted_and_none_at_all_is_no_row() -> None:
    batch = real(100, unlabelled=40)
    (row,) = measure.coherence(panel(), batch, made(Copies(), batch))
    assert (row.value, row.n) == (1.0, 60)
    assert measure.coherence(panel(), real(10, unlabelled=10), made(Copies(), real(10))) == []


def test_only_rows_that_have_the_condition_are_asked() -> None:
    batch = real(20)
    batch.masks["text"][:5] = False
    (row,) = measure.coherence(panel(), batch, made(Copies(), batch))
    assert row.n == 15


def test_the_maker_sees_the_given_slot_alone() -> None:
    maker, batch = Copies(), real(200)
    made(maker, batch)
    for given, _ in maker.seen:
        assert given.masks["text"].all()
        assert not given.masks["image"].any()
        assert not given.values["image"].any()


def test_every_chunk_and_direction_draws_its_own_noise_and_the_same_again() -> None:
    first, second, batch = Copies(), Copies(), real(300)
    made(first, batch)
    made(first, batch, "image", "text")
    made(second, batch)
    draws = [draw for _, draw in first.seen]
    assert len(set(draws)) == len(draws) == 6
    assert [draw for _, draw in second.seen] == draws[:3]


def test_joint_coherence_wants_all_slots_to_agree() -> None:
    labels = torch.arange(10) % CLASSES
    other = labels.clone()
    other[:4] = (other[:4] + 1) % CLASSES
    (row,) = measure.joint_coherence(panel(), {"text": shown(labels), "image": shown(other)})
    assert (row.given, row.made, row.value, row.n) == ("", "text+image", 0.6, 10)
    assert measure.joint_coherence(panel(), {"text": shown(labels)}) == []


def test_the_ceilings_are_the_judge_on_real_values_and_on_reconstructions() -> None:
    batch = real(50)
    batch.labels_B[0] = 3
    assert {row.made: row.value for row in measure.judge_accuracy(panel(), batch)} == {"text": 0.98, "image": 0.98}

    def through(slot: str, value: Tensor) -> Tensor:
        return value if slot == "text" else value.roll(1, dims=1)

    found = {row.made: row.value for row in measure.reconstruction(panel(), batch, through)}
    assert found["text"] == 0.98
    assert found["image"] < 0.1


def test_a_slot_whose_modality_has_no_judge_gives_no_row() -> None:
    one = Panel({"text": "text", "image": "image"}, {"text": Reads()}, {"text": "text@1"})
    assert [row.made for row in measure.judge_accuracy(one, real(10))] == ["text"]
    assert measure.coherence(one, real(10), made(Copies(), real(10))) == []


def test_text_exactness_counts_whole_texts() -> None:
    batch = real(10)

    def texts(value: Tensor) -> list[str]:
        return [str(int(row[0] > 2)) for row in value]

    def through(slot: str, value: Tensor) -> Tensor:
        return torch.zeros_like(value)

    (row,) = measure.exactness(batch, "text", texts, through)
    assert (row.metric, row.value, row.n) == (scores.TEXT_EXACT, 0.8, 10)


def embed(slot: str, value: Tensor) -> Tensor:
    return value


def test_what_was_made_of_its_condition_is_retrieved_and_what_was_not_is_not() -> None:
    batch = real(150)
    batch.values["text"] = torch.randn(150, WIDTH, generator=torch.Generator().manual_seed(3))
    batch.values["image"] = batch.values["text"] + 0.01
    rows = measure.having(batch, "text")
    good = Made("text", "image", rows, batch.values["text"] + 0.01)
    bad = Made("text", "image", rows, batch.values["text"].flip(0))
    (found, ceiling), (missed, _) = (measure.retrieval(embed, batch, each, 0) for each in (good, bad))
    assert (found.metric, ceiling.metric) == (scores.RETRIEVAL, scores.RETRIEVAL_REAL)
    assert found.value == ceiling.value == 1.0
    assert missed.value < 0.1


def test_kernel_distance_of_a_copy_is_under_the_real_floor_and_of_a_collapse_far_above() -> None:
    batch = real(200)
    batch.values["image"] = torch.randn(200, WIDTH, generator=torch.Generator().manual_seed(3))
    rows = measure.having(batch, "text")
    wanted = batch.values["image"]
    (floor,) = measure.distance_floor(wanted, "image", 0)
    (copy,), (collapse,) = (
        measure.distance(wanted, each, Made("text", "image", rows, each))
        for each in (wanted, wanted[:1].expand(200, -1))
    )
    assert copy.value <= floor.high < collapse.low
    assert (floor.given, floor.made) == ("", "image")


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_too_few_rows_give_no_unlabelled_scores_instead_of_an_error(rows: int) -> None:
    batch = real(rows) if rows else real(1).rows(0, 0)
    some = Made("text", "image", torch.arange(rows), batch.values["image"])
    assert measure.retrieval(embed, batch, some, 0) == []
    assert measure.distance(batch.values["image"], some.value, some) == []
    assert measure.distance_floor(batch.values["image"], "image", 0) == []
