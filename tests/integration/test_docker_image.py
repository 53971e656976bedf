"""docker/: the compose file says what it should, and the ingest image builds and ingests without torch."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
ROWS = 50

# ---------------------------------------------------------------- compose.yaml


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    return found


def test_compose_has_every_part_of_a_deployment(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert {"database", "objects", "orchestrator", "registry", "worker-cpu", "worker-gpu"} <= set(services)
    assert services["worker-gpu"]["profiles"] == ["gpu"]
    assert "profiles" not in services["worker-cpu"]
    (device,) = services["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]


def test_compose_listens_on_this_machine_only(compose: dict[str, Any]) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert len(ports) >= 2
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_compose_keeps_secrets_in_files(compose: dict[str, Any]) -> None:
    ignored = (ROOT / ".gitignore").read_text().split()
    assert "/docker/secrets/" in ignored
    for name, secret in compose["secrets"].items():
        assert secret == {"file": f"./secrets/{name}"}
    for name, service in compose["services"].items():
        environment = service.get("environment", {})
        for variable, value in environment.items():
            if re.search(r"PASSWORD|SECRET|TOKEN|ACCESS_KEY|ROOT_USER", variable):
                assert variable.endswith("_FILE"), f"{name}: {variable} is not read from a file"
                assert value.removeprefix("/run/secrets/") in service["secrets"], f"{name}: {variable}"
        for variable, value in environment.items():
            assert not re.search(r"://[^/@]*:[^/@]*@", str(value)), f"{name}: a password in {variable}"


def test_compose_asks_each_service_for_its_health(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        once = service.get("restart") == "no"
        check = service.get("healthcheck")
        assert check == {"disable": True} if once else check or "worker" in name, f"{name}: no health check"
        for other, how in service.get("depends_on", {}).items():
            wanted = (
                "service_completed_successfully" if compose["services"][other]["restart"] == "no" else "service_healthy"
            )
            assert how["condition"] == wanted, f"{name} waits for {other}"
    assert "HEALTHCHECK" in (DOCKER / "worker.Dockerfile").read_text()


def test_compose_mounts_and_builds_from_files_that_are_there(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        if "build" in service:
            context = (DOCKER / service["build"]["context"]).resolve()
            assert context == ROOT
            dockerfile = (context / service["build"]["dockerfile"]).read_text()
            for argument in service["build"]["args"]:
                assert re.search(rf"^ARG {argument}\b", dockerfile, re.MULTILINE), argument
        for volume in service.get("volumes", []):
            source = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", volume).split(":")[0]
            if source == "./data":  # the user's, made when it is missing
                continue
            assert (DOCKER / source).exists() if source.startswith(".") else source in compose["volumes"], volume


def _answers(*command: str) -> bool:
    return bool(shutil.which(command[0])) and subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_compose_is_understood_by_docker(compose: dict[str, Any], tmp_path: Path) -> None:
    found = [each for each in (["docker", "compose"], ["docker-compose"]) if _answers(*each, "version")]
    if not found:
        pytest.skip("docker compose is not installed")
    # the first docker-compose knows no project name in the file
    plain = tmp_path / "docker" / "compose.yaml"
    plain.parent.mkdir()
    plain.write_text(re.sub(r"^name:.*\n", "", (DOCKER / "compose.yaml").read_text(), flags=re.MULTILINE))
    run = subprocess.run(
        [*found[0], "-f", str(plain), "--profile", "gpu", "config", "--services"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert set(run.stdout.split()) >= {
        name for name, service in compose["services"].items() if "profiles" not in service
    }


@pytest.mark.parametrize("name", ["worker.Dockerfile", "ingest.Dockerfile"])
def test_an_image_runs_without_rights_and_from_locked_versions(name: str) -> None:
    text = (DOCKER / name).read_text()
    last = text.rsplit("\nFROM ", 1)[1]
    (user,) = re.findall(r"^USER (\d+):\d+$", last, re.MULTILINE)
    assert int(user) >= 1000
    assert re.search(r"^ARG BASE=", text, re.MULTILINE)
    assert "ARG PACKAGE_INDEX" in text
    (lock,) = re.findall(r"COPY docker/(\w+\.lock)", text)
    assert (DOCKER / lock).exists()
    assert "pip install" not in text


def test_secret_files_become_variables_of_the_command_alone(tmp_path: Path) -> None:
    script = (DOCKER / "with_secrets.sh").read_text()
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "password").write_text("pass word='1'")
    here = tmp_path / "with_secrets.sh"
    here.write_text(script.replace("/run/secrets/", f"{secrets}/"))
    environment = {"PATH": os.environ["PATH"], "PGPASSWORD_FILE": f"{secrets}/password", "OTHER_FILE": "/etc/hostname"}
    run = subprocess.run(
        ["sh", str(here), "sh", "-c", 'printf "%s|%s" "$PGPASSWORD" "${OTHER-unset}"'],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert run.stdout == "pass word='1'|unset"


# ---------------------------------------------------------------- the ingest image, for real


class Buildah:
    """buildah without a daemon, with a store of its own."""

    def __init__(self, folder: Path) -> None:
        self.stores = ["--root", str(folder / "images"), "--runroot", str(folder / "run")]
        self.environment = os.environ | {"BUILDAH_ISOLATION": "chroot", "STORAGE_DRIVER": "vfs"}

    def __call__(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = ["buildah", *self.stores, *arguments]
        run = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False, timeout=900)
        assert run.returncode == 0 or not check, f"{' '.join(command)}\n{run.stdout[-2000:]}\n{run.stderr[-4000:]}"
        return run


@pytest.fixture(scope="module")
def buildah(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Buildah]:
    missing = [name for name in ("buildah", "debootstrap") if shutil.which(name) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"needs root and {', '.join(missing) or 'nothing else'}")
    folder = tmp_path_factory.mktemp("buildah")
    yield Buildah(folder)
    # layers hold files that only unshared users may remove otherwise
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def base(buildah: Buildah, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A base image that no registry is needed for: Debian's own packages, committed from scratch."""
    root = tmp_path_factory.mktemp("base")
    subprocess.run(
        ["debootstrap", "--variant=minbase", "--include=python3,python3-venv", "bookworm", str(root)],
        check=True, capture_output=True, timeout=600,
    )  # fmt: skip
    container = buildah("from", "scratch").stdout.strip()
    buildah("copy", "--quiet", container, str(root), "/")
    buildah(
        "config",
        "--env",
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "--cmd",
        "bash",
        container,
    )
    buildah("commit", "--quiet", "--rm", container, "mmgen-test-base")
    shutil.rmtree(root, ignore_errors=True)
    return "localhost/mmgen-test-base"


