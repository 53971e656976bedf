"""What contenders made, judged by the same judges on the same rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor

from benchmarks.models import lines
from mmgen import artifact as artifacts
from mmgen.batches import open_samples
from mmgen.codec_set import CodecSet
from mmgen.evaluate import measure, scores, spaces
from mmgen.evaluate.intervals import wilson
from mmgen.evaluate.measure import Made, Panel
from mmgen.evaluate.scores import Score, score, single
from mmgen.evaluate.spaces import Space
from mmgen.fit_judges import load_judges
from mmgen.store import Store

COMPLETE = "digits-complete"
#: how joint samples are drawn: nothing is known, from the prior, or from a mixture fitted to training latents
PRIOR, MIXTURE = "prior", "gmm"
RESAMPLES, SEED = 100, 0
#: a score, and how its joint samples were drawn ("" where it is of none)
Row = tuple[Score, str]


class Bench:
    """The complete set's judges, and the real rows of a split. exam: their values, as `lines.export` left them."""

    def __init__(self, store: Store, split: str, exam: Path) -> None:
        judges, codecs, features = (
            artifacts.latest(store, kind, COMPLETE) for kind in ("judges", "codecs", "features")
        )
        assert judges is not None
        assert codecs is not None
        assert features is not None
        made = CodecSet.load(store, codecs)
        self.panel = Panel(
            {slot: made.modality(slot) for slot in made.slots}, dict(load_judges(store, judges, "cpu")),
            {modality: modality for modality in judges.facts["judges"]},
        )  # fmt: skip
        self.said = lines.texts_of(store)
        samples = open_samples(store, features, "tensors", split, judges.facts["labels"])
        assert samples is not None
        place = {key: row for row, key in enumerate(samples.keys)}
        rows = np.array([place[key] for key in lines.exam_keys(store, split)])
        self.labels_N = torch.from_numpy(samples.labels[rows])
        with np.load(exam) as arrays:
            self.real = {slot: _tensor(arrays[f"value/{slot}"]) for slot in self.panel.slots}
        self.everyone = torch.arange(len(rows))
        self.spaces = {slot: self._space(slot) for slot in self.panel.slots}

    def _space(self, slot: str) -> Space:
        return Space.of(slot, self.panel.judge(slot), self.everyone, self.panel.features(slot, self.real[slot]), SEED)

    def floors(self) -> list[Row]:
        """The judges on real rows, and what one half of these is to the other."""
        found = []
        for slot, space in self.spaces.items():
            right = measure.share(self.panel.guess(slot, self.real[slot]) == self.labels_N)
            found.append(score(scores.JUDGE_ACCURACY, [], [slot], self.panel.judge(slot), wilson(*right)))
            found += spaces.floors(space, RESAMPLES, SEED)
        return [(row, "") for row in found]

    def table(self, archive: Path) -> list[Row]:
        """Coherence, distances and coverage of every direction in an archive and of its joint samples, and the means of
        coherence over one and over two inputs."""
        with np.load(archive) as arrays:
            values = {name: self._shaped(name.split(">")[1].split("@")[0], arrays[name]) for name in arrays.files}
        directions: list[Score] = []
        found: list[Row] = []
        together: dict[str, dict[str, Tensor]] = {}
        for name, value in values.items():
            given, _, rest = name.partition(">")
            slot, _, sampler = rest.partition("@")
            seen_ND = self.panel.features(slot, value)
            if given:
                right = measure.share(self.panel.classes(slot, seen_ND) == self.labels_N)
                directions.append(score(scores.COHERENCE, [given], [slot], self.panel.judge(slot), wilson(*right)))
                found += [(row, "") for row in self._distances(Made(given, slot, self.everyone, value), seen_ND)]
            else:
                sampler = sampler or PRIOR
                together.setdefault(sampler, {})[slot] = seen_ND
                made = Made("", slot, torch.full((len(value),), -1), value)
                found += [(row, sampler) for row in self._distances(made, seen_ND)]
        for sampler, seen in together.items():
            found += [(row, sampler) for row in measure.joint_coherence(self.panel, seen)]
        return [(row, "") for row in [*directions, *means(directions)]] + found

    def _distances(self, made: Made, seen_ND: Tensor) -> list[Score]:
        return spaces.distances(self.spaces[made.slot], made, seen_ND, RESAMPLES, SEED)

    def _shaped(self, slot: str, array: np.ndarray) -> Tensor:
        """A contender may add a channel to a spectrogram, make grids that no file can hold, and leave anything behind
        the end of a text: of all of them alike it is judged what a reader would get."""
        real = self.real[slot]
        value = _tensor(array).reshape(len(array), *real.shape[1:])
        if value.is_floating_point():
            return value.nan_to_num().clamp(float(real.min()), float(real.max()))
        return _tensor(lines.retold(value, self.said, self.said))


def means(directions: list[Score]) -> list[Score]:
    """Mean coherence from one input, and from two."""
    one, more = [row for row in directions if single(row)], [row for row in directions if not single(row)]
    names = {scores.MEAN_COHERENCE: one, f"{scores.MEAN_COHERENCE_OF}2": more}
    return [scores.mean_of(metric, rows, "all") for metric, rows in names.items() if rows]


def value_of(rows: list[Row], metric: str) -> float:
    """The highest value of a metric that is measured once for each sampler."""
    return max((row.value for row, _ in rows if row.metric == metric), default=0.0)


def _tensor(array: np.ndarray) -> Tensor:
    value = torch.from_numpy(array)
    return value.float() if value.is_floating_point() else value.long()


def frame(about: Mapping[str, object], rows: list[Row]) -> pl.DataFrame:
    """One row for each score, with what it is of."""
    return pl.DataFrame([{**about, "sampler": sampler, **asdict(row)} for row, sampler in rows])
