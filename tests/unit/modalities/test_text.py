from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmgen.errors import SourceError
from mmgen.modalities.config import CheckConfig
from mmgen.modalities.table import MODALITIES, sniff
from mmgen.modalities.text import TextMedia

MEDIA = TextMedia()
LIMITS = CheckConfig()


def reasons(data: bytes, limits: CheckConfig = LIMITS) -> list[tuple[str, str]]:
    return [(finding.reason, finding.severity) for finding in MEDIA.probe(data, limits).findings]


@given(st.text(st.characters(exclude_categories=["Cs"])).filter(lambda text: not text.startswith("\ufeff")))
def test_text_comes_back_as_it_was(text: str) -> None:
    assert MEDIA.decode(MEDIA.encode(text)) == text


@given(st.binary())
def test_any_bytes_are_findings_never_errors(data: bytes) -> None:
    probe = MEDIA.probe(data, LIMITS)
    assert probe.rejected or set(probe.facts) == set(MEDIA.facts)


def test_good_text_is_measured_without_its_byte_order_mark() -> None:
    probe = MEDIA.probe("\ufeffgrüß dich\tWelt\n".encode(), LIMITS)
    assert (probe.ext, probe.findings, probe.facts) == ("txt", (), {"chars": 15, "words": 3})


@pytest.mark.parametrize("data", [b"", b"  \n\t"])
def test_empty_text_is_rejected(data: bytes) -> None:
    assert reasons(data) == [("empty_text", "reject")]


def test_long_text_is_rejected() -> None:
    assert reasons(b"word", CheckConfig(max_text_chars=3)) == [("too_long", "reject")]


def test_bytes_that_cannot_be_few_enough_characters_are_refused_unread() -> None:
    few = CheckConfig(max_text_chars=3)
    assert MEDIA.refuse_size(15, few) is None
    refused = MEDIA.refuse_size(16, few)
    assert refused is not None
    assert (refused.reason, refused.severity) == ("too_long", "reject")


@pytest.mark.parametrize("char", ["\0", "\x07", "\x1b", "\x7f", "\x85"])
def test_control_characters_are_rejected(char: str) -> None:
    assert reasons(f"a{char}b".encode()) == [("control_chars", "reject")]


def test_what_is_not_utf8_is_rejected() -> None:
    assert reasons("grüß".encode("latin-1")) == [("not_utf8", "reject")]
    with pytest.raises(SourceError, match="wanted UTF-8"):
        MEDIA.decode(b"\xff")


def test_a_replacement_character_is_flagged_and_kept() -> None:
    assert reasons("gr\ufffd".encode()) == [("replacement_char", "flag")]


def test_table_sniffs_media_before_text() -> None:
    assert sniff(b"RIFF\0\0\0\0WAVEfmt ") == ("audio", "wav")
    assert sniff(b"GIF89a") == ("image", "gif")
    assert sniff(b"hello") == ("text", "txt")
    assert sniff(b"\0\1\2\3") is None


def test_every_modality_answers_for_its_own_name() -> None:
    assert {name: media.name for name, media in MODALITIES.items()} == {
        name: name for name in ("text", "image", "audio")
    }


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("write to ada.lovelace+x@mail.example.org today", ["pii_email"]),
        ("mail me @ noon", []),
        ("call +44 20 7946 0958 or (212) 555-0187", ["pii_phone"]),
        ("Tel. 030 1234 5678", ["pii_phone"]),
        ("on 2026-11-24 10:16:48 there were 1234567890 rows of 0.123456789", []),
        ("pay with 4111 1111 1111 1111", ["pii_card"]),
        ("4111-1111-1111-1111", ["pii_card"]),
        ("order 4111 1111 1111 1112, 0000 0000 0000 0000", []),
    ],
)
def test_personal_data_are_flagged_and_not_repeated(text: str, found: list[str]) -> None:
    findings = MEDIA.probe(text.encode(), LIMITS).findings
    assert [(each.reason, each.severity) for each in findings] == [(reason, "flag") for reason in found]
    assert not [
        each for each in findings for word in text.split() if any(c.isdigit() for c in word) and word in each.message
    ]


def test_personal_data_can_be_rejected() -> None:
    limits = CheckConfig(severity={"pii_email": "reject"})
    assert MEDIA.probe(b"a@example.org", limits).rejected


AS_IT_IS = [
    "\U0001f469\U0001f3fd\u200d\U0001f692 \u2764\ufe0f \U0001f1e9\U0001f1ea", "שלום עולם", "مرحبا بالعالم",
    "\u200f(שלום)\u200e", "你好，世界。", "こんにちは", "안녕하세요", "ไทย",
    "<b>bold &amp; <script>alert('x')</script></b>", "=HYPERLINK(\"http://x\")", "=1+1", "+1-2", "@SUM(A1)",
    "$E = mc^2$, ∫₀¹ x² dx", "“quotes” ‘and’ \"'`", "a\tb\nc\r\nd", "lines \u2028 and \u2029", "  spaces kept  ",
]  # fmt: skip


@pytest.mark.parametrize("text", AS_IT_IS)
def test_writing_of_every_kind_is_kept_as_it_is(text: str) -> None:
    assert reasons(text.encode()) == []
    assert MEDIA.decode(text.encode()) == text


@pytest.mark.parametrize("text", ["cafe\u0301", "\u1100\u1161", "\u212b"])
def test_text_that_is_not_composed_is_flagged_and_not_changed(text: str) -> None:
    assert reasons(text.encode()) == [("not_nfc", "flag")]
    assert MEDIA.decode(text.encode()) == text
    assert reasons(unicodedata.normalize("NFC", text).encode()) == []
    assert reasons(text.encode(), CheckConfig(severity={"not_nfc": "off"})) == []


def test_characters_that_turn_the_order_are_flagged() -> None:
    assert reasons("access \u202elevel\u202c".encode()) == [("bidi_override", "flag")]
    assert reasons("\u2067שלום\u2069 and \u200f!".encode()) == []


def test_lone_surrogates_are_no_utf8() -> None:
    assert reasons("a\ud800b".encode("utf-8", "surrogatepass")) == [("not_utf8", "reject")]
    with pytest.raises(ValueError, match="surrogates not allowed"):
        MEDIA.encode("a\udc80")
