from __future__ import annotations

import contextlib
import csv
import dataclasses
import functools
import http.server
import json
import os
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import polars as pl
import pytest

from data_schemas.facts import failures
from mmgen import config as configs
from mmgen import ingest as ingest_module
from mmgen import staging, steps
from mmgen.artifact import Artifact, damaged
from mmgen.config import Config
from mmgen.errors import ConfigError, IntegrityError, SourceError
from mmgen.ingest import Pending, ingest, pending, source_digest
from mmgen.runtime import Runtime, map_local
from mmgen.sources import fetching, reading
from mmgen.sources.config import IngestConfig
from mmgen.store import Store, sha256
from mmgen.tars import TarReader, pack
from tests.data_sources import rejections_of
from tests.unit.sources.media import png, wav

FIELDS = ("key", "caption", "image", "audio", "label", "speaker")
SOURCE = {"kind": "table", "key": "key", "text": "caption", "image": "image", "audio": "audio", "label": "label",
          "group": "speaker"}  # fmt: skip


def make_source(folder: Path, rows: int, changes: Mapping[int, Mapping[str, Any]] | None = None) -> Path:
    """A user's folder of pairs. changes: row → cells (text) or files (bytes under image or audio) instead."""
    for name in ("images", "audio"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    with open(folder / "pairs.csv", "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, FIELDS)
        writer.writeheader()
        for row in range(rows):
            cells = {"key": f"k{row}", "caption": f"sample {row}", "label": str(row % 3), "speaker": f"s{row % 2}"}
            files = {"image": (f"images/{row}.png", png(row)), "audio": (f"audio/{row}.wav", wav(row))}
            change = (changes or {}).get(row, {})
            for slot, (path, data) in files.items():
                put = change.get(slot, data)
                cells[slot] = put if isinstance(put, str) else path
                target = folder / path
                if isinstance(put, bytes) and not (target.exists() and target.read_bytes() == put):
                    target.write_bytes(put)
            writer.writerow(cells | {name: value for name, value in change.items() if name not in files})
    return folder / "pairs.csv"


def make_config(table: Path, **more: Any) -> Config:
    more.setdefault("ingest", {"batch_rows": 8})
    return configs.build({"name": "pairs", "source": {**SOURCE, "path": str(table)}, **more})


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    return Runtime(Store(tmp_path / "store"))


def rejections(runtime: Runtime, made: Artifact) -> list[tuple[int, str | None, str, str]]:
    return [(each.row, each.slot, each.reason, each.severity) for each in rejections_of(runtime.store, made)]


def counting(runtime: Runtime) -> tuple[Runtime, list[str]]:
    """A runtime that notes the batches which are read."""
    read: list[str] = []

    def mapped(what: str, function: Any, arguments: Sequence[tuple[Any, ...]], workers: int) -> list[Any]:
        read.extend(each[1] for each in arguments)
        return map_local(what, function, arguments, workers)

    return dataclasses.replace(runtime, map=mapped), read


def test_rows_become_checked_bytes_and_facts_that_keep_the_schema(tmp_path: Path, runtime: Runtime) -> None:
    config = make_config(make_source(tmp_path / "data", 20))
    made = ingest(config, {}, runtime)
    assert (made.kind, made.name, made.version) == ("staging", "pairs", 1)
    assert made.facts == {"inputs": 20, "rows": 20, "rejected": 0, "reasons": {}}
    facts = staging.read_facts(runtime.store, made)
    assert failures(facts, {name: slot.modality for name, slot in config.slots.items()}) == []
    assert facts["row"].to_list() == list(range(20))
    row = facts.row(13, named=True)
    assert (row["key"], row["label"], row["group"]) == ("k13", "1", "s1")
    assert json.loads(row["texts"]) == {"text": ["sample 13"]}
    assert row["image.sha256"] == sha256(png(13))
    assert (row["image.ext"], row["audio.ext"], row["text.ext"]) == ("png", "wav", "txt")
    assert (row["image.width"], row["audio.seconds"], row["text.words"]) == (12, 0.1, 2)
    with staging.StagedMedia(runtime.store, made) as media:
        assert media.read(13, "image", "png") == png(13)
        assert media.read(19, "audio", "wav") == wav(19)
        assert media.read(0, "text", "txt") == b"sample 0"
        with pytest.raises(KeyError):
            media.read(0, "image", "jpg")


def test_few_tars_of_a_staging_are_open_at_once(
    tmp_path: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "OPEN_TARS", 3)
    made = ingest(make_config(make_source(tmp_path / "data", 20), ingest={"batch_rows": 2}), {}, runtime)
    before = len(os.listdir("/proc/self/fd"))
    with staging.StagedMedia(runtime.store, made) as media:
        for row in (*range(20), 0, 19, 7):
            assert media.read(row, "image", "png") == png(row)
            assert len(os.listdir("/proc/self/fd")) <= before + 3
    assert len(os.listdir("/proc/self/fd")) == before


def test_one_worker_and_two_give_the_same_bytes(tmp_path: Path) -> None:
    config = make_config(make_source(tmp_path / "data", 20, {3: {"image": b""}}))
    found = []
    for workers in (1, 2):
        store = Store(tmp_path / f"store{workers}")
        made = ingest(config, {}, Runtime(store, workers=workers, few_rows={}))
        found.append((made.fingerprint, {entry.path: store.read(entry.path) for entry in made.files}))
    assert found[0] == found[1]
    assert len(found[0][1]) == 3 * 5


def test_bytes_come_from_content_not_from_place_or_time(tmp_path: Path) -> None:
    made = []
    for name in ("one", "two"):
        config = make_config(make_source(tmp_path / name, 5))
        os.utime(tmp_path / name / "images" / "0.png", ns=(1, 1))
        made.append(ingest(config, {}, Runtime(Store(tmp_path / f"store-{name}"))))
    assert made[0].fingerprint == made[1].fingerprint
    assert made[0].files == made[1].files


def test_source_digest_is_that_of_the_fingerprint_and_follows_content(tmp_path: Path, runtime: Runtime) -> None:
    table = make_source(tmp_path / "data", 10)
    config = make_config(table)
    digest = source_digest(config, runtime)
    first = ingest(config, {}, runtime)
    assert source_digest(config, runtime) == digest
    assert ingest(config, {}, runtime).fingerprint == first.fingerprint
    make_source(tmp_path / "data", 10, {4: {"caption": "other words"}})
    other = source_digest(config, runtime)
    make_source(tmp_path / "data", 10, {4: {"image": png(99)}})
    assert len({digest, other, source_digest(config, runtime)}) == 3
    make_source(tmp_path / "data", 10, {4: {"image": png(4)}})
    assert source_digest(config, runtime) == digest


def test_appended_rows_read_only_the_batches_that_changed(tmp_path: Path, runtime: Runtime) -> None:
    config = make_config(make_source(tmp_path / "data", 20))
    first = ingest(config, {}, runtime)
    make_source(tmp_path / "data", 30)
    noting, read = counting(runtime)
    second = ingest(config, {}, noting)
    # rows 0–15 are two whole batches; 16–23 and 24–29 are new
    assert len(read) == 2
    assert second.facts["rows"] == 30
    assert {entry.path for entry in first.by_role("tar")[:2]} < {entry.path for entry in second.by_role("tar")}
    assert staging.read_facts(runtime.store, second)["row"].to_list() == list(range(30))


def test_a_source_that_did_not_change_is_not_read_again(
    tmp_path: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(make_source(tmp_path, 20), ingest={"batch_rows": 8})
    digest = source_digest(config, runtime, prepare=True)
    with monkeypatch.context() as patch:
        patch.setattr("mmgen.ingest.open_source", lambda *_: pytest.fail("read the source again"))
        # neither by the ingest that follows, which finds its plans, nor by the next run
        ingest(config, {}, runtime)
        assert source_digest(config, runtime) == digest
        with pytest.raises(pytest.fail.Exception):
            source_digest(config, dataclasses.replace(runtime, rehash=True))
        with pytest.raises(pytest.fail.Exception):
            source_digest(make_config(tmp_path / "pairs.csv", ingest={"batch_rows": 9}), runtime)
    touched = tmp_path / "images" / "3.png"
    os.utime(touched, ns=(1, 1))
    assert source_digest(config, runtime) == digest
    touched.write_bytes(touched.read_bytes() + b"more")
    assert source_digest(config, runtime) != digest


def test_what_is_pending_is_told_without_staging_anything(tmp_path: Path, runtime: Runtime) -> None:
    table = make_source(tmp_path / "a", 20)
    config = make_config(table, ingest={"batch_rows": 8})
    first = pending(config, runtime)
    assert (first.inputs, first.rows) == (20, 20)
    assert first.size_bytes > 0
    assert not runtime.store.names("staging")
    ingest(config, {}, runtime)
    assert pending(config, runtime) == Pending(20, 0, 0)
    grown = pending(make_config(make_source(tmp_path / "b", 22), ingest={"batch_rows": 8}), runtime)
    # the last batch of 4 rows has 6 now
    assert (grown.inputs, grown.rows) == (22, 6)


def test_a_changed_file_reads_only_its_batch_and_rehash_finds_hidden_changes(tmp_path: Path, runtime: Runtime) -> None:
    table = make_source(tmp_path / "data", 20)
    config = make_config(table)
    first = ingest(config, {}, runtime)
    image = tmp_path / "data" / "images" / "9.png"
    before, data = image.stat(), bytearray(image.read_bytes())
    image.write_bytes(png(77, side=13))
    noting, read = counting(runtime)
    assert ingest(config, {}, noting).fingerprint != first.fingerprint
    assert len(read) == 1
    image.write_bytes(data)
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert ingest(config, {}, runtime).fingerprint == first.fingerprint
    data[-20] ^= 1
    image.write_bytes(data)
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert ingest(config, {}, runtime).fingerprint == first.fingerprint
    assert ingest(config, {}, dataclasses.replace(runtime, rehash=True)).fingerprint != first.fingerprint


def test_bad_slots_are_rejected_with_reasons_and_the_others_stay(tmp_path: Path, runtime: Runtime) -> None:
    changes = {
        0: {"image": b""}, 1: {"image": png(1)[:-30]}, 2: {"audio": b"no sound"}, 3: {"image": "images/nowhere.png"},
        4: {"image": "../../etc/passwd"}, 5: {"image": "", "audio": ""}, 6: {"caption": "  "}, 7: {"key": ""},
        8: {"caption": "", "image": "", "audio": ""}, 9: {"image": wav(9)}, 10: {"caption": "bell \x07"},
        11: {"image": "images"},
    }  # fmt: skip
    made = ingest(make_config(make_source(tmp_path / "data", 14, changes)), {}, runtime)
    found = rejections(runtime, made)
    assert {severity for *_, severity in found} == {"reject"}
    assert [each[:3] for each in found] == [
        (0, "image", "zero_bytes"),
        (1, "image", "truncated"),
        (2, "audio", "not_audio"),
        (3, "image", "file_missing"),
        (4, "image", "path_refused"),
        (6, "text", "empty_text"),
        (7, None, "missing_key"),
        (8, None, "no_slots"),
        (9, "image", "not_an_image"),
        (10, "text", "control_chars"),
        (11, "image", "file_unreadable"),
    ]
    assert made.facts["inputs"] == 14
    assert made.facts["rows"] + made.facts["rejected"] == 14
    assert made.facts["rejected"] == 2
    assert made.facts["reasons"]["no_slots"] == 1
    facts = staging.read_facts(runtime.store, made)
    assert not set(facts["row"]) & {7, 8}
    present = facts.select("row", "text.present", "image.present", "audio.present").rows()
    assert present[0] == (0, True, False, True)
    assert present[5] == (5, True, False, False)
    assert facts.filter(pl.col("row") == 0)["image.sha256"].to_list() == [None]
    with staging.StagedMedia(runtime.store, made) as media, pytest.raises(KeyError):
        media.read(1, "image", "png")


def test_media_are_judged_and_named_by_their_bytes(tmp_path: Path, runtime: Runtime) -> None:
    table = make_source(tmp_path / "source", 3)
    for name in ("images/0.png", "images/1.png"):
        (tmp_path / "source" / name).rename((tmp_path / "source" / name).with_suffix(".jpeg"))
    text = table.read_text().replace("images/0.png", "images/0.jpeg").replace("images/1.png", "images/1.jpeg")
    table.write_text(text)
    made = ingest(make_config(table), {}, runtime)
    found = [(each.row, each.slot, each.reason, each.severity) for each in rejections_of(runtime.store, made)]
    assert found == [(0, "image", "type_mismatch", "flag"), (1, "image", "type_mismatch", "flag")]
    facts = staging.read_facts(runtime.store, made)
    assert facts["image.ext"].to_list() == ["png"] * 3
    strict = make_config(table, validate={"checks": {"severity": {"type_mismatch": "reject"}}})
    assert ingest(strict, {}, runtime).facts["reasons"] == {"type_mismatch": 2}


def test_malformed_rows_are_counted(tmp_path: Path, runtime: Runtime) -> None:
    table = make_source(tmp_path / "data", 3)
    with open(table, "ab") as stream:
        stream.write(b"short,row\r\ncaf\xe9,x,,,,\r\n")
    made = ingest(make_config(table), {}, runtime)
    assert made.facts == {"inputs": 5, "rows": 3, "rejected": 2, "reasons": {"not_utf8": 1, "short_row": 1}}


def test_a_bad_alternative_is_left_out_and_only_flagged(tmp_path: Path, runtime: Runtime) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"key": "a", "caption": ["one", " ", "eins"]}\n{"key": "b", "caption": [" ", "\\u0007"]}\n')
    config = configs.build({"name": "t", "source": {"path": str(path), "key": "key", "text": "caption"}})
    made = ingest(config, {}, runtime)
    assert json.loads(staging.read_facts(runtime.store, made)["texts"][0]) == {"text": ["one", "eins"]}
    assert rejections(runtime, made)[0] == (0, "text", "empty_text", "flag")
    assert made.facts["rejected"] == 1


def test_media_that_went_away_stop_the_run_with_the_cause(tmp_path: Path, runtime: Runtime) -> None:
    table = make_source(tmp_path / "data", 20)
    shutil.rmtree(tmp_path / "data" / "images")
    config = make_config(table, ingest={"batch_rows": 8, "max_consecutive_failures": 10})
    with pytest.raises(SourceError, match=r"media of 10 rows in a row, up to row 9, .*'images/9\.png': no such file"):
        ingest(config, {}, runtime)
    assert ingest(make_config(table), {}, runtime).facts["reasons"] == {"file_missing": 20}


def test_failures_that_are_not_consecutive_do_not_stop_the_run(tmp_path: Path, runtime: Runtime) -> None:
    changes = {row: {"image": "images/nowhere.png", "audio": ""} for row in range(0, 20, 2)}
    config = make_config(
        make_source(tmp_path / "data", 20, changes), ingest={"batch_rows": 8, "max_consecutive_failures": 2}
    )
    assert ingest(config, {}, runtime).facts["reasons"] == {"file_missing": 10}


def test_a_file_that_changes_under_the_run_is_refused(
    tmp_path: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(make_source(tmp_path / "data", 5))
    planned = ingest_module.write_plan

    def late(*arguments: Any) -> None:
        planned(*arguments)
        (tmp_path / "data" / "images" / "2.png").write_bytes(png(50))

    monkeypatch.setattr(ingest_module, "write_plan", late)
    with pytest.raises(SourceError, match=r"row 2: .*2\.png changed while it was ingested.*--rehash"):
        ingest(config, {}, runtime)


def test_a_run_that_died_leaves_nothing_that_counts_and_the_next_one_is_whole(tmp_path: Path, runtime: Runtime) -> None:
    config = make_config(make_source(tmp_path / "data", 20))
    whole = ingest(config, {}, Runtime(Store(tmp_path / "other")))

    def dies(what: str, function: Any, arguments: Sequence[tuple[Any, ...]], workers: int) -> list[Any]:
        function(*arguments[0])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingest(config, {}, dataclasses.replace(runtime, map=dies))
    noting, read = counting(runtime)
    made = ingest(config, {}, noting)
    assert (made.fingerprint, made.files) == (whole.fingerprint, whole.files)
    assert len(read) == 2
    assert not [path for path in runtime.store.walk("staging") if "plan" in path]


def test_every_file_of_a_staging_is_named_in_its_manifest(tmp_path: Path, runtime: Runtime) -> None:
    made = ingest(make_config(make_source(tmp_path / "data", 10)), {}, runtime)
    named = {entry.path for entry in made.files} | {f"{made.folder}/manifest.json"}
    assert set(runtime.store.walk("staging")) == named
    assert damaged(runtime.store, made, rehash=True) == []


@pytest.mark.parametrize("role", ["tar", "index", "facts", "rejections", "batch"])
def test_a_batch_with_a_damaged_file_is_made_again(tmp_path: Path, runtime: Runtime, role: str) -> None:
    config = make_config(make_source(tmp_path / "data", 10))
    made = ingest(config, {}, runtime)
    entry = made.by_role(role)[0]
    good = runtime.store.read(entry.path)
    runtime.store.write(entry.path, good[:-1])
    ingest(config, {}, runtime)
    assert runtime.store.read(entry.path) == good
    runtime.store.write(entry.path, good[:-1] + bytes([good[-1] ^ 1]))
    ingest(config, {}, dataclasses.replace(runtime, verify=True))
    assert runtime.store.read(entry.path) == good


def test_staged_bytes_that_changed_are_refused(tmp_path: Path, runtime: Runtime) -> None:
    made = ingest(make_config(make_source(tmp_path / "data", 3)), {}, runtime)
    path = runtime.store.local_path(made.by_role("tar")[0].path)
    with TarReader.open(path) as reader:
        member = reader.index.members[-1]
    data = bytearray(path.read_bytes())
    data[member.offset] ^= 1
    path.write_bytes(data)
    with staging.StagedMedia(runtime.store, made) as media, pytest.raises(IntegrityError):
        media.read(2, "text", "txt")


def test_a_file_over_the_cap_is_rejected_without_being_read(
    tmp_path: Path, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = make_source(tmp_path / "data", 2, {0: {"audio": ""}, 1: {"audio": ""}})
    config = make_config(table, validate={"checks": {"max_image_bytes": 100}})
    monkeypatch.setattr(reading, "read_uri", lambda *arguments, **options: pytest.fail("read"))
    assert ingest(config, {}, runtime).facts["reasons"] == {"too_many_bytes": 2}


def test_batches_end_before_their_media_grow_too_large(tmp_path: Path, runtime: Runtime) -> None:
    table = make_source(tmp_path / "data", 10)
    size = len(png(0)) + len(wav(0))
    made = ingest(make_config(table, ingest={"batch_bytes": 4 * size}), {}, runtime)
    assert [entry.facts["rows"] for entry in made.by_role("facts")] == [4, 4, 2]


def test_work_is_plain_data_that_can_be_done_twice(tmp_path: Path, runtime: Runtime) -> None:
    done = []

    def mapped(what: str, function: Any, arguments: Sequence[tuple[Any, ...]], workers: int) -> list[Any]:
        done.extend(json.loads(json.dumps(arguments)))
        return [function(*each) for each in done for _ in range(2)]

    made = ingest(make_config(make_source(tmp_path / "data", 10)), {}, dataclasses.replace(runtime, map=mapped))
    assert (len(done), made.facts["rows"]) == (2, 10)


def test_thresholds_are_part_of_the_identity(tmp_path: Path, runtime: Runtime) -> None:
    table = make_source(tmp_path / "data", 4)
    strict = make_config(table, validate={"checks": {"min_audio_seconds": 0.2}})
    first, second = ingest(make_config(table), {}, runtime), ingest(strict, {}, runtime)
    assert first.fingerprint != second.fingerprint
    assert (second.version, second.facts["reasons"]) == (2, {"too_short": 4})


def test_an_empty_table_and_a_missing_column_are_the_users_to_mend(tmp_path: Path, runtime: Runtime) -> None:
    table = make_source(tmp_path / "data", 0)
    with pytest.raises(SourceError, match="has no rows"):
        ingest(make_config(table), {}, runtime)
    config = configs.build({"name": "pairs", "source": {"path": str(table), "text": "captoin"}})
    with pytest.raises(ConfigError, match="did you mean 'caption'"):
        ingest(config, {}, runtime)


def test_folders_tars_and_embedded_bytes_are_staged_alike(tmp_path: Path, runtime: Runtime) -> None:
    files = {f"{row}.{ext}": data for row in range(3)
             for ext, data in (("png", png(row)), ("txt", b"words"), ("wav", wav(row)))}  # fmt: skip
    (tmp_path / "folder").mkdir()
    for name, data in files.items():
        (tmp_path / "folder" / name).write_bytes(data)
    (tmp_path / "x.tar").write_bytes(pack(files)[0])
    rows = [{"key": str(row), "text": "words", "image": png(row), "audio": wav(row)} for row in range(3)]
    pl.DataFrame(rows).write_parquet(tmp_path / "t.parquet")
    columns = {"key": "key", "text": "text", "image": "image", "audio": "audio"}
    sources = [
        {"kind": "folder", "path": str(tmp_path / "folder")},
        {"kind": "webdataset", "path": str(tmp_path / "x.tar")},
        {"kind": "table", "path": str(tmp_path / "t.parquet"), **columns},
    ]
    found = []
    for number, source in enumerate(sources):
        made = ingest(configs.build({"name": f"s{number}", "source": source}), {}, runtime)
        assert made.facts["rows"] == 3
        assert not [path for path in runtime.store.walk("staging") if "plan" in path]
        found.append((staging.read_facts(runtime.store, made).rows(), runtime.store.read(made.by_role("tar")[0].path)))
    assert found[0] == found[1] == found[2]


def test_a_remote_table_is_read_with_its_media(runtime: Runtime) -> None:
    remote = Store("memory://ingest-source")
    remote.write("pairs.csv", b"key,image\na,images/a.png\nb,images/nowhere.png\nc,../elsewhere/c.png\n")
    remote.write("images/a.png", png(1))
    source = {"path": "memory://ingest-source/pairs.csv", "key": "key", "image": "image"}
    made = ingest(configs.build({"name": "remote", "source": source}), {}, runtime)
    assert made.facts["reasons"] == {"file_missing": 1, "no_slots": 2, "path_refused": 1}
    with staging.StagedMedia(runtime.store, made) as media:
        assert media.read(0, "image", "png") == png(1)


class _Web(http.server.SimpleHTTPRequestHandler):
    """A web server that lists no folders, drops some connections without a word, is busy at times, and keeps count."""

    asked: ClassVar[list[str]] = []
    looked_up: ClassVar[list[str]] = []
    busy_every = 0

    def do_HEAD(self) -> None:
        self.looked_up.append(self.path)
        super().do_HEAD()

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path.endswith("/") or self.path == "/dropped.png":
            self.close_connection = True
        elif self.busy_every and len(self.asked) % self.busy_every == 0:
            self.send_error(503)
        elif self.path == "/open.png":
            # its length is not told: the end of the connection is the end of the file
            self.send_response(200)
            self.end_headers()
            self.wfile.write((Path(self.directory) / "1.png").read_bytes())
        else:
            super().do_GET()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        return


WEB_ROWS = 12


@contextlib.contextmanager
def on_the_web(folder: Path, special: Mapping[int, str], busy_every: int = 0) -> Iterator[Config]:
    """A table of WEB_ROWS pictures that a server has; special: row → another file's name."""
    table = make_source(folder, WEB_ROWS)
    web = type("Web", (_Web,), {"asked": [], "looked_up": [], "busy_every": busy_every})
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(web, directory=str(folder / "images"))
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        lines = [f"k{row},{address}/{special.get(row, row)}.png" for row in range(WEB_ROWS)]
        table.with_name("web.csv").write_text("\n".join(["key,image", *lines]) + "\n")
        source = {"kind": "table", "path": str(table.with_name("web.csv")), "key": "key", "image": "image",
                  "allow_roots": [address]}  # fmt: skip
        _Web.asked, _Web.looked_up = web.asked, web.looked_up
        yield configs.build({"name": "web", "source": source})
        server.shutdown()


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "FIRST_WAIT_SECONDS", 0.001)


@pytest.mark.usefixtures("no_waiting")
def test_media_on_a_web_server_are_read_and_a_dropped_connection_is_a_rejection(
    tmp_path: Path, runtime: Runtime
) -> None:
    with on_the_web(tmp_path / "source", {3: "dropped"}) as config:
        made = ingest(config, {}, runtime)
    assert (made.facts["rows"], made.facts["inputs"]) == (WEB_ROWS - 1, WEB_ROWS)
    assert made.facts["reasons"] == {"file_unreadable": 1, "no_slots": 1}
    digests = staging.read_facts(runtime.store, made)["image.sha256"].to_list()
    assert digests[0] == sha256((tmp_path / "source" / "images" / "0.png").read_bytes())


@pytest.mark.usefixtures("no_waiting")
def test_a_busy_server_is_asked_again_and_every_file_is_read_once(tmp_path: Path, runtime: Runtime) -> None:
    with on_the_web(tmp_path / "source", {}, busy_every=5) as config:
        (outcome,) = steps.run(config, runtime, ("ingest",))
        asked = list(_Web.asked)
    made = outcome.artifact
    assert (made.facts["rows"], made.facts["reasons"]) == (WEB_ROWS, {})
    fetches = made.circumstance["fetches"]
    assert fetches["retries"] >= 2
    # those that were answered
    assert len(asked) - len(asked) // 5 == WEB_ROWS
    with on_the_web(tmp_path / "calm", {}) as config:
        calm = ingest(config, {}, dataclasses.replace(runtime, store=Store(tmp_path / "other")))
    assert [each.sha256 for each in calm.by_role("tar")] == [each.sha256 for each in made.by_role("tar")]
    assert calm.circumstance["fetches"]["retries"] == 0


def test_a_new_web_file_costs_one_request_and_a_known_one_a_look(tmp_path: Path, runtime: Runtime) -> None:
    with on_the_web(tmp_path / "source", {}) as config:
        first = source_digest(config, runtime)
        assert (sorted(set(_Web.asked)), len(_Web.asked), _Web.looked_up) == (sorted(_Web.asked), WEB_ROWS, [])
        assert source_digest(config, runtime) == first
        assert (len(_Web.asked), len(_Web.looked_up)) == (WEB_ROWS, WEB_ROWS)


@pytest.mark.usefixtures("no_waiting")
def test_a_file_whose_length_is_not_told_is_read_whole(tmp_path: Path, runtime: Runtime) -> None:
    with on_the_web(tmp_path / "source", {4: "open"}) as config:
        made = ingest(config, {}, runtime)
    assert made.facts["rows"] == WEB_ROWS
    assert staging.read_facts(runtime.store, made)["image.sha256"][4] == sha256(png(1))


@pytest.mark.usefixtures("no_waiting")
def test_a_server_that_is_gone_ends_the_run_with_the_cause(tmp_path: Path, runtime: Runtime) -> None:
    with on_the_web(tmp_path / "source", {}) as config:
        pass
    config = config.model_copy(update={"ingest": IngestConfig(max_consecutive_failures=5)})
    with pytest.raises(SourceError, match=r"media of 5 rows in a row.*cannot be opened"):
        ingest(config, {}, runtime)
