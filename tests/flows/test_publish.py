"""What a run shows of its data, and that MLflow's absence stops nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from prefect import flow

from flows.line_run import watching
from flows.publish import publish_data
from mmgen import steps
from mmgen.runtime import Runtime, Silent
from mmgen.store import Store
from tests.data_sources import table_config, write_source


class Seen(Silent):
    """Progress that remembers its lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


@pytest.mark.usefixtures("api")
def test_data_are_prepared_where_mlflow_is_not_installed(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = table_config(write_source(tmp_path / "source", 12))
    list(steps.run(config, Runtime(store), steps.select(None, "validate")))
    for module in [name for name in sys.modules if name.split(".")[0] == "mlflow" or name.startswith("mmgen.mlflow_")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.delitem(sys.modules, "mmgen.dataset_log", raising=False)
    # what an import of what is not installed ends as
    monkeypatch.setitem(sys.modules, "mlflow", None)
    seen = Seen()
    token = watching.set(seen)
    try:
        flow(name="shows-data")(publish_data)(store, config.name, 0)
    finally:
        watching.reset(token)
    assert seen.lines == ["the data report was not logged to MLflow, which is not installed here"]
