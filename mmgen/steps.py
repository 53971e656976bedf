"""The line as a table, and for each step the decision to run or to skip, with the reason.

Torch-free: a step's code is imported when it runs. Manifests alone decide (laws 3, 9, 15).
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mmgen import artifact, promotions
from mmgen.artifact import Artifact, Kind
from mmgen.config import Config
from mmgen.diff import differing
from mmgen.errors import ConfigError, GateError, StoreError, UserError, unknown_name
from mmgen.identity import identity
from mmgen.initial import ROLE, initial
from mmgen.runtime import Runtime
from mmgen.training.config import PinConfig


@dataclass(frozen=True, slots=True)
class Advice:
    """An input outside a step's identity, as `base` is (law 5): made when the step runs anyway, if its needs are there.

    role: among the step's inputs. needs: role → the step that makes it. make, excuse: "module:function", imported when
    needed; excuse stands in where `make` fails, and says why.
    """

    role: str
    needs: Mapping[str, str]
    make: str
    excuse: str


@dataclass(frozen=True, slots=True)
class Step:
    """One verb of the line.

    inputs: role → the step that makes it. run, check: "module:function", imported when needed.
    suffix: what its artifact's name adds to the configuration's.
    """

    name: str
    makes: Kind
    inputs: Mapping[str, str]
    run: str
    suffix: str = ""
    #: function (config, artifact, inputs, runtime) → (good, reason): is a pinned one still good for new data?
    check: str | None = None
    advice: Advice | None = None


PAIR_SCORES = Advice(
    "pair_scores", {"fusion": "train-fusion"}, "mmgen.pair_scores:score", "mmgen.pairs:unscored"
)  # fmt: skip
STEPS: dict[str, Step] = {
    step.name: step
    for step in (
        Step("ingest", "staging", {}, "mmgen.ingest:ingest"),
        Step("validate", "verdicts", {"staging": "ingest"}, "mmgen.validate:validate", advice=PAIR_SCORES),
        Step("shard", "dataset", {"staging": "ingest", "verdicts": "validate"}, "mmgen.shards:shard"),
        Step("fit", "codecs", {"dataset": "shard"}, "mmgen.fit:fit", check="mmgen.fit:still_good"),
        Step("extract", "features", {"dataset": "shard", "codecs": "fit"}, "mmgen.extract:extract"),
        Step(
            "train-fusion", "model", {"features": "extract", "codecs": "fit"}, "mmgen.train:train_fusion",
            suffix="-fusion", check="mmgen.train:fusion_still_good",
        ),
        Step(
            "train-generator", "model", {"features": "extract", "codecs": "fit", "fusion": "train-fusion"},
            "mmgen.train:train_generator", check="mmgen.train:generator_still_good",
        ),
        Step(
            "evaluate", "scores", {"codecs": "fit", "fusion": "train-fusion", "generator": "train-generator"},
            "mmgen.evaluate.step:evaluate",
        ),
        Step(
            "register", "promotion",
            {"codecs": "fit", "fusion": "train-fusion", "generator": "train-generator", "scores": "evaluate"},
            "mmgen.registry:register",
        ),
    )
}  # fmt: skip
NAMES: tuple[str, ...] = tuple(STEPS)


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to be done with a step. artifact: what stands in for a run. check: ask the step's own check first."""

    artifact: Artifact | None
    why: str
    check: bool = False

    @property
    def run(self) -> bool:
        return self.artifact is None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a step in this run."""

    step: str
    artifact: Artifact
    ran: bool
    why: str
    seconds: float
    #: training → where its time went, where that was asked for
    profiles: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data, for answers and records."""
        found = {"step": self.step, "ran": self.ran, "why": self.why, "seconds": round(self.seconds, 2),
                 "artifact": self.artifact.ref}  # fmt: skip
        return found | ({"profiles": dict(self.profiles)} if self.profiles else {})


def select(first: str | None = None, last: str | None = None) -> tuple[str, ...]:
    """The names from `first` to `last`, in order. Raises ConfigError for an unknown name or an empty range."""
    for name in (first, last):
        if name is not None and name not in STEPS:
            raise ConfigError(unknown_name("step", name, NAMES))
    start = NAMES.index(first) if first else 0
    stop = NAMES.index(last) + 1 if last else len(NAMES)
    if start >= stop:
        raise ConfigError(f"--from {first} comes after --until {last}; the order is {' '.join(NAMES)}")
    return NAMES[start:stop]


def gather(step: Step, config: Config, runtime: Runtime, made: Mapping[str, Artifact]) -> dict[str, Artifact]:
    """The step's inputs: from this run where it made them, else the latest committed ones. Raises UserError."""
    found = {}
    for role, maker in step.inputs.items():
        if maker in made:
            found[role] = made[maker]
            continue
        source = STEPS[maker]
        latest = artifact.latest(runtime.store, source.makes, config.name + source.suffix)
        if latest is None:
            raise UserError(
                f"{step.name} needs a {source.makes} named {config.name}{source.suffix}: run `{maker}` first"
            )
        found[role] = latest
    if (earlier := initial(step.name, config.name + step.suffix, config, runtime.store)) is not None:
        found[ROLE] = earlier
    return found


