"""Parts of videos, through PyAV: the frames of a clip as PNG, its sound as WAV.

Reading a part is a pure function of the file and the times: each clip is sought anew, by one thread, so that neither
the clips before it nor the machine's cores change a byte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mmgen.errors import StoreError
from mmgen.modalities import audio, image
from mmgen.modalities.config import CheckConfig
from mmgen.modalities.probing import Derived, Finding, Rule, findings
from mmgen.records import Modality
from mmgen.uris import open_uri

if TYPE_CHECKING:
    from av import VideoFrame
    from av.audio.stream import AudioStream
    from av.container import InputContainer
    from av.video.stream import VideoStream

#: bytes that tell a container
HEAD_BYTES = 400
#: swscale's bicubic | full_chr_h_int | accurate_rnd | bitexact: the same colours on every processor
_EXACTLY = 0x4 | 0x2000 | 0x40000 | 0x80000
#: sound is decoded from so long before a clip: codecs overlap their blocks
_LEAD = Fraction(1, 2)
#: so much further back is sought where an index led too far
_BACK = Fraction(5)
#: how far the last frame may be stretched, sound may lie off its time stamp, and fall short of the end of its clip
_STRETCH, _DRIFT, _SHORT = Fraction(1, 4), Fraction(1, 50), Fraction(1, 4)


T = TypeVar("T")


class Unplayable(Exception):
    """Why a video, or a part of it, cannot be read."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a video says of itself. rate_hz, channels: of its first sound, 0 if it has none."""

    seconds: Fraction
    width: int
    height: int
    rate_hz: int
    channels: int


