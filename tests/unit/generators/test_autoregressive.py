"""The autoregressive generator: any subset is a condition, absent ones leave no trace, and it learns what is asked."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mmgen.batches import Batch
from mmgen.codecs.text import BOS, EOS, PAD
from mmgen.errors import ConfigError
from mmgen.generators.autoregressive import Autoregressive, ids_key
from mmgen.generators.joint_flow import embedding_key
from mmgen.generators.sampling import Sampling

SHAPES = {"answer": (2, 3), "image": (3, 2), "question": (2, 3)}
KINDS, LENGTH, VOCABULARY, EMBEDDING = 4, 6, 12, 4
GREEDY = Sampling(1, 1.0, temperature=0.0)


def generator(targets: Sequence[str] = ("answer", "question"), **more: Any) -> Autoregressive:
    torch.manual_seed(0)
    settings = {"width": 32, "heads": 2, "depth": 1, "embedding_width": EMBEDDING, "word_dropout": 0.0, **more}
    return Autoregressive(slots=SHAPES, targets=targets, vocabulary=VOCABULARY, length=LENGTH, **settings)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def text(slot: str, kinds: Tensor) -> Tensor:
    """The ids of a row's text: two that say its kind, one more for questions."""
    ids = torch.full((len(kinds), LENGTH), PAD)
    ids[:, 0], ids[:, 1], ids[:, 2], ids[:, 3] = BOS, 3 + kinds, 7 + kinds, EOS
    if slot == "question":
        ids[:, 3], ids[:, 4] = 11, EOS
    return ids


def batch(count: int = 8, seed: int = 0, slots: Sequence[str] = tuple(SHAPES), noise: float = 0.1) -> Batch:
    """Rows of KINDS kinds in turn; every slot's latent and embedding tells the kind."""
    draw, kinds = rng(seed), torch.arange(count) % KINDS
    means = torch.randn(KINDS, 64, generator=rng(99))
    values, masks = {}, {}
    for number, (slot, (tokens, wide)) in enumerate(SHAPES.items()):
        there = torch.full((count, 1), slot in slots)
        mean = means[kinds, number * 16 : number * 16 + tokens * wide].unflatten(1, (tokens, wide))
        values[slot] = mean + noise * torch.randn(mean.shape, generator=draw)
        values[embedding_key(slot)] = means[kinds, None, number * 16 + 8 : number * 16 + 8 + EMBEDDING]
        masks[slot], masks[embedding_key(slot)] = there.expand(-1, tokens), there
        if slot != "image":
            values[ids_key(slot)], masks[ids_key(slot)] = text(slot, kinds), there.expand(-1, LENGTH)
    return Batch(values, masks, kinds, torch.ones(count), [str(row) for row in range(count)])


def given(slots: Sequence[str], count: int = 8, seed: int = 1) -> Batch:
    """What a caller gives: no ids."""
    whole = batch(count, seed, slots)
    values = {key: value for key, value in whole.values.items() if not key.endswith(".ids")}
    return replace(whole, values=values, masks={key: whole.masks[key] for key in values})


@functools.cache
def learned(**more: Any) -> Autoregressive:
    """A generator that has seen the four kinds for a second."""
    network = generator(**more).train()
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    for step in range(150):
        optimiser.zero_grad()
        network.loss(batch(16, seed=step), rng(step))["loss"].backward()
        optimiser.step()
    return network.eval()


KIND = torch.arange(8) % KINDS


@pytest.mark.parametrize("slots", [("image",), ("question",), ("image", "question")])
def test_every_subset_of_the_others_tells_what_to_write(slots: tuple[str, ...]) -> None:
    made = learned().sample(given(slots), ("answer",), GREEDY, rng())["answer"]
    assert torch.equal(made, text("answer", KIND))


def test_each_target_is_written_in_its_own_way() -> None:
    made = learned().sample(given(("image",)), ("question", "answer"), GREEDY, rng())
    assert torch.equal(made["question"], text("question", KIND))
    assert torch.equal(made["answer"], text("answer", KIND))