def decide(
    step: Step, config: Config, inputs: Mapping[str, Artifact], runtime: Runtime, *, prepare: bool = False
) -> Decision:
    """Run or skip, and why. Reads manifests and file sizes only (and re-hashes if runtime.verify).

    prepare: the step is run at once if it has to be, so what was read to decide is kept for it.
    """
    digest = None
    if step.name == "ingest":
        digest = _function("mmgen.ingest:source_digest")(config, runtime, prepare=prepare)
    if step.name in ("validate", "shard") and runtime.rebuild:
        return Decision(None, "--rebuild")
    if step.check and runtime.refit:
        return Decision(None, "--refit")
    mine = identity(step.name, config, inputs, digest)
    name = config.name + step.suffix
    same = artifact.find(runtime.store, step.makes, name, mine.fingerprint)
    if same is not None and (moved := _moved_on(runtime, same)):
        return Decision(None, moved)
    if same is not None:
        bad = artifact.damaged(runtime.store, same, rehash=True) if runtime.verify else []
        if not bad:
            return Decision(same, f"unchanged: {same.ref} has the same fingerprint {mine.fingerprint[:12]}")
        return Decision(None, _damage(bad))
    past = artifact.history(runtime.store, step.makes, name)
    # a staging is found by its work, under whatever name
    staged = [artifact.find_staging(runtime.store, mine.fingerprint)] if step.makes == "staging" else []
    if lost := next((old for old in (*staged, *past) if old and old.fingerprint == mine.fingerprint), None):
        bad = artifact.damaged(runtime.store, lost)
        said = f"files of {lost.ref} are damaged or gone, {len(bad)} of {len(lost.files)}: "
        return Decision(None, said + "".join(bad[:1]))
    if step.check:
        return _decide_pin(step, config, inputs, runtime, [old for old in past if old.pin == mine.pin], bool(past))
    return Decision(None, _why_changed(past[0] if past else None, mine.config, inputs))


def _damage(lines: list[str]) -> str:
    return f"damaged: {lines[0]}" + (f" (and {len(lines) - 1} more)" if len(lines) > 1 else "")


def _moved_on(runtime: Runtime, promotion: Artifact) -> str:
    """Why a model that was registered before is registered again: its alias went to another one since."""
    alias = promotion.facts.get("alias") if promotion.kind == "promotion" else None
    if alias is None:
        return ""
    model = promotions.holder(runtime.store, promotion.name, alias).facts["model"]
    return "" if model == promotion.facts["model"] else f"the alias {alias} went to {model} since {promotion.ref}"


def _decide_pin(
    step: Step,
    config: Config,
    inputs: Mapping[str, Artifact],
    runtime: Runtime,
    same_pin: list[Artifact],
    any_past: bool,
) -> Decision:
    kept = next((old for old in same_pin if not artifact.damaged(runtime.store, old)), None)
    if kept is None:
        return Decision(None, "its configuration or a fitted input changed" if any_past else "first time")
    policy = _pin_policy(step.name, config)
    growth = _growth(kept, inputs)
    if policy.refit_growth is not None and growth >= policy.refit_growth:
        return Decision(
            None,
            f"refit: {growth:.0%} new training rows since {kept.ref} (refit_growth {policy.refit_growth:.0%})",
        )
    why = f"pinned: {kept.ref}, same configuration; {growth:.0%} new training rows (refit_growth " + (
        f"{policy.refit_growth:.0%})" if policy.refit_growth is not None else "off)"
    )
    return Decision(kept, why, check=policy.refit_below is not None and growth > 0)


def _pin_policy(step: str, config: Config) -> PinConfig:
    return {"fit": config.codecs.pin, "train-fusion": config.fusion.pin, "train-generator": config.generator.pin}[step]


def _growth(kept: Artifact, inputs: Mapping[str, Artifact]) -> float:
    """Training rows in shards that `kept` never saw, as a share of the rows that it did."""
    data = inputs.get("dataset") or inputs["features"]
    seen: Mapping[str, int] = kept.facts.get("train_shards", {})
    now: Mapping[str, int] = train_shards(data)
    new = sum(rows for digest, rows in now.items() if digest not in seen)
    return new / max(1, sum(seen.values()))


def train_shards(data: Artifact) -> dict[str, int]:
    """Media shard digest → samples, of the training split of a dataset or a features artifact.

    A fitted artifact records this as facts["train_shards"].
    """
    role = "shard" if data.kind == "dataset" else "features"
    return {
        str(entry.facts["digest"]): int(entry.facts["samples"])
        for entry in data.by_role(role)
        if entry.facts["split"] == "train"
    }


