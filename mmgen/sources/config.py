"""What a user says about a source, and how it is read."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mmgen.settings import Settings


class SourceConfig(Settings):
    """A source and which of its columns are what. Columns of slots beyond these three are named in `slots`."""

    kind: Literal["table", "folder", "image_folder", "webdataset", "hf_dataset"] = "table"
    #: file (table), folder, tree of [split/]class/file (image_folder), tar / brace pattern / folder of tars
    #: (webdataset), what `save_to_disk` of Hugging Face datasets wrote (hf_dataset); relative to the configuration file
    path: str
    #: column of the key; None: the row number (table) or the file's stem (folder, webdataset)
    key: str | None = None
    #: column(s) of the text slot; several are alternatives
    text: str | tuple[str, ...] | None = None
    image: str | None = None
    audio: str | None = None
    label: str | None = None
    #: samples of one group never part into two splits
    group: str | None = None
    #: the user's own split column: it rules, and is checked
    split: str | None = None
    #: the column that names a sample's language, kept as metadata "language"
    language: str | None = None
    #: further columns kept as metadata; "*": all that are nothing else
    meta: tuple[str, ...] | Literal["*"] = ()
    #: folders and addresses outside the source's own that its paths may name; `https://` alone: all public hosts
    allow_roots: tuple[str, ...] = ()
    #: look for media beside a table that no row names; false spares the listing of a huge folder
    list_unnamed: bool = True


class IngestConfig(Settings):
    """How a source is read."""

    #: rows of one staging batch, the unit of work and of reuse
    batch_rows: int = Field(512, ge=1)
    #: a batch ends before its media grow beyond this, however few its rows
    batch_bytes: int = Field(256 << 20, ge=1)
    #: this many rows in a row whose media cannot be opened stop the run: the source has gone away
    max_consecutive_failures: int = Field(100, ge=1)
