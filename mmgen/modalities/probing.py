"""What every modality answers with: facts and findings. A finding is a named rule that a value breaks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mmgen.modalities.config import CheckConfig
from mmgen.records import Modality, Severity

THUMB_SIDE = 32
HASH_SIDE = 8

Thumb = NDArray[np.float32]
Facts = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Finding:
    """A broken rule. reason: its code in the quarantine. message: what was wanted and what came."""

    reason: str
    severity: Severity
    message: str


@dataclass(frozen=True, slots=True)
class Rule:
    """A check of what has been read so far; `breaks` says what is wrong, or None."""

    reason: str
    severity: Severity
    breaks: Callable[[Mapping[str, Any], CheckConfig], str | None]


def findings(rules: Iterable[Rule], facts: Mapping[str, Any], limits: CheckConfig) -> list[Finding]:
    """The rules that `facts` break, in their order, with the severity that the configuration gives them."""
    found = []
    for rule in rules:
        severity = limits.severity.get(rule.reason, rule.severity)
        if severity != "off" and (message := rule.breaks(facts, limits)) is not None:
            found.append(Finding(rule.reason, severity, message))
    return found


#: how files begin that viewers run or that fetch others: never decoded, whatever their name says
_ACTIVE = {b"<svg": "SVG", b"<?xml": "XML", b"<!doc": "HTML", b"<html": "HTML", b"<scri": "a script", b"%pdf": "PDF",
           b"%!ps": "PostScript", b"#!": "a script"}  # fmt: skip


def active_content(data: bytes) -> str | None:
    """What `data` is if it could execute or fetch something, None otherwise."""
    start = data[:256].removeprefix(b"\xef\xbb\xbf").lstrip()[:8].lower()
    return next((name for magic, name in _ACTIVE.items() if start.startswith(magic)), None)


@dataclass(frozen=True, slots=True)
class Probe:
    """Facts of a value's bytes, and what is wrong with them. ext: canonical extension, None if unknown."""

    ext: str | None
    facts: Facts = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()

    @property
    def rejected(self) -> bool:
        return any(finding.severity == "reject" for finding in self.findings)


@dataclass(frozen=True, slots=True)
class Derived:
    """What was made of a source's bytes: the picture of a scan, a frame of a video or its sound.

    kind: what it was made of. data: empty if it is rejected, or not there.
    """

    kind: str
    data: bytes
    findings: tuple[Finding, ...] = ()


class Media(Protocol):
    """A modality: what its bytes are, say, and become."""

    @property
    def name(self) -> Modality: ...

    @property
    def extensions(self) -> tuple[str, ...]:
        """Canonical extensions that `sniff` may answer."""

    @property
    def facts(self) -> Mapping[str, type]:
        """What `probe` measures: name → Python type."""

    def sniff(self, data: bytes) -> str | None:
        """The canonical extension of what `data` starts like, None if it is not of this modality."""

    def refuse_size(self, size_bytes: int, limits: CheckConfig) -> Finding | None:
        """What is wrong with a value of so many bytes, told before they are read; None if nothing."""

    def probe(self, data: bytes, limits: CheckConfig) -> Probe:
        """Check and measure. Never raises for bad bytes: what is wrong is a finding."""

    def decode(self, data: bytes) -> Any:
        """The value as an array (text: str). Raises SourceError."""

    def encode(self, value: Any) -> bytes:
        """The bytes of a value, in the modality's plain format. Raises ValueError for a wrong shape or type."""

    def thumbnail(self, data: bytes) -> Thumb | None:
        """(32, 32) in 0..1, what `similarity` compares; None where there is none."""


def similarity(one: Thumb, other: Thumb) -> float:
    """Correlation of two thumbnails in [-1, 1]; 0 if one of them is flat. Confirms a near-duplicate (law 14)."""
    a, b = one - one.mean(), other - other.mean()
    scale = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / scale if scale > 1e-9 else 0.0


def _cosines() -> NDArray[np.float64]:
    place = np.arange(THUMB_SIDE)
    angles = np.pi / THUMB_SIDE * (place[None, :] + 0.5) * np.arange(HASH_SIDE)[:, None]
    return np.asarray(np.cos(angles), dtype=np.float64)


_COSINES = _cosines()


def hash64(thumb: Thumb) -> str:
    """Perceptual hash, 16 hex digits: signs of the 8×8 lowest DCT-II coefficients against their median.

    The mean (the first coefficient) is left out of the median, so brightness does not move it.
    """
    low = _COSINES @ thumb.astype(np.float64) @ _COSINES.T
    flat = low.ravel()
    # rounding keeps the bits of symmetric pictures, whose coefficients are zero up to noise
    levels = np.round(flat, 6)
    bits = levels > np.sort(levels[1:])[len(levels) // 2 - 1]
    return np.packbits(bits).tobytes().hex()
