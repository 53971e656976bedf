"""Earlier models that training starts from: which one a configuration means, and how a command writes it there.

Torch-free. The model is an input of the step, so it is part of what the result is, and of its lineage.
"""

from __future__ import annotations

from typing import Any, get_args

from mmgen import promotions
from mmgen.artifact import Artifact, Reference
from mmgen.config import Config
from mmgen.errors import ConfigError, unknown_name
from mmgen.store import Store
from mmgen.training.config import InitConfig, InitWhat

#: role among a step's inputs
ROLE = "init"
#: step → the part of the configuration that says how it trains
PARTS = {"train-fusion": "fusion", "train-generator": "generator"}


def initial(step: str, makes: str, config: Config, store: Store) -> Artifact | None:
    """The model that `step`, which makes models of the name `makes`, starts from; None: random weights.

    Raises ConfigError for a model of another step, or a reference that would move to what the step makes;
    UnknownReference.
    """
    part = PARTS.get(step)
    settings: InitConfig | None = getattr(getattr(config, part), ROLE, None) if part else None
    if settings is None:
        return None
    made = promotions.resolve(settings.ref, store)
    if made.kind != "model" or made.step != step:
        raise ConfigError(
            f"{part}.init.ref: wanted a model that {step} made, {settings.ref} is {made.ref} ({made.step})"
        )
    if made.name == makes and not _fixed(settings.ref):
        raise ConfigError(
            f"{part}.init.ref: {settings.ref} moves to what this step makes, which would start from itself for ever; "
            f"wanted a version, such as {made.name}@{made.version}"
        )
    return made


def _fixed(reference: str) -> bool:
    """Whether a reference names one version for ever."""
    if reference.startswith("models:/"):
        return reference.rsplit("/", 1)[1].isdigit()
    return Reference.parse(reference).version is not None


def start_from(config: Config, reference: str, what: str, store: Store, step: str | None = None) -> Config:
    """The configuration with a model to start from, by its version: for the step that made it, or `step` alone.

    Raises ConfigError, UnknownReference.
    """
    if what not in get_args(InitWhat):
        raise ConfigError(f"--init: {unknown_name('part of a model', what, get_args(InitWhat))}")
    made = promotions.resolve(reference, store)
    if made.kind != "model" or made.step not in PARTS or step not in (None, made.step):
        wanted = f"{step} made" if step else "train-fusion or train-generator made"
        raise ConfigError(f"--init-from: wanted a model that {wanted}, {reference} is {made.ref} ({made.step})")
    part = PARTS[made.step]
    settings: Any = getattr(config, part)
    if ROLE not in type(settings).model_fields:
        raise ConfigError(f"--init-from: a {settings.kind} starts from nothing earlier")
    chosen = InitConfig.model_validate({"ref": made.ref, "what": what})
    return config.model_copy(update={part: settings.model_copy(update={ROLE: chosen})})
