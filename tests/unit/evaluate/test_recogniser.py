"""The independent listener, on its own made-up speech and on labels that it cannot know."""

from __future__ import annotations

import numpy as np
import pytest

from mmgen.evaluate import recogniser
from mmgen.evaluate.recogniser import Pocketsphinx, listener_for, spoken


def test_digits_are_said_by_name_and_words_as_they_are() -> None:
    assert [spoken(label) for label in ("0", "7", "Dog")] == ["zero", "seven", "dog"]


def test_without_labels_or_without_the_package_it_says_why_it_did_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    assert listener_for(None) == "not run: no labels"
    monkeypatch.setattr(recogniser, "find_spec", lambda name: None)
    assert listener_for(["0", "1"]) == "not run: not installed"


def test_labels_that_are_no_words_are_counted_as_not_run() -> None:
    pytest.importorskip("pocketsphinx")
    assert listener_for(["dog", "qzxv"]) == "not run: 'qzxv' is not a word it knows"
    assert listener_for(["class_1", "dog"]) == "not run: 'class_1' is not a word it knows"
    assert listener_for(["1", "one"]) == "not run: two labels are the same word"


def test_silence_is_no_error_and_gives_a_label_or_nothing() -> None:
    pytest.importorskip("pocketsphinx")
    heard = Pocketsphinx(["0", "1"]).hear(np.zeros(16_000, dtype=np.float32))
    assert heard in ("0", "1", None)


def test_it_hears_the_word_that_was_said() -> None:
    pytest.importorskip("pocketsphinx")
    pytest.importorskip("espeakng_loader")
    from mmgen.sources.espeak import Speaker, resample

    digits = [str(digit) for digit in range(10)]
    listener, right = Pocketsphinx(digits), 0
    with Speaker() as speaker:
        for digit in digits:
            said = speaker.say(spoken(digit), voice="en-us", words_per_minute=150, pitch=50) / 32_768.0
            right += listener.hear(resample(said, speaker.rate_hz, 16_000).astype(np.float32)) == digit
    assert right >= 8
