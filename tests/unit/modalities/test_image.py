from __future__ import annotations

import gzip
import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mmgen.errors import SourceError
from mmgen.modalities.config import CheckConfig
from mmgen.modalities.image import ImageMedia
from mmgen.modalities.probing import similarity

MEDIA = ImageMedia()
LIMITS = CheckConfig()
FORMATS = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP", "gif": "GIF", "bmp": "BMP", "tif": "TIFF"}


def picture(width: int = 24, height: int = 16, mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 255, (4, 4, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=form, **options)
    return buffer.getvalue()


def reasons(data: bytes, limits: CheckConfig = LIMITS) -> list[tuple[str, str]]:
    return [(finding.reason, finding.severity) for finding in MEDIA.probe(data, limits).findings]


def thumbnail(data: bytes) -> np.ndarray:
    thumb = MEDIA.thumbnail(data)
    assert thumb is not None
    return thumb


@pytest.mark.parametrize(("ext", "form"), FORMATS.items())
def test_every_format_is_sniffed_measured_and_decoded(ext: str, form: str) -> None:
    data = encoded(picture(), form)
    probe = MEDIA.probe(data, LIMITS)
    assert (probe.ext, probe.findings) == (ext, ())
    assert (probe.facts["width"], probe.facts["height"]) == (24, 16)
    assert set(probe.facts) == set(MEDIA.facts)
    assert all(isinstance(probe.facts[name], kind) for name, kind in MEDIA.facts.items())
    assert MEDIA.decode(data).shape == (16, 24, 3)
    assert ext in MEDIA.extensions


@pytest.mark.parametrize(("ext", "form"), FORMATS.items())
def test_truncation_at_any_byte_is_rejected(ext: str, form: str) -> None:
    data = encoded(picture(), form)
    accepted = [length for length in range(len(data)) if not MEDIA.probe(data[:length], LIMITS).rejected]
    assert accepted == []


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(FORMATS.values())), st.data())
def test_broken_bytes_are_findings_never_errors(form: str, data: st.DataObject) -> None:
    broken = bytearray(encoded(picture(), form))
    for at in data.draw(st.lists(st.integers(0, len(broken) - 1), max_size=8)):
        broken[at] = data.draw(st.integers(0, 255))
    probe = MEDIA.probe(bytes(broken), LIMITS)
    assert probe.rejected or set(probe.facts) == set(MEDIA.facts)


def test_a_tiff_whose_second_directory_is_anywhere_is_a_finding() -> None:
    # Pillow answers with a TypeError where that directory names no sides
    whole = encoded(picture(), "TIFF")
    first = int.from_bytes(whole[4:8], "little")
    link = first + 2 + 12 * int.from_bytes(whole[first : first + 2], "little")
    reasons = set()
    for offset in range(0, len(whole), 2):
        broken = whole[:link] + offset.to_bytes(4, "little") + whole[link + 4 :]
        reasons |= {finding.reason for finding in MEDIA.probe(broken, LIMITS).findings}
    assert reasons >= {"undecodable"}
    assert reasons <= {"undecodable", "animated", "too_many_pixels"}


@pytest.mark.parametrize(
    "value", [np.zeros((5, 7, 1), np.uint8), np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)]
)
def test_encode_then_decode_gives_the_same_pixels(value: np.ndarray) -> None:
    data = MEDIA.encode(value)
    assert MEDIA.sniff(data) == "png"
    np.testing.assert_array_equal(MEDIA.decode(data), value)


@pytest.mark.parametrize(
    "value", [np.zeros((5, 7), np.uint8), np.zeros((5, 7, 2), np.uint8), np.zeros((5, 7, 3), np.float32)]
)
def test_encode_refuses_other_shapes_and_types(value: np.ndarray) -> None:
    with pytest.raises(ValueError, match="wanted uint8"):
        MEDIA.encode(value)


def test_exif_orientation_is_applied_to_pixels_and_sides() -> None:
    upright = picture()
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encoded(upright.transpose(Image.Transpose.ROTATE_90), "PNG", exif=exif)
    np.testing.assert_array_equal(MEDIA.decode(turned), np.asarray(upright))
    facts = MEDIA.probe(turned, LIMITS).facts
    assert (facts["width"], facts["height"]) == (24, 16)


