"""The causal decoder: what it may see, what it keeps; and the text codec that has it, in any language."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmgen.codecs.autoregressive import AutoregressiveTextCodec, CausalDecoder, Reading
from mmgen.codecs.config import AutoregressiveTextConfig, CodecsConfig, TextCodecConfig
from mmgen.codecs.decoding import beginning, write
from mmgen.codecs.text import BOS, EOS, PAD
from mmgen.preprocess.text import Tokenizer

TEXTS = (
    "a cat sits on the table", "一只猫坐在桌子上，桌子上有一个苹果", "قطة تجلس على الطاولة", "🐱 on 🍎🍎",
    "кот на столе", "a dog", "", "naïve café",
)  # fmt: skip
LENGTH = 40


def decoder(word_dropout: float = 0.0) -> CausalDecoder:
    torch.manual_seed(0)
    return CausalDecoder(vocabulary=12, length=8, width=16, heads=2, depth=2, word_dropout=word_dropout).eval()


def reading() -> tuple[Tensor, Tensor, Tensor]:
    """Prefix (3, 4, 16), which of it may be looked at, and ids (3, 8)."""
    rng = torch.Generator().manual_seed(1)
    prefix = torch.randn((3, 4, 16), generator=rng)
    keep = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 0], [1, 0, 0, 0]], dtype=torch.bool)
    return prefix, keep, torch.randint(3, 12, (3, 8), generator=rng)


@torch.no_grad()
def test_an_id_sees_the_prefix_and_what_is_before_it_alone() -> None:
    network, (prefix, keep, ids) = decoder(), reading()
    before = network(prefix, keep, ids)
    later = ids.clone()
    later[:, 5:] = 3 + (later[:, 5:] - 2) % 9
    after = network(prefix, keep, later)
    torch.testing.assert_close(after[:, :5], before[:, :5])
    assert not torch.allclose(after[:, 5:], before[:, 5:])
    hidden = torch.where(keep[..., None], prefix, torch.full_like(prefix, torch.finfo(torch.float32).max / 1e30))
    torch.testing.assert_close(network(hidden, keep, ids), before)
    assert not torch.allclose(network(prefix + 1, keep, ids), before)


@torch.no_grad()
def test_what_is_kept_while_reading_gives_what_reading_all_again_would() -> None:
    network, (prefix, keep, ids) = decoder(), reading()
    whole = network(prefix, keep, ids)
    reader = Reading(network, prefix, keep)
    for place in range(ids.shape[1]):
        torch.testing.assert_close(reader.next(ids[:, place]), whole[:, place], atol=1e-5, rtol=1e-5)
    rows = torch.tensor([2, 0, 0])
    reader = Reading(network, prefix, keep)
    reader.next(ids[:, 0])
    reader.take(rows)
    taken = torch.cat([ids[rows, :1], ids[:, 1:2]], dim=1)
    wanted = network(prefix[rows], keep[rows], taken)[:, 1]
    torch.testing.assert_close(reader.next(ids[:, 1]), wanted, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_guidance_moves_away_from_what_follows_without_the_prefix() -> None:
    network, (prefix, keep, ids) = decoder(), reading()
    alone = torch.tensor([[1, 0, 0, 0]], dtype=torch.bool).expand(3, -1)
    with_it, without = (network(prefix, each, ids[:, :1])[:, 0].log_softmax(-1) for each in (keep, alone))
    guided = Reading(network, prefix, keep, 3.0, alone).next(ids[:, 0])
    torch.testing.assert_close(guided, without + 3.0 * (with_it - without), atol=1e-5, rtol=1e-5)
    plain = Reading(network, prefix, keep, 1.0, alone)
    assert not plain.guided
    torch.testing.assert_close(plain.next(ids[:, 0]).log_softmax(-1), with_it, atol=1e-5, rtol=1e-5)


def test_words_are_hidden_in_training_only_and_bos_never() -> None:
    network, (prefix, keep, ids) = decoder(word_dropout=0.99), reading()
    assert torch.equal(network(prefix, keep, ids), network(prefix, keep, ids))
    network.train()
    rng = torch.Generator().manual_seed(0)
    hidden = network(prefix, keep, ids, rng)
    torch.testing.assert_close(hidden[:, 0], network.eval()(prefix, keep, ids)[:, 0])
    assert not torch.allclose(hidden[:, 1:], network(prefix, keep, ids)[:, 1:])


# ---------------------------------------------------------------- the codec


@pytest.fixture(scope="module")
def learned() -> tuple[Any, Tokenizer, Tensor]:
    """A tiny codec that has learned TEXTS by heart, its tokenizer, and their ids."""
    tokenizer = Tokenizer.fit(TEXTS, 300)
    ids = torch.from_numpy(np.stack([tokenizer.encode(text, LENGTH) for text in TEXTS])).long()
    torch.manual_seed(0)
    codec = AutoregressiveTextCodec(
        vocabulary=len(tokenizer), length=LENGTH, latent_tokens=2, latent_width=8, width=32, heads=2, depth=1,
        kl_weight=1e-3, token_dropout=0.0, word_dropout=0.3,
    )  # fmt: skip
    optimiser, rng = torch.optim.Adam(codec.parameters(), lr=5e-3), torch.Generator().manual_seed(0)
    for _ in range(250):
        optimiser.zero_grad()
        codec.loss(ids, rng)["loss"].backward()
        optimiser.step()
    return codec.eval(), tokenizer, ids


def test_texts_of_any_language_come_back_whole(learned: tuple[Any, Tokenizer, Tensor]) -> None:
    codec, tokenizer, ids = learned
    made = codec.decode(codec.encode(ids))
    assert [tokenizer.decode(row) for row in made.tolist()] == list(TEXTS)
    assert torch.equal(made, ids)
    assert torch.equal(codec.decode(codec.encode(ids)), made)


def test_the_text_is_in_the_latents_and_not_in_what_was_said_before(learned: tuple[Any, Tokenizer, Tensor]) -> None:
    codec, _, ids = learned
    with torch.no_grad():
        z, other = codec.encode(ids), codec.encode(ids).roll(1, dims=0)
        own, wrong = (float(codec.reconstruction(each, ids, None)) for each in (z, other))
    assert wrong > own + 1.0


def test_every_text_that_is_decoded_is_one(learned: tuple[Any, Tokenizer, Tensor]) -> None:
    codec, _, ids = learned
    made = codec.decode(torch.randn(16, *codec.latent_shape, generator=torch.Generator().manual_seed(3)) * 5)
    assert made.shape == (16, LENGTH)
    for row in made.tolist():
        assert row[0] == BOS
        assert row.count(EOS) == 1
        assert not {PAD, BOS} & set(row[1 : row.index(EOS)])
        assert set(row[row.index(EOS) + 1 :]) <= {PAD}
    assert len(codec.decode(torch.zeros(0, *codec.latent_shape))) == 0
    written = write(Reading(codec.decoder, *codec._prefix(codec.encode(ids))), beginning(len(ids), LENGTH, ids.device))
    assert torch.equal(written, ids)


# ---------------------------------------------------------------- its settings


def test_the_parallel_codec_is_meant_where_nothing_else_is_said() -> None:
    assert isinstance(CodecsConfig.model_validate({"text": {"width": 16}}).text, TextCodecConfig)
    made = CodecsConfig.model_validate({"text": {"kind": "autoregressive", "width": 16}}).text
    assert isinstance(made, AutoregressiveTextConfig)
    shared = set(TextCodecConfig.model_fields)
    assert set(AutoregressiveTextConfig.model_fields) == shared | {"word_dropout"}
    for name in shared - {"kind"}:
        assert AutoregressiveTextConfig.model_fields[name].default == TextCodecConfig.model_fields[name].default, name
