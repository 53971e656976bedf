"""Speech from eSpeak NG through ctypes, on the library and data that PyPI's `espeakng-loader` ships.

eSpeak NG is GPL-3 and optional (extra `demo`): nothing of it is imported, linked or copied unless a Speaker is made.
API: https://github.com/espeak-ng/espeak-ng/blob/master/src/include/espeak-ng/speak_lib.h
"""

from __future__ import annotations

import ctypes
import importlib.util
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmgen.errors import UserError

# names of speak_lib.h
AUDIO_OUTPUT_SYNCHRONOUS = 2
INITIALIZE_DONT_EXIT = 0x8000
ESPEAK_RATE, ESPEAK_PITCH = 1, 3
POS_CHARACTER, CHARS_UTF8 = 1, 1

_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
_LIBRARY = {"win32": "espeak-ng.dll", "darwin": "libespeak-ng.dylib"}.get(sys.platform, "libespeak-ng.so")


def package_folder(package: str, what: str) -> Path:
    """The folder of an installed package, found without importing it. Raises UserError if it is not there."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.origin:
        raise UserError(f"{what} needs the package '{package}', which is not installed: pip install 'mmgen[demo]'")
    return Path(spec.origin).parent


class Speaker:
    """eSpeak NG in this process, in its synchronous retrieval mode. One at a time: the library has global state."""

    def __init__(self) -> None:
        home = package_folder("espeakng_loader", "speech")
        try:
            self._lib: Any = ctypes.CDLL(str(home / _LIBRARY))
        except OSError as error:
            raise UserError(f"speech: eSpeak NG's library does not load here: {error}") from error
        self._lib.espeak_ng_SetRandSeed.argtypes = [ctypes.c_long]
        self._chunks: list[NDArray[np.int16]] = []
        self._callback = _Callback(self._receive)
        self.rate_hz = int(
            self._lib.espeak_Initialize(AUDIO_OUTPUT_SYNCHRONOUS, 0, str(home).encode(), INITIALIZE_DONT_EXIT)
        )
        if self.rate_hz <= 0:
            raise UserError(f"speech: eSpeak NG does not start on the data in {home}")
        self._lib.espeak_SetSynthCallback(self._callback)

    def _receive(self, wave: Any, count: int, _events: Any) -> int:
        if wave and count > 0:
            self._chunks.append(np.ctypeslib.as_array(wave, (count,)).copy())
        return 0

    def close(self) -> None:
        """Free the library's state: what is said next starts from a fresh one."""
        self._lib.espeak_Terminate()

    def __enter__(self) -> Speaker:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def say(self, text: str, *, voice: str, words_per_minute: int, pitch: int) -> NDArray[np.int16]:
        """Samples at `rate_hz`. voice: as in "en-us+f1". pitch: 0–100, 50 is normal. Raises UserError for a voice
        that is not there."""
        if self._lib.espeak_SetVoiceByName(voice.encode()) != 0:
            raise UserError(f"speech: eSpeak NG has no voice '{voice}'")
        # the noise of fricatives is random: seeded for each utterance, so it does not depend on what came before
        self._lib.espeak_ng_SetRandSeed(1)
        self._lib.espeak_SetParameter(ESPEAK_RATE, words_per_minute, 0)
        self._lib.espeak_SetParameter(ESPEAK_PITCH, pitch, 0)
        self._chunks.clear()
        data = text.encode() + b"\0"
        status = self._lib.espeak_Synth(data, len(data), 0, POS_CHARACTER, 0, CHARS_UTF8, None, None)
        if status != 0 or not self._chunks:
            raise UserError(f"speech: eSpeak NG could not say '{text}' with voice '{voice}' (status {status})")
        return np.concatenate(self._chunks)


def resample(samples: NDArray[np.floating[Any]], rate_hz: int, wanted_hz: int) -> NDArray[np.float64]:
    """`samples` (N,) at another rate by band-limited (Fourier) interpolation; padded against wrap-around."""
    ratio = Fraction(wanted_hz, rate_hz)
    step = ratio.denominator
    blocks = -(-(len(samples) + 2 * step) // step)
    padded = np.zeros(blocks * step)
    padded[: len(samples)] = samples
    count = blocks * ratio.numerator
    spectrum = np.fft.rfft(padded)
    bins = count // 2 + 1
    kept = np.zeros(bins, dtype=np.complex128)
    kept[: min(bins, len(spectrum))] = spectrum[:bins]
    out = np.fft.irfft(kept, count) * (count / len(padded))
    return np.asarray(out[: int(len(samples) * ratio)])
