"""What files say of their own length, read from their containers before anything is decoded.

Decoders forgive a missing end, and take a wrong length for the truth.
"""

from __future__ import annotations

import re

#: sizes that writers leave which do not know the end yet, or cannot say it
_OPEN_SIZES = frozenset((0, 0xFFFFFFFF, 0x7FFFF000, 0x7FFFFFFF))
_CHUNK_NAME = re.compile(rb"[ -~]{4}")


# ---------------------------------------------------------------- images


def cut_image(data: bytes, ext: str | None) -> str | None:
    """Why an image file ends too early, None if it does not or its format says nothing of its end."""
    if ext == "png" and b"IEND\xae\x42\x60\x82" not in data[-64:]:
        # bytes after the end are harmless, so look further before refusing
        return None if b"IEND\xae\x42\x60\x82" in data else "png without its end chunk"
    if ext == "jpg" and b"\xff\xd9" not in data[-64:]:
        # telephones put a film behind the picture
        return None if _jpeg_ends(data) else "jpeg without its end marker"
    if ext == "webp" and int.from_bytes(data[4:8], "little") + 8 > len(data):
        return f"webp of {int.from_bytes(data[4:8], 'little') + 8} bytes, came {len(data)}"
    if ext == "gif" and not data.rstrip(b"\0").endswith(b";"):
        return "gif without its trailer"
    if ext == "bmp" and int.from_bytes(data[2:6], "little") > len(data):
        return f"bmp of {int.from_bytes(data[2:6], 'little')} bytes, came {len(data)}"
    return None


def _jpeg_ends(data: bytes) -> bool:
    """Whether the markers lead to an end of the image (ITU-T T.81, annex B); thumbnails have ends of their own."""
    at = 2
    while (at := data.find(b"\xff", at)) >= 0:
        marker = data[at + 1 : at + 2]
        if marker == b"\xd9":
            return True
        if marker == b"\xff":
            at += 1
        elif marker in (b"\0", b"\x01") or b"\xd0" <= marker <= b"\xd8":
            # within a scan: an escaped byte, a restart
            at += 2
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return False


# ---------------------------------------------------------------- sound


def cut_sound(data: bytes, ext: str | None) -> str | None:
    """Why a sound file ends too early; libsndfile reads a shortened RIFF without a word."""
    if ext == "wav" and data[:4] == b"RIFF":
        whole, said, there = _wav_sizes(data)
        if whole is not None and len(data) < whole:
            return f"wav of {whole} bytes, came {len(data)}"
        if whole is None and said is not None and there < said:
            return f"wav of {said} bytes of samples, {there} are there"
    if ext == "aiff" and int.from_bytes(data[4:8], "big") + 8 > len(data):
        return f"aiff of {int.from_bytes(data[4:8], 'big') + 8} bytes, came {len(data)}"
    if ext == "flac" and (found := flac_frames(data)) is not None and found[0] > found[1]:
        return f"flac of {found[0]} frames, its last one ends at {found[1]}"
    return None


def wrong_size(data: bytes, ext: str | None) -> str | None:
    """How the header of a file that is not cut off tells another length than its bytes have; None if it does not."""
    if ext == "wav" and data[:4] == b"RIFF":
        whole, said, there = _wav_sizes(data)
        if said is not None and said > there:
            return f"its header tells of {said} bytes of samples, {there} are there"
        if said is not None:
            after, end = len(data) - there + said + said % 2, whole or len(data)
            if after + 8 < end and not _CHUNK_NAME.fullmatch(data[after : after + 4]):
                return f"its header tells of {said} bytes of samples, {end - after} more follow that are no chunk"
    if ext == "flac" and (found := flac_frames(data)) is not None and 0 < found[0] < found[1]:
        return f"its header tells of {found[0]} frames, there are {found[1]}"
    return None


def _wav_sizes(data: bytes) -> tuple[int | None, int | None, int]:
    """Of a RIFF wave: bytes of the file and of the samples as its header has them, None where it leaves them open;
    and how many bytes of samples are there at most."""
    riff, said, there, at = int.from_bytes(data[4:8], "little"), None, 0, 12
    while at + 8 <= len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        if data[at : at + 4] == b"data":
            said, there = None if size in _OPEN_SIZES else size, len(data) - at - 8
            break
        at += 8 + size + size % 2
    is_open = riff in _OPEN_SIZES or (there and said is None and riff > min(_OPEN_SIZES - {0}))
    return None if is_open else riff + 8, said, there


_FIXED_BLOCKS = {1: 192, **{code: 576 << (code - 2) for code in range(2, 6)},
                 **{code: 256 << (code - 8) for code in range(8, 16)}}  # fmt: skip


def flac_frames(data: bytes) -> tuple[int, int] | None:
    """(samples that STREAMINFO claims, samples up to the end of the last frame); None if there is no frame.

    0 claimed means unknown. RFC 9639, sections 8.2 and 9.1.
    """
    first = _flac_audio(data)
    if first is None:
        return None
    # a header has six bytes at least: a checksum that ends the file can look like the first two of one
    at = len(data) - 4
    while (at := data.rfind(data[first : first + 2], first, at)) >= 0:
        # the rate and the size of samples are those of the first frame
        alike = not (data[at + 2] ^ data[first + 2]) & 0x0F and not (data[at + 3] ^ data[first + 3]) & 0x0F
        if alike and (end := _flac_frame_end(data, at)) is not None:
            return int.from_bytes(data[21:26], "big") & (1 << 36) - 1, end
    return None


def with_flac_frames(data: bytes, count: int) -> bytes:
    """`data` with a STREAMINFO that claims `count` samples."""
    field = int.from_bytes(data[18:26], "big") & ~((1 << 36) - 1) | count
    return data[:18] + field.to_bytes(8, "big") + data[26:]


def _flac_audio(data: bytes) -> int | None:
    """Where the first frame begins."""
    at, last = 4, False
    while not last and at + 4 <= len(data):
        last = data[at] >= 0x80
        at += 4 + int.from_bytes(data[at + 1 : at + 4], "big")
    return at if last and len(data) > at + 6 and data[at] == 0xFF and data[at + 1] & 0xFE == 0xF8 else None


def _flac_frame_end(data: bytes, at: int) -> int | None:
    """The number of the sample after the frame at `at`; None if no frame begins there."""
    head = data[at : at + 16].ljust(16, b"\0")
    # its number, written as UTF-8 would write it: as many bytes as there are leading ones
    ones = 8 - (head[4] ^ 0xFF).bit_length()
    number, end = head[4] & (0x7F >> ones), 5 + max(0, ones - 1)
    if ones in (1, 8) or any(byte & 0xC0 != 0x80 for byte in head[5:end]):
        return None
    for byte in head[5:end]:
        number = number << 6 | byte & 0x3F
    code, rate = head[2] >> 4, head[2] & 0x0F
    block = _FIXED_BLOCKS.get(code)
    if block is None:
        wide = code - 5
        if wide not in (1, 2):
            return None
        block, end = int.from_bytes(head[end : end + wide], "big") + 1, end + wide
    end += {12: 1, 13: 2, 14: 2}.get(rate, 0)
    if head[3] & 1 or _crc8(head[:end]) != head[end]:
        return None
    return number + block if head[1] & 1 else number * int.from_bytes(data[8:10], "big") + block


def _crc8(data: bytes) -> int:
    value = 0
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = (value << 1 ^ 0x07) & 0xFF if value & 0x80 else value << 1
    return value
