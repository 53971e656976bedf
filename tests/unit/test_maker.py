"""Values from values: a generator that writes texts does so slot by slot, each from what was written before."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from mmgen import config
from mmgen.batches import Batch
from mmgen.codec_set import CodecSet, make_codec, read_slots, weights_of
from mmgen.errors import ConfigError
from mmgen.fit_parts import codec_args
from mmgen.generate import conditions
from mmgen.generators.sampling import Sampling
from mmgen.generators.table import GENERATORS
from mmgen.maker import Maker, new_fusion
from mmgen.network_args import value_shapes
from mmgen.preprocess.table import preprocesses
from mmgen.preprocess.text import Tokenizer

SLOTS: dict[str, Any] = {
    "answer": {"modality": "text", "max_tokens": 8, "column": "a"},
    "image": {"modality": "image", "size_px": 16, "channels": 1, "column": "i"},
    "question": {"modality": "text", "max_tokens": 8, "column": "q"},
}
GREEDY = Sampling(1, 1.0, temperature=0.0)


@pytest.fixture(scope="module")
def maker() -> Maker:
    """Random networks of the smallest size; conditions are loud, so that they heed them."""
    torch.manual_seed(1)
    settings = config.build({"name": "m", "source": {"path": "x.csv"}, "slots": SLOTS}).to_json()["slots"]
    words = Tokenizer.fit(["one two three"], 262).to_json()
    codecs = config.build({"name": "m", "source": {"path": "x.csv"}, "slots": SLOTS}).codecs
    made, weights, scale = {}, {}, {}
    for slot, how in preprocesses(read_slots(settings), Tokenizer.from_json(words)).items():
        own = getattr(codecs, how.modality)
        made[how.modality] = {"kind": own.kind, "args": codec_args(own, how)}
        codec: Any = make_codec(**made[how.modality])
        weights[how.modality] = weights_of(codec)
        width = codec.latent_shape[1]
        scale[slot] = {"mean": [0.0] * width, "std": [0.1] * width}
    every = CodecSet.build(slots=settings, made=made, scale=scale, weights=weights, tokenizer=words, labels=())
    modalities = {slot: every.modality(slot) for slot in every.slots}
    args = {
        "modalities": modalities, "shapes": value_shapes(every), "classes": 0, "width": 8,
        "encoders": {"image": "cnn_image", "text": "transformer_text"},
    }  # fmt: skip
    shapes = {slot: every.latent_shape(slot) for slot in every.slots}
    writer = GENERATORS["autoregressive"](  # type: ignore[call-arg]
        slots=shapes, targets=("answer", "question"), vocabulary=262, length=8, width=32, heads=2, depth=2,
        embedding_width=8,
    )  # fmt: skip
    with torch.no_grad():
        for layer in writer.embed:
            layer.weight.mul_(20)
    fusion = new_fusion({"kind": "gated", "args": args})
    return Maker(every, fusion.eval(), writer.eval(), torch.device("cpu"))


def asked(maker: Maker, count: int = 12) -> Batch:
    """`count` conditions: a question each, all different."""
    return conditions(maker, [{"question": f"{number} two {number * 7}"} for number in range(count)])


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_texts_are_made_in_turn_each_from_those_before(maker: Maker) -> None:
    nothing = conditions(maker, [{}] * 12)
    drawn = maker.make(nothing, ("question", "answer"), Sampling(1, 1.0, temperature=3.0), rng())
    assert len(drawn["question"].unique(dim=0)) > 1
    both = maker.make(nothing, ("question", "answer"), GREEDY, rng())
    alone = maker.make(nothing, ("question",), GREEDY, rng())
    assert torch.equal(both["question"], alone["question"])
    there = {**nothing.masks, "question": torch.ones(12, 1, dtype=torch.bool)}
    told = replace(nothing, values={**nothing.values, "question": both["question"]}, masks=there)
    assert torch.equal(both["answer"], maker.make(told, ("answer",), GREEDY, rng())["answer"])
    assert not torch.equal(both["answer"], maker.make(nothing, ("answer",), GREEDY, rng())["answer"])
    # and the question matters at all
    answers = maker.make(asked(maker), ("answer",), GREEDY, rng())["answer"]
    assert len(answers.unique(dim=0)) > 1


def test_what_is_given_of_a_slot_that_is_made_is_not_looked_at(maker: Maker) -> None:
    made = maker.make(asked(maker), ("question", "answer"), GREEDY, rng())
    none = maker.make(conditions(maker, [{}] * 12), ("question", "answer"), GREEDY, rng())
    assert all(torch.equal(made[slot], none[slot]) for slot in made)


def test_a_rows_draws_do_not_depend_on_how_many_follow(maker: Maker) -> None:
    how = Sampling(1, 1.0, temperature=2.0)
    many = maker.make(asked(maker), ("question", "answer"), how, rng(3))
    few = maker.make(asked(maker, 3), ("question", "answer"), how, rng(3))
    assert all(torch.equal(many[slot][:3], few[slot]) for slot in few)
    assert not torch.equal(many["answer"], maker.make(asked(maker), ("question", "answer"), how, rng(4))["answer"])


def test_each_text_may_begin_with_words_of_its_own(maker: Maker) -> None:
    how = maker.codecs.preprocesses["answer"]
    begun = torch.zeros(12, 8, dtype=torch.long)
    ids = how.value(torch.from_numpy(how.compact(b"two", "")))
    begun[4] = ids
    made = maker.make(asked(maker), ("answer",), GREEDY, rng(), prefix={"answer": begun})["answer"]
    free = maker.make(asked(maker), ("answer",), GREEDY, rng())["answer"]
    assert maker.codecs.texts("answer", made)[4].startswith("two")
    assert torch.equal(made[torch.arange(12) != 4], free[torch.arange(12) != 4])


def test_probabilities_follow_the_conditions(maker: Maker) -> None:
    ids = maker.make(asked(maker), ("answer",), GREEDY, rng())["answer"]
    own, other = (maker.log_probability(asked(maker), "answer", each) for each in (ids, ids.roll(1, dims=0)))
    assert own.shape == ids.shape
    assert float(own.sum()) > float(other.sum())


def test_a_generator_of_whole_texts_takes_no_beginning_and_has_no_probabilities(maker: Maker) -> None:
    flow = GENERATORS["joint_flow"](slots={"answer": (4, 8)}, width=16, blocks=1)  # type: ignore[call-arg]
    other = Maker(maker.codecs, maker.fusion, flow, maker.device)
    given = conditions(maker, [{}])
    with pytest.raises(ConfigError, match=r"prefix: .* wanted a generator of kind autoregressive"):
        other.make(given, ("answer",), GREEDY, rng(), prefix={"answer": torch.zeros(1, 8, dtype=torch.long)})
    with pytest.raises(ConfigError, match="log_probability"):
        other.log_probability(given, "answer", torch.zeros(1, 8, dtype=torch.long))
