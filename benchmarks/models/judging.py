"""What contenders made, judged by the same judges on the same rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import torch

from benchmarks.models import lines
from mmgen import artifact as artifacts
from mmgen.batches import open_samples
from mmgen.codec_set import CodecSet
from mmgen.evaluate import measure, scores
from mmgen.evaluate.intervals import wilson
from mmgen.evaluate.measure import Panel
from mmgen.evaluate.scores import Score, score
from mmgen.fit_judges import load_judges
from mmgen.store import Store

COMPLETE = "digits-complete"


class Bench:
    """The complete set's judges, and the labels of the rows of a split."""

    def __init__(self, store: Store, split: str) -> None:
        judges, codecs, features = (artifacts.latest(store, kind, COMPLETE) for kind in ("judges", "codecs", "features"))  # type: ignore[arg-type]
        assert judges is not None
        assert codecs is not None
        assert features is not None
        made = CodecSet.load(store, codecs)
        self.panel = Panel(
            {slot: made.modality(slot) for slot in made.slots}, dict(load_judges(store, judges, "cpu")),
            {modality: f"{modality}@{judges.version}" for modality in judges.facts["judges"]},
        )  # fmt: skip
        samples = open_samples(store, features, "tensors", split, judges.facts["labels"])
        assert samples is not None
        place = {key: row for row, key in enumerate(samples.keys)}
        keys = lines.exam_keys(store, split)
        self.labels_N = torch.from_numpy(samples.labels[np.array([place[key] for key in keys])])

    def table(self, made: Path) -> list[Score]:
        """Coherence of every direction and of the joint samples in an archive, and the means over one and two inputs."""
        with np.load(made) as arrays:
            values = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        found, together = [], {}
        for name, value in values.items():
            given, _, target = name.partition(">")
            value = value.long() if not value.is_floating_point() else value
            if given:
                guess_N = self.panel.guess(target, _shaped(value))
                rows = measure.share(guess_N == self.labels_N)
                found.append(score(scores.COHERENCE, given.split("+"), [target], self.panel.judge(target), wilson(*rows)))
            else:
                slot, _, sampler = target.partition("@")
                together.setdefault(sampler or "prior", {})[slot] = _shaped(value)
        for size in (1, 2):
            mine = [row for row in found if row.given.count(scores.AND) == size - 1]
            if mine:
                found.append(scores.mean_of(f"{scores.MEAN_COHERENCE}_{size}", mine, "all"))
        for sampler, slots in together.items():
            found += [_by(row, sampler) for row in measure.joint_coherence(self.panel, slots)]
        return found


def _shaped(value: torch.Tensor) -> torch.Tensor:
    """Images (N, C, H, W) whose single channel an archive may have dropped stay (N, 1, H, W); others as they are."""
    return value


def _by(row: Score, sampler: str) -> Score:
    return Score(row.metric, row.given, row.made, sampler, row.value, row.low, row.high, row.n)


def frame(cell: dict[str, object], rows: list[Score]) -> pl.DataFrame:
    """One row per score, with the cell it is of."""
    return pl.DataFrame([{**cell, **{name: getattr(row, name) for name in row.__dataclass_fields__}} for row in rows])
