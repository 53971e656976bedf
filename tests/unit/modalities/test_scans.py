"""DICOM and NIfTI phantoms: what is shown of them is right, nothing of their headers is told, bad bytes never raise."""

from __future__ import annotations

import gzip
import io
import logging
import struct
import subprocess
import sys
import tracemalloc
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from mmgen.config import build
from mmgen.errors import ConfigError
from mmgen.modalities import dicom as reader
from mmgen.modalities.config import CheckConfig, ScanConfig
from mmgen.modalities.image import ImageMedia
from mmgen.modalities.probing import Derived
from mmgen.modalities.scans import develop, scan_kind
from tests.phantoms import PATIENT, dicom, nifti, ramp


def made_of(data: bytes, limits: CheckConfig | None = None, **scan: Any) -> Derived:
    kind = scan_kind(data)
    assert kind is not None
    return develop(data, kind, ScanConfig.model_validate(scan), limits or CheckConfig())


def shown(data: bytes, **scan: Any) -> np.ndarray[Any, Any]:
    """(H, W) grey or (H, W, 3)."""
    derived = made_of(data, **scan)
    assert derived.data, derived.findings
    pixels = ImageMedia().decode(derived.data)
    return pixels[:, :, 0] if pixels.shape[2] == 1 else pixels


def refused(data: bytes, limits: CheckConfig | None = None, **scan: Any) -> str:
    derived = made_of(data, limits, **scan)
    assert derived.data == b""
    return derived.findings[0].reason


def grey(unit: Any) -> np.ndarray[Any, Any]:
    return np.round(np.clip(unit, 0, 1) * 255).astype(np.uint8)


# ---------------------------------------------------------------- values


def test_without_a_window_the_whole_range_is_shown() -> None:
    values = ramp() - 100
    assert np.array_equal(shown(dicom(values)), grey((values + 100) / values.size * values.size / (values.size - 1)))


def test_the_files_first_window_is_applied_to_rescaled_values() -> None:
    data = dicom(ramp(), RescaleSlope=2, RescaleIntercept=-100, WindowCenter=[50, 1], WindowWidth=[101, 1])
    # PS3.3 C.11.2.1.2.1 with c = 50, w = 101
    assert np.array_equal(shown(data), grey((2.0 * ramp() - 100 - 49.5) / 100 + 0.5))


@pytest.mark.parametrize(
    ("function", "unit"),
    [
        ("LINEAR_EXACT", (ramp() - 50.0) / 100 + 0.5),
        ("SIGMOID", 1 / (1 + np.exp(-4 * (ramp() - 50.0) / 100))),
    ],
)
def test_a_window_has_the_shape_that_the_file_says(function: str, unit: Any) -> None:
    data = dicom(ramp(), WindowCenter=50, WindowWidth=100, VOILUTFunction=function)
    assert np.array_equal(shown(data), grey(unit))


def test_a_configured_window_goes_before_the_files_own() -> None:
    data = dicom(ramp(), WindowCenter=10, WindowWidth=5)
    assert np.array_equal(shown(data, window=[50, 100]), grey((ramp() - 50.0) / 100 + 0.5))
    assert np.array_equal(shown(data, window="full"), shown(dicom(ramp())))


def test_a_window_of_one_is_a_threshold() -> None:
    assert np.array_equal(shown(dicom(ramp(), WindowCenter=50, WindowWidth=1)) == 255, ramp() >= 50)


def test_monochrome1_is_inverted() -> None:
    plain, inverted = shown(dicom(ramp())), shown(dicom(ramp(), PhotometricInterpretation="MONOCHROME1"))
    assert np.array_equal(inverted, 255 - plain)


def test_padding_is_black_and_no_part_of_the_range() -> None:
    values = ramp() + 1000
    values[0, :4] = -2000
    pixels = shown(dicom(values, PixelPaddingValue=-2000, PhotometricInterpretation="MONOCHROME1"))
    assert not pixels[0, :4].any()
    assert pixels[0, 4] == 255
    assert pixels[-1, -1] == 0


