"""Codecs: shapes, determinism, independence of rows, and that they learn."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mmgen.codecs.table import CODECS, Codec
from mmgen.codecs.text import BOS, EOS, PAD, TextCodec
from mmgen.errors import ConfigError

CONVOLUTIONS: dict[str, Any] = {"patch": 2, "widths": (8, 16), "depth": 1, "latent_width": 4, "kl_weight": 1e-3}
SPECS: dict[str, dict[str, Any]] = {
    "conv_image": {"channels": 3, "height": 8, "width": 8, **CONVOLUTIONS},
    "conv_mel": {"mels": 8, "frames": 16, **CONVOLUTIONS},
    "tokens": {
        "vocabulary": 12, "length": 8, "latent_tokens": 2, "latent_width": 4, "width": 16, "heads": 2, "depth": 1,
        "kl_weight": 1e-3, "token_dropout": 0.0,
    },
    "autoregressive": {
        "vocabulary": 12, "length": 8, "latent_tokens": 2, "latent_width": 4, "width": 16, "heads": 2, "depth": 1,
        "kl_weight": 1e-3, "token_dropout": 0.0, "word_dropout": 0.3,
    },
}  # fmt: skip
LATENTS = {"conv_image": (4, 4), "conv_mel": (8, 4), "tokens": (2, 4), "autoregressive": (2, 4)}


def make(kind: str) -> Any:
    torch.manual_seed(0)
    return CODECS[kind](**SPECS[kind])


def values(kind: str, count: int) -> Tensor:
    rng = torch.Generator().manual_seed(1)
    if kind == "conv_image":
        return torch.rand((count, 3, 8, 8), generator=rng) * 2 - 1
    if kind == "conv_mel":
        return torch.rand((count, 8, 16), generator=rng) * 2 - 1
    ids = torch.randint(3, 12, (count, 8), generator=rng)
    ids[:, 0], ids[:, 5], ids[:, 6:] = BOS, EOS, PAD
    return ids


def fit(codec: Any, value: Tensor, steps: int) -> float:
    optimiser = torch.optim.Adam(codec.parameters(), lr=1e-2)
    rng = torch.Generator().manual_seed(2)
    for _ in range(steps):
        optimiser.zero_grad()
        codec.loss(value, rng)["loss"].backward()
        optimiser.step()
    return float(codec.loss(value, rng)["reconstruction"])


def test_every_codec_of_the_table_has_a_spec_here() -> None:
    # those of other libraries have a file of their own
    assert set(SPECS) == set(CODECS) - {"autoencoder_kl", "encodec"}


@pytest.mark.parametrize("kind", SPECS)
class TestEveryCodec:
    def test_latents_have_the_shape_it_says_and_values_come_back_in_theirs(self, kind: str) -> None:
        codec: Codec = make(kind)
        value = values(kind, 3)
        z_BTD = codec.encode(value)
        assert codec.latent_shape == LATENTS[kind]
        assert z_BTD.shape == (3, *LATENTS[kind])
        assert z_BTD.dtype == torch.float32
        made = codec.decode(z_BTD)
        assert made.shape == value.shape
        assert made.dtype == value.dtype

    def test_a_row_does_not_depend_on_the_rows_beside_it(self, kind: str) -> None:
        codec = make(kind).eval()
        value = values(kind, 5)
        together, alone = codec.encode(value), torch.cat([codec.encode(row[None]) for row in value])
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)

    def test_the_same_seed_gives_the_same_loss_and_another_seed_another(self, kind: str) -> None:
        codec, value = make(kind), values(kind, 4)
        losses = [codec.loss(value, torch.Generator().manual_seed(seed))["loss"].item() for seed in (3, 3, 4)]
        assert losses[0] == losses[1] != losses[2]

    def test_it_overfits_one_batch(self, kind: str) -> None:
        codec, value = make(kind), values(kind, 4)
        before = float(codec.loss(value, torch.Generator().manual_seed(2))["reconstruction"])
        assert fit(codec, value, 120) < 0.35 * before

    def test_it_runs_in_bfloat16(self, kind: str) -> None:
        codec, value = make(kind), values(kind, 4)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = codec.loss(value, torch.Generator().manual_seed(2))["loss"]
        loss.backward()
        assert torch.isfinite(loss)


def test_a_size_that_does_not_divide_is_refused_with_what_was_wanted() -> None:
    with pytest.raises(ConfigError, match=r"multiples of 4, came 8 × 10"):
        CODECS["conv_image"](channels=1, height=8, width=10, **CONVOLUTIONS)


def text_codec() -> TextCodec:
    codec = make("tokens")
    assert isinstance(codec, TextCodec)
    return codec


def test_a_text_codec_that_learned_a_batch_gives_it_back_whole() -> None:
    codec, ids = text_codec(), values("tokens", 4)
    fit(codec, ids, 150)
    assert torch.equal(codec.eval().decode(codec.encode(ids)), ids)


def test_padding_after_a_text_changes_no_latent() -> None:
    codec, ids = text_codec().eval(), values("tokens", 2)
    with torch.no_grad():
        codec.embedding.weight[PAD] += 5.0
        moved = codec.encode(ids)
        codec.embedding.weight[PAD] -= 9.0
    torch.testing.assert_close(codec.encode(ids), moved)


def test_what_follows_the_first_end_token_is_padding() -> None:
    codec = text_codec().eval()
    with torch.no_grad():
        codec.to_logits.weight.zero_()
        codec.to_logits.bias.zero_()
        codec.to_logits.bias[EOS] = 1.0
    made = codec.decode(torch.zeros(2, 2, 4))
    assert made[:, 0].eq(EOS).all()
    assert made[:, 1:].eq(PAD).all()


def test_hidden_tokens_are_hidden_from_the_encoder_in_training_only() -> None:
    torch.manual_seed(0)
    codec = TextCodec(**{**SPECS["tokens"], "token_dropout": 0.9})
    ids = values("tokens", 4)
    assert torch.equal(codec.encode(ids), codec.encode(ids))
    rng = torch.Generator().manual_seed(5)
    assert torch.isfinite(codec.loss(ids, rng)["loss"])
