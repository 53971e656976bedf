"""Scans from every kind of source: pictures are staged and sharded, and no header is left anywhere in the store."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import polars as pl
import pytest

from mmgen import config as configs
from mmgen.artifact import Artifact
from mmgen.config import Config
from mmgen.identity import config_part
from mmgen.ingest import ingest, source_digest
from mmgen.modalities.image import ImageMedia
from mmgen.runtime import Runtime
from mmgen.shards import shard
from mmgen.sources.table import open_source
from mmgen.staging import read_facts
from mmgen.store import Store
from mmgen.tars import TarWriter
from mmgen.validate import validate
from tests.phantoms import PATIENT, dicom, nifti, rejections_of
from tests.unit.sources.media import png, wav

SECRETS = (PATIENT.encode(), b"Zaphodine", b"Beeblebroxia")


def scans() -> dict[str, bytes]:
    """Key → a scan; each shows something else."""

    def noise(seed: int) -> Any:
        return np.random.default_rng(seed).integers(0, 2000, (3, 20, 24)).astype("int16")

    return {
        "ct": dicom(noise(0), BurnedInAnnotation="YES"),
        "mr": nifti(noise(1)),
        "pet": gzip.compress(nifti(noise(2)), mtime=0),
        "xr": dicom(noise(3)[0], PhotometricInterpretation="MONOCHROME1"),
        # more than the files of other tests: splits want some of each
        **{f"n{number}": dicom(noise(number + 9)[0]) for number in range(8)},
    }


NAMES = {"ct": "ct.dcm", "mr": "mr.nii", "pet": "pet.nii.gz", "xr": "xr.png"}


def write_files(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for key, data in scans().items():
        (folder / NAMES.get(key, f"{key}.dcm")).write_bytes(data)


def table_of_paths(folder: Path) -> dict[str, Any]:
    write_files(folder)
    lines = ["id,scan", *(f"{key},{NAMES.get(key, f'{key}.dcm')}" for key in scans())]
    (folder / "table.csv").write_text("\n".join(lines))
    return {"kind": "table", "path": str(folder / "table.csv"), "key": "id", "image": "scan"}


def table_of_bytes(folder: Path) -> dict[str, Any]:
    folder.mkdir(parents=True)
    pl.DataFrame({"id": list(scans()), "scan": list(scans().values())}).write_parquet(folder / "table.parquet")
    return {"kind": "table", "path": str(folder / "table.parquet"), "key": "id", "image": "scan"}


def saved(folder: Path) -> dict[str, Any]:
    rows = {"id": list(scans()), "scan": [{"bytes": data, "path": None} for data in scans().values()]}
    datasets.Dataset.from_dict(rows).save_to_disk(str(folder))
    return {"kind": "hf_dataset", "path": str(folder), "key": "id", "image": "scan"}


def files(folder: Path) -> dict[str, Any]:
    write_files(folder)
    return {"kind": "folder", "path": str(folder)}


def tree(folder: Path) -> dict[str, Any]:
    write_files(folder)
    return {"kind": "image_folder", "path": str(folder)}


def archive(folder: Path) -> dict[str, Any]:
    folder.mkdir(parents=True)
    with (folder / "a.tar").open("wb") as stream:
        tar = TarWriter(stream)
        for key, data in sorted(scans().items()):
            tar.add(f"{key}.{NAMES.get(key, 'x.dcm').partition('.')[2]}", data)
        tar.close()
    return {"kind": "webdataset", "path": str(folder / "a.tar")}


KINDS = {each.__name__: each for each in (table_of_paths, table_of_bytes, saved, files, tree, archive)}


def config_of(source: dict[str, Any], **parts: Any) -> Config:
    return configs.build({"name": "scans", "source": source, **parts})


def line(config: Config, store: Path) -> tuple[Artifact, Artifact, Runtime]:
    runtime = Runtime(Store(store))
    staging = ingest(config, {}, runtime)
    verdicts = validate(config, {"staging": staging}, runtime)
    return staging, shard(config, {"staging": staging, "verdicts": verdicts}, runtime), runtime


def unpacked(path: Path) -> bytes:
    """A file's bytes, and those of its columns if it is a table: parquet packs what it holds."""
    data = path.read_bytes()
    if path.suffix == ".parquet":
        data += json.dumps(pl.read_parquet(io.BytesIO(data)).to_dicts(), default=str).encode()
    return data


@pytest.mark.parametrize("kind", KINDS)
def test_no_byte_of_the_store_names_the_patient(kind: str, tmp_path: Path) -> None:
    config = config_of(KINDS[kind](tmp_path / "source"))
    staging, version, runtime = line(config, tmp_path / "store")
    found = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
    assert len(found) > 10
    told = [path for path in found if any(secret in unpacked(path) for secret in SECRETS)]
    assert not told
    assert staging.facts["rows"] == version.facts["counts"]["kept"] == len(scans())
    facts = read_facts(runtime.store, staging)
    assert set(facts["image.ext"]) == {"png"}
    flags = {(each.key, each.reason) for each in rejections_of(runtime.store, staging)}
    assert {key for key, reason in flags if reason == "phi_header"} == set(scans())
    assert ("ct", "burned_in_annotation") in flags


