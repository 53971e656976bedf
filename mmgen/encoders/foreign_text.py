"""Encoders of texts that others made: transformers' models from their folders, with their own tokenizer.

A slot's value is our token ids, which mean nothing to another model. So ours are read back as the text that they are
(byte-level: nothing is lost but what `max_tokens` cut), and that is cut into the model's own tokens. Both tokenizers
are buffers of the encoder, so they lie in its weights, and a package needs no folder of the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import tokenizers
import torch
from torch import Tensor, nn

from mmgen.encoders.base import check_rank
from mmgen.encoders.foreign import ForeignEncoder, Reading
from mmgen.encoders.transformers_models import blocks_of, load_tower, new_tower
from mmgen.errors import ConfigError, IntegrityError
from mmgen.preprocess.text import Tokenizer
from mmgen.pretrained import folder_of, library
from mmgen.records import Modality

_BYTES = ("our_tokenizer", "their_tokenizer")


def give_tokenizer(network: nn.Module, tokenizer: Tokenizer | None) -> None:
    """Our tokenizer to every encoder of texts in `network` that another library made."""
    for each in network.modules():
        if isinstance(each, TransformersText) and tokenizer is not None:
            each.take_tokenizer(tokenizer.to_json())


def their_tokenizer(folder: Path) -> tuple[str, int]:
    """The JSON of a model's own tokenizer, and its id of padding. Raises ConfigError where it has none."""
    transformers = library("transformers")
    try:
        found = transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, TypeError, KeyError) as error:
        said = " ".join(str(error).split())[:200]
        raise ConfigError(f"{folder}: wanted the model's tokenizer beside it: {said}") from error
    inner = getattr(found, "backend_tokenizer", None)
    if inner is None:
        raise ConfigError(f"{folder}: wanted a tokenizer with a tokenizer.json, came {type(found).__name__}")
    padding = found.pad_token_id
    return str(inner.to_str()), int(padding if padding is not None else found.eos_token_id or 0)


class TransformersText(ForeignEncoder):
    """A transformers model of texts (BERT and its kin, the text towers of CLIP, SigLIP and CLAP).

    architecture: {"class", "config"}. pad_id: of its tokenizer. max_tokens: longest text in its tokens, T. weights:
    {"source", "revision"}; our tokenizer comes by `take_tokenizer`. Pooled is the model's own pooled vector, else the
    mean of its tokens.
    """

    modalities: ClassVar[frozenset[Modality]] = frozenset({"text"})

    our_tokenizer: Tensor
    their_tokenizer: Tensor

    def __init__(
        self,
        shape: tuple[int, ...],
        width: int | None = None,
        *,
        architecture: Mapping[str, Any],
        pad_id: int,
        max_tokens: int,
        trainable: str = "head",
        adapter_width: int = 16,
        weights: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(shape, width, trainable, adapter_width)
        check_rank(shape, "text (L, vocabulary)", 2)
        for name in _BYTES:
            self.register_buffer(name, torch.zeros(0, dtype=torch.uint8))
        self.pad_id, self.max_tokens = pad_id, max_tokens
        self._tokenizers: tuple[Tokenizer, tokenizers.Tokenizer] | None = None
        self.trunk = new_tower(architecture)
        self.trunk.eval()
        with torch.no_grad():
            probe = self._run(torch.full((1, 4), pad_id), torch.ones(1, 4, dtype=torch.long))
        self._finish(probe.x_BTH.shape[2], max_tokens, weights)

    def take_tokenizer(self, data: bytes) -> None:
        """Our tokenizer's JSON, by which the ids of values are read."""
        self._take("our_tokenizer", data)

    def _take(self, name: str, data: bytes) -> None:
        setattr(self, name, torch.frombuffer(bytearray(data), dtype=torch.uint8).to(self.our_tokenizer.device))
        self._tokenizers = None

    def blocks(self) -> nn.ModuleList | nn.Sequential | None:
        return blocks_of(self.trunk)

    def _start_trunk(self, weights: Mapping[str, Any]) -> None:
        self.trunk = load_tower(self.trunk, weights, "text")
        folder = folder_of(weights["source"], weights.get("revision"), "encoders.text.source")
        self._take("their_tokenizer", their_tokenizer(folder)[0].encode())

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *given: Any) -> None:
        # how long the tokenizers are is only known from the weights
        for name in _BYTES:
            if (came := state_dict.get(prefix + name)) is not None:
                setattr(self, name, torch.empty_like(came, device=getattr(self, name).device))
        self._tokenizers = None
        super()._load_from_state_dict(state_dict, prefix, *given)

    def read(self, value: Tensor) -> Reading:
        ids_BT, mask_BT = self.their_ids(value)
        return self._run(ids_BT, mask_BT)

    def their_ids(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """The model's own ids (B, T) and where they are, both int64, of our ids (B, L); T is that of the longest."""
        ours, theirs = self._both()
        found = theirs.encode_batch([ours.decode(row) for row in value.detach().cpu().tolist()])
        longest = max(1, *(len(each.ids) for each in found), 1)
        rows = [each.ids + [self.pad_id] * (longest - len(each.ids)) for each in found]
        masks = [[1] * len(each.ids) + [0] * (longest - len(each.ids)) for each in found]
        return torch.tensor(rows, device=value.device), torch.tensor(masks, device=value.device)

    def _both(self) -> tuple[Tokenizer, tokenizers.Tokenizer]:
        if self._tokenizers is None:
            if not (len(self.our_tokenizer) and len(self.their_tokenizer)):
                raise IntegrityError("transformers_text: wanted both tokenizers in its weights, or by give_tokenizer")
            ours, theirs = (getattr(self, name).cpu().numpy().tobytes() for name in _BYTES)
            inner = tokenizers.Tokenizer.from_str(theirs.decode())
            inner.no_padding()
            inner.enable_truncation(self.max_tokens)
            self._tokenizers = Tokenizer.from_json(ours), inner
        return self._tokenizers

    def _run(self, ids_BT: Tensor, mask_BT: Tensor) -> Reading:
        found = self.trunk(input_ids=ids_BT, attention_mask=mask_BT)
        x_BTH, mask = found.last_hidden_state, mask_BT.bool()
        pooled = getattr(found, "pooler_output", None)
        if pooled is None:
            shares_BT1 = mask_BT[..., None] / mask_BT.sum(1).clamp(min=1)[:, None, None]
            pooled = (x_BTH * shares_BT1).sum(1)
        return Reading(pooled, x_BTH, mask)
