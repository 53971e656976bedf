"""How texts that are written token by token are asked for: what they begin with, and how their tokens are drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from mmgen.errors import ConfigError
from mmgen.generators.sampling import Sampling
from mmgen.maker import Maker
from mmgen.preprocess.text import TextPreprocess


@dataclass(frozen=True, slots=True)
class Wording:
    """temperature, top_k, top_p, beams: as in `Sampling`. prefix: text slot → what its texts begin with, one for all
    conditions or one for each."""

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    beams: int | None = None
    prefix: Mapping[str, str | Sequence[str]] = field(default_factory=dict)

    def sampling(self, steps: int, guidance: float) -> Sampling:
        """The whole of how a generator draws. Raises ConfigError."""
        return Sampling(steps, guidance, self.temperature, self.top_k, self.top_p, self.beams)

    def beginnings(self, maker: Maker, to: Sequence[str], count: int) -> dict[str, Tensor]:
        """Text slot → ids (count, L) that its texts begin with, one row per condition. Raises ConfigError."""
        return {slot: self._ids(maker, slot, to, count) for slot in self.prefix}

    def _ids(self, maker: Maker, slot: str, to: Sequence[str], count: int) -> Tensor:
        how, begun = maker.codecs.preprocesses.get(slot), self.prefix[slot]
        if slot not in to or not isinstance(how, TextPreprocess):
            raise ConfigError(f"prefix: wanted text slots that are made ({', '.join(to)}), came '{slot}'")
        texts = [begun] * count if isinstance(begun, str) else list(begun)
        if len(texts) != count:
            raise ConfigError(f"prefix.{slot}: wanted one text, or one for each of {count}, came {len(texts)}")
        for text in texts:
            # bos and eos count too, and one id more is to be written
            if (long := how.tokenizer.count(text)) >= how.max_tokens:
                room = how.max_tokens - 3
                raise ConfigError(f"prefix.{slot}: wanted at most {room} tokens, '{text[:40]}' has {long - 2}")
        rows = np.stack([how.compact(text.encode(), slot) for text in texts])
        return how.value(torch.from_numpy(rows)).to(maker.device)


#: nothing is asked for: the generator's own settings
AS_TRAINED = Wording()
