"""Made texts against those that real samples have: BLEU, chrF, ROUGE-L, exact match, perplexity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sacrebleu.metrics.bleu import BLEU, BLEUScore
from sacrebleu.metrics.chrf import CHRF, CHRFScore

from mmgen.evaluate.intervals import Estimate, bootstrap, mean_of_samples, wilson

#: first letters of scripts that are written without spaces between words
_UNSPACED = ("\u0e00", "\u0e7f"), ("\u3040", "\u30ff"), ("\u3400", "\u9fff"), ("\uf900", "\ufaff")


# sacrebleu takes the mean over resamples with `statistics`, which does not mix float32, as counts summed by numpy give,
# with the float of a resample that has nothing right; counts are whole numbers


class _Bleu(BLEU):
    def _compute_score_from_stats(self, stats: Sequence[float]) -> BLEUScore:
        return super()._compute_score_from_stats([int(each) for each in stats])


class _Chrf(CHRF):
    def _compute_score_from_stats(self, stats: Sequence[float]) -> CHRFScore:
        return super()._compute_score_from_stats([int(each) for each in stats])


@dataclass(frozen=True, slots=True)
class TextScore:
    """metric: its name. signature: what of it can be set, so that others get the same number."""

    metric: str
    signature: str
    found: Estimate


def text_scores(made: Sequence[str], references: Sequence[Sequence[str]], resamples: int, seed: int) -> list[TextScore]:
    """Scores of texts, each against one or more references of its own. BLEU and chrF are of the corpus, in 0…100.

    Raises ValueError for no texts, or a text without a reference.
    """
    if not made or len(made) != len(references) or not all(references):
        raise ValueError(f"text_scores: wanted texts with references, came {len(made)} and {len(references)}")
    exact = [
        any(_plain(text) == _plain(each) for each in wanted) for text, wanted in zip(made, references, strict=True)
    ]
    overlap = [max(rouge_l(text, each) for each in wanted) for text, wanted in zip(made, references, strict=True)]
    return [
        *_corpus_scores(made, references, resamples),
        TextScore("rouge_l", "words, F1, best reference", mean_of_samples(overlap, resamples, seed)),
        TextScore("exact_match", "whole text, any reference", wilson(sum(exact), len(exact))),
    ]


def _corpus_scores(made: Sequence[str], references: Sequence[Sequence[str]], resamples: int) -> list[TextScore]:
    # sacrebleu's way round: the n-th list has the n-th reference of every text
    most = max(map(len, references))
    columns = [[each[min(place, len(each) - 1)] for each in references] for place in range(most)]
    tokens = "zh" if _unspaced("".join(columns[0])) else "13a"
    found = []
    for name, metric in (("bleu", _Bleu(tokenize=tokens)), ("chrf", _Chrf())):
        score = metric.corpus_score(list(made), columns, n_bootstrap=resamples)
        value, half = float(score.score), float(score._ci)
        estimate = Estimate(value, max(0.0, value - half), min(100.0, value + half), len(made))
        found.append(TextScore(name, f"sacrebleu {metric.get_signature()}", estimate))
    return found


def rouge_l(made: str, wanted: str) -> float:
    """F1 of the longest common subsequence of words (Lin 2004, "ROUGE", section 3.1, β = 1); of letters where a script
    has no spaces. 1 for two empty texts."""
    x, y = words(made), words(wanted)
    if not x or not y:
        return float(x == y)
    row = [0] * (len(y) + 1)
    for word in x:
        before = 0
        for place, other in enumerate(y, start=1):
            kept = row[place]
            row[place] = before + 1 if word == other else max(row[place], row[place - 1])
            before = kept
    return 2 * row[-1] / (len(x) + len(y))


def words(text: str) -> list[str]:
    """Lower-case words; single letters of a script without spaces."""
    lower = text.lower()
    return list("".join(lower.split())) if _unspaced(lower) else lower.split()


def _unspaced(text: str) -> bool:
    """Whether most letters are of a script without spaces between words."""
    letters = [letter for letter in text if letter.isalpha()]
    return 2 * sum(any(low <= each <= high for low, high in _UNSPACED) for each in letters) > len(letters)


def _plain(text: str) -> str:
    return " ".join(text.split())


def perplexity(log_probability_N: Sequence[float], tokens_N: Sequence[int], resamples: int, seed: int) -> Estimate:
    """exp(- Σ log p / Σ tokens) of texts with these natural log-probabilities and numbers of tokens."""
    told, count = np.asarray(log_probability_N, dtype=np.float64), np.asarray(tokens_N, dtype=np.float64)
    if len(told) < 1 or len(told) != len(count) or count.min() < 1:
        raise ValueError(f"perplexity: wanted as many texts of at least one token, came {len(told)} and {len(count)}")
    # far beyond a vocabulary's size there is nothing more to tell, and exp overflows
    return bootstrap(lambda p: math.exp(min(700.0, -told[p].sum() / count[p].sum())), [len(told)], resamples, seed)
