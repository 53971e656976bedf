"""`mmgen tune`: a search over settings of one network, by Optuna (Akiba et al. 2019, arXiv:1907.10902).

Trials run one after another on the same cached features and are judged by the validation rows alone: neither the test
split nor the evaluation set nor a judge has a part in it, so scores of the chosen model stay those of an unseen split.
The first trial is the configuration as it is. Nothing is committed: `mmgen run` trains what is chosen.

A loss can only be compared where it means the same: settings that change what the loss is taken over (`joint_share`,
`given_share`, `label_weight`, …) want another `metric`, or a judgement by `mmgen evaluate`.

The study is an SQLite file in the store. What a trial draws depends on the study and on how many are finished, so a
search that was killed makes the same trials as one that was not; the one that it was killed in goes on from its
checkpoint, and counts once.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState
from torch import nn

from mmgen import steps
from mmgen.artifact import Artifact, fingerprint
from mmgen.config import Config, build
from mmgen.errors import ConfigError, GateError, OutsideError, UserError, unknown_name
from mmgen.generators.table import GENERATORS
from mmgen.identity import STEP_VERSIONS, config_part
from mmgen.maker import new_fusion, new_generator
from mmgen.runtime import Runtime
from mmgen.train import FUSION_SET, Bench, Job, fusion_job, generator_job
from mmgen.training.checkpoint import Checkpoint
from mmgen.training.config import TrainConfig
from mmgen.training.loop import Callbacks
from mmgen.training.parallel import joined
from mmgen.tune_config import ROOTS, Dimension, TuneConfig
from mmgen.tune_log import log_trials

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
# before the sampler has anything to go by it draws at random
RANDOM_TRIALS = 5
Value = str | int | float | bool | None


@dataclass(frozen=True)
class Tried:
    """A finished trial. number: from 1. value: None if it came to none. looks: (step, value) on the way."""

    number: int
    state: str
    value: float | None
    params: dict[str, Value]
    looks: tuple[tuple[int, float], ...]
    seconds: float
    why: str

    def to_json(self) -> dict[str, Any]:
        return vars(self) | {"looks": [list(look) for look in self.looks]}


@dataclass(frozen=True)
class Tuned:
    """What a search came to. best: the finished trial of the best value."""

    study: str
    step: str
    trials: tuple[Tried, ...]
    best: Tried


def until(config: Config) -> str:
    """The last step of the line that has to be up to date before a search."""
    return steps.NAMES[steps.NAMES.index(ROOTS[config.tune.root]) - 1]


def tune(config: Config, runtime: Runtime, trials: int | None = None) -> Tuned:
    """Finish `trials` trials (those that `config.tune` says if None) on the newest features, codecs and fusion.

    Raises ConfigError (a setting that is not there, no validation rows, a remote store), UserError (no features yet),
    GateError (no trial came to a value), OutsideError (another search of this name is going on).
    """
    settings = config.tune
    space = settings.space or default_space(config)
    if not runtime.store.local:
        raise ConfigError(f"tune: wanted a local store for the study's SQLite file, came {runtime.store.uri}")
    _check(config, space)
    step = steps.STEPS[ROOTS[settings.root]]
    inputs = steps.gather(step, config, runtime, {})
    name = _study_name(config, step.name, space, inputs)
    with _alone(runtime, config.name) as folder, joined(runtime.device) as world:
        if world.size > 1:
            raise ConfigError("tune: wanted one process, came several: trials run one after another")
        sets = FUSION_SET if settings.root == "fusion" else GENERATORS[config.generator.kind].feature_set
        search = _Search(config, space, Bench(runtime, inputs, world, sets), _study(folder, name, settings), name)
        search.clean()
        while len(found := search.finished()) < (trials or settings.trials):
            search.next(len(found))
            log_trials(runtime.store, config.name, name, settings.metric, [each.to_json() for each in search.tried()])
        log_trials(runtime.store, config.name, name, settings.metric, [each.to_json() for each in search.tried()])
    tried = search.tried()
    complete = [each for each in tried if each.value is not None and each.state == "complete"]
    if not complete:
        raise GateError(f"tune: none of {len(tried)} trials came to a value; the last: {tried[-1].why or 'pruned'}")
    best = min(complete, key=lambda each: search.sign * (each.value or 0.0))
    return Tuned(name, step.name, tuple(tried), best)


def default_space(config: Config) -> dict[str, Dimension]:
    """Around the configured learning rate by a factor of four, the weight decay, and dropout where there is one."""
    rate = config.generator.train.learning_rate
    space = {
        "generator.train.learning_rate": Dimension(low=rate / 4, high=rate * 4, log=True),
        "generator.train.weight_decay": Dimension(low=1e-3, high=0.3, log=True),
    }
    if hasattr(config.generator, "dropout"):
        space["generator.dropout"] = Dimension(low=0.0, high=0.3)
    return space


def nested(params: Mapping[str, Value]) -> dict[str, Any]:
    """{"a.b": 1} as {"a": {"b": 1}}."""
    found: dict[str, Any] = {}
    for path, value in params.items():
        *folders, last = path.split(".")
        inner = found
        for folder in folders:
            inner = inner.setdefault(folder, {})
        inner[last] = value
    return found


def laid_upon(base: Any, over: Any) -> Any:
    """`over` laid upon `base`, mapping by mapping."""
    if not (isinstance(base, Mapping) and isinstance(over, Mapping)):
        return over
    return {**base, **{key: laid_upon(base.get(key), value) for key, value in over.items()}}


def changed(config: Config, params: Mapping[str, Value]) -> Config:
    """The configuration with these settings. Raises ConfigError."""
    return build(laid_upon(config.to_json(), nested(params)), where="tune")


def overrides(config: Config, params: Mapping[str, Value]) -> dict[str, Any]:
    """What to lay upon a CONFIG.yaml so that it means `changed(config, params)`.

    A `train` is written whole: a part of one would not be laid upon the default one, but stand in its place.
    """
    found, whole = nested(params), changed(config, params).to_json()
    for root, settings in found.items():
        if "train" in settings:
            train = whole[root]["train"]
            settings["train"] = {name: value for name, value in train.items() if value is not None}
    return found


def _check(config: Config, space: Mapping[str, Dimension]) -> None:
    """Both ends of every dimension have to be settings that the configuration takes. Raises ConfigError."""
    for path, dimension in space.items():
        for value in dimension.choices or (dimension.low, dimension.high):
            changed(config, {path: value})


def _own(config: Config, path: str) -> Value:
    """What the configuration says itself."""
    found: Any = config
    for name in path.split("."):
        found = getattr(found, name)
    value: Value = found
    return value


def _distribution(dimension: Dimension) -> Any:
    if dimension.choices:
        return CategoricalDistribution(dimension.choices)
    assert dimension.low is not None
    assert dimension.high is not None
    if dimension.whole:
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
    return FloatDistribution(float(dimension.low), float(dimension.high), log=dimension.log)


def _holds(dimension: Dimension, value: Value) -> bool:
    if dimension.choices:
        return value in dimension.choices
    assert dimension.low is not None
    assert dimension.high is not None
    return isinstance(value, int | float) and dimension.low <= value <= dimension.high


def _study_name(config: Config, step: str, space: Mapping[str, Dimension], inputs: Mapping[str, Artifact]) -> str:
    """A study is of one configuration, space and measure, on the same inputs: others' trials cannot be compared."""
    settings = config.tune.model_dump(mode="json", exclude={"trials", "space"})
    return fingerprint(
        tune=settings, space={path: dimension.model_dump(mode="json") for path, dimension in space.items()},
        config=config_part(step, config), version=STEP_VERSIONS[step],
        inputs={role: made.fingerprint for role, made in inputs.items()},
    )[:16]  # fmt: skip