def test_transparency_is_laid_over_white() -> None:
    clear = Image.new("RGBA", (3, 3), (0, 0, 0, 0))
    assert MEDIA.decode(encoded(clear)).tolist() == np.full((3, 3, 3), 255).tolist()


def test_sixteen_bits_keep_their_range() -> None:
    wide = Image.fromarray(np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8))
    pixels = MEDIA.decode(encoded(wide))
    assert pixels.shape == (8, 8, 1)
    assert (pixels.min(), pixels.max()) == (0, 255)


@pytest.mark.parametrize(("mode", "channels"), [("1", 1), ("L", 1), ("P", 3), ("RGB", 3), ("RGBA", 3), ("CMYK", 3)])
def test_every_mode_decodes_to_grey_or_colour(mode: str, channels: int) -> None:
    data = encoded(picture(mode=mode), "TIFF")
    assert MEDIA.decode(data).shape == (16, 24, channels)
    assert MEDIA.probe(data, LIMITS).facts["mode"] == mode


def test_undecodable_bytes_are_a_source_error() -> None:
    with pytest.raises(SourceError, match="image: wanted one that can be decoded, came 5 bytes"):
        MEDIA.decode(b"hello")


# ---------------------------------------------------------------- checks


def test_zero_bytes_are_rejected() -> None:
    assert reasons(b"") == [("zero_bytes", "reject")]


@pytest.mark.parametrize("data", [b"hello world, this is no picture", b"RIFF\0\0\0\0WAVEfmt "])
def test_what_is_no_image_is_rejected(data: bytes) -> None:
    assert reasons(data) == [("not_an_image", "reject")]


def test_bytes_over_the_cap_are_rejected() -> None:
    assert reasons(encoded(picture()), CheckConfig(max_image_bytes=50)) == [("too_many_bytes", "reject")]


def test_pixels_over_the_cap_are_rejected_before_they_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(picture())
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    assert reasons(data, CheckConfig(max_image_pixels=383)) == [("too_many_pixels", "reject")]


def test_a_decompression_bomb_is_rejected() -> None:
    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head))
    assert reasons(b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 9) + b"IDAT" + bytes(13)) == [
        ("too_many_pixels", "reject")
    ]


def test_tiny_sides_are_rejected() -> None:
    assert reasons(encoded(picture(1, 20))) == [("too_small", "reject")]


def test_a_blank_image_is_rejected() -> None:
    assert reasons(encoded(Image.new("L", (8, 8), 77))) == [("blank", "reject")]


def test_one_saturated_colour_is_blank_and_two_of_one_luminance_are_not() -> None:
    assert reasons(encoded(Image.new("RGB", (8, 8), (255, 0, 0)))) == [("blank", "reject")]
    grey = Image.new("RGB", (8, 8), (76, 76, 76))
    grey.paste((255, 0, 0), (0, 0, 4, 8))
    assert MEDIA.probe(encoded(grey), LIMITS).facts["std"] < LIMITS.blank_image_std
    assert reasons(encoded(grey)) == []


def test_mean_and_deviation_are_of_the_luminance() -> None:
    pixels = np.asarray(picture(), np.float64)
    grey = pixels @ [0.299, 0.587, 0.114] / 255
    facts = MEDIA.probe(encoded(picture()), LIMITS).facts
    assert facts["mean"] == pytest.approx(grey.mean(), abs=0.003)
    assert facts["std"] == pytest.approx(grey.std(), abs=0.003)


def test_a_file_cut_off_is_truncated() -> None:
    assert reasons(encoded(picture())[:-20]) == [("truncated", "reject")]


