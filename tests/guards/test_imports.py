"""Laws 1, 2 and 11: imports run one way, and what is foreign comes in by one door."""

from __future__ import annotations

import ast

import pytest

from mmgen.steps import STEPS
from tests.guards.source import PACKAGES, imports, modules, parsed, where

# mmgen from the ground up: a file imports only from rooms that stand before its own, or from its own room
ORDER = (
    "errors", "records", "reasons", "addresses", "filesystems", "store", "uris", "artifact", "tombstones",
    "runtime", "settings", "pretrained", "asking",
    # every room's config.py and those of single files stand here, whatever else their room may need
    "configs",
    "tables", "tars", "order", "modalities", "dataset", "sources", "duplicates",
    "identity", "catalog", "forgotten", "holders", "tracking", "promotions", "initial",
    "pairs", "report", "staging", "ingest", "splits", "decision", "inputs", "verdicts", "validate",
    "shard_plan", "shard_facts", "shard_files", "shards", "rerender", "forget", "diff", "trace", "layouts", "export",
    # the torch line
    "preprocess", "features", "similarities", "batches", "adversarial",
    "codecs", "encoders", "fusion", "generators", "training",
    "codec_set", "embeddings", "extract", "agreement", "maker", "pair_scores", "editing", "conditions", "generate",
    "evaluate",
    "fit_parts", "fit_vocoder", "fit_judges", "evalset", "fit", "fusion_reads", "pretrain", "network_args", "beside",
    "train", "train_head", "evaluate.step", "evaluate.against",
    "mlflow_client", "dataset_log", "served_model", "registry",
    # decides which of them runs, and imports the one that does
    "steps",
    "tune_log", "tune",
)  # fmt: skip
_TORCH = {"torch", "torchvision", "torchaudio", "safetensors", "transformers"}
TORCH_LINE = ORDER.index("preprocess")
CONFIGS = ("mmgen.config", "mmgen.shard_config", "mmgen.validate_config", "mmgen.tune_config")

DOORS = {
    "prefect": ("flows.",),
    "mlflow": ("mmgen.registry.", "mmgen.served_model.", "mmgen.mlflow_client.", "mmgen.dataset_log."),
    "webdataset": ("mmgen.tars.",),
    "fsspec": ("mmgen.filesystems.",),
    "optuna": ("mmgen.tune.",),
    "pickle": (),
    "dill": (),
    "cloudpickle": (),
    "joblib": (),
}


def room(module: str) -> str:
    """The place of a module of mmgen in ORDER: its own or its room's; "" for mmgen itself."""
    if module in CONFIGS or (module.startswith("mmgen.") and module.endswith(".config")):
        return "configs"
    inner = module.removeprefix("mmgen.") if module.startswith("mmgen.") else ""
    return inner if inner in ORDER else inner.split(".")[0]


def ours(module: str) -> str | None:
    """The package of ours that a module belongs to."""
    top = module.split(".")[0]
    return top if top in PACKAGES else None


def test_packages_import_one_way() -> None:
    wrong = [
        f"{where(path, found.line)}: {module} imports {found.module}"
        for module, path in modules().items()
        for found in imports(path)
        if (package := ours(found.module)) and PACKAGES.index(package) > PACKAGES.index(module.split(".")[0])
    ]
    assert not wrong, "data_schemas <- mmgen <- flows:\n" + "\n".join(wrong)


def test_every_room_has_its_place() -> None:
    rooms = {room(module) for module in modules() if module.startswith("mmgen.") and module != "mmgen.recipes"}
    assert not rooms - set(ORDER), f"give these a place in ORDER: {sorted(rooms - set(ORDER))}"
    assert not set(ORDER) - rooms, f"ORDER names rooms that are gone: {sorted(set(ORDER) - rooms)}"


def test_mmgen_imports_downward_only() -> None:
    wrong = []
    for module, path in modules().items():
        if not (module.startswith("mmgen.") and (mine := room(module)) in ORDER):
            continue
        for found in imports(path):
            if not found.module.startswith("mmgen"):
                continue
            other = room(found.module)
            if other in ORDER and ORDER.index(other) > ORDER.index(mine):
                wrong.append(f"{where(path, found.line)}: {mine} imports {found.module}, which stands below it")
    assert not wrong, "\n".join(wrong)


def test_no_step_calls_another() -> None:
    """Each hands on one committed artifact; going back means reading an earlier one by its name."""
    runs = {tuple(step.run.split(":")) for step in STEPS.values()}
    assert {module for module, _ in runs} <= set(modules())
    wrong = [
        f"{where(path, node.lineno)}: {module} imports the step {alias.name}"
        for module, path in modules().items()
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.ImportFrom) and module.startswith("mmgen.")
        for alias in node.names
        if (node.module, alias.name) in runs
    ]
    assert not wrong, "\n".join(wrong)


def test_no_cycles() -> None:
    graph = {module: {found.module for found in imports(path)} & set(modules()) for module, path in modules().items()}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join((*trail[trail.index(module) :], module))
        if module not in done:
            for other in sorted(graph[module]):
                visit(other, (*trail, module))
            done.add(module)

    for module in graph:
        # a package's __init__ may name its own files lazily
        graph[module] -= {other for other in graph[module] if other.startswith(f"{module}.")}
    for module in graph:
        visit(module, ())


@pytest.mark.parametrize("library", DOORS)
def test_one_door_each(library: str) -> None:
    wrong = [
        f"{where(path, found.line)}: {module} imports {found.module}"
        for module, path in modules().items()
        for found in imports(path)
        if found.module.split(".")[0] == library and not f"{module}.".startswith(DOORS[library])
    ]
    assert not wrong, f"{library} comes in only by {DOORS[library] or 'no door'}:\n" + "\n".join(wrong)


def test_torch_is_imported_only_below_its_line() -> None:
    wrong = []
    for module, path in modules().items():
        above = room(module) == "configs" or (room(module) in ORDER and ORDER.index(room(module)) < TORCH_LINE)
        for found in imports(path):
            if (above or module.startswith("data_schemas")) and found.module.split(".")[0] in _TORCH:
                wrong.append(f"{where(path, found.line)}: {module} imports {found.module}")
    assert not wrong, "\n".join(wrong)


def test_weights_are_never_unpickled() -> None:
    """`torch.load` only with weights_only=True (law 11)."""
    wrong = []
    for path in modules().values():
        for node in ast.walk(parsed(path)):
            if not (isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"):
                continue
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if given.get("weights_only") != "True":
                wrong.append(where(path, node.lineno))
    assert not wrong
