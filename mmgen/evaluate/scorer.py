"""All that is measured of made samples on one exam, whoever made them: a generator here, or somebody elsewhere.

What is said of the real samples (features, embeddings, floors) is computed once and held against everything made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mmgen.evaluate import listening, measure, reading, scores, spaces
from mmgen.evaluate.config import EvaluateConfig
from mmgen.evaluate.exam import Exam
from mmgen.evaluate.measure import Made, Panel
from mmgen.evaluate.memorisation import Training
from mmgen.evaluate.reading import Reader
from mmgen.evaluate.recogniser import Listener
from mmgen.evaluate.scores import Score, score
from mmgen.evaluate.spaces import Features, Space
from mmgen.evaluate.text_scores import text_scores
from mmgen.preprocess.audio import AudioPreprocess
from mmgen.preprocess.image import ImagePreprocess
from mmgen.preprocess.table import Preprocess
from mmgen.preprocess.text import TextPreprocess


@dataclass
class Scorer:
    """how: slot → its preprocessing. features: what samples are compared by.

    listener, reader: recognisers of others, or why there is none. training: samples that may have been learned by
    heart. not_run: metric → why it is not in the tables.
    """

    settings: EvaluateConfig
    exam: Exam
    how: Mapping[str, Preprocess]
    labels: tuple[str, ...]
    features: Features
    listener: Listener | str
    reader: Reader | str
    training: Training | None
    not_run: dict[str, str]
    _spaces: dict[str, Space] = field(default_factory=dict)
    _embedded: dict[str, Tensor] = field(default_factory=dict)

    @property
    def panel(self) -> Panel:
        """Who judges."""
        return self.features.panel

    def ceilings(self) -> list[Score]:
        """What is said of real samples alone: judges, recognisers, and the floors of distances."""
        found = measure.judge_accuracy(self.panel, self.exam.real)
        for slot, how in self.how.items():
            found += self._recognised_real(slot, how)
            if self.features.embed is not None:
                found += measure.distance_floor(self._real_embedded(slot), slot, self.settings.seed)
            if (space := self.space(slot)) is not None:
                found += spaces.floors(space, self.settings.resamples, self.settings.seed)
        return found

    def made(self, made: Made, features_ND: Tensor | None = None) -> list[Score]:
        """All that is measured of samples made from one set of inputs. features_ND: theirs, if there already."""
        seen_ND = self.features.of(made.slot, made.value) if features_ND is None else features_ND
        judged = made.slot in self.panel.slots
        found = measure.coherence(self.panel, self.exam.real, made, seen_ND if judged else None)
        found += self._recognised(made) + self._texts(made)
        space = self.space(made.slot)
        if space is not None and seen_ND is not None:
            found += spaces.distances(space, made, seen_ND, self.settings.resamples, self.settings.seed)
        # beside coherence too: the same picture of its class every time is coherent, and far from the real ones
        if self.features.embed is not None:
            came_ND = seen_ND if not judged and seen_ND is not None else self.features.embed(made.slot, made.value)
            found += measure.distance(self._real_embedded(made.slot), came_ND, made)
        return found + self._memorised(made)

    def space(self, slot: str) -> Space | None:
        """The space of a slot's samples; None where nothing gives features, or no real sample has the slot."""
        rows = measure.having(self.exam.real, slot)
        if slot not in self._spaces and len(rows):
            name, features_ND = self.features.name(slot), self.features.of(slot, self.exam.real.values[slot][rows])
            if name is None or features_ND is None:
                return None
            self._spaces[slot] = Space.of(slot, name, rows, features_ND, self.settings.seed)
        return self._spaces.get(slot)

    # ------------------------------------------------------------ parts

    def _real_embedded(self, slot: str) -> Tensor:
        assert self.features.embed is not None
        if slot not in self._embedded:
            rows = measure.having(self.exam.real, slot)
            self._embedded[slot] = self.features.embed(slot, self.exam.real.values[slot][rows])
        return self._embedded[slot]

    def _recognised_real(self, slot: str, how: Preprocess) -> list[Score]:
        if isinstance(how, AudioPreprocess) and (listener := self._listening()):
            return listening.recognised_real(listener, how, self.labels, self.exam, slot)
        if isinstance(how, ImagePreprocess) and (reader := self._reading(slot)):
            return reading.read_real(reader, how, self.labels, self.exam, slot)
        return []

    def _recognised(self, made: Made) -> list[Score]:
        """Of what is made of text alone, or of unknown inputs: more inputs would only cost the recogniser's time."""
        how, given = self.how[made.slot], self.how.get(made.given)
        if made.given and not isinstance(given, TextPreprocess):
            return []
        if isinstance(how, AudioPreprocess) and (listener := self._listening()):
            return listening.recognised(listener, how, self.labels, self.exam, made)
        if isinstance(how, ImagePreprocess) and (reader := self._reading(made.slot)):
            return reading.read_made(reader, how, self.labels, self.exam, made)
        return []

    def _listening(self) -> Listener | None:
        """The independent listener; counted where there is none."""
        if isinstance(self.listener, str):
            self.not_run[scores.RECOGNISED] = self.listener
            return None
        return self.listener

    def _reading(self, slot: str) -> Reader | None:
        """The independent reader of a slot whose pictures are of written labels; counted where there is none."""
        if slot not in self.settings.written:
            return None
        if isinstance(self.reader, str):
            self.not_run[scores.READ] = self.reader
            return None
        return self.reader

    def _texts(self, made: Made) -> list[Score]:
        """Made texts against those of the samples that they were made for."""
        how, wanted = self.how[made.slot], self.exam.texts.get(made.slot)
        if not isinstance(how, TextPreprocess) or not wanted:
            return []
        known = [(place, row) for place, row in enumerate(made.rows.tolist()) if row >= 0 and wanted[row]]
        if not known:
            return []
        texts = how.texts(made.value[torch.tensor([place for place, _ in known], device=made.value.device)])
        references = [wanted[row] for _, row in known]
        found = text_scores(texts, references, self.settings.resamples, self.settings.seed)
        return [score(each.metric, [made.given], [made.slot], each.signature, each.found) for each in found]

    def _memorised(self, made: Made) -> list[Score]:
        if self.training is None:
            return []
        real = self.exam.real.values[made.slot][measure.having(self.exam.real, made.slot)]
        return self.training.rows(made, real, self.features, self.settings.resamples, self.settings.seed)
