"""How texts are written one token after another: the likeliest, drawn, or searched for with beams.

Shape suffixes: B texts, N rows that are read side by side, J beams, L text length, V vocabulary.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from mmgen.codecs.text import BOS, EOS, PAD


class Writer(Protocol):
    """Texts being written side by side."""

    def next(self, ids_N: Tensor) -> Tensor:
        """Reads one more id of every row; logits (N, V), float32, of the id that follows."""
        ...

    def take(self, rows_N: Tensor) -> None:
        """Goes on with these rows, which may repeat."""
        ...


def beginning(count: int, length: int, device: torch.device) -> Tensor:
    """Ids (B, L) of texts of which nothing is given: bos, and pads for what is to be written."""
    ids_BL = torch.full((count, length), PAD, device=device)
    ids_BL[:, 0] = BOS
    return ids_BL


def row_noise(count: int, length: int, rng: torch.Generator | None, device: torch.device) -> Tensor:
    """Uniform numbers (B, L), drawn row by row: a row's do not depend on how many follow it."""
    rows = [torch.rand(length, generator=rng, device=rng.device if rng else device) for _ in range(count)]
    return torch.stack(rows).to(device) if rows else torch.zeros(0, length, device=device)


def allowed(logits_NV: Tensor, last: bool) -> Tensor:
    """Log-probabilities (N, V) of what may be written: no pad and no bos, and at the last place only eos."""
    banned_V = torch.zeros(logits_NV.shape[1], dtype=torch.bool, device=logits_NV.device)
    banned_V[[PAD, BOS]] = True
    if last:
        banned_V[:] = True
        banned_V[EOS] = False
    return F.log_softmax(logits_NV.masked_fill(banned_V, -torch.inf), dim=-1)


def pick(log_p_NV: Tensor, u_N: Tensor, temperature: float, top_k: int | None, top_p: float) -> Tensor:
    """Ids (N,) drawn with uniform numbers u_N; the likeliest at temperature 0.

    top_k: only so many of the likeliest (Fan et al. 2018, arXiv:1805.04833). top_p: only the fewest whose probability
    together reaches it (Holtzman et al. 2020, arXiv:1904.09751). Both look at the tempered distribution.
    """
    if temperature == 0:
        return log_p_NV.argmax(-1)
    p_NV, ids_NV = (log_p_NV / temperature).softmax(-1).sort(dim=-1, descending=True, stable=True)
    if top_k is not None:
        p_NV[:, top_k:] = 0
    before_NV = p_NV.cumsum(-1) - p_NV
    p_NV = p_NV.masked_fill(before_NV >= top_p * p_NV.sum(-1, keepdim=True), 0)
    reached_NV = p_NV.cumsum(-1)
    # rounding must not lead past the last one that may be drawn
    place_N1 = (reached_NV <= u_N[:, None] * reached_NV[:, -1:]).sum(-1, keepdim=True)
    place_N1 = torch.minimum(place_N1, (p_NV > 0).sum(-1, keepdim=True) - 1)
    return ids_NV.gather(1, place_N1)[:, 0]


def write(
    writer: Writer,
    start_BL: Tensor,
    u_BL: Tensor | None = None,
    *,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float = 1.0,
) -> Tensor:
    """Ids (B, L) of one text per row: what `start_BL` holds, then what is written, eos, pads.

    start_BL: bos and the ids that each text begins with, pads behind them; none may have an eos, nor reach the last
    place. u_BL: uniform numbers to draw with; needed unless the temperature is 0.
    """
    ids_BL, ended_B = start_BL.clone(), torch.zeros_like(start_BL[:, 0], dtype=torch.bool)
    u_BL = torch.zeros(start_BL.shape, device=start_BL.device) if u_BL is None else u_BL
    for place in range(1, start_BL.shape[1]):
        log_p_BV = allowed(writer.next(ids_BL[:, place - 1]), last=place + 1 == start_BL.shape[1])
        picked_B = pick(log_p_BV, u_BL[:, place], temperature, top_k, top_p)
        picked_B = torch.where(start_BL[:, place] != PAD, start_BL[:, place], picked_B)
        ids_BL[:, place] = picked_B.masked_fill(ended_B, PAD)
        ended_B = ended_B | (picked_B == EOS)
        if bool(ended_B.all()):
            break
    return ids_BL


def beam_search(writer: Writer, start_BL: Tensor, beams: int) -> Tensor:
    """Ids (B, L) of the text per row whose mean log-probability per written id (eos counts) is the highest found.

    writer: reads J = `beams` rows for each text, side by side (row b · J + j). start_BL: as for `write`. It ends
    when no beam of any text can any more be better than what is complete.
    """
    count, length = start_BL.shape
    device = start_BL.device
    given_B = (start_BL != PAD).sum(1)
    ids_BJL = start_BL[:, None].repeat(1, beams, 1)
    # all beams begin alike, so only one of them may be followed
    score_BJ = torch.full((count, beams), -torch.inf, device=device)
    score_BJ[:, 0] = 0
    best_BL, best_B = start_BL.clone(), torch.full((count,), -torch.inf, device=device)
    own_B1 = torch.arange(count, device=device)[:, None]
    for place in range(1, length):
        log_p_NV = allowed(writer.next(ids_BJL[:, :, place - 1].flatten()), last=place + 1 == length)
        each_BJV = score_BJ[..., None] + _forced(log_p_NV.view(count, beams, -1), start_BL[:, place])
        # twice as many as beams: even if each beam ends, as many are left to go on with
        top_BK, at_BK = each_BJV.flatten(1).topk(2 * beams)
        from_BK, id_BK = at_BK // each_BJV.shape[2], at_BK % each_BJV.shape[2]
        made_B = (place + 1 - given_B).clamp_min(1)
        done_BK = (top_BK / made_B[:, None]).masked_fill(id_BK != EOS, -torch.inf)
        score_B, which_B = done_BK.max(1)
        ended_BL = ids_BJL[own_B1[:, 0], from_BK[own_B1[:, 0], which_B]].clone()
        ended_BL[:, place] = EOS
        better_B = score_B > best_B
        best_BL, best_B = torch.where(better_B[:, None], ended_BL, best_BL), torch.where(better_B, score_B, best_B)
        score_BJ, kept_BJ = top_BK.masked_fill(id_BK == EOS, -torch.inf).topk(beams)
        from_BJ = from_BK.gather(1, kept_BJ)
        ids_BJL = ids_BJL[own_B1, from_BJ]
        ids_BJL[:, :, place] = id_BK.gather(1, kept_BJ)
        # log-probabilities only fall, so the rest of a text at best costs nothing
        if bool((score_BJ[:, 0] / (length - given_B) <= best_B).all()):
            break
        writer.take((own_B1 * beams + from_BJ).flatten())
    return best_BL


def _forced(log_p_BJV: Tensor, id_B: Tensor) -> Tensor:
    """Where an id is given (no pad), it alone may follow, at no cost."""
    forced_BJV = torch.full_like(log_p_BJV, -torch.inf)
    forced_BJV.scatter_(2, id_B[:, None, None].expand(-1, log_p_BJV.shape[1], 1), 0.0)
    return torch.where((id_B != PAD)[:, None, None], forced_BJV, log_p_BJV)