def test_enhanced_files_keep_window_and_rescale_per_frame() -> None:
    def group(slope: float, centre: float) -> Dataset:
        window, rescale, both = Dataset(), Dataset(), Dataset()
        window.WindowCenter, window.WindowWidth = centre, 101
        rescale.RescaleSlope, rescale.RescaleIntercept = slope, 0
        both.FrameVOILUTSequence, both.PixelValueTransformationSequence = [window], [rescale]
        return both

    data = dicom(np.stack([ramp(), ramp()]), PerFrameFunctionalGroupsSequence=[group(1, 50), group(3, 80)])
    assert np.array_equal(shown(data, position=0), grey((ramp() - 49.5) / 100 + 0.5))
    assert np.array_equal(shown(data, position=1), grey((3.0 * ramp() - 79.5) / 100 + 0.5))


def test_colour_stays_colour() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    attributes: dict[str, Any] = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}
    assert np.array_equal(shown(dicom(rgb, **attributes)), rgb)
    ycbcr = np.asarray(Image.fromarray(rgb).convert("YCbCr"))
    came = shown(dicom(ycbcr, **attributes | {"PhotometricInterpretation": "YBR_FULL"}))
    assert np.abs(came.astype(int) - rgb).max() <= 3
    deep = (rgb.astype(np.uint16) << 8) | rgb
    assert np.array_equal(shown(dicom(deep, **attributes)), rgb)


