"""`evaluate`: the scores of a generator on the frozen evaluation set, its gate, and examples to look at.

The gate decides nothing here but `passed` and its reasons: `register` gives no alias to what did not pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mmgen import artifact as artifacts
from mmgen.artifact import Artifact, Draft, Reference
from mmgen.codec_set import CodecSet, codec_names
from mmgen.config import Config
from mmgen.errors import IntegrityError
from mmgen.evaluate import gate, listening, measure, scores
from mmgen.evaluate.config import EvaluateConfig
from mmgen.evaluate.exam import Exam, read_exam
from mmgen.evaluate.examples import EXAMPLES, ExampleFile, direction_files
from mmgen.evaluate.measure import Draws, Made, Panel
from mmgen.evaluate.recogniser import Listener, listener_for
from mmgen.evaluate.scores import Score
from mmgen.fit_judges import load_judges
from mmgen.generators.sampling import Sampling
from mmgen.identity import identity
from mmgen.maker import Maker, embed_slot
from mmgen.preprocess.audio import AudioPreprocess
from mmgen.preprocess.text import TextPreprocess
from mmgen.runtime import Runtime, circumstance
from mmgen.store import Store
from mmgen.training.parallel import pick_device

TEST = "test"


def evaluate(config: Config, inputs: Mapping[str, Artifact], runtime: Runtime) -> Artifact:
    """Scores of the generator. inputs: roles codecs, fusion, generator. Commits scores:name, passed or not.

    Files: "scores" (data_schemas.scores), "scores:heldout" where a split is held out, "grid" and "example".
    Raises IntegrityError if the evaluation set or the judges are not what was frozen.
    """
    store, what = runtime.store, identity("evaluate", config, inputs)
    device = pick_device(runtime.device)
    evalset, judges = (_named(store, inputs["codecs"], role) for role in ("evalset", "judges"))
    maker = Maker.load(store, inputs["codecs"], inputs["fusion"], inputs["generator"], device)
    codecs = maker.codecs
    panel = Panel(
        # slots of another size than their modality's judge looks at have none
        {
            slot: codecs.modality(slot)
            for slot, name in codec_names(codecs.slots).items()
            if name == codecs.modality(slot)
        },
        dict(load_judges(store, judges, device)),
        {modality: f"{modality}@{judges.version}" for modality in judges.facts["judges"]},
    )
    examiner = Examiner(config.evaluate, maker, panel, listener_for(codecs.labels), runtime)
    held_out = evalset.facts.get("heldout")
    tables: dict[str, list[Score]] = {}
    draft = Draft(store, "scores", config.name, what.fingerprint)
    for split in (TEST, *([str(held_out)] if held_out else [])):
        exam = read_exam(store, evalset, codecs, split, device)
        if exam is None:
            continue
        tables[split] = examiner.table(exam)
        draft.put(f"scores-{split}.parquet", scores.to_parquet(tables[split]), _role(split), split=split)
        for each in examiner.files(exam) if split == TEST else ():
            draft.put(each.name, each.data, each.role, **each.facts)
    if TEST not in tables:
        raise IntegrityError(f"{evalset.ref}: wanted samples of the {TEST} split, it has none")
    passed, reasons = gate.check(tables[TEST], config.evaluate.floors)
    facts = {
        "gate": reasons,
        "scores": scores.plain(tables[TEST]),
        "heldout": scores.plain(tables[held_out]) if held_out in tables else None,
        "not_run": examiner.not_run,
        "evalset": evalset.ref,
        "judges": judges.ref,
    }
    return draft.commit(
        step="evaluate",
        config=what.config,
        inputs={role: given.link for role, given in inputs.items()},
        facts=facts,
        pin=what.pin,
        passed=passed,
        circumstance=circumstance(device=str(device)),
    )


def _role(split: str) -> str:
    return "scores" if split == TEST else "scores:heldout"


def _named(store: Store, codecs: Artifact, role: str) -> Artifact:
    """The judges or the evaluation set that the codecs were fitted beside."""
    reference = Reference.parse(str(codecs.facts[role]))
    assert reference.kind is not None
    assert reference.version is not None
    found = artifacts.load(store, reference.kind, reference.name, reference.version)
    if lines := artifacts.damaged(store, found, rehash=True):
        raise IntegrityError(f"{found.ref}: {lines[0]}")
    return found


@dataclass
class Examiner:
    """Takes a generator through an exam. not_run: metric → why it is not in the tables."""

    settings: EvaluateConfig
    maker: Maker
    panel: Panel
    listener: Listener | str
    runtime: Runtime
    not_run: dict[str, str] = field(default_factory=dict)

    @property
    def labelled(self) -> bool:
        """Whether there are judges; without them retrieval in the fusion space takes the place of coherence."""
        return bool(self.panel.judges)

    @property
    def codecs(self) -> CodecSet:
        """The codecs, which know the slots and how their files are read and written."""
        return self.maker.codecs

    def directions(self, exam: Exam) -> list[tuple[str, str]]:
        """Ordered pairs (given, made) that this generator can make and this exam can ask."""
        # a generator of some slots alone says which it can read
        reads = getattr(self.maker.generator, "reads", self.maker.slots)
        given = [slot for slot in reads if len(measure.having(exam.real, slot))]
        return [(slot, to) for slot in given for to in self.maker.makes if slot != to]

    def draws(self, guidance: float) -> Draws:
        """The configured steps and seed with this guidance."""
        return Draws(Sampling(self.settings.steps, guidance), self.settings.seed)

    def table(self, exam: Exam) -> list[Score]:
        """All rows of one split: ceilings first, then every direction, then what sums them up."""
        rows = self._ceilings(exam)
        directions = self.directions(exam)
        with self.runtime.progress.bar(f"evaluate {exam.split}", len(directions) + 1) as bar:
            for given, to in directions:
                rows += self._direction(exam, given, to)
                bar.advance(1, f"{given} → {to}")
            rows += self._joint(exam)
            bar.advance(1, "joint")
        return self._summary(rows) + rows

    def files(self, exam: Exam) -> list[ExampleFile]:
        """Grids and examples of every direction."""
        how, sampling = self.codecs.preprocesses, self.draws(self.settings.guidance)
        found = []
        for number, (given, to) in enumerate(self.directions(exam)):
            found += direction_files(how, self.maker, exam, given, to, sampling, number * EXAMPLES)
        return found

    # ------------------------------------------------------------ rows

    def _ceilings(self, exam: Exam) -> list[Score]:
        rows = measure.judge_accuracy(self.panel, exam.real)
        rows += measure.reconstruction(self.panel, exam.real, self._through)
        for slot, how in self.codecs.preprocesses.items():
            if isinstance(how, TextPreprocess):
                rows += measure.exactness(exam.real, slot, how.texts, self._through)
            if isinstance(how, AudioPreprocess) and self._listens(exam, slot):
                assert not isinstance(self.listener, str)
                rows += listening.recognised_real(self.listener, how, self.codecs.labels, exam, slot)
            rows += measure.distance_floor(self._embed, exam.real, slot, self.settings.seed)
        return rows

    def _direction(self, exam: Exam, given: str, to: str) -> list[Score]:
        asked = measure.having(exam.real, given)
        value = measure.make(self.maker, exam.real, [given], [to], asked, self.draws(self.settings.guidance))[to]
        made = Made(given, to, asked, value)
        rows = measure.coherence(self.panel, exam.real, made)
        how = self.codecs.preprocesses[to]
        if isinstance(how, AudioPreprocess) and self.codecs.modality(given) == "text" and self._listens(exam, to):
            assert not isinstance(self.listener, str)
            rows += listening.recognised(self.listener, how, self.codecs.labels, exam, made)
        if not self.labelled:
            rows += measure.retrieval(self._embed, exam.real, made, self.settings.seed)
        # beside coherence too: the same picture of its class every time is coherent, and far from the real ones
        return rows + measure.distance(self._embed, exam.real, made)

    def _joint(self, exam: Exam) -> list[Score]:
        together = [slot for slot in self.maker.makes if slot in self.panel.slots]
        if len(together) < 2:
            return []
        nothing = torch.arange(len(exam.real), device=exam.real.labels_B.device)
        how = self.draws(self.settings.joint_guidance)
        return measure.joint_coherence(self.panel, measure.make(self.maker, exam.real, [], together, nothing, how))

    def _summary(self, rows: list[Score]) -> list[Score]:
        found = []
        for mean, each, judge in (
            (scores.MEAN_COHERENCE, scores.COHERENCE, "all"),
            (scores.MEAN_RETRIEVAL, scores.RETRIEVAL, "fusion"),
        ):
            mine = [row for row in rows if row.metric == each]
            if mine:
                found.append(scores.mean_of(mean, mine, judge))
        return found

    def _listens(self, exam: Exam, slot: str) -> bool:
        """Whether the independent recogniser can be asked about a slot; counted where it cannot."""
        if isinstance(self.listener, str):
            self.not_run[scores.RECOGNISED] = self.listener
            return False
        return slot in exam.real.values

    def _through(self, slot: str, value: Tensor) -> Tensor:
        return self.codecs.decode(slot, self.codecs.encode(slot, value))

    def _embed(self, slot: str, value: Tensor) -> Tensor:
        return embed_slot(self.maker.fusion, slot, value)


def summary(scored: Artifact) -> dict[str, Any]:
    """The few numbers that a last screen shows, from a scores artifact: {"mean_coherence": …, "joint_coherence": …}."""
    heads = (scores.MEAN_COHERENCE, scores.JOINT_COHERENCE, scores.MEAN_RETRIEVAL, scores.RECOGNISED)
    return {str(row["metric"]): row["value"] for row in scored.facts["scores"] if row["metric"] in heads}
