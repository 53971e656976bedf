"""Takes a generator through an exam: every slot from every set of inputs, and all of them from nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mmgen.batches import Batch
from mmgen.codec_set import CodecSet
from mmgen.evaluate import fused, measure, scores
from mmgen.evaluate.config import EvaluateConfig
from mmgen.evaluate.exam import Exam
from mmgen.evaluate.examples import EXAMPLES, FEW, ExampleFile, direction_files, pair_files, set_files
from mmgen.evaluate.measure import Draws, Made, Panel
from mmgen.evaluate.memorisation import Training
from mmgen.evaluate.reading import Reader
from mmgen.evaluate.recogniser import Listener
from mmgen.evaluate.scorer import Scorer
from mmgen.evaluate.scores import AND, Score, score
from mmgen.evaluate.spaces import Features
from mmgen.evaluate.subsets import input_subsets
from mmgen.evaluate.text_scores import perplexity
from mmgen.fusion.targets import Target, batch_with_targets
from mmgen.generators.sampling import Sampling
from mmgen.maker import Maker, embed_slot
from mmgen.preprocess.text import BOS, PAD, TextPreprocess
from mmgen.runtime import Runtime


@dataclass
class Examiner:
    """not_run: metric → why it is not in the tables. seconds: of making samples, and of everything."""

    settings: EvaluateConfig
    maker: Maker
    panel: Panel
    listener: Listener | str
    reader: Reader | str
    runtime: Runtime
    not_run: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=lambda: {"made": 0.0, "all": 0.0})

    @property
    def codecs(self) -> CodecSet:
        """The codecs, which know the slots and how their files are read and written."""
        return self.maker.codecs

    @property
    def features(self) -> Features:
        """What samples are compared by."""
        return Features(self.panel, self._embed)

    def sets(self, exam: Exam) -> list[tuple[tuple[str, ...], str]]:
        """(inputs, made): what this generator can make and this exam can ask, single inputs first."""
        # a generator of some slots alone says which it can read
        reads = getattr(self.maker.generator, "reads", self.maker.slots)
        found = [
            (inputs, to)
            for to in self.maker.makes
            for inputs in input_subsets(
                [slot for slot in reads if slot != to], self.settings.larger_subsets, self.settings.seed
            )
            if len(measure.having(exam.real, *inputs))
        ]
        slots = list(reads)
        return sorted(found, key=lambda each: (len(each[0]), [slots.index(slot) for slot in each[0]]))

    def draws(self, guidance: float) -> Draws:
        """The configured steps, candidates and seed with this guidance."""
        how = Sampling(self.settings.steps, guidance, candidates=self.settings.candidates)
        return Draws(how, self.settings.seed)

    def table(self, exam: Exam, training: Training | None = None) -> list[Score]:
        """All rows of one split: ceilings first, then every set of inputs, then what sums them up."""
        started = time.monotonic()
        scorer = Scorer(
            self.settings, exam, self.codecs.preprocesses, self.codecs.labels, self.features, self.listener,
            self.reader, training, self.not_run,
        )  # fmt: skip
        rows = self._ceilings(scorer)
        sets = self.sets(exam)
        with self.runtime.progress.bar(f"evaluate {exam.split}", len(sets) + 1) as bar:
            for inputs, to in sets:
                rows += self._set(scorer, inputs, to)
                bar.advance(1, f"{' + '.join(inputs)} → {to}")
            rows += self._fused(exam)
            rows += self._joint(scorer)
            bar.advance(1, "joint")
        self.seconds["all"] += time.monotonic() - started
        return _summary(rows) + rows

    def files(self, exam: Exam, training: Training | None = None) -> list[ExampleFile]:
        """Grids and examples: of every direction, of the most inputs, of nothing; and the nearest training samples."""
        how, sampling = self.codecs.preprocesses, self.draws(self.settings.guidance)
        sets = self.sets(exam)
        found: list[ExampleFile] = []
        singles = [(inputs[0], to) for inputs, to in sets if len(inputs) == 1]
        for number, (given, to) in enumerate(singles):
            found += direction_files(how, self.maker, exam, given, to, sampling, number * EXAMPLES)
        most = max((len(inputs) for inputs, _ in sets), default=0)
        first = len(singles) * EXAMPLES
        for inputs, to in [each for each in sets if len(each[0]) == most and most > 1]:
            found += set_files(how, self.maker, exam, inputs, [to], sampling, first)
            first += FEW
        if self._together():
            draws = self.draws(self.settings.joint_guidance)
            found += set_files(how, self.maker, exam, (), self._together(), draws, first)
        for pairs in training.pairs.values() if training else ():
            found += pair_files(how[pairs[0].slot], pairs)
        return found

    # ------------------------------------------------------------ rows

    def _ceilings(self, scorer: Scorer) -> list[Score]:
        real = scorer.exam.real
        rows = scorer.ceilings()
        rows += measure.reconstruction(self.panel, real, self._through)
        for slot, how in self.codecs.preprocesses.items():
            if isinstance(how, TextPreprocess):
                rows += measure.exactness(real, slot, how.texts, self._through)
        return rows

    def _set(self, scorer: Scorer, inputs: tuple[str, ...], to: str) -> list[Score]:
        real = scorer.exam.real
        asked = measure.having(real, *inputs)
        value = self._make(real, inputs, (to,), asked, self.draws(self.settings.guidance))[to]
        made = Made(AND.join(inputs), to, asked, value)
        rows = scorer.made(made)
        if len(inputs) == 1 and not self.panel.judges:
            rows += measure.retrieval(self._embed, real, made, self.settings.seed)
        if isinstance(self.codecs.preprocesses[to], TextPreprocess):
            rows += self._perplexity(real, inputs, to)
        return rows

    def _fused(self, exam: Exam) -> list[Score]:
        """What the fusion model itself is worth, and its zero-shot classes from the prompts that are configured."""
        model, labels = self.maker.fusion, self.codecs.labels
        target: Target | None = getattr(model, "target", None)
        real = exam.real if target is None else batch_with_targets(exam.real, target, exam.labels)
        rows = fused.fusion_scores(model, real, labels, self.settings.seed)
        slot = next((name for name in self.codecs.slots if self.codecs.modality(name) == "text"), None)
        if slot is None or not self.settings.prompts:
            return rows
        prompts = self.settings.prompts
        return rows + fused.zero_shot(
            model, exam.real, labels, prompts, slot, lambda text: self.codecs.value(slot, text.encode())
        )

    def _joint(self, scorer: Scorer) -> list[Score]:
        together = self._together()
        if not together:
            return []
        real = scorer.exam.real
        nothing = torch.arange(len(real), device=real.labels_B.device)
        values = self._make(real, (), together, nothing, self.draws(self.settings.joint_guidance))
        features = {slot: found for slot in together if (found := self.features.of(slot, values[slot])) is not None}
        rows = measure.joint_coherence(self.panel, features)
        for slot in together:
            # nothing was given, so that no real sample is what it was made for
            rows += scorer.made(Made("", slot, torch.full_like(nothing, -1), values[slot]), features.get(slot))
        return rows

    def _together(self) -> tuple[str, ...]:
        """Slots that are made together from nothing: those that a judge can hold against each other, else all."""
        slots = [slot for slot in self.maker.makes if slot in self.panel.slots or not self.panel.judges]
        return tuple(slots) if len(slots) > 1 else ()

    def _make(
        self, real: Batch, given: tuple[str, ...], to: tuple[str, ...], rows: Tensor, how: Draws
    ) -> Mapping[str, Tensor]:
        started = time.monotonic()
        made = measure.make(self.maker, real, given, to, rows, how)
        self.seconds["made"] += time.monotonic() - started
        return made

    def _perplexity(self, real: Batch, inputs: tuple[str, ...], to: str) -> list[Score]:
        """Of real texts, where the generator gives log-probabilities: `maker.log_probability(given, slot, ids_BL)`, in
        nats (B, L) of each id after those before it, 0 for bos and pads."""
        told: Any = getattr(self.maker, "log_probability", None)
        rows = measure.having(real, *inputs, to)
        if told is None or not hasattr(self.maker.generator, "log_probability") or len(rows) == 0:
            return []
        ids_NL = real.values[to][rows]
        with torch.no_grad():
            parts = [
                told(measure.take(real, part, inputs), to, ids_BL).sum(dim=1)
                for part, ids_BL in zip(*(torch.split(each, measure.ROWS) for each in (rows, ids_NL)), strict=True)
            ]
        tokens_N = ((ids_NL != PAD) & (ids_NL != BOS)).sum(dim=1).clamp_min(1)
        found = perplexity(torch.cat(parts).tolist(), tokens_N.tolist(), self.settings.resamples, self.settings.seed)
        return [score(scores.PERPLEXITY, inputs, [to], "generator", found)]

    def _through(self, slot: str, value: Tensor) -> Tensor:
        return self.codecs.decode(slot, self.codecs.encode(slot, value))

    def _embed(self, slot: str, value: Tensor) -> Tensor:
        return torch.cat([embed_slot(self.maker.fusion, slot, part) for part in torch.split(value, measure.ROWS)])


def _summary(rows: list[Score]) -> list[Score]:
    """Means over directions: from one input, and from every larger number of them."""
    found = []
    for mean, each, judge in (
        (scores.MEAN_COHERENCE, scores.COHERENCE, "all"),
        (scores.MEAN_RETRIEVAL, scores.RETRIEVAL, "fusion"),
        (scores.MEAN_COVERAGE, scores.COVERAGE, "all"),
    ):
        if mine := [row for row in rows if row.metric == each and scores.single(row)]:
            found.append(scores.mean_of(mean, mine, judge))
    several: dict[int, list[Score]] = {}
    for row in rows:
        if row.metric == scores.COHERENCE and AND in row.given:
            several.setdefault(row.given.count(AND) + 1, []).append(row)
    for count, mine in sorted(several.items()):
        found.append(scores.mean_of(f"{scores.MEAN_COHERENCE_OF}{count}", mine, "all"))
    return found
