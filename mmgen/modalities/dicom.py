"""DICOM: from a file's bytes to a view of it, through pydicom. What its header says of people is named, never read."""

from __future__ import annotations

import io
import itertools
import logging
import math
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmgen.modalities.config import CheckConfig, ScanConfig
from mmgen.modalities.windowing import Function, Unreadable, View, Window, grey, place, to_8_bit

if TYPE_CHECKING:
    from pydicom import Dataset

#: transfer syntax → the decoder of its pixels. Named ones only: with whatever else happens to be installed the same
#: file would give other bytes elsewhere
DECODERS = {
    "1.2.840.10008.1.2": "", "1.2.840.10008.1.2.1": "", "1.2.840.10008.1.2.2": "",
    "1.2.840.10008.1.2.5": "pydicom",
    "1.2.840.10008.1.2.4.50": "pillow", "1.2.840.10008.1.2.4.51": "pillow",
    "1.2.840.10008.1.2.4.90": "pillow", "1.2.840.10008.1.2.4.91": "pillow",
}  # fmt: skip
#: attributes that may name a person, a place or a day: PS3.15 table E.1-1 without what every file has (UIDs) and what
#: only describes (sex, age, size)
_NAMES = """
AccessionNumber AcquisitionDate AcquisitionDateTime AdditionalPatientHistory AdmissionID AdmittingDate
AdmittingDiagnosesDescription BranchOfService CityInformation ContentDate CountryOfResidence CurrentPatientLocation
DeviceSerialNumber FillerOrderNumberImagingServiceRequest ImageComments InstitutionAddress InstitutionName
InstitutionalDepartmentName IssuerOfPatientID MedicalAlerts MilitaryRank Occupation OtherPatientIDs
OtherPatientIDsSequence OtherPatientNames PatientAddress PatientBirthDate PatientBirthName PatientBirthTime
PatientComments PatientID PatientInstitutionResidence PatientInsurancePlanCodeSequence PatientMotherBirthName
PatientName PatientReligiousPreference PatientState PatientTelecomInformation PatientTelephoneNumbers
PerformedProcedureStepID PerformedProcedureStepStartDate PlacerOrderNumberImagingServiceRequest ProtocolName
ReferencedPatientSequence ReferringPhysicianAddress ReferringPhysicianTelephoneNumbers RegionOfResidence
RequestAttributesSequence RequestingService ResponsibleOrganization ScheduledProcedureStepStartDate SeriesDate
SeriesDescription ServiceEpisodeID StationName StudyComments StudyDate StudyDescription StudyID TextComments
"""
IDENTIFYING = frozenset(_NAMES.split())
#: where enhanced files keep what others have at the top, per frame or for all
_GROUPS = {
    "RescaleSlope": "PixelValueTransformationSequence", "RescaleIntercept": "PixelValueTransformationSequence",
    "WindowCenter": "FrameVOILUTSequence", "WindowWidth": "FrameVOILUTSequence",
    "VOILUTFunction": "FrameVOILUTSequence",
}  # fmt: skip
#: smaller run-length frames unpack to no more than 64 times as much
_LOOKED_THROUGH_BYTES = 4 << 20
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


def is_dicom(data: bytes) -> bool:
    """By the magic word behind the preamble, which may begin like another format (PS3.10 7.1)."""
    return data[128:132] == b"DICM"


def view(data: bytes, scan: ScanConfig, limits: CheckConfig) -> View:
    """What `scan` asks to see. Caps and the encoding are checked on the header, before any pixel is decoded.

    Raises Unreadable; ImportError without pydicom.
    """
    import pydicom

    # what pydicom says of values quotes them
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
    decoder = _decoder(data)
    header = pydicom.dcmread(io.BytesIO(data), stop_before_pixels=True)
    filled = _filled(header)
    burned_in = str(header.get("BurnedInAnnotation", "")).strip().upper() == "YES"
    shape = _shape(header, scan, limits)
    whole = pydicom.dcmread(io.BytesIO(data))
    _check_pixels(whole, shape, native=not decoder)
    return View(_picture(whole, shape[0], decoder, scan), filled, burned_in)


