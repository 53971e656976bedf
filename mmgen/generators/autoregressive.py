"""Text slots one token after another, from whatever is given of the others: captions, transcripts, answers.

A causal decoder behind a prefix of vectors: which slot is written, then every given slot's latent tokens and its fusion
embedding. What is not given is not looked at, so one network knows every subset, and the text alone.

Shape suffixes: B batch, S slots, G target slots, P vectors of the prefix, T latent tokens, D latent width, E width of a
fusion embedding, W network width, L text length, J beams.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmgen.batches import Batch
from mmgen.codecs.autoregressive import CausalDecoder, Reading
from mmgen.codecs.decoding import beam_search, beginning, row_noise, write
from mmgen.codecs.text import EOS, PAD
from mmgen.errors import ConfigError, unknown_name
from mmgen.generators.joint_flow import embedding_key
from mmgen.generators.sampling import Sampling

IDS_SUFFIX = ".ids"


def ids_key(slot: str) -> str:
    """Where a batch holds the token ids (B, L) of text slot `slot`, beside its latents."""
    return slot + IDS_SUFFIX


class LatentTokens(nn.Module):
    """Latent tokens (B, T, D) as vectors of a prefix (B, T, W): projected, with a vector of its own for each place."""

    def __init__(self, tokens: int, latent_width: int, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(latent_width, width)
        self.places = nn.Parameter(torch.randn(tokens, width) * 0.02)

    def forward(self, x_BTD: Tensor) -> Tensor:
        out: Tensor = self.project(x_BTD) + self.places
        return out


class Autoregressive(nn.Module):
    """See the module. Latents are expected standardised.

    Args:
        slots: slot to its latent shape (T, D).
        targets: the text slots that it writes.
        vocabulary, length: of the token ids, V and L.
        width, heads, depth: of the transformer.
        embedding_width: E, if the fusion embeddings of given slots are a condition; None: they are not.
        latent_condition: whether their latents are.
        given_share: chance of a slot that is present to be given in training.
        condition_dropout: share of training rows whose text is learned with nothing given.
        given_noise: standard deviation of noise on given latents and embeddings in training.
        word_dropout: see CausalDecoder.
        temperature, top_k, top_p, beams: how it samples where `Sampling` does not say.

    Raises ConfigError: no target, one that is no slot, or no condition at all.
    """

    feature_set: ClassVar[Literal["latents", "tensors"]] = "latents"
    #: `sample` gives token ids, one slot at a time, not latents
    writes: ClassVar[bool] = True

    def __init__(
        self,
        *,
        slots: Mapping[str, Sequence[int]],
        targets: Sequence[str],
        vocabulary: int,
        length: int,
        width: int = 128,
        heads: int = 4,
        depth: int = 4,
        embedding_width: int | None = None,
        latent_condition: bool = True,
        given_share: float = 0.8,
        condition_dropout: float = 0.1,
        given_noise: float = 0.1,
        word_dropout: float = 0.1,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float = 1.0,
        beams: int = 1,
    ) -> None:
        super().__init__()
        if not targets or set(targets) - set(slots):
            raise ConfigError(f"autoregressive: wanted targets among {', '.join(slots)}, came {list(targets)}")
        if not latent_condition and not embedding_width:
            raise ConfigError("autoregressive: wanted latent_condition or fusion_condition, came neither")
        self.shapes = {slot: (int(shape[0]), int(shape[1])) for slot, shape in slots.items()}
        self.targets, self.length, self.embedding_width = tuple(targets), length, embedding_width
        self.given_share, self.condition_dropout, self.given_noise = given_share, condition_dropout, given_noise
        self.defaults = Sampling(1, 1.0, temperature=temperature, top_k=top_k, top_p=top_p, beams=beams)
        self.begin = nn.Parameter(torch.randn(len(self.targets), width) * 0.02)
        # ModuleDict refuses names with dots and of its own methods, so slots go by number
        latents = (LatentTokens(*shape, width) for shape in self.shapes.values())
        self.read = nn.ModuleList(latents) if latent_condition else None
        self.embed = nn.ModuleList(nn.Linear(embedding_width, width) for _ in self.shapes) if embedding_width else None
        self.decoder = CausalDecoder(
            vocabulary=vocabulary, length=length, width=width, heads=heads, depth=depth, word_dropout=word_dropout
        )

    @property
    def slots(self) -> tuple[str, ...]:
        """Names of the slots, in the order of S."""
        return tuple(self.shapes)

    @property
    def makes(self) -> tuple[str, ...]:
        """The slots that it can make."""
        return self.targets

    # ------------------------------------------------------------ conditions

    def _prefix(self, batch: Batch, target_B: Tensor, given_BS: Tensor, rng: torch.Generator | None) -> list[Tensor]:
        """The prefix (B, P, W) and which of it may be looked at (B, P). target_B: numbers of the slots to write."""
        parts = [self.begin[target_B][:, None]]
        keeps = [torch.ones_like(given_BS[:, :1])]
        for number, slot in enumerate(self.slots):
            for key, layers in ((slot, self.read), (embedding_key(slot), self.embed)):
                if layers is None or key not in batch.values:
                    continue
                keep_BT = batch.masks[key] & given_BS[:, number, None]
                # a masked token's number must not get in, not even as 0 · NaN
                x_BTD = batch.values[key].float().masked_fill(~keep_BT[..., None], 0.0)
                if self.training and self.given_noise:
                    noise_BTD = torch.randn(x_BTD.shape, generator=rng, device=x_BTD.device)
                    x_BTD = x_BTD + self.given_noise * noise_BTD
                parts.append(layers[number](x_BTD))
                keeps.append(keep_BT)
        return [torch.cat(parts, dim=1), torch.cat(keeps, dim=1)]

    def _number(self, target: str, batch: Batch) -> Tensor:
        """The number of a target, for every row (B,)."""
        return torch.full_like(batch.labels_B, self.targets.index(target))

    def _others(self, batch: Batch, to: Sequence[str]) -> Tensor:
        """(B, S) bool: what is present and not to be made."""
        given_BS = batch.presence(self.slots)
        given_BS[:, [self.slots.index(slot) for slot in to]] = False
        return given_BS

    # ------------------------------------------------------------ training

    def loss(self, batch: Batch, rng: torch.Generator | None = None) -> dict[str, Tensor]:
        """Cross-entropy in nats per token, each text's mean: `loss`, and each target's as `loss_<slot>`.

        batch: latents of any of the slots, masks (B, T), fusion embeddings (B, 1, E) under `embedding_key(slot)`, and
        token ids (B, L) under `ids_key(slot)`. Each row learns one of the targets that it has, drawn evenly; rows that
        have none, and those of weight 0, count nothing.
        """
        keys = [ids_key(slot) for slot in self.targets]
        has_BG = torch.stack([batch.masks[key].any(1) for key in keys], dim=1)
        lots_BG = torch.rand(has_BG.shape, generator=rng, device=has_BG.device).masked_fill(~has_BG, -1.0)
        target_B = lots_BG.argmax(1)
        ids_BGL = torch.stack([batch.values[key] for key in keys], dim=1).masked_fill(~has_BG[..., None], PAD)
        ids_BL = ids_BGL[torch.arange(len(batch), device=target_B.device), target_B]
        given_BS = self._drawn(batch.presence(self.slots), target_B, rng)
        logits_BLV = self.decoder(*self._prefix(batch, target_B, given_BS, rng), ids_BL[:, :-1], rng)
        each_BL = F.cross_entropy(logits_BLV.transpose(1, 2), ids_BL[:, 1:], reduction="none")
        counts_BL = ids_BL[:, 1:] != PAD
        mean_B = (each_BL * counts_BL).sum(1) / counts_BL.sum(1).clamp_min(1)
        weight_B = batch.weights_B * has_BG.any(1)
        found = {"loss": _mean(mean_B, weight_B)}
        for number, slot in enumerate(self.targets):
            found[f"loss_{slot}"] = _mean(mean_B.detach(), weight_B * (target_B == number))
        return found

    def _drawn(self, present_BS: Tensor, target_B: Tensor, rng: torch.Generator | None) -> Tensor:
        """(B, S) bool: what each row is given of what it has; never the slot that it learns to write."""
        draw_BS = torch.rand(present_BS.shape, generator=rng, device=present_BS.device)
        draw_B1 = torch.rand((len(present_BS), 1), generator=rng, device=present_BS.device)
        given_BS = present_BS & (draw_BS < self.given_share) & (draw_B1 >= self.condition_dropout)
        numbers_G = torch.tensor([self.slots.index(slot) for slot in self.targets], device=target_B.device)
        return given_BS.scatter(1, numbers_G[target_B][:, None], False)

    # ------------------------------------------------------------ sampling

    @torch.no_grad()
    def sample(
        self, given: Batch, to: Sequence[str], how: Sampling, rng: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Token ids (B, L) of the slots `to`, each from what `given` holds of slots that are not among them.

        given: latents and fusion embeddings as in `loss`; a row may lack any slot. What it holds under `ids_key(slot)`
        is how that text begins: bos, ids, pads (what stands there from an eos on is not looked at).
        how: temperature 0 writes the likeliest id each time; beams above 1 search for the likeliest text, whatever the
        temperature. guidance moves away from what is written with nothing given.
        rng: numbers are drawn row by row, so a row's sample does not depend on how many follow it.

        Raises ConfigError for an unknown or repeated slot, or none at all.
        """
        self._check_targets(to)
        how = how.filled(self.defaults)
        u_BN = row_noise(len(given), len(to) * self.length, rng, given.weights_B.device)
        given_BS = self._others(given, to)
        made = {}
        for slot, u_BL in zip(to, torch.split(u_BN, self.length, dim=1), strict=True):
            prefix = self._prefix(given, self._number(slot, given), given_BS, None)
            made[slot] = self._write(prefix, self._start(given, slot), u_BL, how)
        return made

    def _write(self, prefix: list[Tensor], start_BL: Tensor, u_BL: Tensor, how: Sampling) -> Tensor:
        assert how.beams is not None
        assert how.temperature is not None
        assert how.top_p is not None
        prefix_BPW, keep_BP = (each.repeat_interleave(how.beams, dim=0) for each in prefix)
        alone_BP = torch.zeros_like(keep_BP)
        alone_BP[:, 0] = True
        # where nothing is given both branches are one
        guided = bool((keep_BP != alone_BP).any())
        reading = Reading(self.decoder, prefix_BPW, keep_BP, how.guidance, alone_BP if guided else None)
        if how.beams > 1:
            return beam_search(reading, start_BL, how.beams)
        return write(reading, start_BL, u_BL, temperature=how.temperature, top_k=how.top_k, top_p=how.top_p)

    def _start(self, given: Batch, slot: str) -> Tensor:
        """How each text begins (B, L)."""
        start_BL, key = beginning(len(given), self.length, given.weights_B.device), ids_key(slot)
        if key not in given.values:
            return start_BL
        ended_BL = (given.values[key] == EOS).cumsum(1) > 0
        begun_BL = given.values[key].masked_fill(ended_BL | ~given.masks[key].any(1, keepdim=True), PAD)
        # the last place is that of eos
        start_BL[:, 1:-1] = begun_BL[:, 1:-1]
        return start_BL

    @torch.no_grad()
    def log_probability(self, given: Batch, slot: str, ids_BL: Tensor) -> Tensor:
        """Log-probability (B, L) in nats of each id of a text of `slot`, after those before it; 0 for bos and pads.

        given: as for `sample`. The perplexity of texts is exp(-sum / number of ids that are neither bos nor pad).
        Raises ConfigError for another slot.
        """
        self._check_targets((slot,))
        prefix = self._prefix(given, self._number(slot, given), self._others(given, (slot,)), None)
        logits_BLV = self.decoder(*prefix, ids_BL[:, :-1])
        each_BL = logits_BLV.log_softmax(-1).gather(2, ids_BL[:, 1:, None])[..., 0]
        return F.pad(each_BL.masked_fill(ids_BL[:, 1:] == PAD, 0.0), (1, 0))

    def _check_targets(self, to: Sequence[str]) -> None:
        if not to or len(set(to)) < len(to):
            raise ConfigError(f"to: wanted text slots, each once, came {', '.join(to) or 'none'}")
        for slot in to:
            if slot not in self.targets:
                raise ConfigError(unknown_name("text slot", slot, self.targets))


def _mean(each_B: Tensor, weights_B: Tensor) -> Tensor:
    """Weighted mean; 0 where no row counts."""
    return (each_B * weights_B).sum() / weights_B.sum().clamp_min(1e-8)
