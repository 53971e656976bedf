"""An independent listener: pocketsphinx with a grammar of the class names. It has seen none of our data.

pocketsphinx is an optional extra (`pip install mmgen[recognisers]`); without it its scores are counted as not run.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

RATE_HZ = 16_000
#: quiet noise around a clip, without which the recogniser's noise tracking starts inside the word
MARGIN_SECONDS = 0.25
NOISE_SIGMA = 20.0
WORDS = {
    "0": "zero", "1": "one", "2": "two", "3": "three", "4": "four",
    "5": "five", "6": "six", "7": "seven", "8": "eight", "9": "nine",
}  # fmt: skip


class Listener(Protocol):
    """Hears one of a few words in a clip."""

    def hear(self, clip_N: NDArray[np.float32]) -> str | None:
        """The label heard in a mono clip of RATE_HZ in [-1, 1], None if none was."""
        ...


def spoken(label: str) -> str:
    """The word that says a label: digits by name, else the label itself in lower case."""
    return WORDS.get(label.strip(), label.strip().lower())


class Pocketsphinx:
    """pocketsphinx with its US English model and one grammar: any single word of `labels`."""

    def __init__(self, labels: Sequence[str], seed: int = 0) -> None:
        """Raises ValueError if a label is not one word of the recogniser's dictionary, or two sound alike."""
        import pocketsphinx

        model = Path(pocketsphinx.get_model_path())
        sounds, words = model / "en-us" / "en-us", model / "en-us" / "cmudict-en-us.dict"
        self.decoder: Any = pocketsphinx.Decoder(hmm=str(sounds), dict=str(words), lm=None, loglevel="FATAL")
        self.labels = {spoken(label): label for label in labels}
        unknown = [word for word in self.labels if not word.isalpha() or self.decoder.lookup_word(word) is None]
        if unknown or len(self.labels) < len(labels):
            reason = f"'{unknown[0]}' is not a word it knows" if unknown else "two labels are the same word"
            raise ValueError(reason)
        grammar = f"#JSGF V1.0; grammar labels; public <label> = {' | '.join(self.labels)} ;"
        self.decoder.add_jsgf_string("labels", grammar)
        self.decoder.activate_search("labels")
        self.noise = np.random.default_rng(seed)

    def hear(self, clip_N: NDArray[np.float32]) -> str | None:
        """See Listener. The clip stands in 0.25 s of σ = 20 (int16) noise on either side."""
        margin = round(MARGIN_SECONDS * RATE_HZ)
        samples = self.noise.normal(0.0, NOISE_SIGMA, len(clip_N) + 2 * margin)
        samples[margin : margin + len(clip_N)] += np.clip(clip_N, -1, 1) * 32_767.0
        self.decoder.start_utt()
        self.decoder.process_raw(np.clip(samples, -32_768, 32_767).astype(np.int16).tobytes(), full_utt=True)
        self.decoder.end_utt()
        heard = self.decoder.hyp()
        return self.labels.get(heard.hypstr) if heard is not None and heard.hypstr else None


def listener_for(labels: Sequence[str] | None) -> Listener | str:
    """A listener for these class names, or why there is none, as "not run: …"."""
    if not labels:
        return "not run: no labels"
    if find_spec("pocketsphinx") is None:
        return "not run: not installed"
    try:
        return Pocketsphinx(labels)
    except ValueError as error:
        return f"not run: {error}"
