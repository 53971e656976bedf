"""Videos: each is cut into clips, and each clip is a sample with frames and sound.

`a/film.mp4` makes `a/film/00000000`, `a/film/00002000`, …: the film's path and the ms at which the clip starts. All
clips of a film are one group, unless the `.json` beside it names another. What stands in `a/film.txt` and
`a/film.json` is said of each of them.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from mmgen.errors import ConfigError, SourceError, StoreError
from mmgen.modalities.config import SlotConfig
from mmgen.records import Cut, MediaRef, Sample
from mmgen.sources.clips import HEAD_BYTES, Header, Unplayable, container_of, read_header
from mmgen.sources.config import SourceConfig, frame_slots
from mmgen.sources.grouped import EXTENSIONS, Grouping, Part
from mmgen.sources.rows import Refused, Roots, Row, rejected
from mmgen.uris import list_uri, read_uri, stat_uri

NAMES = frozenset((
    "mp4", "m4v", "mov", "3gp", "mkv", "webm", "avi", "mpg", "mpeg", "ts", "m2ts", "mts", "flv", "ogv", "wmv", "asf",
))  # fmt: skip


class VideoSource:
    """A video, or all videos below a folder: what is named like one, and local files that begin like one."""

    def __init__(self, config: SourceConfig, slots: Mapping[str, SlotConfig]) -> None:
        if importlib.util.find_spec("av") is None:
            raise ConfigError(
                "source.kind: video: PyAV is not installed: install mmgen with the extra 'video' "
                "(pip install 'mmgen[video]')"
            )
        path = config.path.rstrip("/") if "://" in config.path else os.path.abspath(config.path)
        self.path, self.single = path, not os.path.isdir(path) and ("://" not in path or _ext(path) in NAMES)
        self.base = os.path.dirname(path) if self.single else path
        self.roots, self.clip, self.grouping = (
            Roots(self.base, config.allow_roots),
            config.clip,
            Grouping(config, slots),
        )
        self.frames = [slot for slot in frame_slots(config.clip.frames) if slot in slots]
        self.sounds = [slot for slot in ("audio",) if slot in slots]

    def rows(self) -> Iterator[Row]:
        """Video after video in the order of their stems, clip after clip. See `Source.rows`."""
        number = 0
        for stem, (videos, sidecars) in sorted(self._groups().items()):
            for row in self._clips(number, stem, videos, sidecars):
                yield row
                number += 1

    def _groups(self) -> dict[str, tuple[list[str], list[Part]]]:
        """Stem → its videos and what stands beside them."""
        videos: dict[str, list[str]] = {}
        sidecars: dict[str, list[Part]] = {}
        for uri in self._listed():
            name = uri[len(self.base) :].lstrip("/")
            stem, ext = os.path.splitext(name)[0], _ext(name)
            if any(piece.startswith(".") for piece in name.split("/")):
                continue
            if ext == "json" or EXTENSIONS.get(ext) == "text":
                sidecars.setdefault(stem, []).append(self._sidecar(name, ext, uri))
            elif ext in NAMES or (ext not in EXTENSIONS and self._begins_like_one(uri)):
                videos.setdefault(stem, []).append(uri)
        return {stem: (found, sidecars.get(stem, [])) for stem, found in videos.items()}

    def _listed(self) -> list[str]:
        """The files that may matter. Raises SourceError if there is none."""
        if not self.single:
            return list_uri(self.path)
        if not _is_there(self.path):
            raise SourceError(f"source.path: {self.path}: no such video or folder")
        stem = os.path.splitext(self.path)[0]
        beside = [f"{stem}.{ext}" for ext, modality in EXTENSIONS.items() if modality == "text"]
        return [self.path, *filter(_is_there, [f"{stem}.json", *beside])]

    def _begins_like_one(self, uri: str) -> bool:
        if self.single:
            return True
        try:
            return (
                "://" not in uri and container_of(read_uri(self.roots.resolve(uri), limit_bytes=HEAD_BYTES)) is not None
            )
        except (Refused, FileNotFoundError, StoreError):
            return False

    def _sidecar(self, name: str, ext: str, uri: str) -> Part:
        refused = None
        try:
            self.roots.resolve(uri)
        except Refused as error:
            refused = str(error)
        read: Callable[[int], bytes] = lambda limit: b"" if refused else read_uri(uri, limit_bytes=limit)  # noqa: E731
        return Part(name, None, ext, MediaRef(uri, None, name), read, refused)

    def _clips(self, number: int, stem: str, videos: list[str], sidecars: list[Part]) -> Iterator[Row]:
        """The rows of one video, from `number` on; a single rejected one if it has none."""
        said = self.grouping.row(number, stem, sidecars)
        if len(videos) > 1:
            names = " and ".join(sorted(os.path.basename(uri) for uri in videos))
            yield rejected(number, stem, "ambiguous_slot", f"{names} have one stem")
        elif said.sample is None:
            yield said
        else:
            yield from self._cut(videos[0], said, said.sample, stem)

    def _cut(self, uri: str, said: Row, sample: Sample, stem: str) -> Iterator[Row]:
        header = self._header(uri, said.number, sample.key)
        if isinstance(header, Row):
            yield header
            return
        for index, (start, end) in enumerate(self._spans(header)):
            number = said.number + index
            mine = replace(
                sample, row=number, key=f"{sample.key}/{start:08d}", group=sample.group or stem,
                media=self._media(uri, header, start, end),
            )  # fmt: skip
            yield Row(number, mine, tuple(replace(each, row=number, key=mine.key) for each in said.rejections))

    def _header(self, uri: str, number: int, key: str) -> Header | Row:
        """What the video says of itself, or the row that says what is wrong with it."""
        name = os.path.basename(uri)
        try:
            # a link may lead out of the source
            size, _ = stat_uri(self.roots.resolve(uri))
            if size > self.clip.max_video_bytes:
                wanted = f"wanted at most {self.clip.max_video_bytes} bytes"
                return rejected(number, key, "video_too_long", f"{name}: {wanted}, came {size}")
            header = read_header(uri)
        except Refused as error:
            return rejected(number, key, "path_refused", f"{name}: {error}")
        except Unplayable as error:
            return rejected(number, key, "not_a_video", f"{name}: {error}")
        except FileNotFoundError:
            return rejected(number, key, "file_missing", f"{name}: no such file")
        except (OSError, StoreError) as error:
            return rejected(number, key, "file_unreadable", f"{name}: {error}")
        if header.seconds > self.clip.max_video_seconds:
            wanted = f"wanted at most {self.clip.max_video_seconds:g} s"
            return rejected(number, key, "video_too_long", f"{name}: {wanted}, came {float(header.seconds):.1f} s")
        return header

    def _spans(self, header: Header) -> list[tuple[int, int]]:
        """(start, end) of each clip in ms. What is left at the end and shorter than half a clip is part of the last."""
        length, total = round(self.clip.seconds * 1000), max(1, int(header.seconds * 1000))
        count = max(1, (total + length // 2) // length)
        return [(index * length, total if index == count - 1 else (index + 1) * length) for index in range(count)]

    def _media(self, uri: str, header: Header, start: int, end: int) -> dict[str, MediaRef]:
        pixels, share = header.width * header.height * 3, (end - start) / len(self.frames) if self.frames else 0
        cuts = {
            slot: Cut(start + round(index * share), start + round((index + 1) * share), pixels)
            for index, slot in enumerate(self.frames)
        }
        if header.rate_hz:
            size = (end - start) * header.rate_hz * header.channels * 2 // 1000
            cuts |= dict.fromkeys(self.sounds, Cut(start, end, size))
        written = f"{os.path.basename(uri)} at {start} ms"
        return {slot: MediaRef(uri, None, written, cut=cut) for slot, cut in cuts.items()}


def _ext(name: str) -> str:
    return os.path.splitext(name)[1].lstrip(".").lower()


def _is_there(uri: str) -> bool:
    try:
        stat_uri(uri)
    except (FileNotFoundError, StoreError):
        return False
    return True
