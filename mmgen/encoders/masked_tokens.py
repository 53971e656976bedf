"""Pretraining of text encoders: hidden tokens are told from those around them.

Devlin et al. 2019, arXiv:1810.04805.
Shape suffixes: B batch, L text length, W width of the embedding, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmgen.codecs.text import EOS, PAD
from mmgen.encoders.base import TokenEncoder

# of all tokens, and of these by which they are replaced: the paper's section 3.1
CHOSEN, HIDDEN, RANDOM = 0.15, 0.8, 0.1


class MaskedTokens(nn.Module):
    """An encoder with a head that names the tokens that were hidden from it. Only the encoder is kept afterwards.

    15% of a text's tokens are chosen: 80% of them are hidden, 10% replaced by random ones, 10% left. The head shares
    the encoder's embedding.
    """

    def __init__(self, encoder: TokenEncoder) -> None:
        super().__init__()
        vocabulary, width = encoder.embed.weight.shape
        self.encoder, self.vocabulary = encoder, vocabulary
        self.hidden_token = nn.Parameter(torch.randn(width) * 0.02)
        self.transform = nn.Sequential(nn.Linear(encoder.state_width, width), nn.GELU(), nn.LayerNorm(width))
        self.bias = nn.Parameter(torch.zeros(vocabulary))

    def forward(self, ids_BL: Tensor, hidden_BL: Tensor) -> Tensor:
        """Logits (B, L, V), float32, of every token; hidden_BL (bool): which the encoder does not see."""
        x_BLW = torch.where(hidden_BL[..., None], self.hidden_token, self.encoder.embed(ids_BL))
        states_BLW = self.transform(self.encoder.states(x_BLW, ids_BL != PAD))
        return F.linear(states_BLW, self.encoder.embed.weight, self.bias).float()

    def loss(self, ids_BL: Tensor, rng: torch.Generator | None = None) -> dict[str, Tensor]:
        """`loss` (nats per chosen token) and `accuracy`, the share of them that is named; 0 where none was chosen."""
        draws = torch.rand((3, *ids_BL.shape), generator=rng, device=ids_BL.device)
        chosen_BL = (ids_BL > EOS) & (draws[0] < CHOSEN)
        hidden_BL = chosen_BL & (draws[1] < HIDDEN)
        random_BL = chosen_BL & (draws[1] >= HIDDEN) & (draws[1] < HIDDEN + RANDOM)
        others_BL = EOS + 1 + (draws[2] * (self.vocabulary - EOS - 1)).long()
        logits_BLV = self(torch.where(random_BL, others_BL, ids_BL), hidden_BL)
        each_BL = F.cross_entropy(logits_BLV.transpose(1, 2), ids_BL, reduction="none")
        right_BL = logits_BLV.detach().argmax(-1) == ids_BL
        count = chosen_BL.sum().clamp_min(1)
        return {"loss": (each_BL * chosen_BL).sum() / count, "accuracy": (right_BL & chosen_BL).sum() / count}
