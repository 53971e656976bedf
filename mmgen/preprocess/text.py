"""Text: UTF-8 → byte-level BPE ids (L,) → ids with pad 0, bos 1, eos 2, and back.

Sennrich et al., "Neural machine translation of rare words with subword units", 2016, over bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers
from torch import Tensor

from mmgen.errors import IntegrityError
from mmgen.modalities.text import TextMedia
from mmgen.records import Modality

PAD, BOS, EOS = 0, 1, 2
SPECIAL = ("<pad>", "<bos>", "<eos>")


class Tokenizer:
    """Byte-level BPE: any text can be encoded, and decodes to itself if it was not truncated."""

    def __init__(self, inner: tokenizers.Tokenizer) -> None:
        # a user's text may contain "<pad>"; it is text, not padding
        inner.encode_special_tokens = True
        self._inner = inner

    @classmethod
    def fit(cls, texts: Iterable[str], vocab_size: int) -> Tokenizer:
        """Learn at most `vocab_size` ids (3 special, 256 bytes, then merges). Same texts in any order, same result."""
        inner = tokenizers.Tokenizer(models.BPE())
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(SPECIAL),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        inner.train_from_iterator(sorted(texts), trainer)
        return cls(inner)

    @classmethod
    def from_json(cls, data: bytes) -> Tokenizer:
        """Read what `to_json` wrote. Raises IntegrityError."""
        try:
            inner = tokenizers.Tokenizer.from_str(data.decode())
        except Exception as error:  # the library raises bare Exception
            raise IntegrityError(f"tokenizer: wanted its JSON, came {len(data)} bytes: {error}") from error
        if [inner.token_to_id(token) for token in SPECIAL] != [PAD, BOS, EOS]:
            raise IntegrityError(f"tokenizer: wanted {SPECIAL} as ids 0, 1, 2")
        return cls(inner)

    def to_json(self) -> bytes:
        """One canonical spelling: the same tokenizer gives the same bytes."""
        return json.dumps(json.loads(self._inner.to_str()), sort_keys=True, ensure_ascii=False, indent=1).encode()

    def __len__(self) -> int:
        """Number of ids."""
        return int(self._inner.get_vocab_size())

    def encode(self, text: str, length: int) -> np.ndarray:
        """int32 (length,): bos, the text's ids as far as they fit, eos, pads."""
        ids = self._inner.encode(text).ids[: length - 2]
        row = np.full(length, PAD, dtype=np.int32)
        row[: len(ids) + 2] = [BOS, *ids, EOS]
        return row

    def places(self, text: str, length: int, starts: Iterable[int]) -> list[int | None]:
        """For each character of `text` that `starts` names: where in `encode`'s row its id is; None if it was cut."""
        spans = self._inner.encode(text).offsets
        found = []
        for start in starts:
            at = next((number for number, (begin, end) in enumerate(spans) if begin <= start < end), length)
            found.append(at + 1 if at < length - 2 else None)
        return found

    def count(self, text: str) -> int:
        """Ids of `text` with bos and eos, untruncated."""
        return len(self._inner.encode(text).ids) + 2

    def decode(self, ids: Iterable[int]) -> str:
        """The text up to the first eos; special ids are left out, broken UTF-8 becomes U+FFFD."""
        kept: list[int] = []
        for token in map(int, ids):
            if token == EOS:
                break
            if token > EOS:
                kept.append(token)
        return str(self._inner.decode(kept))


@dataclass(frozen=True)
class TextPreprocess:
    """UTF-8 to ids, cut to `max_tokens` with bos and eos."""

    tokenizer: Tokenizer
    max_tokens: int

    modality: ClassVar[Modality] = "text"
    extension: ClassVar[str] = "txt"
    dtype: ClassVar[str] = "int32"

    @property
    def shape(self) -> tuple[int, ...]:
        """(L,)."""
        return (self.max_tokens,)

    def compact(self, data: bytes, key: str) -> np.ndarray:
        """int32 (L,) of UTF-8. Raises SourceError."""
        return self.tokenizer.encode(TextMedia().decode(data), self.max_tokens)

    def value(self, compact: Tensor) -> Tensor:
        """int64 (B, L)."""
        return compact.long()

    def texts(self, value: Tensor) -> list[str]:
        """One string for each of (B, L)."""
        return [self.tokenizer.decode(row) for row in value.detach().cpu().tolist()]

    def files(self, value: Tensor) -> list[bytes]:
        """UTF-8 of each of (B, L)."""
        return [text.encode() for text in self.texts(value)]
