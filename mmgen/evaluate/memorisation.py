"""Did the generator learn training samples by heart? Made samples nearer to one than real test samples ever are.

Distances are taken among the judge's features and, of images and sounds, among their pixels or mels, both shrunk to
at most 32 × 32. Texts are left out: what people write is said twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mmgen.batches import Samples
from mmgen.evaluate import scores
from mmgen.evaluate.intervals import Places, bootstrap, wilson
from mmgen.evaluate.measure import FEWEST, Made
from mmgen.evaluate.scores import Score, score
from mmgen.evaluate.spaces import Features
from mmgen.preprocess.table import Preprocess

#: side of what values are shrunk to before they are compared
SIDE = 32
#: training rows read at once
ROWS = 512
#: a made sample is memorised if it is nearer than this quantile of the real ones
QUANTILE = 0.01
#: pairs that are shown of each slot
PAIRS = 4
NAMES = {"image": "pixels", "audio": "mels"}


@dataclass(frozen=True)
class Pair:
    """A made sample and its nearest training sample. value: (…) of each. key: of the training sample; shard: the
    digest of its media shard."""

    distance: float
    given: str
    slot: str
    made: Tensor
    training: Tensor
    key: str
    shard: str


@dataclass
class Training:
    """Training samples to compare with. spaces: slot → what is compared → vectors (T, P). places: slot → which (T,).

    real: distances (N,) of the real test samples, once they were asked for.
    """

    samples: Samples
    how: Mapping[str, Preprocess]
    spaces: dict[str, dict[str, Tensor]]
    places: dict[str, np.ndarray]
    real: dict[tuple[str, str], Tensor] = field(default_factory=dict)
    pairs: dict[str, list[Pair]] = field(default_factory=dict)

    @classmethod
    def read(
        cls,
        samples: Samples,
        how: Mapping[str, Preprocess],
        features: Features,
        limit: int,
        seed: int,
        device: torch.device | str,
    ) -> Training:
        """At most `limit` samples of each slot of images or sound, drawn with `seed`. samples: of the set `tensors`."""
        spaces: dict[str, dict[str, Tensor]] = {}
        places: dict[str, np.ndarray] = {}
        for slot, each in how.items():
            rows = samples.having(slot)
            if each.modality not in NAMES or len(rows) == 0:
                continue
            if len(rows) > limit:
                rows = np.sort(np.random.default_rng(seed).choice(rows, limit, replace=False))
            parts: dict[str, list[Tensor]] = {}
            for start in range(0, len(rows), ROWS):
                value = _value(samples, slot, each, rows[start : start + ROWS]).to(device)
                for name, vectors in _vectors(slot, each, value, features).items():
                    parts.setdefault(name, []).append(vectors)
            spaces[slot] = {name: torch.cat(found) for name, found in parts.items()}
            places[slot] = rows
        return cls(samples, how, spaces, places)

    def rows(self, made: Made, real: Tensor, features: Features, resamples: int, seed: int) -> list[Score]:
        """Rows of what was made, beside the real test values of its slot; its nearest pairs are kept to be shown."""
        if made.slot not in self.spaces or min(len(made.value), len(real)) < FEWEST:
            return []
        how, found = self.how[made.slot], []
        for name, came in _vectors(made.slot, how, made.value, features).items():
            there = self.spaces[made.slot][name]
            if (made.slot, name) not in self.real:
                wanted = _vectors(made.slot, how, real, features)[name]
                self.real[made.slot, name] = nearest(wanted, there)[0]
            real_N = self.real[made.slot, name]
            made_N, which_N = nearest(came, there)
            found += _rows(made, name, made_N, real_N, resamples, seed)
            if name in NAMES.values():
                self._keep(made, made_N, which_N)
        return found

    def _keep(self, made: Made, distance_N: Tensor, which_N: Tensor) -> None:
        """The nearest pairs of all so far, each training sample once."""
        found = self.pairs.get(made.slot, [])
        first: dict[int, int] = {}
        for place in distance_N.argsort().tolist():
            first.setdefault(int(which_N[place]), place)
            if len(first) == PAIRS:
                break
        for place in first.values():
            row = int(self.places[made.slot][int(which_N[place])])
            shard = self.samples.shards[int(np.searchsorted(self.samples.starts, row, side="right")) - 1]
            training = _value(self.samples, made.slot, self.how[made.slot], np.array([row]))[0]
            found.append(
                Pair(float(distance_N[place]), made.given, made.slot, made.value[place].cpu(), training,
                     self.samples.keys[row], shard.media_digest)
            )  # fmt: skip
        once: dict[str, Pair] = {}
        for pair in sorted(found, key=lambda pair: pair.distance):
            once.setdefault(pair.key, pair)
        self.pairs[made.slot] = list(once.values())[:PAIRS]


def _rows(made: Made, judge: str, made_N: Tensor, real_N: Tensor, resamples: int, seed: int) -> list[Score]:
    limit = torch.quantile(real_N.double(), QUANTILE)
    share = wilson(int((made_N.double() < limit).sum()), len(made_N))
    rows = [score(scores.MEMORISED, [made.given], [made.slot], judge, share)]
    came, wanted = made_N.double().cpu().numpy(), real_N.double().cpu().numpy()
    if np.median(wanted) > 0:

        def ratio(x: Places, y: Places) -> float:
            return float(np.median(came[x]) / max(1e-12, np.median(wanted[y])))

        found = bootstrap(ratio, [len(came), len(wanted)], resamples, seed)
        rows.append(score(scores.TRAINING_DISTANCE, [made.given], [made.slot], judge, found))
    return rows


def nearest(x_NP: Tensor, there_TP: Tensor) -> tuple[Tensor, Tensor]:
    """(distance (N,), place (N,)) of each vector's nearest one of `there_TP`."""
    found = torch.cdist(x_NP.float(), there_TP.float()).min(dim=1)
    return found.values, found.indices


def _vectors(slot: str, how: Preprocess, value: Tensor, features: Features) -> dict[str, Tensor]:
    """What is compared → vectors (B, P) of values (B, …)."""
    name, seen = features.name(slot), features.of(slot, value)
    found = {name: seen.float()} if name is not None and seen is not None else {}
    return {**found, NAMES[how.modality]: shrunk(value)}


def shrunk(value: Tensor) -> Tensor:
    """Images (B, C, H, W) or spectrograms (B, M, T) as vectors (B, P), each side averaged to at most 32."""
    height, width = (min(SIDE, side) for side in value.shape[-2:])
    return F.adaptive_avg_pool2d(value.float(), (height, width)).flatten(1)


def _value(samples: Samples, slot: str, how: Preprocess, rows: np.ndarray) -> Tensor:
    compact = samples.gather(slot, rows, np.zeros(len(rows), dtype=np.int64))
    return how.value(torch.from_numpy(compact))