@pytest.mark.parametrize("conditions", [{"latent_condition": False}, {"embedding_width": None}])
def test_latents_or_embeddings_alone_are_enough(conditions: dict[str, Any]) -> None:
    made = learned(**conditions).sample(given(("image",)), ("answer",), GREEDY, rng())["answer"]
    assert torch.equal(made, text("answer", KIND))


def test_with_nothing_given_the_kinds_come_in_their_shares() -> None:
    nothing = given((), count=400)
    made = learned().sample(nothing, ("answer",), Sampling(1, 1.0, temperature=1.0), rng())["answer"]
    kinds = torch.bincount(made[:, 1] - 3, minlength=KINDS)[:KINDS]
    assert (kinds > 50).all(), kinds
    assert (made[:, 2] - made[:, 1] == 4).float().mean() > 0.9
    greedy = learned().sample(nothing, ("answer",), GREEDY, rng())["answer"]
    assert len(greedy.unique(dim=0)) == 1


def test_guidance_asks_more_of_the_condition() -> None:
    shown, kinds, right = given(("image",), count=400), torch.arange(400) % KINDS, []
    for guidance in (1.0, 2.0):
        how = Sampling(1, guidance, temperature=2.5)
        made = learned().sample(shown, ("answer",), how, rng())["answer"]
        right.append(float((made[:, 1] == 3 + kinds).float().mean()))
    assert right[1] > right[0] + 0.02, right


def test_what_it_holds_of_a_slot_that_is_made_is_not_looked_at() -> None:
    network, ids = generator().eval(), text("answer", KIND)
    own, none = given(("answer", "image")), given(("image",))
    assert torch.equal(*(network.log_probability(each, "answer", ids) for each in (own, none)))
    assert not torch.equal(*(network.log_probability(each, "question", ids) for each in (own, none)))
    drawn = Sampling(1, 3.0, temperature=2.0)
    assert torch.equal(*(network.sample(each, ("answer",), drawn, rng())["answer"] for each in (own, none)))


def test_a_target_never_sees_its_own_latent_in_training() -> None:
    network = generator(("answer",), given_share=1.0, condition_dropout=0.0, given_noise=0.0)
    own = batch(slots=("answer",))
    other = replace(own, values={**own.values, "answer": own.values["answer"] + 5})
    other.values[embedding_key("answer")] = other.values[embedding_key("answer")] - 3
    assert torch.equal(*(network.loss(each, rng())["loss"] for each in (own, other)))


def test_rows_without_a_text_and_padding_rows_count_nothing() -> None:
    network, whole = generator(condition_dropout=0.0, given_share=1.0, given_noise=0.0).eval(), batch()
    for slot in ("answer", "question"):
        for key in (slot, ids_key(slot), embedding_key(slot)):
            whole.masks[key] = whole.masks[key].clone()
            whole.masks[key][4:] = False
    losses = [float(network.loss(each, rng())["loss"].detach()) for each in (whole, whole.rows(0, 4))]
    weighted = replace(batch(), weights_B=torch.tensor([1.0] * 4 + [0.0] * 4))
    torch.manual_seed(0)
    assert torch.isfinite(network.loss(weighted, rng())["loss"])
    none = given(("image",))
    for slot in ("answer", "question"):
        none.values[ids_key(slot)] = torch.full((8, LENGTH), 7)
        none.masks[ids_key(slot)] = torch.zeros(8, LENGTH, dtype=torch.bool)
    assert float(network.loss(none, rng())["loss"].detach()) == 0.0
    # which target a row learns is drawn for all rows at once, so only the size is alike
    assert losses[0] == pytest.approx(losses[1], rel=0.2)