def _study(folder: Path, name: str, settings: TuneConfig) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pruners: dict[str, optuna.pruners.BasePruner] = {
        "median": optuna.pruners.MedianPruner(n_startup_trials=RANDOM_TRIALS),
        "hyperband": optuna.pruners.HyperbandPruner(),
        "none": optuna.pruners.NopPruner(),
    }
    # what is to be maximised has its sign turned before Optuna sees it
    return optuna.create_study(
        storage=f"sqlite:///{folder / 'study.db'}", study_name=name, direction="minimize",
        pruner=pruners[settings.pruner], load_if_exists=True,
    )  # fmt: skip


@contextlib.contextmanager
def _alone(runtime: Runtime, name: str) -> Iterator[Path]:
    """The folder of the searches of this name, for one process at a time."""
    folder = Path(runtime.store.full(f"tune/{name}"))
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutsideError(f"tune: another search of {name} is going on in {runtime.store.uri}") from None
        yield folder


class _Search:
    """One study, gone on with."""

    def __init__(
        self, config: Config, space: Mapping[str, Dimension], bench: Bench, study: optuna.Study, name: str
    ) -> None:
        self.config, self.space, self.bench, self.study, self.name = config, space, bench, study, name
        self.settings = config.tune
        self.sign = 1.0 if self.settings.direction == "minimize" else -1.0
        if not bench.rows("validation"):
            raise ConfigError("tune: wanted validation rows to judge by, there are none; look at validate.splits")

    def clean(self) -> None:
        """Trials that a killed process left running are no longer: the next one draws the same settings again."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            self.study.tell(trial.number, state=TrialState.FAIL)

    def finished(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=FINISHED)

    def tried(self) -> list[Tried]:
        """The finished trials, in order."""
        return [
            Tried(
                number, trial.state.name.lower(), None if trial.value is None else self.sign * trial.value,
                dict(trial.params), tuple((at, self.sign * seen) for at, seen in trial.intermediate_values.items()),
                float(trial.user_attrs.get("seconds", 0.0)), str(trial.user_attrs.get("why", "")),
            )
            for number, trial in enumerate(self.finished(), 1)
        ]  # fmt: skip

    def next(self, done: int) -> None:
        """Draw settings, train with them, and say what came of it."""
        # by what is finished, so that a search goes on as if it had not been stopped
        self.study.sampler = optuna.samplers.TPESampler(seed=self.config.seed + done, n_startup_trials=RANDOM_TRIALS)
        if done == 0 and not self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            self.study.enqueue_trial(self._configured())
        trial = self.study.ask({path: _distribution(each) for path, each in self.space.items()})
        started = time.monotonic()
        state, value, why = self._run(trial)
        trial.set_user_attr("seconds", round(time.monotonic() - started, 2))
        trial.set_user_attr("why", why)
        self.study.tell(trial, value, state=state)
        said = "pruned" if value is None else f"{self.settings.metric} {self.sign * value:.5f}"
        shown = ", ".join(f"{path} {each:.4g}" if isinstance(each, float) else f"{path} {each}"
                          for path, each in trial.params.items())  # fmt: skip
        self.bench.runtime.progress.say(f"trial {done + 1}: {said}{f' ({why})' if why else ''}: {shown}")

    def _configured(self) -> dict[str, Any]:
        """The configuration's own values, where the space has them."""
        found = {path: _own(self.config, path) for path in self.space}
        return {path: value for path, value in found.items() if _holds(self.space[path], value)}

    def _run(self, trial: optuna.Trial) -> tuple[TrialState, float | None, str]:
        try:
            value = self._train(trial)
        except optuna.TrialPruned:
            return TrialState.PRUNED, None, "worse than others at the same step"
        except (GateError, ConfigError) as error:
            # settings that do not go together, or a training that diverged: a finding, and no reason to stop
            return TrialState.PRUNED, None, " ".join(str(error).split())[:300]
        if not math.isfinite(value):
            return TrialState.PRUNED, None, f"its {self.settings.metric} is not finite"
        return TrialState.COMPLETE, value, ""

    def _train(self, trial: optuna.Trial) -> float:
        """The signed value of what would be committed. Raises optuna.TrialPruned."""
        config = changed(self.config, trial.params)
        fusing = self.settings.root == "fusion"
        job = fusion_job(config, self.bench) if fusing else generator_job(config, self.bench)
        job = replace(job, train=self._budget(job.train))
        checkpoint = Checkpoint(
            self.bench.runtime.store, fingerprint(study=self.name, params=dict(trial.params)), job.train.keep_last
        )

        reported = self._seen_before(trial)

        def look(step: int, value: float) -> None:
            if step not in reported:
                trial.report(value, step)
            if trial.should_prune():
                raise optuna.TrialPruned

        callbacks = Callbacks(validate=lambda module: self._value(module, job), on_look=look)
        try:
            trained = self.bench.trial(job, new_fusion if fusing else new_generator, checkpoint, callbacks)
        except (optuna.TrialPruned, GateError):
            checkpoint.clear()
            raise
        checkpoint.clear()
        seen = dict(zip(trained.curves.looks, trained.curves.validation, strict=True))
        return seen[trained.taken]

    def _seen_before(self, trial: optuna.Trial) -> set[int]:
        """Steps at which a killed process looked at these settings already; what it saw is reported again."""
        seen: dict[int, float] = {}
        for old in self.study.get_trials(deepcopy=False, states=(TrialState.FAIL,)):
            if old.params == trial.params:
                seen |= old.intermediate_values
        for step, value in sorted(seen.items()):
            trial.report(value, step)
        return set(seen)

    def _budget(self, train: TrainConfig) -> TrainConfig:
        """A trial's steps, and looks at the validation rows on its way."""
        per_epoch = -(-self.bench.rows("train") // train.batch_size)
        steps = self.settings.steps or train.steps or (train.epochs or 0) * per_epoch
        every = max(1, steps // self.settings.looks)
        return train.model_copy(update={"steps": steps, "epochs": None, "validate_steps": every})

    def _value(self, module: nn.Module, job: Job) -> float:
        found = self.bench.losses(module, job.seed, job.train.batch_size)
        if self.settings.metric not in found:
            # no ConfigError, which one trial's settings may be: this is all trials' mistake
            raise UserError(f"tune.metric: {unknown_name('loss', self.settings.metric, found)}")
        return self.sign * found[self.settings.metric]
