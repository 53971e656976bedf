"""Every reason why a row or a slot is rejected, dropped or flagged: what `mmgen checks` lists."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from mmgen.errors import unknown_name
from mmgen.records import Stage

Effect = Literal["reject", "drop", "flag"]
Override = Literal["reject", "flag", "off"]


@dataclass(frozen=True, slots=True)
class Reason:
    """A named rule. effect: what it does unless a setting says otherwise.

    settings: dotted configuration keys of its thresholds and policies. tunable: `validate.checks.severity` may change
    its effect; what cannot be read, and what breaks a law, may not pass.
    """

    stage: Stage
    effect: Effect
    what: str
    settings: tuple[str, ...] = ()
    tunable: bool = False


def _check(name: str) -> str:
    return f"validate.checks.{name}"


REASONS: Mapping[str, Reason] = {
    # the source's records
    "malformed_row": Reason("source", "reject", "a record that its format does not allow"),
    "short_row": Reason("source", "reject", "fewer cells than columns"),
    "long_row": Reason("source", "reject", "more cells than columns"),
    "missing_key": Reason("source", "reject", "the key's cell is empty", ("source.key",)),
    "not_utf8": Reason("source", "reject", "text in other bytes than UTF-8"),
    "malformed_sidecar": Reason("source", "reject", "a sample's .json is no JSON object"),
    "ambiguous_slot": Reason("source", "reject", "several files of one sample fit the same slot"),
    "broken_archive": Reason("source", "reject", "the tar breaks off within this sample"),
    "not_a_video": Reason("source", "reject", "a file like a video that cannot be opened as one"),
    "video_too_long": Reason(
        "source", "reject", "a video beyond the caps, by its header",
        ("source.clip.max_video_seconds", "source.clip.max_video_bytes"),
    ),
    "path_refused": Reason("source", "reject", "a path or address outside the source", ("source.allow_roots",)),
    "file_missing": Reason("source", "reject", "a file that is not there"),
    "file_unreadable": Reason("source", "reject", "a file that is there and cannot be read"),
    # bytes of a slot
    "zero_bytes": Reason("ingest", "reject", "an empty file"),
    "too_many_bytes": Reason(
        "ingest", "reject", "more bytes than the cap, packed or not",
        (_check("max_image_bytes"), _check("max_audio_bytes"), "source.scan.max_volume_bytes"),
    ),
    "active_content": Reason("ingest", "reject", "SVG, HTML, PDF, scripts: what could execute or fetch"),
    "not_an_image": Reason("ingest", "reject", "bytes of no known image format"),
    "not_audio": Reason("ingest", "reject", "bytes of no known audio format"),
    "type_mismatch": Reason("ingest", "flag", "a name that claims another type than the bytes are of", tunable=True),
    "unsupported_encoding": Reason("ingest", "reject", "a scan whose pixels are stored in a way that is not read"),
    "phi_header": Reason("ingest", "flag", "a scan whose header names people; the header is not kept", tunable=True),
    "burned_in_annotation": Reason("ingest", "flag", "a scan that says it has writing in its pixels", tunable=True),
    "sound_ends_early": Reason("ingest", "flag", "the sound of a video ends before its clip does", tunable=True),
    "truncated": Reason("ingest", "reject", "the file ends too early"),
    "wrong_size": Reason(
        "ingest", "flag", "a header that tells another length than the samples have", tunable=True
    ),
    "undecodable": Reason("ingest", "reject", "bytes that start well and cannot be decoded"),
    "too_many_pixels": Reason(
        "ingest", "reject", "more pixels than the cap, by its header", (_check("max_image_pixels"),)
    ),
    "too_small": Reason("ingest", "reject", "a side below the least", (_check("min_image_side_px"),), tunable=True),
    "blank": Reason("ingest", "reject", "all pixels alike", (_check("blank_image_std"),), tunable=True),
    "animated": Reason("ingest", "flag", "several frames; the first is used", tunable=True),
    "too_long": Reason(
        "ingest", "reject", "longer than the cap", (_check("max_audio_seconds"), _check("max_text_chars"))
    ),
    "too_short": Reason(
        "ingest", "reject", "sound shorter than the least", (_check("min_audio_seconds"),), tunable=True
    ),
    "too_many_channels": Reason("ingest", "reject", "more channels than the cap", (_check("max_audio_channels"),)),
    "not_finite": Reason("ingest", "reject", "NaN or infinite samples or pixels"),
    "silent": Reason("ingest", "reject", "quieter than the least", (_check("silence_dbfs"),), tunable=True),
    "clipped": Reason(
        "ingest", "flag", "many samples at full scale", (_check("max_clipped_share"),), tunable=True
    ),
    "dc_offset": Reason("ingest", "flag", "a mean far from zero", (_check("max_dc_offset"),), tunable=True),
    "antiphase": Reason("ingest", "flag", "channels that cancel in a sum; the loudest is used", tunable=True),
    "empty_text": Reason("ingest", "reject", "only white space"),
    "control_chars": Reason("ingest", "reject", "control characters", tunable=True),
    "replacement_char": Reason("ingest", "flag", "U+FFFD: decoded wrongly before it came here", tunable=True),
    "not_nfc": Reason("ingest", "flag", "text not in Unicode's composed form (NFC); kept as it is", tunable=True),
    "bidi_override": Reason(
        "ingest", "flag", "characters that turn the order of what is shown (U+202D, U+202E)", tunable=True
    ),
    "pii_email": Reason("ingest", "flag", "an e-mail address", tunable=True),
    "pii_phone": Reason("ingest", "flag", "a phone number", tunable=True),
    "pii_card": Reason("ingest", "flag", "a payment card number with a right check digit", tunable=True),
    # rows
    "forgotten": Reason("ingest", "drop", "a key that was forgotten: the ledger of `mmgen forget` names it"),
    "no_slots": Reason("ingest", "reject", "no slot is there, or none is left", ("validate.on_bad_slot",)),
    "schema": Reason("validate", "reject", "facts that break their schema"),
    "duplicate_key": Reason("validate", "reject", "an earlier row has this key"),
    "key_clash": Reason("validate", "flag", "an earlier key differs only in case or in Unicode composition"),
    "unknown_split": Reason("validate", "reject", "the user's split has no known name", ("source.split",)),
    "duplicate": Reason(
        "validate", "drop", "the same media and texts as an earlier sample", ("validate.duplicates",)
    ),
    "near_duplicate": Reason(
        "validate", "flag", "media confirmed alike an earlier sample's",
        ("validate.near_duplicates", "validate.near_radius_bits", "validate.near_confirm"),
    ),
    "same_media": Reason("validate", "flag", "the same media under other texts", ("validate.near_duplicates",)),
    "mismatched_pair": Reason(
        "validate", "flag", "slots that a fusion model finds as unlike as those of two samples",
        ("validate.pairs.fence_iqr", "validate.pairs.toward_wrong"), tunable=True,
    ),
    "bridges_splits": Reason("validate", "drop", "links samples of two splits"),
}  # fmt: skip


def check_overrides(overrides: Mapping[str, Override]) -> None:
    """Raises ValueError for a code that is unknown or cannot be changed."""
    for code in overrides:
        if code not in REASONS:
            raise ValueError(f"severity: {unknown_name('reason', code, REASONS)}")
        if not REASONS[code].tunable:
            tunable = ", ".join(sorted(each for each, reason in REASONS.items() if reason.tunable))
            raise ValueError(f"severity: '{code}' cannot be changed; those that can: {tunable}")