def test_a_text_goes_on_from_what_it_begins_with() -> None:
    begun = given(("image",))
    ids = torch.full((8, LENGTH), PAD)
    ids[:, 0], ids[:, 1] = BOS, 3
    ids[7, 1] = PAD
    key = ids_key("answer")
    begun = replace(begun, values={**begun.values, key: ids}, masks={**begun.masks, key: ids.bool().any(1)[:, None]})
    for how in (GREEDY, Sampling(1, 1.0, beams=3), Sampling(1, 2.0, temperature=0.5)):
        made = learned().sample(begun, ("answer",), how, rng())["answer"]
        assert (made[:7, 1] == 3).all()
        assert made[7, 1] == 3 + KIND[7]
        assert (made == EOS).any(1).all()
    whole = replace(begun, values={**begun.values, key: text("answer", KIND)})
    assert torch.equal(learned().sample(whole, ("answer",), GREEDY, rng())["answer"], text("answer", KIND))


def test_beams_and_greedy_agree_on_what_is_sure() -> None:
    made = learned().sample(given(("image",)), ("answer",), Sampling(1, 1.0, beams=4), rng())["answer"]
    assert torch.equal(made, text("answer", KIND))


def test_a_rows_draws_do_not_depend_on_how_many_follow() -> None:
    how = Sampling(1, 1.5, temperature=1.3)
    many = learned().sample(given((), count=40), ("answer", "question"), how, rng())
    few = learned().sample(given((), count=40).rows(0, 5), ("answer", "question"), how, rng())
    assert all(torch.equal(many[slot][:5], few[slot]) for slot in few)
    assert not torch.equal(many["answer"], learned().sample(given((), count=40), ("answer",), how, rng(1))["answer"])


def test_log_probabilities_are_those_that_texts_are_drawn_with() -> None:
    network, nothing = learned(), given((), count=2)
    log_p = network.log_probability(nothing, "answer", text("answer", torch.arange(2)))
    assert (log_p[:, 0] == 0).all()
    assert (log_p[:, 4:] == 0).all()
    assert (log_p[:, 1:4] < 0).all()
    # all texts of one id and an end, and all that begin otherwise, are together everything
    first = torch.stack([torch.tensor([BOS, each, EOS, PAD, PAD, PAD]) for each in range(VOCABULARY)])
    many = given((), count=VOCABULARY)
    assert float(network.log_probability(many, "answer", first)[:, 1].exp()[1:].sum()) == pytest.approx(1.0, abs=1e-3)
    drawn = network.sample(given((), count=2_000), ("answer",), Sampling(1, 1.0, temperature=1.0), rng())["answer"]
    for kind in range(2):
        share = float((drawn[:, 1] == 3 + kind).float().mean())
        assert share == pytest.approx(float(log_p[kind, 1].exp()), abs=0.04)


def test_the_generators_own_settings_hold_where_nothing_is_asked_for() -> None:
    nothing = given((), count=30)
    own = generator(temperature=0.0).eval()
    assert len(own.sample(nothing, ("answer",), Sampling(1, 1.0), rng())["answer"].unique(dim=0)) == 1
    asked = own.sample(nothing, ("answer",), Sampling(1, 1.0, temperature=2.0), rng())["answer"]
    assert len(asked.unique(dim=0)) > 1


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="wanted targets among"):
        generator(("caption",))
    with pytest.raises(ConfigError, match="came neither"):
        generator(latent_condition=False, embedding_width=None)
    with pytest.raises(ConfigError, match="unknown text slot 'image'"):
        generator().sample(given(()), ("image",), GREEDY, rng())
    with pytest.raises(ConfigError, match="each once"):
        generator().sample(given(()), ("answer", "answer"), GREEDY, rng())
    for wrong, words in (
        ({"temperature": -1.0}, "temperature: wanted 0 or more, came -1"),
        ({"top_k": 0}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"beams": 0}, "beams"),
    ):
        with pytest.raises(ConfigError, match=words):
            Sampling(1, 1.0, **wrong)  # type: ignore[arg-type]
