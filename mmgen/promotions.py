"""The ledger of promotions: which model holds which alias, and why. Free of torch and of MLflow, a view of the ledger.

`promotions/<name>/<n>.json` is an artifact of kind "promotion", create-only. Its folder holds the model's package and
card; its inputs name everything that the model was made from; its facts hold "alias" (None: registered, not promoted),
"why", "model", "scores" and "mlflow" {"name", "version", "run"}. The newest line that names an alias has its model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from mmgen import artifact as artifacts
from mmgen.artifact import KINDS, Artifact, Kind, Reference
from mmgen.errors import ConfigError, UnknownReference, unknown_name
from mmgen.store import Store

_MLFLOW_REFERENCE = re.compile(r"models:/(?P<name>[^@/]+)(?:/(?P<version>\d+|latest)|@(?P<alias>[A-Za-z0-9._-]+))")
#: role and folder of the files of a model package
PACKAGE = "package"


def check_alias(alias: str) -> str:
    """`alias` if it can be one. Raises ConfigError: all digits would read as a version, "latest" is MLflow's word."""
    if alias.isdigit() or alias == "latest" or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", alias):
        raise ConfigError(f"alias: wanted a letter, then letters, digits, '_' or '-', not 'latest'; came {alias!r}")
    return alias


def ledger(store: Store, name: str) -> list[Artifact]:
    """All promotions of `name`, newest first."""
    return artifacts.history(store, "promotion", name)


def aliases(store: Store, name: str) -> dict[str, Artifact]:
    """Alias → the promotion that holds it."""
    held: dict[str, Artifact] = {}
    for promotion in ledger(store, name):
        alias = promotion.facts.get("alias")
        if alias:
            held.setdefault(alias, promotion)
    return held


def aliases_of(store: Store, model: Artifact) -> list[str]:
    """The aliases that `model` holds now, sorted."""
    held = aliases(store, model.name).items()
    return sorted(alias for alias, promotion in held if promotion.facts["model"] == model.ref)


def holder(store: Store, name: str, alias: str) -> Artifact:
    """The promotion that holds `alias` of `name`. Raises UnknownReference."""
    check_alias(alias)
    held = aliases(store, name)
    if alias in held:
        return held[alias]
    if not ledger(store, name):
        raise UnknownReference(f"'{name}@{alias}': " + unknown_name("model", name, artifacts.names(store, "promotion")))
    raise UnknownReference(f"'{name}@{alias}': " + unknown_name("alias", alias, held))


def promotion_of(store: Store, model: Artifact) -> Artifact | None:
    """The newest promotion of this model version."""
    return next((line for line in ledger(store, model.name) if line.facts["model"] == model.ref), None)


def resolve(reference: str, store: Store) -> Artifact:
    """The artifact that `[kind:]name[@version|@alias]` or `models:/name/version`, `models:/name@alias` names.

    Without a kind it is the model of that name, or, where there is none, whatever else has the name. Without a
    version it is the newest one. An alias of another kind is what the promoted model was made from:
    `dataset:digits@champion` is the data that the champion learned from. Raises UnknownReference.
    """
    if reference.startswith("models:/"):
        return _model(store, _mlflow_promotion(reference, store))
    wanted = Reference.parse(reference)
    if wanted.alias is not None:
        return _promoted(store, holder(store, wanted.name, wanted.alias), wanted.kind or "model")
    kind = wanted.kind or _kind_of(store, wanted.name)
    if wanted.version is not None:
        return artifacts.load(store, kind, wanted.name, wanted.version)
    newest = artifacts.latest(store, kind, wanted.name)
    if newest is None:
        raise UnknownReference(f"'{reference}': " + unknown_name(kind, wanted.name, artifacts.names(store, kind)))
    return newest


def _mlflow_promotion(reference: str, store: Store) -> Artifact:
    match = _MLFLOW_REFERENCE.fullmatch(reference)
    if not match:
        raise UnknownReference(f"reference '{reference}': wanted models:/name/version or models:/name@alias")
    name = match["name"]
    if match["alias"]:
        return holder(store, name, match["alias"])
    lines = ledger(store, name)
    if not lines:
        known = artifacts.names(store, "promotion")
        raise UnknownReference(f"'{reference}': " + unknown_name("model", name, known))
    if match["version"] == "latest":
        return lines[0]
    by_version = {line.facts["mlflow"]["version"]: line for line in reversed(lines)}
    if match["version"] not in by_version:
        raise UnknownReference(f"'{reference}': " + unknown_name("version", match["version"], by_version))
    return by_version[match["version"]]


def _promoted(store: Store, promotion: Artifact, kind: Kind) -> Artifact:
    if kind == "promotion":
        return promotion
    if kind == "model":
        return _model(store, promotion)
    for link in promotion.inputs.values():
        if Reference.parse(link.ref).kind == kind:
            return artifacts.load_link(store, link)
    has = _listed(Reference.parse(link.ref).kind or "" for link in promotion.inputs.values())
    raise UnknownReference(f"{promotion.ref} was made from no {kind}: it has {has}")


def _model(store: Store, promotion: Artifact) -> Artifact:
    return artifacts.load_link(store, promotion.inputs["generator"])


def _kind_of(store: Store, name: str) -> Kind:
    order: list[Kind] = ["model", "dataset", *KINDS]
    for kind in order:
        if name in artifacts.names(store, kind):
            return kind
    everything = {known for kind in KINDS for known in artifacts.names(store, kind)}
    raise UnknownReference(unknown_name("name", name, everything))


def _listed(words: Iterable[str]) -> str:
    return ", ".join(sorted(set(words))) or "nothing"


def lineage(store: Store, inputs: Mapping[str, Artifact]) -> dict[str, Artifact]:
    """`inputs` (roles generator, codecs…) and the data behind them: roles features and dataset, where manifests name
    them."""
    found = dict(inputs)
    for role in ("generator", "fusion", "codecs", "features"):
        for upstream, link in (found[role].inputs if role in found else {}).items():
            if upstream in ("features", "dataset") and upstream not in found:
                found[upstream] = artifacts.load_link(store, link)
    return found