def _decoder(data: bytes) -> str:
    """Which decoder reads the pixels. Looked up alone, as reading further may unpack what is deflated."""
    from pydicom.filereader import read_dataset

    meta = read_dataset(io.BytesIO(data[132:]), False, True, stop_when=lambda tag, vr, length: tag.group != 2)
    syntax = str(meta.get("TransferSyntaxUID", ""))
    if syntax not in DECODERS:
        # anything may stand there
        known = syntax.startswith("1.2.840.10008.1.2") and len(syntax) < 32 and not set(syntax) - set("0123456789.")
        raise Unreadable(
            "unsupported_encoding",
            f"wanted native, RLE, JPEG baseline or JPEG 2000 pixels, came transfer syntax {syntax if known else '?'}",
        )
    return DECODERS[syntax]


def _filled(header: Dataset) -> tuple[str, ...]:
    """Names of the attributes at the top that may name people and are not empty. Values are looked at as raw bytes."""
    from pydicom.datadict import dictionary_has_tag, dictionary_keyword, dictionary_VR

    found, private = [], 0
    for tag in header.keys():  # noqa: SIM118  (iterating over a Dataset would parse its values)
        value = header.get_item(tag).value
        if not (value.strip(b" \0") if isinstance(value, bytes) else value):
            continue
        if tag.is_private:
            private += not tag.is_private_creator
        elif dictionary_has_tag(tag):
            name = dictionary_keyword(tag)
            if name in IDENTIFYING or dictionary_VR(tag) == "PN":
                found.append(name)
    return (*sorted(found), *([f"{private} private elements"] if private else []))


def _shape(header: Dataset, scan: ScanConfig, limits: CheckConfig) -> tuple[int, int, int]:
    """(frames, rows, columns). Raises Unreadable for none, or more than the caps."""
    if "Rows" not in header or "Columns" not in header:
        raise Unreadable("undecodable", "a DICOM without a picture (it has no Rows and Columns)")
    frames, rows, columns = int(header.get("NumberOfFrames") or 1), int(header.Rows), int(header.Columns)
    if min(frames, rows, columns) < 1:
        raise Unreadable("undecodable", f"a DICOM of {frames} frames, {rows}×{columns}")
    sides = {"z": (rows, columns), "y": (frames, columns), "x": (frames, rows)}
    for height, width in ((rows, columns), sides[scan.axis]):
        if height * width > limits.max_image_pixels:
            wanted = f"wanted at most {limits.max_image_pixels} pixels"
            raise Unreadable("too_many_pixels", f"{wanted}, came a slice of {width}×{height}")
    return frames, rows, columns


def _check_pixels(whole: Dataset, shape: tuple[int, int, int], *, native: bool) -> None:
    name = next((each for each in _PIXELS if each in whole), None)
    if name is None:
        raise Unreadable("truncated", "a DICOM that ends before its pixels")
    bits = int(whole.get("BitsAllocated", 8))
    samples = int(whole.get("SamplesPerPixel", 1))
    if native and whole.get("PhotometricInterpretation") != "YBR_FULL_422":
        wanted, came = math.ceil(math.prod(shape) * samples * bits / 8), len(whole[name].value)
        if came < wanted:
            raise Unreadable("truncated", f"a DICOM of {wanted} bytes of pixels, came {came}")


def _picture(whole: Dataset, frames: int, decoder: str, scan: ScanConfig) -> NDArray[np.uint8]:
    photometric = str(whole.get("PhotometricInterpretation", "MONOCHROME2"))
    colour = photometric in ("RGB", "PALETTE COLOR") or photometric.startswith("YBR")
    if not colour and photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise Unreadable("unsupported_encoding", "wanted grey, RGB, YBR or palette pixels")

    def look(index: int) -> NDArray[Any]:
        stored = _frame(whole, index, frames, decoder)
        return _colour(whole, stored, photometric) if colour else _rescaled(whole, stored, index)

    first = 0
    if scan.axis == "z" or frames == 1:
        first = place(frames, scan.position)
        shown = look(first)
    else:
        axis = 0 if scan.axis == "y" else 1
        at = place(int(whole.Rows if axis == 0 else whole.Columns), scan.position)
        shown = np.stack([look(index).take(at, axis) for index in range(frames)])
    if colour:
        return shown
    return grey(shown, scan.window, _window(whole, first), inverted=photometric == "MONOCHROME1")


