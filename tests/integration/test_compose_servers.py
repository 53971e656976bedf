"""docker/compose.yaml's servers for real: its own commands and settings, as processes over PostgreSQL and an S3 store.

Only what names another container is put in this machine's place: host names, ports and the folder of secrets.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import psycopg2
import pytest
import yaml

from tests.integration.servers import free_port, postgres, process, s3_server

pytestmark = pytest.mark.slow

DOCKER = Path(__file__).parents[2] / "docker"
INSIDE = {"database": 5432, "objects": 9000, "orchestrator": 4200, "registry": 5000}
SECRETS = {"database_password": "of the database", "objects_user": "someone", "objects_password": "of the objects"}


class Deployment:
    """Services of compose.yaml as processes of this machine. ports: service → what stands for it here."""

    def __init__(self, folder: Path, ports: dict[str, int]) -> None:
        self.services: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
        self.folder, self.ports = folder, ports
        (folder / "secrets").mkdir()
        for name, value in SECRETS.items():
            (folder / "secrets" / name).write_text(value)
        script = (DOCKER / "with_secrets.sh").read_text().replace("/run/secrets/", f"{folder}/secrets/")
        (folder / "with_secrets.sh").write_text(script)

    def here(self, text: str) -> str:
        """A setting or an argument, with this machine's places for the containers'."""
        for name, port in INSIDE.items():
            for host in (name, "127.0.0.1"):
                text = text.replace(f"{host}:{port}", f"127.0.0.1:{self.ports[name]}")
            text = text.replace(f"--port={port}", f"--port={self.ports[name]}")
        text = text.replace("/run/secrets", f"{self.folder}/secrets").replace("/app/docker", str(DOCKER))
        return text.replace("0.0.0.0", "127.0.0.1")

    def command(self, name: str) -> list[str]:
        """What a container of the service runs."""
        words = [self.here(word) for word in self.services[name]["command"]]
        return ["sh", str(self.folder / "with_secrets.sh"), *words]

    def environment(self, name: str) -> dict[str, str]:
        """The service's settings. In containers every server has a host of its own, here a port of its own."""
        settings = {key: self.here(str(value)) for key, value in self.services[name]["environment"].items()}
        if "PREFECT_SERVER_DATABASE_HOST" in settings:
            settings["PREFECT_SERVER_DATABASE_HOST"] = "127.0.0.1"
            settings["PREFECT_SERVER_DATABASE_PORT"] = str(self.ports["database"])
            settings["PREFECT_SERVER_API_PORT"] = str(self.ports[name])
        return settings | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PREFECT_HOME": str(self.folder / "prefect"),
        }

    def check(self, name: str) -> tuple[str, list[str]]:
        """The URL that the service's health check asks, and the check itself."""
        words = [self.here(word) for word in self.services[name]["healthcheck"]["test"][1:]]
        return words[-1].split("'")[1], [sys.executable, *words[1:]]

    def query(self, database: str, sql: str) -> list[tuple[Any, ...]]:
        """Rows that a database has for `sql`."""
        with psycopg2.connect(host="127.0.0.1", port=self.ports["database"], user="mmgen", dbname=database) as link:
            cursor = link.cursor()
            cursor.execute(sql)
            return cursor.fetchall()

    def buckets(self) -> set[str]:
        client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{self.ports['objects']}")
        return {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    """With its database and its object store running, and its buckets made."""
    with postgres() as database, s3_server(tmp_path / "s3") as objects:
        link = psycopg2.connect(database.replace("+psycopg2", ""))
        link.autocommit = True
        # as the database's image does with the service's settings, and then with databases.sql
        cursor = link.cursor()
        cursor.execute("CREATE ROLE mmgen SUPERUSER LOGIN PASSWORD %s", (SECRETS["database_password"],))
        for statement in (DOCKER / "databases.sql").read_text().split(";")[:-1]:
            cursor.execute(statement)
        link.close()
        ports = {"database": int(database.rsplit(":", 1)[1].split("/")[0]), "objects": int(objects.rsplit(":", 1)[1])}
        found = Deployment(tmp_path, ports | {"orchestrator": free_port(), "registry": free_port()})
        for _ in ("first", "again"):
            subprocess.run(found.command("buckets"), env=found.environment("buckets"), check=True, timeout=120)
        yield found


def test_the_orchestrator_answers_from_postgresql(deployment: Deployment) -> None:
    health, check = deployment.check("orchestrator")
    command, environment = deployment.command("orchestrator"), deployment.environment("orchestrator")
    with process(command, deployment.folder / "orchestrator.log", health, environment):
        subprocess.run(check, check=True, timeout=60)
        assert deployment.query("prefect", "SELECT count(*) FROM flow_run") == [(0,)]


def test_the_registry_keeps_runs_in_postgresql_and_artifacts_in_the_object_store(deployment: Deployment) -> None:
    assert {"mmgen", "mlflow"} <= deployment.buckets()
    health, check = deployment.check("registry")
    command, environment = deployment.command("registry"), deployment.environment("registry")
    with process(command, deployment.folder / "registry.log", health, environment):
        subprocess.run(check, check=True, timeout=60)
        _log_an_artifact(health.removesuffix("/health"), deployment.folder)
        assert deployment.query("mlflow", "SELECT name FROM experiments WHERE name = 'compose'") == [("compose",)]
    client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{deployment.ports['objects']}")
    (found,) = [each["Key"] for each in client.list_objects_v2(Bucket="mlflow")["Contents"]]
    assert found.endswith("/card.html")


def _log_an_artifact(url: str, folder: Path) -> None:
    """From a process that has no keys of the object store: the server passes artifacts on."""
    lines = [
        "import mlflow",
        f"mlflow.set_tracking_uri('{url}')",
        "mlflow.set_experiment('compose')",
        "with mlflow.start_run():",
        "    mlflow.log_text('<p>card</p>', 'card.html')",
    ]
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "MLFLOW_DISABLE_TELEMETRY": "true"}
    command = [sys.executable, "-c", "\n".join(lines)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert run.returncode == 0, run.stderr[-2000:]