def test_a_flipped_byte_in_the_pixels_is_undecodable() -> None:
    data = bytearray(encoded(picture()))
    data[len(data) // 2] ^= 0xFF
    assert reasons(bytes(data)) == [("undecodable", "reject")]


def test_an_animation_is_flagged_and_kept() -> None:
    frames = [picture(), picture().rotate(90)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert reasons(data) == [("animated", "flag")]
    assert not MEDIA.probe(data, LIMITS).rejected


# ---------------------------------------------------------------- near duplicates


def test_hash_and_thumbnail_survive_another_size_and_format_but_tell_pictures_apart() -> None:
    rng = np.random.default_rng(1)
    first, other = (
        Image.fromarray(rng.integers(0, 255, (6, 6), dtype=np.uint8)).resize((96, 96), Image.Resampling.BICUBIC)
        for _ in range(2)
    )
    same = encoded(first.resize((64, 64), Image.Resampling.LANCZOS), "JPEG", quality=85)
    hashes = [int(MEDIA.probe(data, LIMITS).facts["phash"], 16) for data in (encoded(first), same, encoded(other))]
    assert (hashes[0] ^ hashes[1]).bit_count() <= 4
    assert (hashes[0] ^ hashes[2]).bit_count() >= 16
    thumbs = [thumbnail(data) for data in (encoded(first), same, encoded(other))]
    assert similarity(thumbs[0], thumbs[1]) > 0.99
    assert similarity(thumbs[0], thumbs[2]) < 0.8
    assert similarity(thumbs[0], np.zeros_like(thumbs[0])) == 0


def test_a_tunable_rule_does_what_the_configuration_says() -> None:
    data = MEDIA.encode(np.full((16, 16, 3), 128, np.uint8))
    effects = {}
    for severity in ("reject", "flag", "off"):
        found = MEDIA.probe(data, CheckConfig(severity={"blank": severity})).findings
        effects[severity] = [(each.reason, each.severity) for each in found]
    assert effects == {"reject": [("blank", "reject")], "flag": [("blank", "flag")], "off": []}


@pytest.mark.parametrize(
    "data",
    [
        b"<svg xmlns='http://www.w3.org/2000/svg'><image href='http://there/x'/></svg>",
        b"\xef\xbb\xbf  <?xml version='1.0'?>",
        b"<!DOCTYPE html><p>", b"%PDF-1.7", b"%!PS-Adobe-3.0 EPSF-3.0", b"#!/bin/sh",
    ],
)  # fmt: skip
def test_what_could_execute_or_fetch_is_refused(data: bytes) -> None:
    assert reasons(data) == [("active_content", "reject")]


# ---------------------------------------------------------------- odd but good, and hostile


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize(
    "metadata",
    [(b"zTXt", b"k\0\0"), (b"iTXt", b"k\0\1\0\0\0"), (b"iCCP", b"k\0\0")],
)  # fmt: skip
def test_a_bomb_in_the_metadata_is_refused_and_takes_no_memory(metadata: tuple[bytes, bytes]) -> None:
    kind, head = metadata
    whole = encoded(picture())
    data = whole[:33] + chunk(kind, head + zlib.compress(bytes(200 << 20), 9)) + whole[33:]
    assert len(data) < 1 << 20
    tracemalloc.start()
    try:
        assert reasons(data) == [("undecodable", "reject")]
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("form", ["PNG", "GIF", "WEBP", "TIFF"])
def test_of_several_frames_the_first_is_used_and_the_others_are_flagged(form: str) -> None:
    frames = [picture(), picture().rotate(90), picture().rotate(180)]
    data = encoded(frames[0], form, save_all=True, append_images=frames[1:], lossless=True)
    assert reasons(data) == [("animated", "flag")]
    np.testing.assert_array_equal(MEDIA.decode(data), MEDIA.decode(encoded(frames[0], form, lossless=True)))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_of_exif_stands_upright_in_every_format(form: str, orientation: int) -> None:
    back = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_90",
            7: "TRANSVERSE", 8: "ROTATE_270"}  # fmt: skip
    upright, exif = picture(32, 24), Image.Exif()
    exif[0x0112] = orientation
    stored = upright.transpose(Image.Transpose[back[orientation]]) if orientation > 1 else upright
    shown = MEDIA.decode(encoded(stored, form, exif=exif)).astype(int)
    assert shown.shape == (24, 32, 3)
    assert np.abs(shown - np.asarray(upright)).mean() < 12


@pytest.mark.parametrize("exif", [b"Exif\0\0" + b"garbage" * 20, b"Exif\0\0II*\0\xff\xff\xff\xff", b"nonsense"])
def test_broken_exif_does_not_spoil_a_picture(exif: bytes) -> None:
    assert reasons(encoded(picture(), "JPEG", exif=exif)) == []


def close_to(data: bytes, image: Image.Image, *, within: float = 12) -> None:
    assert reasons(data) == []
    wanted = np.asarray(image.convert("RGB"), int)
    assert np.abs(MEDIA.decode(data).astype(int) - wanted).mean() < within


@pytest.mark.parametrize(
    ("form", "options"),
    [("JPEG", {"progressive": True}), ("JPEG", {"quality": 95, "subsampling": 2}), ("WEBP", {"lossless": True}),
     ("TIFF", {"compression": "tiff_lzw"}), ("TIFF", {"compression": "tiff_adobe_deflate"}),
     ("TIFF", {"compression": "jpeg"}), ("TIFF", {"big_tiff": True}), ("BMP", {}), ("PNG", {"interlace": 1})],
)  # fmt: skip
def test_compressions_of_every_kind_show_the_same_picture(form: str, options: dict[str, object]) -> None:
    image = picture(64, 48)
    close_to(encoded(image, form, **options), image)


@pytest.mark.parametrize(("mode", "form"), [("CMYK", "JPEG"), ("CMYK", "TIFF"), ("YCbCr", "TIFF"), ("P", "PNG"),
                                            ("P", "GIF"), ("P", "BMP")])  # fmt: skip
def test_colours_of_other_models_are_the_same_colours(mode: str, form: str) -> None:
    image = picture(64, 48, mode)
    close_to(encoded(image, form), image)


def test_a_palette_with_a_clear_colour_is_laid_over_white() -> None:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([0, 0, 0, 200, 10, 10])
    image.putpixel((1, 1), 1)
    pixels = MEDIA.decode(encoded(image, transparency=0))
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[1, 1].tolist() == [200, 10, 10]


def test_pixels_that_are_no_numbers_are_rejected_and_fractions_keep_their_range() -> None:
    ramp = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    data = encoded(Image.fromarray(ramp), "TIFF")
    assert reasons(data) == []
    assert MEDIA.decode(data)[:, :, 0].tolist() == np.round(ramp * 255).astype(int).tolist()
    for bad in (np.nan, np.inf):
        ramp[2, 3] = bad
        broken = encoded(Image.fromarray(ramp), "TIFF")
        assert reasons(broken) == [("not_finite", "reject")]
        with pytest.raises(SourceError, match="1 pixels are NaN or infinite"):
            MEDIA.decode(broken)


def tiff(*entries: tuple[int, int, int, int], following: int = 0, extra: bytes = b"") -> bytes:
    """A little-endian TIFF of one directory; an entry is (tag, type, count, value)."""
    table = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + table + struct.pack("<I", following) + extra


GREY = ((256, 4, 1, 16), (257, 4, 1, 16), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 200),
        (277, 3, 1, 1), (278, 4, 1, 16), (279, 4, 1, 256))  # fmt: skip


