"""Text: UTF-8, checked and measured, never changed: what is odd about it is a flag."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import ClassVar

from mmgen.errors import SourceError
from mmgen.modalities.config import CheckConfig
from mmgen.modalities.probing import Finding, Probe, Rule, Thumb, findings
from mmgen.records import Modality

_ALLOWED_CONTROLS = "\t\n\r"
#: they turn the order of letters round whatever these are; marks, embeddings and isolates are ordinary writing
_OVERRIDES = re.compile("[\u202d\u202e]")
_EMAIL = re.compile(r"[\w.+-]{1,64}@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}")
#: international with a plus, North American groups of 3-3-4, national with a leading zero and groups
_PHONE = re.compile(
    r"(?<![\w+])(?<!\d[ -])(?:\+\d{1,3}(?:[ ().-]{0,2}\d){7,12}"
    r"|\(?[2-9]\d{2}\)?[ .-]\d{3}[ .-]\d{4}"
    r"|0\d{1,4}[ /-]\d{3,4}[ -]\d{3,5})(?!\w|[ -]\d)"
)
_CARD = re.compile(r"(?<![\w-])\d(?:[ -]?\d){12,18}(?![\w-])")

RULES = (
    Rule("empty_text", "reject", lambda f, c: "wanted words, came only white space" if not f["text"].strip() else None),
    Rule(
        "too_long", "reject",
        lambda f, c: f"wanted at most {c.max_text_chars} characters, came {len(f['text'])}"
        if len(f["text"]) > c.max_text_chars else None,
    ),
    Rule("control_chars", "reject", lambda f, c: _controls(f["text"])),
    Rule(
        "replacement_char", "flag",
        lambda f, c: "holds U+FFFD: it was decoded wrongly before it came here" if "\ufffd" in f["text"] else None,
    ),
    Rule(
        "not_nfc", "flag",
        lambda f, c: None if unicodedata.is_normalized("NFC", f["text"])
        else "holds characters that Unicode composes otherwise (NFC); equal words may differ in their bytes",
    ),
    Rule(
        "bidi_override", "flag",
        lambda f, c: "holds U+202D or U+202E: it is shown in another order than it is read"
        if _OVERRIDES.search(f["text"]) else None,
    ),
    # what is found is not repeated: reports and quarantine tables travel further than the data
    Rule("pii_email", "flag", lambda f, c: _count(_EMAIL.findall(f["text"]), "e-mail address")),
    Rule("pii_phone", "flag", lambda f, c: _count(_PHONE.findall(f["text"]), "phone number")),
    Rule("pii_card", "flag", lambda f, c: _count(_cards(f["text"]), "payment card number")),
)  # fmt: skip


class TextMedia:
    """Text. Decoded: str."""

    name: ClassVar[Modality] = "text"
    extensions: ClassVar[tuple[str, ...]] = ("txt",)
    facts: ClassVar[Mapping[str, type]] = {"chars": int, "words": int}

    def sniff(self, data: bytes) -> str | None:
        """Whatever is UTF-8 without zero bytes."""
        try:
            return None if b"\0" in data else ("txt" if data.decode() is not None else None)
        except UnicodeDecodeError:
            return None

    def refuse_size(self, size_bytes: int, limits: CheckConfig) -> Finding | None:
        """A finding if so many bytes cannot be few enough characters."""
        if size_bytes <= 4 * limits.max_text_chars + 3:
            return None
        return Finding(
            "too_long", "reject", f"wanted at most {limits.max_text_chars} characters, came {size_bytes} bytes"
        )

    def probe(self, data: bytes, limits: CheckConfig) -> Probe:
        """A byte-order mark is part of the encoding, not of the text."""
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            return Probe(None, {}, (Finding("not_utf8", "reject", f"wanted UTF-8: {error}"),))
        found = findings(RULES, {"text": text}, limits)
        return Probe("txt", {"chars": len(text), "words": len(text.split())}, tuple(found))

    def decode(self, data: bytes) -> str:
        """Raises SourceError for what is not UTF-8."""
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise SourceError(f"text: wanted UTF-8: {error}") from error

    def encode(self, value: str) -> bytes:
        """UTF-8. Raises ValueError for lone surrogates."""
        return value.encode()

    def thumbnail(self, data: bytes) -> Thumb | None:
        """None: text alone never links samples (law 14)."""
        return None


def _count(found: Sequence[object], what: str) -> str | None:
    return f"holds {len(found)} {what}{'s' if len(found) > 1 else ''}" if found else None


def _cards(text: str) -> list[str]:
    """Runs of 13 to 19 digits whose check digit is right (ISO/IEC 7812-1, Luhn)."""
    runs = (re.sub(r"\D", "", run) for run in _CARD.findall(text))
    return [run for run in runs if len(set(run)) > 1 and _luhn(run) % 10 == 0]


def _luhn(digits: str) -> int:
    doubled = [2 * int(digit) for digit in digits[-2::-2]]
    return sum(int(digit) for digit in digits[-1::-2]) + sum(each - 9 if each > 9 else each for each in doubled)


def _controls(text: str) -> str | None:
    # C0, DEL and C1, which no keyboard writes and which break pages and terminals
    found = sorted(
        {char for char in text if (char < " " or "\x7f" <= char <= "\x9f") and char not in _ALLOWED_CONTROLS}
    )
    return f"holds control characters {', '.join(f'U+{ord(char):04X}' for char in found[:5])}" if found else None
