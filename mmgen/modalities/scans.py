"""DICOM and NIfTI: pictures of them are staged in their place, as their headers name patients."""

from __future__ import annotations

import warnings
from collections.abc import Callable

from mmgen.errors import ConfigError
from mmgen.modalities import dicom, nifti
from mmgen.modalities.config import CheckConfig, ScanConfig
from mmgen.modalities.image import ImageMedia
from mmgen.modalities.probing import Derived, Finding, Rule, findings
from mmgen.modalities.windowing import Unreadable, View

FORMATS: dict[str, tuple[Callable[[bytes], bool], Callable[[bytes, ScanConfig, CheckConfig], View]]] = {
    "dicom": (dicom.is_dicom, dicom.view),
    "nifti": (nifti.is_nifti, nifti.view),
}
RULES = (
    Rule("phi_header", "flag", lambda f, c: f"filled: {', '.join(f['filled'])}" if f["filled"] else None),
    Rule(
        "burned_in_annotation", "flag",
        lambda f, c: "BurnedInAnnotation is YES: its pixels may name people" if f["burned_in"] else None,
    ),
)  # fmt: skip


def scan_kind(data: bytes) -> str | None:
    """Which scan `data` is, by its bytes; None if it is none."""
    return next((kind for kind, (fits, _) in FORMATS.items() if fits(data)), None)


def develop(data: bytes, kind: str, scan: ScanConfig, limits: CheckConfig) -> Derived:
    """The picture of a scan, without anything of its header. Never raises for bad bytes: what is wrong is a finding.

    Messages quote nothing that a header says. Raises ConfigError if the library that reads it is not installed: a
    rejection would stand also after it was.
    """
    try:
        view = _view(data, kind, scan, limits)
    except Unreadable as error:
        return Derived(kind, b"", (Finding(error.reason, "reject", error.message),))
    found = findings(RULES, {"filled": view.filled, "burned_in": view.burned_in}, limits)
    rejected = any(each.severity == "reject" for each in found)
    return Derived(kind, b"" if rejected else ImageMedia().encode(view.pixels), tuple(found))


def _view(data: bytes, kind: str, scan: ScanConfig, limits: CheckConfig) -> View:
    try:
        with warnings.catch_warnings():
            # readers warn with the values they stumble upon
            warnings.simplefilter("ignore")
            return FORMATS[kind][1](data, scan, limits)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"source: a {kind} file came, and {error.name} is not installed: install mmgen with the extra 'scans' "
            "(pip install 'mmgen[scans]')"
        ) from None
    except (MemoryError, Unreadable):
        raise
    except Exception as error:
        # whatever a reader raises for broken bytes; what it says may quote them
        message = f"{kind} that cannot be decoded ({type(error).__name__})"
        raise Unreadable("undecodable", message) from error
