"""What an independent recogniser hears in made clips, and in the real ones beside them."""

from __future__ import annotations

import numpy as np
import torch
import torchaudio
from numpy.typing import NDArray

from mmgen.evaluate import scores
from mmgen.evaluate.exam import Exam, recording
from mmgen.evaluate.intervals import wilson
from mmgen.evaluate.measure import Made, labels_of
from mmgen.evaluate.recogniser import RATE_HZ, Listener
from mmgen.evaluate.scores import Score, score
from mmgen.preprocess.audio import AudioPreprocess

#: clips of a split listened to at most: about 0.1 s each, most of it making sound of spectrograms
CLIPS = 200
NAME = "pocketsphinx"


def recognised(
    listener: Listener, how: AudioPreprocess, labels: tuple[str, ...], exam: Exam, made: Made
) -> list[Score]:
    """Share of made clips in which the listener hears the label of their condition."""
    asked = labels_of(exam.real, made.rows)
    places = (asked >= 0).nonzero().squeeze(1)[:CLIPS]
    if len(places) == 0:
        return []
    clips = how.waves(made.value[places])
    hits = _heard(listener, [_at_rate(clip, how.sample_rate_hz) for clip in clips], asked[places].tolist(), labels)
    return [score(scores.RECOGNISED, [made.given], [made.slot], NAME, wilson(hits, len(places)))]


def recognised_real(
    listener: Listener, how: AudioPreprocess, labels: tuple[str, ...], exam: Exam, slot: str
) -> list[Score]:
    """The same on the recordings themselves, as they are in the data: the listener's own ceiling."""
    asked = exam.real.labels_B.tolist()
    places = [row for row, data in enumerate(exam.files[slot]) if data is not None and asked[row] >= 0][:CLIPS]
    if not places:
        return []
    clips = []
    for row in places:
        data = exam.files[slot][row]
        assert data is not None
        clips.append(_at_rate(recording(how, data, f"{exam.real.keys[row]}/{slot}"), how.sample_rate_hz))
    hits = _heard(listener, clips, [asked[row] for row in places], labels)
    return [score(scores.RECOGNISED_REAL, [], [slot], NAME, wilson(hits, len(places)))]


def _at_rate(wave: torch.Tensor, rate_hz: int) -> NDArray[np.float32]:
    if rate_hz != RATE_HZ:
        wave = torchaudio.functional.resample(wave, rate_hz, RATE_HZ)
    clip: NDArray[np.float32] = wave.float().numpy()
    return clip


def _heard(listener: Listener, clips: list[NDArray[np.float32]], asked: list[int], labels: tuple[str, ...]) -> int:
    return sum(listener.hear(clip) == labels[label] for clip, label in zip(clips, asked, strict=True))