def test_absurd_directories_of_a_tiff_are_findings() -> None:
    pixels = bytes(range(256)) * 2
    assert reasons(tiff(*GREY, extra=pixels)) == []
    assert reasons(tiff((256, 4, 1, 2**31), (257, 4, 1, 2**31), *GREY[2:], extra=pixels))[0][0] == "too_many_pixels"
    huge = tiff(*GREY[:5], (270, 2, 0xFFFFFFF0, 8), (273, 4, 0xFFFFFFFF, 8), *GREY[6:], extra=pixels)
    assert reasons(huge)[0][0] in ("undecodable", "truncated")
    # a directory that follows itself
    assert reasons(tiff(*GREY, following=8, extra=pixels)) in ([], [("animated", "flag")])


@pytest.mark.parametrize(
    "behind", [b"<script>alert(1)</script>", b"PK\3\4" + bytes(60) + b"PK\5\6" + bytes(18), b"%PDF-1.7"]
)
def test_a_picture_with_something_behind_it_is_read_as_a_picture(behind: bytes) -> None:
    for form in ("PNG", "JPEG"):
        close_to(encoded(picture(64, 48), form) + behind, picture(64, 48))


@pytest.mark.parametrize(
    "data",
    ["<svg xmlns='x'/>".encode("utf-16"), b"\n" * 400 + b"<svg/>", b"<!-- x --><svg/>",
     gzip.compress(b"<svg/>", mtime=0),
     b"\xc5\xd0\xd3\xc6" + bytes(90), b"\xd7\xcd\xc6\x9a" + bytes(90), b"\0\0\1\0\1\0" + bytes(40), b"MZ" + bytes(90)],
)  # fmt: skip
def test_drawings_and_programs_are_refused_however_they_begin(data: bytes) -> None:
    """SVG in other encodings, behind a comment or packed, PostScript and Windows metafiles in binary, icons."""
    assert MEDIA.probe(data, LIMITS).rejected
    with pytest.raises(SourceError):
        MEDIA.decode(data)