def _why_changed(past: Artifact | None, part: Mapping[str, Any], inputs: Mapping[str, Artifact]) -> str:
    if past is None:
        return "first time"
    changed = [f"{role} is now {made.ref}" for role, made in inputs.items()
               if past.inputs.get(role) is None or past.inputs[role].fingerprint != made.fingerprint]  # fmt: skip
    changed += [f"settings changed: {', '.join(differing(past.config, part))}"] if past.config != part else []
    source = (
        f"the source, or what was forgotten of it, is not as {past.ref} has it; or " if past.kind == "staging" else ""
    )
    return "; ".join(changed) or f"{source}the step's code has a new version"


def perform(step: Step, config: Config, inputs: Mapping[str, Artifact], runtime: Runtime) -> Outcome:
    """Decide, and run if needed. Raises GateError if the artifact that stands in did not pass its gate."""
    started = time.monotonic()
    decision = decide(step, config, inputs, runtime, prepare=True)
    kept, why = decision.artifact, decision.why
    if kept is not None and decision.check:
        assert step.check is not None
        good, reason = _function(step.check)(config, kept, inputs, runtime)
        kept, why = (kept, f"{why}; {reason}") if good else (None, f"refit: {reason}")
    if kept is not None:
        if step.name == "validate" and not kept.passed:
            raise GateError(f"{kept.ref} did not pass its gate: {'; '.join(kept.facts.get('gate', []))}")
        return Outcome(step.name, kept, False, why, time.monotonic() - started)
    runtime.progress.say(f"{step.name}: {why}")
    try:
        made: Artifact = _function(step.run)(config, {**inputs, **_advice(step, config, inputs, runtime)}, runtime)
    except FileNotFoundError as error:
        # what decided about this run has seen all of its inputs
        gone = error.filename or str(error)
        meanwhile = "another command (forget --purge, gc) deleted it meanwhile, or somebody by hand; run the line again"
        raise StoreError(f"{step.name}: {gone} is gone: {meanwhile}") from error
    profiles = dict(runtime.profiles or {})
    if runtime.profiles:
        # they are told once, by the step that they are of
        runtime.profiles.clear()
    return Outcome(step.name, made, True, why, time.monotonic() - started, profiles)


def advisers(step: Step, config: Config, runtime: Runtime) -> dict[str, Artifact]:
    """What a step's advice would be made with; nothing where some of it is not there yet."""
    needs = step.advice.needs if step.advice else {}
    found = {role: artifact.latest(runtime.store, STEPS[maker].makes, config.name + STEPS[maker].suffix)
             for role, maker in needs.items()}  # fmt: skip
    there = {role: made for role, made in found.items() if made is not None}
    return there if len(there) == len(needs) else {}


def _advice(step: Step, config: Config, inputs: Mapping[str, Artifact], runtime: Runtime) -> dict[str, Artifact]:
    """The step's advice, by role. Where it cannot be given that is recorded; the line goes on without it."""
    needs = advisers(step, config, runtime)
    if step.advice is None or not needs:
        return {}
    given = {**inputs, **needs}
    try:
        made = _function(step.advice.make)(config, given, runtime)
    except (UserError, GateError, ImportError, RuntimeError) as error:
        # an image of the data steps has no torch; a device may have no memory left
        made = _function(step.advice.excuse)(config.name, given, runtime, " ".join(str(error).split()))
    return {step.advice.role: made}


def run(config: Config, runtime: Runtime, names: tuple[str, ...] = NAMES) -> Iterator[Outcome]:
    """Perform the named steps in order, each on what the earlier ones made."""
    made: dict[str, Artifact] = {}
    for name in names:
        step = STEPS[name]
        outcome = perform(step, config, gather(step, config, runtime, made), runtime)
        made[name] = outcome.artifact
        yield outcome


@dataclass(frozen=True, slots=True)
class Planned:
    """A line of `--plan`."""

    step: str
    run: bool
    why: str
    artifact: str | None


def plan(config: Config, runtime: Runtime, names: tuple[str, ...] = NAMES) -> list[Planned]:
    """What `run` would do, doing nothing. Below a step that would run, the others are told by what they wait for."""
    made: dict[str, Artifact] = {}
    lines: list[Planned] = []
    pending: set[str] = set()
    for name in names:
        step = STEPS[name]
        waits = [maker for maker in step.inputs.values() if maker in pending]
        if waits:
            pending.add(name)
            pinned = (
                bool(step.check) and artifact.latest(runtime.store, step.makes, config.name + step.suffix) is not None
            )
            why = f"after {', '.join(waits)}" + (" (kept if its pin and policy allow)" if pinned else "")
            lines.append(Planned(name, True, why, None))
            continue
        decision = decide(step, config, gather(step, config, runtime, made), runtime)
        if decision.artifact is None:
            pending.add(name)
        else:
            made[name] = decision.artifact
        lines.append(Planned(name, decision.run, decision.why, decision.artifact.ref if decision.artifact else None))
    return lines


def _function(path: str) -> Any:
    module, name = path.split(":")
    return getattr(importlib.import_module(module), name)