def test_every_kind_of_source_stages_the_same_pictures(tmp_path: Path) -> None:
    digests = {}
    for kind, write in KINDS.items():
        runtime = Runtime(Store(tmp_path / kind / "store"))
        staging = ingest(config_of(write(tmp_path / kind / "source")), {}, runtime)
        facts = read_facts(runtime.store, staging)
        digests[kind] = dict(zip(facts["key"], facts["image.sha256"], strict=True))
    assert all(each == digests["files"] for each in digests.values()), digests


def test_no_plan_that_was_left_behind_names_the_patient(tmp_path: Path) -> None:
    """The look at the source that decides about a run writes plans with the bytes that it read."""
    for kind in ("table_of_bytes", "saved"):
        store = Store(tmp_path / kind / "store")
        source_digest(config_of(KINDS[kind](tmp_path / kind / "source")), Runtime(store), prepare=True)
        plans = list((tmp_path / kind).rglob("*.plan.tar"))
        assert plans
        assert not [path for path in plans if any(secret in path.read_bytes() for secret in SECRETS)]


def test_remote_scans_are_read_once_and_leave_nothing(tmp_path: Path) -> None:
    remote = Store(f"memory:///{tmp_path.name}/scans")
    for key, data in scans().items():
        remote.write(NAMES.get(key, f"{key}.dcm"), data)
    config = config_of({"kind": "folder", "path": remote.uri})
    store = tmp_path / "store"
    source_digest(config, Runtime(Store(store)), prepare=True)
    staging, _, runtime = line(config, store)
    assert set(read_facts(runtime.store, staging)["key"]) == set(scans())
    for path in store.rglob("*"):
        assert path.is_dir() or not any(secret in unpacked(path) for secret in SECRETS), path


def test_a_rejected_scan_leaves_nothing_either(tmp_path: Path) -> None:
    good, folder = scans(), tmp_path / "source"
    folder.mkdir()
    rows = {
        "id": ["cut", "sound", "fine"], "scan": [good["ct"][:-9], png(1), png(2)],
        "voice": [wav(1), good["ct"], wav(2)],
    }  # fmt: skip
    pl.DataFrame(rows).write_parquet(folder / "t.parquet")
    source = {"kind": "table", "path": str(folder / "t.parquet"), "key": "id", "image": "scan", "audio": "voice"}
    runtime = Runtime(Store(tmp_path / "store"))
    staging = ingest(config_of(source), {}, runtime)
    found = {(each.key, each.slot, each.reason) for each in rejections_of(runtime.store, staging)}
    assert found == {("cut", "image", "truncated"), ("sound", "audio", "not_audio")}
    for path in (tmp_path / "store").rglob("*"):
        assert path.is_dir() or not any(secret in unpacked(path) for secret in SECRETS), path


def test_a_name_that_claims_another_type_is_flagged(tmp_path: Path) -> None:
    runtime = Runtime(Store(tmp_path / "store"))
    staging = ingest(config_of(files(tmp_path / "source")), {}, runtime)
    flags = {each.key: each.message for each in rejections_of(runtime.store, staging) if each.reason == "type_mismatch"}
    assert flags == {"xr": "its name says png, its bytes are dicom"}


def test_scanners_files_without_an_extension_are_found_and_the_index_is_none(tmp_path: Path) -> None:
    for name in ("IM0001", "series/1.2.840.7", "series/1.2.840.8", "DICOMDIR"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(scans()["ct"])
    (tmp_path / "README").write_text("no scan")
    config = config_of({"kind": "folder", "path": str(tmp_path)})
    rows = list(open_source(config.source, config.slots).rows())
    assert [row.sample.key for row in rows if row.sample] == ["IM0001", "series/1.2.840.7", "series/1.2.840.8"]


def test_settings_are_identity_and_leave_what_was_read_without_them(tmp_path: Path) -> None:
    source = files(tmp_path / "source")
    plain = config_of(source)
    part = config_part("ingest", plain)["source"]
    assert "scan" not in part
    assert "clip" not in part
    other = config_of({**source, "scan": {"window": [40, 400], "position": 0.25}})
    assert config_part("ingest", other)["source"]["scan"]["window"] == [40, 400]
    runtime = Runtime(Store(tmp_path / "store"))
    assert source_digest(plain, runtime) != source_digest(other, runtime)
    one, two = (read_facts(runtime.store, ingest(each, {}, runtime)) for each in (plain, other))
    assert not set(one["image.sha256"]) & set(two["image.sha256"])


def test_the_configured_slice_is_what_is_staged(tmp_path: Path) -> None:
    source = files(tmp_path / "source")
    config = config_of({**source, "scan": {"axis": "y", "window": [1000, 2000], "position": 0}})
    _, version, _ = line(config, tmp_path / "store")
    import mmgen

    with mmgen.open(f"{version.name}@{version.version}", store=str(tmp_path / "store")) as dataset:
        pixels = ImageMedia().decode(dataset["ct"].values["image"])
    wanted = np.random.default_rng(0).integers(0, 2000, (3, 20, 24))[:, 0]
    assert np.array_equal(pixels[:, :, 0], np.round(np.clip(wanted / 2000, 0, 1) * 255))
