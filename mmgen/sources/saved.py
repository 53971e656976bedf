"""Data sets that Hugging Face `datasets` wrote with `save_to_disk`: Arrow files, read without that library."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from mmgen.errors import SourceError
from mmgen.sources.config import SourceConfig
from mmgen.sources.rows import Columns, Refused, Roots, Row, to_row
from mmgen.uris import open_uri, read_uri

#: the column that a DatasetDict's splits fill, unless the configuration names one
SPLIT = "__split__"


class SavedSource:
    """A saved Dataset, or a DatasetDict, whose splits rule. Media are embedded bytes, or paths within the folder."""

    def __init__(self, config: SourceConfig, columns: Columns) -> None:
        self.path = config.path.rstrip("/") if "://" in config.path else os.path.abspath(config.path)
        self.columns, self.roots = columns, Roots(self.path, config.allow_roots)

    def rows(self) -> Iterator[Row]:
        """Split after split, in the order of the files. See `Source.rows`."""
        splits = self._splits()
        columns = self.columns
        if splits != [None] and columns.split is None:
            columns = replace(columns, split=SPLIT)
        number = 0
        for split in splits:
            folder = f"{self.path}/{split}" if split else self.path
            features = self._json(f"{folder}/dataset_info.json").get("features") or {}
            self.columns.check(list(features), folder)
            mine, classes = columns.with_all_meta(list(features)), _classes(features)
            for record in self._records(folder):
                named = {name: _name(record.get(name), names) for name, names in classes.items()}
                yield to_row(number, {**record, **named, SPLIT: split}, mine, self.roots)
                number += 1

    def _splits(self) -> list[str | None]:
        path = f"{self.path}/dataset_dict.json"
        try:
            splits = self._json(path).get("splits")
        except FileNotFoundError:
            return [None]
        if not isinstance(splits, list) or not splits or not all(isinstance(each, str) for each in splits):
            raise SourceError(f"source.path: {path}: wanted a list of splits, came {splits!r:.80}")
        return list(splits)

    def _within(self, path: str) -> str:
        """`path`, which may not leave the folder: its files name each other. Raises SourceError."""
        try:
            return self.roots.resolve(path)
        except Refused as error:
            raise SourceError(f"source.path: {self.path}: names '{path}': {error}") from error

    def _json(self, path: str) -> dict[str, Any]:
        try:
            value = json.loads(read_uri(self._within(path)))
        except FileNotFoundError:
            if path.endswith("dataset_dict.json"):
                raise
            wanted = "wanted a folder that `save_to_disk` of Hugging Face datasets wrote"
            raise SourceError(f"source.path: {self.path}: {wanted}, {os.path.basename(path)} is not there") from None
        except ValueError as error:
            raise SourceError(f"source.path: {path}: not JSON: {error}") from error
        if not isinstance(value, dict):
            raise SourceError(f"source.path: {path}: wanted a JSON object, came {type(value).__name__}")
        return value

    def _records(self, folder: str) -> Iterator[Mapping[str, Any]]:
        import pyarrow as pa

        entries = self._json(f"{folder}/state.json").get("_data_files")
        listed = entries if isinstance(entries, list) else []
        names = [each.get("filename") for each in listed if isinstance(each, Mapping)]
        if not names or not all(isinstance(name, str) for name in names):
            raise SourceError(f"source.path: {folder}/state.json: wanted the names of data files, came {entries!r:.80}")
        for name in names:
            path = self._within(f"{folder}/{name}")
            try:
                with open_uri(path) as stream, pa.ipc.open_stream(stream) as reader:
                    for batch in reader:
                        yield from batch.to_pylist()
            except FileNotFoundError:
                raise SourceError(f"source.path: {path}: state.json names it, and it is not there") from None
            except pa.ArrowException as error:
                raise SourceError(f"source.path: {path}: a broken Arrow file: {error}") from error


def _classes(features: Mapping[str, Any]) -> dict[str, list[str]]:
    """Column → names of its classes, for columns that hold their numbers."""
    return {name: list(each["names"]) for name, each in features.items()
            if isinstance(each, Mapping) and each.get("_type") == "ClassLabel"}  # fmt: skip


def _name(number: Any, names: list[str]) -> str | None:
    """The name of a class; none for what is missing (null, -1)."""
    return names[number] if isinstance(number, int) and 0 <= number < len(names) else None
