"""Masked-token pretraining: what is hidden is not seen, what counts, and that hidden tokens come to be named."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmgen.codecs.text import BOS, EOS, PAD
from mmgen.encoders.base import TokenEncoder
from mmgen.encoders.masked_tokens import MaskedTokens
from mmgen.encoders.table import ENCODERS, make_encoder
from mmgen.preprocess.text import Tokenizer

KINDS = sorted(name for name, kind in ENCODERS.items() if issubclass(kind, TokenEncoder))
LENGTH = 12
TEXTS = [f"{number} {what} {where}" for number in ("one", "two", "three") for what, where in (
    ("red kites", "above the sea"), ("old horses", "behind the hill"), ("white swans", "under the bridge"),
)]  # fmt: skip


def made(kind: str) -> tuple[Any, Tensor]:
    """A pretraining of this encoder, and the ids of TEXTS."""
    tokenizer = Tokenizer.fit(TEXTS * 3, 320)
    ids = torch.from_numpy(np.stack([tokenizer.encode(text, LENGTH) for text in TEXTS])).long()
    torch.manual_seed(0)
    encoder = make_encoder(kind, "text", (LENGTH, len(tokenizer)), 16)
    return MaskedTokens(encoder), ids  # type: ignore[arg-type]


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_both_text_encoders_can_be_pretrained() -> None:
    assert KINDS == ["bilstm_text", "transformer_text"]


@pytest.mark.parametrize("kind", KINDS)
class TestEveryEncoder:
    @torch.no_grad()
    def test_a_hidden_token_is_not_seen_and_the_others_are(self, kind: str) -> None:
        masked, ids = made(kind)
        hidden = torch.zeros_like(ids, dtype=torch.bool)
        hidden[:, 2] = True
        other = ids.clone()
        other[:, 2] = 3 + (ids[:, 2] - 2) % (masked.vocabulary - 3)
        before = masked.eval()(ids, hidden)
        torch.testing.assert_close(masked(other, hidden), before)
        assert not torch.allclose(masked(other, torch.zeros_like(hidden)), before)
        other[:, 3] = 3 + (ids[:, 3] - 2) % (masked.vocabulary - 3)
        # both directions reach the hidden place
        assert not torch.allclose(masked(other, hidden)[:, 2], before[:, 2])

    @torch.no_grad()
    def test_padding_and_its_length_change_nothing(self, kind: str) -> None:
        masked, ids = made(kind)
        nothing = torch.zeros_like(ids, dtype=torch.bool)
        before = masked.eval()(ids, nothing)[ids != PAD]
        if kind == "transformer_text":
            # the LSTM's embedding of padding is zeros by itself, and never read
            masked.encoder.embed.weight[PAD] += 3.0
            masked.bias[PAD] += 1.0
            torch.testing.assert_close(masked(ids, nothing)[ids != PAD][:, 1:], before[:, 1:])
        together, alone = before, torch.cat([masked(row[None], row[None] == -1)[row[None] != PAD] for row in ids])
        torch.testing.assert_close(together[:, 1:], alone[:, 1:], atol=1e-5, rtol=1e-4)

    def test_hidden_tokens_come_to_be_named_and_the_encoder_has_learned_it(self, kind: str) -> None:
        masked, ids = made(kind)
        start = copy.deepcopy(masked.encoder.state_dict())
        # a bidirectional LSTM learns a few texts in fewer, dearer steps
        copies, steps, rate = (1, 60, 5e-3) if kind == "bilstm_text" else (4, 80, 3e-3)
        ids = ids.repeat(copies, 1)
        optimiser = torch.optim.Adam(masked.parameters(), lr=rate)

        def named() -> float:
            with torch.no_grad():
                return sum(float(masked.loss(ids, rng(1000 + seed))["accuracy"]) for seed in range(20)) / 20

        before = named()
        for step in range(steps):
            optimiser.zero_grad()
            masked.loss(ids, rng(step))["loss"].backward()
            optimiser.step()
        assert before < 0.2
        # the number before the words cannot be known
        assert named() > 0.6
        changed = {name for name, weight in masked.encoder.state_dict().items() if not torch.equal(weight, start[name])}
        # the projection to the vector of a whole text is the fusion's to learn
        assert {name for name in start if name not in changed} == {"project.weight", "project.bias"}


def test_the_same_draws_give_the_same_loss_and_bos_eos_and_pads_are_never_asked_for() -> None:
    masked, ids = made("transformer_text")
    losses = [float(masked.loss(ids, rng(seed))["loss"].detach()) for seed in (1, 1, 2)]
    assert losses[0] == losses[1] != losses[2]
    empty = torch.full((2, LENGTH), PAD)
    empty[:, 0], empty[:, 1] = BOS, EOS
    found = masked.loss(empty, rng())
    assert float(found["loss"].detach()) == float(found["accuracy"]) == 0.0


def test_shares_are_the_papers() -> None:
    masked, _ = made("transformer_text")
    ids = torch.full((2000, LENGTH), 5)
    seen: dict[str, Tensor] = {}

    def look(given: Tensor, hidden: Tensor) -> Tensor:
        seen.update(given=given, hidden=hidden)
        return torch.zeros(*given.shape, masked.vocabulary)

    masked.forward = look
    masked.loss(ids, rng())
    hidden, replaced = seen["hidden"], (seen["given"] != ids) & ~seen["hidden"]
    assert float(hidden.float().mean()) == pytest.approx(0.15 * 0.8, abs=0.01)
    assert float(replaced.float().mean()) == pytest.approx(0.15 * 0.1, abs=0.005)
    assert int(seen["given"].min()) > EOS
