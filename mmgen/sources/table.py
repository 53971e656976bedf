"""The kinds of sources by name, and how a configuration opens one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping

from mmgen.errors import ConfigError, StoreError, unknown_name
from mmgen.modalities.config import SlotConfig
from mmgen.records import Modality
from mmgen.sources.archives import ArchiveSource, expand
from mmgen.sources.config import SourceConfig
from mmgen.sources.folder import FolderSource, ImageFolderSource
from mmgen.sources.rows import Columns, Source
from mmgen.sources.saved import SavedSource
from mmgen.sources.tabular import TableSource
from mmgen.sources.video import VideoSource
from mmgen.uris import list_uri, stat_uri


def _table(config: SourceConfig, slots: Mapping[str, SlotConfig]) -> Source:
    return TableSource(config, columns(config, slots))


def _saved(config: SourceConfig, slots: Mapping[str, SlotConfig]) -> Source:
    return SavedSource(config, columns(config, slots))


SOURCES: dict[str, Callable[[SourceConfig, Mapping[str, SlotConfig]], Source]] = {
    "table": _table,
    "folder": FolderSource,
    "image_folder": ImageFolderSource,
    "webdataset": ArchiveSource,
    "hf_dataset": _saved,
    "video": VideoSource,
}


def open_source(config: SourceConfig, slots: Mapping[str, SlotConfig]) -> Source:
    """The source that `config` declares, with the slots that are active."""
    if config.kind not in SOURCES:
        raise ConfigError(f"source.kind: {unknown_name('kind', config.kind, SOURCES)}")
    return SOURCES[config.kind](config, slots)


def stamp(config: SourceConfig) -> str | None:
    """A digest that is another one whenever the rows could be, media aside: sizes and change marks of what is read.

    None where telling it costs as much as reading: folders on a remote store.
    """
    found = hashlib.sha256()
    for path in expand(config.path) if config.kind == "webdataset" else [config.path]:
        folder = "://" not in path and os.path.isdir(path)
        if not folder and config.kind in ("folder", "image_folder", "hf_dataset", "video"):
            return None
        for each in list_uri(path) if folder else [path]:
            try:
                size, mark = stat_uri(each)
            except (OSError, StoreError):
                return None
            if not mark:
                # it may have changed
                return None
            found.update(f"{each}\0{size}\0{mark}\0".encode("utf-8", "surrogateescape"))
    return found.hexdigest()


def columns(config: SourceConfig, slots: Mapping[str, SlotConfig]) -> Columns:
    """Which column fills what: a slot's own, else the source's for the slot of that name."""
    texts: dict[str, tuple[str, ...]] = {}
    media: dict[str, tuple[str, Modality]] = {}
    own = {"text": config.text, "image": config.image, "audio": config.audio}
    for slot, settings in slots.items():
        column = settings.column or own.get(slot) or slot
        if settings.modality == "text":
            texts[slot] = (column,) if isinstance(column, str) else tuple(column)
        else:
            media[slot] = (column if isinstance(column, str) else column[0], settings.modality)
    every = config.meta == "*"
    return Columns(
        config.key, texts, media, config.label, config.group, config.split, () if every else tuple(config.meta),
        every, config.language,
    )  # fmt: skip