def container_of(head: bytes) -> str | None:
    """FFmpeg's name of the container that `head` begins, None if it is none that is read.

    Only these demuxers are ever opened: playlists and others that fetch further files are not among them.
    """
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return "mov"
    if head.startswith(b"\x1aE\xdf\xa3"):
        return "matroska"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    if head.startswith(b"FLV\x01"):
        return "flv"
    if head.startswith(b"OggS"):
        return "ogg"
    if head.startswith(b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"):
        return "asf"
    if head.startswith(b"\0\0\x01\xba"):
        return "mpeg"
    return "mpegts" if len(head) > 376 and head[0] == head[188] == head[376] == 0x47 else None


def read_header(uri: str) -> Header:
    """Of the video at `uri`. Raises Unplayable, FileNotFoundError, StoreError."""
    with _opened(uri) as container:
        video = container.streams.video[0]
        sound = next(iter(container.streams.audio), None)
        header = Header(
            _seconds(container, video), video.codec_context.width, video.codec_context.height,
            int(sound.rate or 0) if sound else 0, sound.codec_context.channels if sound else 0,
        )  # fmt: skip
    if header.width < 1 or header.height < 1 or header.seconds <= 0:
        raise Unplayable("a video without frames")
    return header


def read_cuts(uri: str, cuts: Mapping[str, tuple[Modality, int, int]], limits: CheckConfig) -> dict[str, Derived]:
    """Slot → what is cut out for it. cuts: slot → (modality, start, end) in ms.

    An image slot gets the frame that is shown halfway, an audio slot the sound between; what is wrong is a finding.
    Raises OSError, StoreError for a file that went away.
    """
    middles = {
        slot: Fraction(start + end, 2000) for slot, (modality, start, end) in cuts.items() if modality == "image"
    }
    found: dict[str, Derived] = {}
    try:
        with _opened(uri) as container:
            frames = _frames(container, sorted(set(middles.values())), limits)
            found = {slot: frames[middle] for slot, middle in middles.items()}
            for slot, (modality, start, end) in cuts.items():
                if modality == "audio":
                    found[slot] = _sound(container, Fraction(start, 1000), Fraction(end, 1000), limits)
    except Unplayable as error:
        found = {slot: found.get(slot, _wrong("undecodable", str(error))) for slot in cuts}
    return found


def _wrong(reason: str, message: str) -> Derived:
    return Derived("video", b"", (Finding(reason, "reject", message),))


class _Watched:
    """A file that remembers its own failure, which FFmpeg would tell as one of its data."""

    def __init__(self, file: Any) -> None:
        self._file, self.tell = file, file.tell
        self.failed: Exception | None = None

    def read(self, length: int) -> bytes:
        return self._try(lambda: bytes(self._file.read(length)))

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._try(lambda: int(self._file.seek(offset, whence)))

    def _try(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except Exception as error:
            self.failed = error
            raise


@contextmanager
def _opened(uri: str) -> Iterator[InputContainer]:
    import av

    with open_uri(uri) as file:
        stream, form = _Watched(file), None
        try:
            form = container_of(stream.read(HEAD_BYTES))
            if form is None:
                raise Unplayable("wanted MP4, MOV, Matroska, WebM, AVI, MPEG, FLV, Ogg or ASF, its bytes are none")
            stream.seek(0)
            options = {"protocol_whitelist": "", "format_whitelist": form}
            with av.open(stream, "r", format=form, container_options=options, metadata_errors="replace") as container:
                if not container.streams.video:
                    raise Unplayable(f"{form} without a video stream")
                for each in (*container.streams.video, *container.streams.audio):
                    each.codec_context.thread_count = 1
                yield container
        except (Unplayable, MemoryError):
            raise
        except Exception as error:
            if stream.failed is not None:
                raise StoreError(f"could not read {uri}: {stream.failed}") from stream.failed
            raise Unplayable(f"{form} that cannot be decoded ({type(error).__name__})") from error


def _begin(container: InputContainer) -> Fraction:
    """The time stamp, in s, that is time zero for all streams."""
    return Fraction(container.start_time or 0, 1_000_000)


def _seconds(container: InputContainer, video: VideoStream) -> Fraction:
    """From the time zero of all streams to the end of the pictures."""
    base = Fraction(video.time_base or 0)
    if video.duration and base:
        begins = Fraction(video.start_time) * base - _begin(container) if video.start_time is not None else 0
        return begins + video.duration * base
    if container.duration:
        return Fraction(container.duration, 1_000_000)
    last = Fraction(0)
    for packet in container.demux(video):
        if packet.pts is not None:
            last = max(last, (packet.pts + (packet.duration or 0)) * base - _begin(container))
    return last


def _at(container: InputContainer, frame: Any) -> Fraction:
    at: Fraction = frame.pts * Fraction(frame.time_base) - _begin(container)
    return at


def _decode(container: InputContainer, stream: VideoStream | AudioStream) -> Iterator[Any]:
    """Frames from where the container stands. What is broken before the first one was begun before that place."""
    import av

    begun, broken = False, None
    packets: Iterator[Any] = container.demux(stream)
    for packet in packets:
        try:
            frames = packet.decode()
        except av.InvalidDataError as error:
            if begun:
                raise
            broken = error
            continue
        for frame in frames:
            if frame.pts is not None:
                begun = True
                yield frame
    if broken is not None and not begun:
        raise broken


def _decoded(container: InputContainer, stream: VideoStream | AudioStream, time: Fraction) -> Iterator[Any]:
    """Frames in their order, from one at or before `time`, or from the first."""
    for lead in (Fraction(0), _BACK, time + _BACK):
        offset = int((time - lead + _begin(container)) / Fraction(stream.time_base or 1))
        container.seek(offset, backward=True, stream=stream)
        frames = _decode(container, stream)
        first = next(frames, None)
        # an index may lead too far, or nowhere
        if first is not None and _at(container, first) <= time:
            break
    if first is not None:
        yield first
        yield from frames


# ---------------------------------------------------------------- frames


def _frames(container: InputContainer, times: list[Fraction], limits: CheckConfig) -> dict[Fraction, Derived]:
    """The frame that is shown at each of `times`, which are sorted. What does not come is truncated."""
    found: dict[Fraction, Derived] = {}
    if not times:
        return found
    video = container.streams.video[0]
    size = {"width": video.codec_context.width, "height": video.codec_context.height}
    if refused := findings(image.HEADER_RULES, size, limits):
        return dict.fromkeys(times, Derived("video", b"", tuple(refused[:1])))
    shown, left = None, list(times)
    for frame in _decoded(container, video, times[0]):
        while left and _at(container, frame) > left[0]:
            # before the first frame the first one is shown
            found[left.pop(0)] = _png(shown or frame, limits)
        if not left:
            return found
        shown = frame
    for time in left:
        if shown is not None and time <= _end(container, video, shown):
            found[time] = _png(shown, limits)
        else:
            found[time] = _wrong("truncated", f"no frame at {float(time):.3f} s")
    return found


def _end(container: InputContainer, video: VideoStream, frame: VideoFrame) -> Fraction:
    """Until when a frame that none follows may be shown."""
    own = (frame.duration or 0) * Fraction(frame.time_base or 0)
    usual = 1 / Fraction(video.average_rate) if video.average_rate else Fraction(0)
    return _at(container, frame) + max(own, usual) + _STRETCH


def _png(frame: VideoFrame, limits: CheckConfig) -> Derived:
    """Lossless: upright, at the size and in the colours of the video."""
    if frame.is_corrupt:
        return _wrong("undecodable", "a frame that is damaged")
    # a stream may change its size under way
    if refused := findings(image.HEADER_RULES, {"width": frame.width, "height": frame.height}, limits):
        return Derived("video", b"", tuple(refused[:1]))
    pixels = frame.reformat(format="rgb24", interpolation=_EXACTLY, threads=1).to_ndarray()
    # counterclockwise, cut down to whole degrees
    upright = np.rot90(pixels, round(frame.rotation / 90) % 4)
    return Derived("video", image.ImageMedia().encode(np.ascontiguousarray(upright, dtype=np.uint8)))


# ---------------------------------------------------------------- sound


def _sound(container: InputContainer, start: Fraction, end: Fraction, limits: CheckConfig) -> Derived:
    """The sound from start to end as 16-bit WAV. Where the track has a gap there is silence."""
    stream = next(iter(container.streams.audio), None)
    if stream is None:
        return Derived("video", b"")
    rate, channels = int(stream.rate), stream.codec_context.channels
    unpacked = 2 * int((end - start) * rate) * channels
    header = {"seconds": float(end - start), "rate_hz": rate, "channels": channels, "unpacked": unpacked}
    if refused := findings(audio.HEADER_RULES, header, limits):
        return Derived("video", b"", tuple(refused[:1]))
    samples = np.zeros((channels, int((end - start) * rate)), np.float32)
    came = _fill(container, stream, samples, start)
    if came + int(_SHORT * rate) < samples.shape[1]:
        message = f"{came / rate:.3f} s of {samples.shape[1] / rate:.3f} s have sound"
        short = tuple(_flags(message, limits))
    else:
        short = ()
    if came == 0 or any(each.severity == "reject" for each in short):
        return Derived("video", b"", short)
    return Derived("video", audio.AudioMedia().encode((samples[:, :came], rate)), short)


def _flags(message: str, limits: CheckConfig) -> list[Finding]:
    return findings([Rule("sound_ends_early", "flag", lambda f, c: message)], {}, limits)


def _fill(container: InputContainer, stream: AudioStream, samples: NDArray[np.float32], start: Fraction) -> int:
    """Decode into `samples` (C, N), which begin at `start`; how many of them the sound reaches."""
    import av

    rate, total = int(stream.rate), samples.shape[1]
    resampler = av.AudioResampler(format="fltp", layout=stream.layout, rate=rate)
    came, at = 0, None
    for frame in _decoded(container, stream, max(Fraction(0), start - _LEAD)):
        for piece in resampler.resample(frame):
            if piece.pts is None:
                continue
            due = int((_at(container, piece) - start) * rate)
            # containers round time stamps, to ms at worst: pieces join where they are not further apart than that
            at = due if at is None or abs(due - at) > _DRIFT * rate else at
            values = np.asarray(piece.to_ndarray(), dtype=np.float32)
            first, last = max(0, -at), min(values.shape[1], total - at)
            if last > first:
                samples[:, at + first : at + last] = values[:, first:last]
                came = max(came, at + last)
            at += values.shape[1]
        if at is not None and at >= total:
            break
    return came
