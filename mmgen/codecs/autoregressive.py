"""Texts word by word: a causal decoder behind a prefix of vectors, and the text codec that has it.

Shape suffixes: B batch, P vectors of the prefix, L text length, T latent tokens, D latent width, W width of the
network, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmgen.codecs.decoding import beginning, write
from mmgen.codecs.text import PAD, Past, TextAutoencoder, TransformerBlock


class CausalDecoder(nn.Module):
    """Logits of the id that follows each id of a text, from the ids up to it and from a prefix of vectors.

    Vectors of the prefix attend to each other, ids to the prefix and to the ids before them.

    Args:
        vocabulary, length: V and L.
        width, heads, depth: of the transformer; the prefix has this width.
        word_dropout: share of ids that are hidden from the decoder in training, so that it has to look at the prefix
            (Bowman et al. 2016, arXiv:1511.06349).
    """

    def __init__(
        self, *, vocabulary: int, length: int, width: int, heads: int, depth: int, word_dropout: float
    ) -> None:
        super().__init__()
        self.length, self.word_dropout = length, word_dropout
        self.embedding = nn.Embedding(vocabulary, width)
        self.hidden_word = nn.Parameter(torch.randn(width) * 0.02)
        self.positions = nn.Parameter(torch.randn(length, width) * 0.02)
        self.blocks = nn.ModuleList(TransformerBlock(width, heads) for _ in range(depth))
        self.norm_out = nn.LayerNorm(width)
        self.to_logits = nn.Linear(width, vocabulary)
        nn.init.normal_(self.embedding.weight, std=0.02)

    def forward(
        self, prefix_BPW: Tensor, keep_BP: Tensor, ids_BL: Tensor, rng: torch.Generator | None = None
    ) -> Tensor:
        """Logits (B, L, V), float32, of the id that follows each of `ids_BL` (at most the length).

        keep_BP: which vectors of the prefix may be looked at, at least one of each row. rng: hides words, in training.
        """
        x_BLW, tokens = self.embedding(ids_BL), ids_BL.shape[1]
        if self.training and self.word_dropout:
            hidden_BL = torch.rand(ids_BL.shape, generator=rng, device=ids_BL.device) < self.word_dropout
            hidden_BL[:, 0] = False
            x_BLW = torch.where(hidden_BL[..., None], self.hidden_word, x_BLW)
        x_BKW = torch.cat([prefix_BPW, x_BLW + self.positions[:tokens]], dim=1)
        keep_BKK = self._mask(keep_BP, tokens)
        for block in self.blocks:
            x_BKW = block(x_BKW, keep_BKK)
        return self.read_out(x_BKW[:, keep_BP.shape[1] :])

    def read_out(self, x_BLW: Tensor) -> Tensor:
        """Logits (B, L, V), float32, of what the blocks give out."""
        out: Tensor = self.to_logits(self.norm_out(x_BLW))
        return out.float()

    def _mask(self, keep_BP: Tensor, tokens: int) -> Tensor:
        """(B, P + L, P + L): which position (rows) may look at which."""
        count, vectors = keep_BP.shape
        causal_LL = torch.ones(tokens, tokens, dtype=torch.bool, device=keep_BP.device).tril()
        later_PL = torch.zeros(vectors, tokens, dtype=torch.bool, device=keep_BP.device)
        to_ids_KL = torch.cat([later_PL, causal_LL])
        to_prefix_BKP = keep_BP[:, None].expand(-1, vectors + tokens, -1)
        return torch.cat([to_prefix_BKP, to_ids_KL.expand(count, -1, -1)], dim=2)


class Reading:
    """A Writer of a CausalDecoder's texts: keys and values of all that was read are kept, so an id is read once.

    guidance: with any but 1, the prefix of half of the rows is `keep_alone_BP`, and log-probabilities move away from
    what follows there (Ho & Salimans, arXiv:2207.12598; for texts Sanchez et al. 2023, arXiv:2306.17806).
    """

    def __init__(
        self,
        decoder: CausalDecoder,
        prefix_BPW: Tensor,
        keep_BP: Tensor,
        guidance: float = 1.0,
        keep_alone_BP: Tensor | None = None,
    ) -> None:
        self.decoder, self.guidance, self.guided = decoder, guidance, guidance != 1 and keep_alone_BP is not None
        if keep_alone_BP is not None and self.guided:
            prefix_BPW, keep_BP = prefix_BPW.repeat(2, 1, 1), torch.cat([keep_BP, keep_alone_BP])
        self.keep, self.place = keep_BP, 0
        self.pasts = [Past() for _ in decoder.blocks]
        self._read(prefix_BPW)

    def next(self, ids_N: Tensor) -> Tensor:
        """Reads one id of every row; logits (N, V), float32, of the id that follows."""
        if self.guided:
            ids_N = ids_N.repeat(2)
        self.keep = F.pad(self.keep, (0, 1), value=True)
        x_N1W = self.decoder.embedding(ids_N)[:, None] + self.decoder.positions[self.place]
        self.place += 1
        logits_NV = self.decoder.read_out(self._read(x_N1W))[:, 0]
        if not self.guided:
            return logits_NV
        together, alone = logits_NV.log_softmax(-1).chunk(2)
        return alone + self.guidance * (together - alone)

    def take(self, rows_N: Tensor) -> None:
        """Goes on with these rows, which may repeat."""
        rows_N = torch.cat([rows_N, rows_N + len(self.keep) // 2]) if self.guided else rows_N
        self.keep = self.keep[rows_N]
        for past in self.pasts:
            past.take(rows_N)

    def _read(self, x_BLW: Tensor) -> Tensor:
        for block, past in zip(self.decoder.blocks, self.pasts, strict=True):
            x_BLW = block(x_BLW, self.keep, past)
        return x_BLW


class AutoregressiveTextCodec(TextAutoencoder):
    """With a causal decoder whose prefix are the latents: it knows what it has already said.

    word_dropout: see CausalDecoder; for the other arguments see TextAutoencoder.
    """

    def __init__(
        self,
        *,
        vocabulary: int,
        length: int,
        latent_tokens: int,
        latent_width: int,
        width: int,
        heads: int,
        depth: int,
        kl_weight: float,
        token_dropout: float,
        word_dropout: float,
    ) -> None:
        super().__init__(
            vocabulary=vocabulary, length=length, latent_tokens=latent_tokens, latent_width=latent_width, width=width,
            heads=heads, depth=depth, kl_weight=kl_weight, token_dropout=token_dropout,
        )  # fmt: skip
        self.decoder = CausalDecoder(
            vocabulary=vocabulary, length=length, width=width, heads=heads, depth=depth, word_dropout=word_dropout
        )
        nn.init.normal_(self.embedding.weight, std=0.02)

    def _prefix(self, z_BTD: Tensor) -> tuple[Tensor, Tensor]:
        states_BTW = self.latent_states(z_BTD)
        return states_BTW, torch.ones(states_BTW.shape[:2], dtype=torch.bool, device=z_BTD.device)

    @torch.no_grad()
    def decode(self, z_BTD: Tensor) -> Tensor:
        """Latents (B, T, D) to ids (B, L) int64: after each id the likeliest, until all texts have ended."""
        start_BL = beginning(len(z_BTD), self.length, z_BTD.device)
        return write(Reading(self.decoder, *self._prefix(z_BTD)), start_BL)

    def reconstruction(self, z_BTD: Tensor, value: Tensor, rng: torch.Generator | None) -> Tensor:
        """Nats per token after bos, each from the real ones before it, of which some are hidden in training."""
        logits_BLV = self.decoder(*self._prefix(z_BTD), value[:, :-1], rng)
        wanted_BL = value[:, 1:]
        keep_BL = wanted_BL != PAD
        return F.cross_entropy(logits_BLV[keep_BL], wanted_BL[keep_BL])