def test_a_palette_becomes_its_colours() -> None:
    table = [np.arange(256)[::-1], np.arange(256), np.full(256, 7)]
    palette: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for name, values in zip(("Red", "Green", "Blue"), table, strict=True):
        palette[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        palette[f"{name}PaletteColorLookupTableData"] = (values.astype("<u2") * 257).tobytes()
    came = shown(dicom(ramp(8, 8, "uint8"), **palette))
    assert np.array_equal(came, np.stack([values[ramp(8, 8, "int16")] for values in table], axis=2))


@pytest.mark.parametrize("bits", ["uint8", "int16", "uint16"])
def test_run_lengths_give_the_same_picture(bits: str) -> None:
    values = ramp(dtype=bits)
    assert np.array_equal(shown(dicom(values, syntax=RLELossless)), shown(dicom(values)))


def encoded(pixels: Any, form: str, **options: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, form, **options)
    return out.getvalue()


def test_jpeg_and_jpeg2000_are_decoded() -> None:
    values = ramp(16, 16, "uint8")
    lossless = dicom(values, syntax=JPEG2000Lossless, frames=[encoded(values, "JPEG2000", no_jp2=True)])
    assert np.array_equal(shown(lossless), shown(dicom(values)))
    lossy = dicom(values, syntax=JPEGBaseline8Bit, frames=[encoded(values, "JPEG", quality=98)])
    assert np.abs(shown(lossy).astype(int) - shown(dicom(values))).max() < 8


# ---------------------------------------------------------------- slices


def volume() -> np.ndarray[Any, Any]:
    return np.arange(5 * 6 * 7).reshape(5, 6, 7).astype("int16")


@pytest.mark.parametrize(
    ("axis", "position", "wanted"),
    [
        ("z", 0.5, volume()[2]), ("z", 0, volume()[0]), ("z", 1, volume()[4]),
        ("y", 0.5, volume()[:, 3]), ("x", 0.5, volume()[:, :, 3]),
    ],
)  # fmt: skip
def test_the_middle_slice_along_an_axis_is_shown(axis: str, position: float, wanted: Any) -> None:
    most = int(volume().max())
    window = [most / 2, most]
    came = shown(dicom(volume()), axis=axis, position=position, window=window)
    assert np.array_equal(came, grey(wanted / most))


def head() -> np.ndarray[Any, Any]:
    """Right, front, head: a value tells where it is."""
    right, front, up = np.meshgrid(range(4), range(5), range(6), indexing="ij")
    return (right * 100 + front * 10 + up).astype("int16")


WINDOW = [345 / 2, 345]


@pytest.mark.parametrize("turn", [(1, 1, 1), (-1, 1, 1), (-1, -1, 1), (1, -1, -1)])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
@pytest.mark.parametrize(("data", "version"), [("plain", 1), ("gzipped", 1), ("plain", 2)])
def test_a_nifti_is_shown_the_same_way_however_it_is_stored(
    turn: tuple[int, ...], order: tuple[int, ...], data: str, version: int
) -> None:
    stored = head()[:: turn[0], :: turn[1], :: turn[2]].transpose(order)
    affine = np.eye(4)
    affine[:3, :3] = np.diag([2.0 * each for each in turn])[:, order]
    made = nifti(stored, affine, version=version)
    made = gzip.compress(made) if data == "gzipped" else made
    # the patient's right is at the left, the head or the front at the top
    right, front, up = np.meshgrid(range(3, -1, -1), range(4, -1, -1), range(5, -1, -1), indexing="ij")
    assert np.array_equal(shown(made, window=WINDOW), grey((right * 100 + front * 10 + 3)[:, :, 0].T / 345))
    assert np.array_equal(shown(made, window=WINDOW, axis="y"), grey((right * 100 + 20 + up)[:, 0, :].T / 345))
    assert np.array_equal(shown(made, window=WINDOW, axis="x"), grey((200 + front * 10 + up)[0].T / 345))
    assert np.array_equal(shown(made, window=WINDOW, position=1), grey((right * 100 + front * 10 + 5)[:, :, 0].T / 345))


def test_a_niftis_values_are_scaled() -> None:
    made = nifti(head(), slope=2, intercept=-5)
    plain = shown(nifti(head()), window=[100, 101])
    assert np.array_equal(shown(made, window=[2 * 100 - 5, 202]), plain)


def test_what_is_no_number_is_black_and_nothing_else_is_rejected() -> None:
    values = head().astype("float32")
    values[:, :, 3][0, 0], values[:, :, 3][1, 1] = np.nan, np.inf
    pixels = shown(nifti(values))
    assert (pixels[-1, -1], pixels[-2, -2]) == (0, 0)
    assert pixels.max() == 255
    assert refused(nifti(np.full((3, 3, 3), np.nan, "float32"))) == "not_finite"


def test_of_four_dimensions_the_first_volume_is_shown_and_two_are_a_picture() -> None:
    series = np.stack([head(), head() * 0, head() * 0], axis=3)
    assert np.array_equal(shown(nifti(series)), shown(nifti(head())))
    assert np.array_equal(shown(gzip.compress(nifti(series))), shown(nifti(head())))
    flat = shown(nifti(head()[:, :, 3]))
    assert np.array_equal(flat, shown(nifti(head())))


def test_a_colour_nifti_stays_colour_and_big_endian_is_read() -> None:
    rgb = np.zeros((3, 4, 2), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    rgb["R"], rgb["G"] = 200, np.arange(4)[None, :, None]
    came = shown(nifti(rgb))
    assert came.shape == (4, 3, 3)
    assert came[0, 0].tolist() == [200, 3, 0]
    import nibabel

    big = nibabel.Nifti1Image(head(), np.eye(4), nibabel.Nifti1Header(endianness=">")).to_bytes()
    assert big[:4] == b"\0\0\x01\x5c"
    assert np.array_equal(shown(big), shown(nifti(head())))


# ---------------------------------------------------------------- what is refused and flagged


def test_the_header_is_flagged_by_name_and_told_nowhere() -> None:
    derived = made_of(dicom(ramp(), BurnedInAnnotation="YES", StudyDate="20200101"))
    assert [each.reason for each in derived.findings] == ["phi_header", "burned_in_annotation"]
    assert (
        derived.findings[0].message == "filled: InstitutionName, PatientID, PatientName, StudyDate, 1 private elements"
    )
    assert made_of(nifti(head())).findings[0].message == "filled: descrip"
    assert {each.severity for each in derived.findings} == {"flag"}
    assert b"Zaphod" not in derived.data


def test_an_anonymous_header_is_not_flagged() -> None:
    from pydicom import dcmread

    named = dcmread(io.BytesIO(dicom(ramp())))
    named.remove_private_tags()
    for name in ("PatientName", "PatientID", "InstitutionName"):
        setattr(named, name, "")
    out = io.BytesIO()
    named.save_as(out)
    assert made_of(out.getvalue()).findings == ()


def test_flags_can_reject_and_be_off() -> None:
    strict = CheckConfig(severity={"phi_header": "reject"})
    assert refused(dicom(ramp()), strict) == "phi_header"
    assert made_of(dicom(ramp()), CheckConfig(severity={"phi_header": "off"})).findings == ()


def test_caps_are_checked_before_pixels() -> None:
    # no pixels at all: what looked at them would say so
    empty = dicom(ramp(), Rows=60_000, Columns=60_000)
    assert refused(empty) == "too_many_pixels"
    assert refused(dicom(volume(), NumberOfFrames=10**9), axis="x") == "too_many_pixels"
    bomb = bytearray(nifti(head()))
    bomb[42:48] = np.array([30_000] * 3, "<i2").tobytes()
    assert refused(bytes(bomb)) == "too_many_bytes"
    assert refused(gzip.compress(bytes(bomb))) == "too_many_bytes"
    assert refused(nifti(head()), CheckConfig(max_image_pixels=29)) == "too_many_pixels"


def test_a_gzip_that_unpacks_to_more_than_its_header_says_is_refused() -> None:
    assert refused(gzip.compress(nifti(head()) + bytes(8 << 20))) == "undecodable"


@pytest.mark.parametrize("syntax", [JPEGLSLossless, DeflatedExplicitVRLittleEndian])
def test_an_encoding_that_is_not_read_is_refused_by_the_header(syntax: Any) -> None:
    data = dicom(ramp(), syntax=syntax, frames=[b"\xff\xd8 none of ours"])
    assert refused(data) == "unsupported_encoding"
    assert syntax in made_of(data).findings[0].message


def test_a_frame_that_unpacks_to_another_size_is_refused() -> None:
    other = encoded(ramp(40, 40, "uint8"), "JPEG")
    assert refused(dicom(ramp(16, 16, "uint8"), syntax=JPEGBaseline8Bit, frames=[other])) == "undecodable"
    assert refused(dicom(ramp(16, 16, "uint8"), syntax=RLELossless, frames=[bytes(5000)])) == "undecodable"


def test_run_lengths_that_unpack_to_far_more_than_the_picture_are_refused_unpacked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # looked through from 4 MiB on, here always
    monkeypatch.setattr(reader, "_LOOKED_THROUGH_BYTES", 0)
    bomb = struct.pack("<16L", 1, 64, *[0] * 14) + b"\x81\x07" * 80_000
    data = dicom(np.zeros((300, 300), np.uint8), syntax=RLELossless, frames=[bomb])
    tracemalloc.start()
    found = refused(data)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == "undecodable"
    # unpacked it would be 10 MB
    assert most < 2_000_000
    noise = np.random.default_rng(0).integers(0, 1 << 16, (50, 70)).astype("uint16")
    for true in (noise, ramp(), np.zeros((300, 300), np.uint8) + ramp(300, 1, "uint8")):
        assert np.array_equal(shown(dicom(true, syntax=RLELossless)), shown(dicom(true)))


def test_files_without_a_picture_are_refused() -> None:
    from pydicom import dcmread

    report = dcmread(io.BytesIO(dicom(ramp())))
    for name in ("Rows", "Columns", "PixelData"):
        delattr(report, name)
    out = io.BytesIO()
    report.save_as(out)
    assert refused(out.getvalue()) == "undecodable"
    assert refused(nifti(head().astype("complex64"))) == "unsupported_encoding"


def test_what_begins_like_a_tiff_and_is_a_dicom_is_a_dicom() -> None:
    assert scan_kind(dicom(ramp(), preamble=b"II*\0" + bytes(124))) == "dicom"
    for other in (b"", b"DICM", bytes(200), b"\x1f\x8b", gzip.compress(b"text"), encoded(ramp(8, 8, "uint8"), "PNG")):
        assert scan_kind(other) is None


def test_without_its_library_a_scan_is_the_users_to_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(ConfigError, match=r"dicom.*pydicom is not installed.*mmgen\[scans\]"):
        made_of(dicom(ramp()))
    monkeypatch.setitem(sys.modules, "nibabel", None)
    monkeypatch.setitem(sys.modules, "nibabel.nifti1", None)
    with pytest.raises(ConfigError, match=r"nifti.*nibabel.*mmgen\[scans\]"):
        made_of(nifti(head()))


@pytest.mark.parametrize("window", ["lung", [40], [40, 0], [1, 2, 3], 7, [40, "wide"]])
def test_a_window_that_is_none_is_refused_with_what_was_wanted(window: Any) -> None:
    source = {"kind": "folder", "path": "x", "scan": {"window": window}}
    with pytest.raises(ConfigError, match=r"source\.scan\.window: wanted file, full or \[centre, width\].*came"):
        build({"name": "a", "source": source})


def test_the_extras_are_loaded_only_for_what_needs_them() -> None:
    names = ("pydicom", "nibabel", "av")
    code = f"import sys, mmgen.ingest, mmgen.validate, flows.cli; print([n for n in {names} if n in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


# ---------------------------------------------------------------- hostile bytes

HOSTILE = {
    "native": dicom(ramp(4, 5), WindowCenter=5, WindowWidth=9, RescaleSlope=1.5),
    "rle": dicom(ramp(4, 5), syntax=RLELossless),
    "frames": dicom(np.stack([ramp(4, 5)] * 3), syntax=RLELossless),
    "jpeg": dicom(ramp(16, 16, "uint8"), syntax=JPEGBaseline8Bit, frames=[encoded(ramp(16, 16, "uint8"), "JPEG")]),
    "nifti": nifti(head()),
    "nifti2": nifti(head(), version=2),
    "gzip": gzip.compress(nifti(head())),
}


def tells_nothing(derived: Derived, caught: Any = (), logged: str = "") -> bool:
    said = " ".join(each.message for each in derived.findings) + " ".join(str(each.message) for each in caught) + logged
    return "Zaphod" not in said and b"Zaphod" not in derived.data


@pytest.mark.parametrize("name", HOSTILE)
def test_cut_at_any_byte_it_is_refused_and_never_raises(name: str, caplog: pytest.LogCaptureFixture) -> None:
    data = HOSTILE[name]
    whole = made_of(data).data
    with caplog.at_level(logging.DEBUG):
        for length in range(len(data)):
            cut = data[:length]
            if (kind := scan_kind(cut)) is not None:
                derived = develop(cut, kind, ScanConfig(), CheckConfig())
                # all but the zeros behind the last delimiter is a whole picture
                spared = name in ("rle", "frames", "jpeg") and length >= len(data) - 4
                assert derived.data == (whole if spared else b""), length
                assert tells_nothing(derived), length
    assert "Zaphod" not in caplog.text


@settings(max_examples=400, deadline=None)
@given(
    name=st.sampled_from(sorted(HOSTILE)),
    flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=8),
    axis=st.sampled_from("zyx"),
)
def test_with_flipped_bytes_it_never_raises_and_tells_nothing(
    name: str, flips: list[tuple[int, int]], axis: Any
) -> None:
    data = bytearray(HOSTILE[name])
    for at, value in flips:
        data[at % len(data)] = value
    if (kind := scan_kind(bytes(data))) is not None:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            derived = develop(bytes(data), kind, ScanConfig(axis=axis), CheckConfig(max_image_pixels=1 << 20))
        assert tells_nothing(derived, caught)
        assert bool(derived.data) or derived.findings
        if derived.data:
            assert not ImageMedia().probe(derived.data, CheckConfig(min_image_side_px=1, blank_image_std=0)).rejected


def test_the_patient_is_in_the_phantoms() -> None:
    assert all(PATIENT.encode() in data for name, data in HOSTILE.items() if name != "gzip")
