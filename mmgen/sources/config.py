"""What a user says about a source, and how it is read."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from mmgen.modalities.config import ScanConfig
from mmgen.settings import Settings


class ClipConfig(Settings):
    """How videos are cut. Each clip is a sample; its frames are `image`, or `frame_0`, `frame_1`… if they are more."""

    #: the last clip of a video is between half and one and a half times as long
    seconds: float = Field(2.0, ge=0.1, le=600)
    #: frames of a clip, from the middles of as many equal spans
    frames: int = Field(1, ge=1, le=64)
    #: longer videos are refused by their header
    max_video_seconds: float = Field(4 * 3600.0, gt=0)
    max_video_bytes: int = Field(8 << 30, ge=1)


def frame_slots(frames: int) -> list[str]:
    """The slots of a clip's frames, in their order."""
    return ["image"] if frames == 1 else [f"frame_{number}" for number in range(frames)]


class SourceConfig(Settings):
    """A source and which of its columns are what. Columns of slots beyond these three are named in `slots`."""

    kind: Literal["table", "folder", "image_folder", "webdataset", "hf_dataset", "video"] = "table"
    #: file (table), folder, tree of [split/]class/file (image_folder), tar / brace pattern / folder of tars
    #: (webdataset), what `save_to_disk` of Hugging Face datasets wrote (hf_dataset), video or folder of videos (video);
    #: relative to the configuration file
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
    scan: ScanConfig = ScanConfig()
    #: for videos
    clip: ClipConfig = ClipConfig()


class IngestConfig(Settings):
    """How a source is read."""

    #: rows of one staging batch, the unit of work and of reuse
    batch_rows: int = Field(512, ge=1)
    #: a batch ends before its media grow beyond this, however few its rows
    batch_bytes: int = Field(256 << 20, ge=1)
    #: this many rows in a row whose media cannot be opened stop the run: the source has gone away
    max_consecutive_failures: int = Field(100, ge=1)
