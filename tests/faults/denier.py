"""The data line as a user without rights: `python -m tests.faults.denier FOLDER` prints what each case came to.

Whoever runs as root gives its rights away in each child, as permissions mean nothing to root.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from mmgen import artifact
from mmgen.config import Config
from mmgen.store import Store
from tests.data_sources import table_config, write_source
from tests.faults.children import Ended, in_child, run_until

NOBODY = 65534
PLAIN = {"key": None, "text": None, "image": None, "audio": None, "label": None, "meta": []}


def without_rights(work: Callable[[], None], warm: Callable[[], None], log: Path) -> Ended:
    """How `work` ended as a user who owns nothing. warm: imports all that it needs, with rights."""

    def go() -> None:
        warm()
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
        work()

    return in_child(go, log)


def folder_config(path: Path, kind: str) -> Config:
    return table_config(path, source={**PLAIN, "kind": kind})


def main(folder: Path) -> dict[str, Any]:
    folder.chmod(0o755)
    table, open_store, log = write_source(folder / "source", 12), folder / "open", folder / "log"
    config, warmed = table_config(table), folder / "warmed"
    tars = folder / "tars"
    tars.mkdir()
    assert in_child(lambda: run_until(config, warmed, "shard"), log).status == 0
    tar = next(path for path in Store(warmed).walk("datasets") if path.endswith(".tar"))
    (tars / "a.tar").write_bytes(Store(warmed).read(tar))
    open_store.mkdir()
    open_store.chmod(0o777)
    found: dict[str, Any] = {}

    def case(name: str, config: Config, closed: Path, mode: int, store: Path = open_store) -> None:
        before = closed.stat().st_mode
        closed.chmod(mode)
        warm = folder / "warm"
        shutil.rmtree(warm, ignore_errors=True)
        ended = without_rights(
            lambda: run_until(config, store, "shard"), lambda: run_until(table_config(table), warm, "shard"), log
        )
        closed.chmod(before)
        found[name] = {"status": ended.status, "said": ended.said, "path": str(closed)}

    case("a table", config, table, 0)
    case("the folder of a table", config, table.parent, 0)
    # its owner may still write there, and nobody else
    case("a folder", folder_config(table.parent, "folder"), table.parent, 0)
    below = folder / "trees" / "below"
    below.mkdir(parents=True)
    (below / "1.png").write_bytes((table.parent / "1.png").read_bytes())
    (below.parent / "2.png").write_bytes((table.parent / "2.png").read_bytes())
    case("a folder in a folder", folder_config(below.parent, "folder"), below, 0)
    case("a tar", folder_config(tars / "a.tar", "webdataset"), tars / "a.tar", 0)
    closed = folder / "closed"
    closed.mkdir()
    case("a store", config, closed, 0o555, closed)
    shutil.rmtree(folder / "again", ignore_errors=True)
    for number in (3, 7):
        (table.parent / f"{number}.png").chmod(0)
    case("files", config, folder / "log", 0o644)

    def tell() -> None:
        verdicts = artifact.latest(Store(open_store), "verdicts", config.name)
        assert verdicts is not None
        rows = pl.read_parquet(Store(open_store).full(verdicts.file("quarantine").path))
        rows = rows.filter(pl.col("reason") == "file_unreadable").select("row", "message")
        (folder / "told").write_text(json.dumps({"counts": verdicts.facts["counts"], "rows": rows.rows()}))

    if found["files"]["status"] == 0:
        assert in_child(tell, log).status == 0, log.read_text()
        found["files"] |= json.loads((folder / "told").read_text())
    return found


if __name__ == "__main__":
    os.environ["MMGEN_COMMIT"] = "none"
    sys.stdout.write(json.dumps(main(Path(sys.argv[1]))) + "\n")