def _frame(whole: Dataset, index: int, frames: int, decoder: str) -> NDArray[Any]:
    """Stored values (H, W) or (H, W, 3); colour as RGB unless it is a palette's."""
    from pydicom.encaps import get_frame
    from pydicom.pixels.utils import pixel_array

    if decoder:
        data = get_frame(whole.PixelData, index, number_of_frames=frames)
        _check_encoded(whole, data, decoder)
    stored: NDArray[Any] = pixel_array(whole, index=index, decoding_plugin=decoder)
    return stored


def _check_encoded(whole: Dataset, data: bytes, decoder: str) -> None:
    """Raises Unreadable if a compressed frame would unpack to more than the header says, and its caps allow."""
    from PIL import Image

    if decoder == "pillow":
        with Image.open(io.BytesIO(data), formats=("JPEG", "JPEG2000")) as image:
            if image.size != (whole.Columns, whole.Rows):
                wanted = f"wanted {whole.Columns}×{whole.Rows} pixels"
                raise Unreadable("undecodable", f"{wanted}, the compressed frame has {image.width}×{image.height}")
        return
    raw = int(whole.Rows) * int(whole.Columns) * int(whole.get("SamplesPerPixel", 1)) * int(whole.BitsAllocated) // 8
    # run lengths add at most a byte to 128, and a row ends its run
    if len(data) > 2 * raw + 1024 or (len(data) > _LOOKED_THROUGH_BYTES and _unpacks_to(data) > 2 * raw):
        raise Unreadable("undecodable", f"a frame of {raw} bytes, compressed to {len(data)} that unpack to others")


def _unpacks_to(data: bytes) -> int:
    """Bytes that a run-length frame unpacks to (PS3.5 G.3): up to 64 times its own."""
    count, *offsets = struct.unpack("<16L", data[:64])
    total = 0
    for first, last in itertools.pairwise((*offsets[: min(count, 15)], len(data))):
        at = first
        while at < last:
            run = data[at]
            total += run + 1 if run < 128 else (257 - run) % 129
            at += run + 2 if run < 128 else (2 if run > 128 else 1)
    return total


def _rescaled(whole: Dataset, stored: NDArray[Any], index: int) -> NDArray[np.float64]:
    """In the modality's units; NaN where the file pads."""
    from pydicom.pixels.processing import apply_modality_lut

    slope, intercept = (_of_frame(whole, index, f"Rescale{name}") for name in ("Slope", "Intercept"))
    if "ModalityLUTSequence" in whole:
        values = np.asarray(apply_modality_lut(stored, whole), dtype=np.float64)
    else:
        values = stored * float(1 if slope is None else slope) + float(intercept or 0)
    padding = whole.get("PixelPaddingValue")
    if padding is not None and stored.dtype.kind in "iu":
        # whether it is signed is not always told with it
        values[stored == np.int64(padding).astype(stored.dtype)] = np.nan
    return values


def _colour(whole: Dataset, stored: NDArray[Any], photometric: str) -> NDArray[np.uint8]:
    from pydicom.pixels.processing import apply_color_lut

    if photometric != "PALETTE COLOR":
        return to_8_bit(stored, int(whole.get("BitsStored", 8)))
    mapped = apply_color_lut(stored, whole)
    return to_8_bit(mapped[:, :, :3], mapped.dtype.itemsize * 8)


def _window(whole: Dataset, index: int) -> Window | None:
    """The file's first window."""
    centre, width, function = (
        _first(_of_frame(whole, index, name)) for name in ("WindowCenter", "WindowWidth", "VOILUTFunction")
    )
    if centre is None or width is None or not float(width) > 0:
        return None
    known: dict[str, Function] = {"LINEAR_EXACT": "LINEAR_EXACT", "SIGMOID": "SIGMOID"}
    return Window(float(centre), float(width), known.get(str(function).strip().upper(), "LINEAR"))


def _first(value: Any) -> Any:
    from pydicom.multival import MultiValue

    return next(iter(value), None) if isinstance(value, MultiValue) else value


def _of_frame(whole: Dataset, index: int, name: str) -> Any:
    """An attribute as a frame has it: at the top, or in the functional groups of the frame or of all."""
    if name in whole:
        return whole.get(name)
    for groups, at in (("PerFrameFunctionalGroupsSequence", index), ("SharedFunctionalGroupsSequence", 0)):
        of_frame = whole.get(groups) or ()
        inside = of_frame[at].get(_GROUPS[name]) if at < len(of_frame) else None
        if inside and name in inside[0]:
            return inside[0].get(name)
    return None
