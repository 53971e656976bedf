"""Where MLflow keeps its records. Free of mlflow itself, so that a run can be refused before anything starts."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mmgen.errors import ConfigError
from mmgen.store import Store

_DATABASE, _FILES = "mlflow.db", "mlflow-artifacts"


def tracking_uri(store: Store) -> str:
    """`$MLFLOW_TRACKING_URI`, else the URI of an SQLite file in the store.

    Raises ConfigError for a remote store without the variable: an SQLite URL there would silently make a local folder.
    """
    given = os.environ.get("MLFLOW_TRACKING_URI")
    if given:
        return given
    if not store.local:
        raise ConfigError(
            f"MLFLOW_TRACKING_URI: wanted the address of an MLflow server, because the store {store.uri} is remote and "
            "the default, an SQLite file in the store, needs a local one; came nothing: set it, "
            "e.g. MLFLOW_TRACKING_URI=http://mlflow:5000"
        )
    return f"sqlite:///{store.full(_DATABASE)}"


def shown(uri: str) -> str:
    """`uri` without a user's name and password.

    >>> shown("postgresql://me:secret@there/mlflow")
    'postgresql://there/mlflow'
    """
    scheme, separator, rest = uri.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}" if separator else uri


def embedded_files(store: Store) -> Path | None:
    """The folder for MLflow's files beside the embedded database; None where a server has its own place for them."""
    if os.environ.get("MLFLOW_TRACKING_URI") or not store.local:
        return None
    return Path(store.full(_FILES))


def set_moved_aside(store: Store) -> bool:
    """Rename the embedded database if its files lie elsewhere: the store was moved or copied, and MLflow's paths are
    absolute. It is a view, which the next registration makes again from the ledger. Whether it was renamed."""
    database, files = Path(store.full(_DATABASE)), os.path.realpath(store.full(_FILES))
    if not database.exists():
        return False
    with contextlib.closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
        try:
            found = connection.execute("SELECT artifact_location FROM experiments").fetchall()
        except sqlite3.Error:
            # still being made, or not a database: MLflow's own answer says more
            return False
    ours = [unquote(urlsplit(place).path) for (place,) in found if place and place.endswith(f"/{_FILES}")]
    if all(os.path.realpath(place) == files for place in ours):
        return False
    os.replace(database, database.with_name(f"{_DATABASE}.moved"))
    return True
