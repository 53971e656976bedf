"""Several samples of one condition, and which of them is kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import mmgen
from mmgen.agreement import agreement, best, comparable
from mmgen.batches import Batch
from mmgen.conditions import conditions
from mmgen.errors import ConfigError
from mmgen.generate import Model, load_package, save_package
from tests.data_sources import picture
from tests.tiny_line import Line, copied


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Line:
    return copied(tmp_path_factory.mktemp("agreement"))


@pytest.fixture(scope="module")
def model(line: Line) -> Model:
    return mmgen.load("tiny", store=line.store, device="cpu")


class Directions(nn.Module):
    """A fusion whose slots are their own embeddings, and whose sum is what is fused."""

    slots = ("a", "b", "c")

    def slot_embeddings(self, batch: Batch) -> Tensor:
        return torch.stack([batch.values[slot] for slot in self.slots], dim=1)

    def mask(self, batch: Batch) -> Tensor:
        return batch.presence(self.slots)

    def fuse(self, e_BSD: Tensor, mask_BS: Tensor) -> Tensor:
        return (e_BSD * mask_BS[..., None]).sum(1)


def batch_of(present: dict[str, list[bool]], values: dict[str, Tensor]) -> Batch:
    count = len(next(iter(present.values())))
    masks = {slot: torch.tensor(there)[:, None] for slot, there in present.items()}
    return Batch(values, masks, torch.full((count,), -1), torch.ones(count), [""] * count)


EAST, NORTH = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])


def test_agreement_is_the_cosine_of_what_is_made_with_all_else() -> None:
    values = {"a": torch.stack([EAST, EAST, EAST]), "b": torch.stack([NORTH, NORTH, NORTH]), "c": torch.zeros(3, 2)}
    given = batch_of({"a": [True, True, False], "b": [False, True, False], "c": [False] * 3}, values)
    found = agreement(Directions(), given, {"c": torch.stack([EAST, EAST, EAST])})
    # of a alone, of a and b, of nothing
    torch.testing.assert_close(found, torch.tensor([1.0, 0.5**0.5, 0.0]))


def test_what_is_made_together_has_to_agree_too() -> None:
    nothing = batch_of({slot: [False, False] for slot in "abc"}, {slot: torch.zeros(2, 2) for slot in "abc"})
    made = {"a": torch.stack([EAST, EAST]), "b": torch.stack([EAST, -EAST])}
    torch.testing.assert_close(agreement(Directions(), nothing, made), torch.tensor([1.0, -1.0]))
    assert comparable(nothing, ("a", "b"))
    assert not comparable(nothing, ("a",))


def test_the_best_of_each_rows_samples_is_kept() -> None:
    made = {"a": torch.arange(6)[:, None], "b": torch.arange(10, 16)}
    kept = best(made, torch.tensor([0.0, 0.5, 0.2, 0.9, -1.0, 0.1]), 3)
    assert kept["a"].tolist() == [[1], [3]]
    assert kept["b"].tolist() == [11, 13]


def fits(model: Model, given: dict[str, str], files: list[bytes]) -> Tensor:
    """How well these pictures go with what is given."""
    made = conditions(model.maker, [{"image": data} for data in files]).values["image"]
    return agreement(model.maker.fusion, conditions(model.maker, [given] * len(files)), {"image": made})


def test_it_keeps_one_of_the_samples_that_would_be_made(model: Model) -> None:
    asked = {"to": "image", "steps": 2, "seed": 4}
    each = model.generate(text=["one", "two"], num=5, **asked)["image"]
    kept = model.generate(text=["one", "two"], candidates=5, **asked)["image"]
    for row, text in enumerate(("one", "two")):
        files = each[row * 5 : row * 5 + 5]
        assert len(set(files)) > 1
        fit = fits(model, {"text": text}, files)
        # a file has 256 levels, so that near ties may fall otherwise
        assert fit[files.index(kept[row])] > fit.max() - 1e-3
    assert kept != each[::5], "the first of each would have been the best: the seed tells nothing"


def test_what_is_mixed_is_agreed_with_by_its_weight(model: Model) -> None:
    mix = [(3.0, {"text": "one"}), (1.0, {"text": "two"})]
    asked = {"to": "image", "steps": 2, "mix": mix, "seed": 4}
    files = model.generate(num=6, **asked)["image"]
    kept = model.generate(candidates=6, **asked)["image"][0]
    fit = 3 * fits(model, {"text": "one"}, files) + fits(model, {"text": "two"}, files)
    assert fit[files.index(kept)] > fit.max() - 1e-3
    assert kept != files[0], "the first would have been the best: the seed tells nothing"


def test_with_nothing_to_agree_with_it_is_as_without(model: Model) -> None:
    alone = {"to": "image", "num": 3, "steps": 2}
    assert model.generate(candidates=4, **alone)["image"] == model.generate(**alone)["image"]


def test_all_that_is_asked_of_a_sample_is_asked_of_its_candidates(model: Model) -> None:
    led = {
        "image": picture(3), "text": "one", "to": "image", "steps": 2, "strength": 0.5, "negative": {"text": "two"},
        "seed": 1,
    }  # fmt: skip
    files = model.generate(num=4, **led)["image"]
    kept = model.generate(candidates=4, **led)["image"][0]
    fit = fits(model, {"text": "one"}, files)
    assert fit[files.index(kept)] > fit.max() - 1e-3
    assert kept != files[0], "the first would have been the best: the seed tells nothing"


def test_a_package_says_how_many(line: Line, model: Model, tmp_path: Path) -> None:
    made = line.made
    folder = save_package(
        line.store, made["fit"], made["train-fusion"], made["train-generator"], tmp_path / "p", {"candidates": 6}
    )
    asked = {"text": ["one", "two"], "to": "image", "steps": 2, "seed": 4}
    packaged = load_package(folder, device="cpu")
    assert packaged.generate(**asked)["image"] == model.generate(candidates=6, **asked)["image"]
    assert packaged.generate(candidates=1, **asked)["image"] == model.generate(**asked)["image"]


def test_fewer_than_one_is_refused(model: Model) -> None:
    with pytest.raises(ConfigError, match="candidates: wanted 1 or more, came 0"):
        model.generate(text="one", to="image", candidates=0)