def _pip_secrets(folder: Path) -> list[str]:
    """This machine's pip configuration and certificates as the build's secrets."""
    run = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    settings = dict(line.split("=", 1) for line in run.stdout.splitlines() if "=" in line)
    values = {key.split(".", 1)[1]: value.strip("'\"") for key, value in settings.items()}
    # where packages come from; files of this machine cannot be seen from inside
    lines = [f"{key} = {value}" for key, value in values.items() if "://" in value and "file:" not in value]
    configuration = folder / "pip.conf"
    configuration.write_text("\n".join(["[global]", *lines, ""]))
    secrets = ["--secret", f"id=pip,src={configuration}"]
    certificates = values.get("cert") or os.environ.get("SSL_CERT_FILE")
    return [*secrets, "--secret", f"id=certificates,src={certificates}"] if certificates else secrets


def _fifty_rows(folder: Path) -> Path:
    """A user's table of 50 pairs, one of them without its picture."""
    (folder / "pictures").mkdir(parents=True)
    rows = []
    for number in range(ROWS):
        name = f"pictures/{number}.png"
        if number != 7:
            # noise, for pictures of one colour are blank, and alike
            pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name)
        rows.append({"id": f"pair-{number}", "caption": f"noise of the number {number}", "picture": name})
    with open(folder / "pairs.csv", "w", newline="") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    source = {"kind": "table", "path": "pairs.csv", "key": "id", "text": "caption", "image": "picture"}
    (folder / "pairs.yaml").write_text(yaml.safe_dump({"name": "pairs", "source": source}))
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o777 if path.is_dir() else 0o666)
    return folder


@pytest.mark.slow
def test_the_ingest_image_ingests_without_torch(buildah: Buildah, base: str, tmp_path: Path) -> None:
    buildah(
        "build", "--format", "docker", "--file", str(DOCKER / "ingest.Dockerfile"), "--tag", "mmgen-ingest",
        "--build-arg", f"BASE={base}", *_pip_secrets(tmp_path), str(ROOT),
    )  # fmt: skip
    about = json.loads(buildah("inspect", "--type", "image", "mmgen-ingest").stdout)["Docker"]["config"]
    assert about["User"] == "10001:10001"
    assert about["Healthcheck"]["Test"] == ["CMD", "mmgen", "--help"]
    assert about["Entrypoint"] == ["mmgen"]

    data = _fifty_rows(tmp_path / "data")
    container = buildah("from", "localhost/mmgen-ingest").stdout.strip()

    def inside(*command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return buildah("run", "--volume", f"{data}:/data", container, "--", *command, check=check)

    assert inside("id", "-u").stdout.strip() == "10001"
    probe = "import importlib.util as u; print([n for n in ('torch', 'mlflow', 'sklearn') if u.find_spec(n)])"
    assert inside("python", "-c", probe).stdout.strip() == "[]"
    assert inside("sh", "-c", "cat /etc/pip.conf /etc/build-certificates.pem", check=False).returncode != 0

    def step(name: str) -> dict[str, Any]:
        run = inside("mmgen", name, "/data/pairs.yaml", "--store", "/data/store", "--json")
        found: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
        assert [each["step"] for each in found["steps"]] == [name]
        return found

    assert step("ingest")["steps"][0]["ran"]
    (manifest,) = (data / "store" / "staging").glob("*/manifest.json")
    facts = json.loads(manifest.read_text())["facts"]
    assert (facts["inputs"], facts["reasons"]) == (ROWS, {"file_missing": 1})
    assert not step("ingest")["steps"][0]["ran"]
    step("validate")
    assert step("shard")["counts"] == {"inputs": ROWS, "kept": ROWS - 1, "quarantined": 1, "dropped": 0}
    buildah("rm", container)
