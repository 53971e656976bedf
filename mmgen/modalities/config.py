"""Per-slot preprocessing, and the thresholds of the checks."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from mmgen.reasons import Override, check_overrides
from mmgen.settings import Settings


class ImageSlot(Settings):
    """An image slot: decoded, resized and cropped to a square, normalised by (x/255 - mean) / std."""

    modality: Literal["image"] = "image"
    #: column of the source; None: the source's `image` for the slot named image
    column: str | None = None
    size_px: int = Field(32, ge=8, le=1024)
    channels: Literal[1, 3] = 3
    #: stretch: to the square; fit: shorter side to the size, then crop; pad: longer side to the size, then pad
    resize: Literal["stretch", "fit", "pad"] = "fit"
    crop: Literal["centre", "random"] = "centre"
    mean: float = 0.5
    std: float = Field(0.5, gt=0)


class AudioSlot(Settings):
    """An audio slot: downmixed, resampled, cropped or padded to a length, then a log-mel spectrogram."""

    later = frozenset({"representation", "variable"})

    modality: Literal["audio"] = "audio"
    column: str | None = None
    #: what its values are: a log-mel spectrogram (M, T), or the waveform itself (1, samples) with the mel settings
    #: unused, as codecs and encoders of other libraries want it
    representation: Literal["mel", "waveform"] = "mel"
    sample_rate_hz: int = Field(16_000, ge=4_000, le=192_000)
    #: the length of every clip, or the longest if they are variable
    seconds: float = Field(1.0, gt=0, le=60)
    #: clips shorter than `seconds` keep their length, and what is made gets one; else they are padded with silence
    variable: bool = False
    mels: int = Field(64, ge=8)
    n_fft: int = Field(1024, ge=64)
    #: frames = seconds × sample_rate_hz / hop
    hop: int = Field(250, ge=16)
    f_min_hz: float = Field(0.0, ge=0)
    f_max_hz: float | None = None
    crop: Literal["start", "centre", "random"] = "start"
    #: the log-mel range [floor, ceiling] in natural log maps to [-1, 1]
    log_floor: float = -8.0
    log_ceiling: float = 4.0

    @model_validator(mode="after")
    def _marks_its_end(self) -> AudioSlot:
        if self.variable and self.representation == "waveform":
            raise ValueError("variable: wanted mel as the representation beside it, came waveform, which marks no end")
        return self


class TextSlot(Settings):
    """A text slot: byte-level BPE token ids, truncated to a length."""

    modality: Literal["text"] = "text"
    #: column(s); several are alternatives
    column: str | tuple[str, ...] | None = None
    max_tokens: int = Field(32, ge=4, le=1024)


SlotConfig = Annotated[ImageSlot | AudioSlot | TextSlot, Field(discriminator="modality")]


class ScanConfig(Settings):
    """How a DICOM or a NIfTI becomes the picture that is staged: grey at 8 bits, or the colour that it has."""

    #: which values are black and white: the file's own first window (the whole range if it has none), the whole range
    #: of the picture, or [centre, width] in rescaled units (Hounsfield units of a CT)
    window: Literal["file", "full"] | tuple[float, float] = "file"
    #: a volume is cut across z (a DICOM's frames; feet to head of a NIfTI), y (rows; back to front) or
    #: x (columns; left to right)
    axis: Literal["z", "y", "x"] = "z"
    #: where along it: 0 the first slice, 1 the last
    position: float = Field(0.5, ge=0, le=1)
    #: a NIfTI that is larger than this unpacked is refused by its header
    max_volume_bytes: int = Field(1 << 30, ge=1)

    @field_validator("window", mode="before")
    @classmethod
    def _two_numbers(cls, window: Any) -> Any:
        match window:
            case "file" | "full" | [int() | float(), int() | float()] if isinstance(window, str) or window[1] > 0:
                return window
        raise ValueError(f"wanted file, full or [centre, width] with a width above 0, came {window!r}")


class CheckConfig(Settings):
    """Thresholds of the per-sample checks; caps are applied before anything is decoded."""

    max_image_pixels: int = 64_000_000
    max_image_bytes: int = 64 << 20
    min_image_side_px: int = 2
    max_audio_seconds: float = 600.0
    max_audio_bytes: int = 256 << 20
    min_audio_seconds: float = 0.02
    max_audio_channels: int = 16
    #: quieter than this over the whole clip is silence
    silence_dbfs: float = -70.0
    #: more than this share of samples at full scale is flagged as clipped
    max_clipped_share: float = Field(0.02, ge=0, le=1)
    #: sound whose mean is further from zero (of full scale) is flagged
    max_dc_offset: float = Field(0.05, ge=0, le=1)
    #: an image whose pixels deviate less than this (of full scale) is blank
    blank_image_std: float = Field(0.002, ge=0, le=1)
    max_text_chars: int = 10_000
    #: what tunable rules do instead of their usual: reason → reject, flag or off (`mmgen checks` lists them)
    severity: dict[str, Override] = Field(default_factory=dict)

    @field_validator("severity")
    @classmethod
    def _known(cls, severity: dict[str, Override]) -> dict[str, Override]:
        check_overrides(severity)
        return dict(sorted(severity.items()))
