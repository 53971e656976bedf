"""What makes a step's result what it is: the version of its code, its part of the configuration, its inputs.

Torch-free, so that a plan can be made anywhere. A step's version literal goes up when the same inputs would give
other bytes; the golden-bytes tests fail until it does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmgen.artifact import Artifact, fingerprint
from mmgen.config import Config
from mmgen.errors import ConfigError
from mmgen.modalities.config import ScanConfig
from mmgen.pretrained import digest_of
from mmgen.reasons import REASONS
from mmgen.sources.config import ClipConfig
from mmgen.store import sha256_file
from mmgen.training.config import counted
from mmgen.validate_config import PairsConfig

SCHEMA_VERSION = 1
STEP_VERSIONS: dict[str, int] = {
    "ingest": 3,
    "validate": 2,
    "shard": 2,
    "fit": 1,
    "extract": 2,
    "train-fusion": 1,
    "train-generator": 1,
    "evaluate": 2,
    "register": 1,
}
# inputs that are data: a fitted thing of the same pin may be kept when only these changed (law 15)
# settings of a source that say where it lies and what is told beside it, and change nothing of what is read
_ELSEWHERE = ("path", "allow_roots", "list_unnamed")
DATA_KINDS = ("staging", "verdicts", "dataset", "features")
# settings of the source that came after others had been read without them, and what they were then
LATER = {
    "language": None, "scan": ScanConfig().model_dump(mode="json"), "clip": ClipConfig().model_dump(mode="json"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Identity:
    """fingerprint: all of it. pin: without the data. config: the step's part of the configuration, as plain data."""

    fingerprint: str
    pin: str
    config: dict[str, Any]


def config_part(step: str, config: Config) -> dict[str, Any]:
    """The settings that can change what `step` makes. Paths and pin policies are left out."""
    whole = config.to_json()
    slots = whole["slots"]
    match step:
        case "ingest":
            source = {key: value for key, value in whole["source"].items() if key not in _ELSEWHERE}
            for name, unused in LATER.items():
                # a setting that came later, and is not used: what was read without it is still that
                if source[name] == unused:
                    del source[name]
            columns = {name: {"modality": slot["modality"], "column": slot["column"]} for name, slot in slots.items()}
            return {
                "source": source,
                "slots": columns,
                "ingest": whole["ingest"],
                "checks": _read_by_ingest(whole["validate"]["checks"]),
            }
        case "validate":
            rules = whole["validate"]
            if config.validate_.pairs == PairsConfig():
                # came later too, and what was judged without it is still that
                rules = {key: value for key, value in rules.items() if key != "pairs"}
            return {"validate": rules, "slots": slots, "seed": config.seed}
        case "shard":
            return {"shard": whole["shard"], "seed": config.seed}
        case "fit":
            parts = {"codecs": _codecs_by_digest(whole["codecs"]), "judges": whole["judges"], "slots": slots}
            return _unpinned(parts) | {"seed": config.seed, "evalset_samples": config.evaluate.max_samples}
        case "extract":
            return {"slots": slots, **(_by_digest(whole["extract"]) if config.extract.encoders else {})}
        case "train-fusion":
            return _unpinned({"fusion": _started(_by_digest(whole["fusion"]))}) | {"seed": config.seed}
        case "train-generator":
            return _unpinned({"generator": _started(_by_digest(whole["generator"]))}) | {"seed": config.seed}
        case "evaluate":
            return {"evaluate": whole["evaluate"]}
        case "register":
            return {"registry": whole["registry"]}
    raise KeyError(step)


def _read_by_ingest(checks: dict[str, Any]) -> dict[str, Any]:
    """The checks without the severity of what `validate` finds."""
    severity = {code: effect for code, effect in checks["severity"].items() if REASONS[code].stage != "validate"}
    return {**checks, "severity": severity}


def weights_digest(slot: str, path: str | None) -> str | None:
    """What weights to start from count by: their bytes, not their path. Raises ConfigError if they cannot be read."""
    if path is None:
        return None
    try:
        return f"sha256:{sha256_file(path)}"
    except OSError as error:
        wanted = f"encoders.{slot}.weights: wanted a local safetensors file"
        raise ConfigError(f"{wanted}, came '{path}': {error.strerror}") from error


def encoder_counted(slot: str, settings: Mapping[str, Any] | str) -> Any:
    """Settings of an encoder, its weights counted by their bytes. Raises ConfigError, StoreError."""
    if isinstance(settings, str):
        return settings
    if "source" in settings:
        return source_counted(settings, f"encoders.{slot}.source")
    return {**settings, "weights": weights_digest(slot, settings["weights"])}


def source_counted(settings: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Settings that name another library's model by `source` and `revision`, with what it counts by in their place.

    Raises ConfigError, StoreError (see mmgen.pretrained).
    """
    kept = {name: value for name, value in settings.items() if name not in ("source", "revision")}
    return kept | {"source": digest_of(settings["source"], settings["revision"], where)}


def _codecs_by_digest(codecs: dict[str, Any]) -> dict[str, Any]:
    """Settings of the codecs, pretrained ones by the bytes of their weights."""
    return {
        name: source_counted(each, f"codecs.{name}.source") if "source" in each else each
        for name, each in codecs.items()
    }


def _by_digest(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings with `encoders`, whose weights count by their bytes."""
    encoders = settings.get("encoders")
    if not encoders:
        return settings
    return {**settings, "encoders": {slot: encoder_counted(slot, each) for slot, each in encoders.items()}}


def _started(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings without the name of the model to start from: that is an input, and counts as one."""
    return {**settings, "init": {"what": settings["init"]["what"]}} if settings.get("init") else settings


def _unpinned(parts: dict[str, Any]) -> dict[str, Any]:
    """The parts without their `pin` policy: when to refit is not what is fitted."""
    return {name: {key: value for key, value in part.items() if key != "pin"} for name, part in parts.items()}


def identity(step: str, config: Config, inputs: Mapping[str, Artifact], source_digest: str | None = None) -> Identity:
    """The identity of what `step` would make of these inputs. `source_digest` is for ingest alone."""
    part = counted(config_part(step, config))
    links = {role: artifact.fingerprint for role, artifact in inputs.items()}
    fitted = {role: artifact.fingerprint for role, artifact in inputs.items() if artifact.kind not in DATA_KINDS}
    common = {"step": step, "version": STEP_VERSIONS[step], "schema": SCHEMA_VERSION, "config": part}
    return Identity(
        fingerprint(**common, inputs=links, source=source_digest),
        fingerprint(**common, inputs=fitted),
        part,
    )
