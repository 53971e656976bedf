"""Scores of texts: known values, several references, scripts without spaces, what can be set said in the signature."""

from __future__ import annotations

import math

import pytest
import sacrebleu

from mmgen.evaluate.text_scores import perplexity, rouge_l, text_scores, words


def scored(made: list[str], references: list[list[str]]) -> dict[str, float]:
    return {each.metric: each.found.value for each in text_scores(made, references, 20, 0)}


def test_rouge_l_is_that_of_the_paper() -> None:
    # Lin 2004, section 3.1: S1, S2 and S3
    assert rouge_l("police kill the gunman", "police killed the gunman") == 0.75
    assert rouge_l("the gunman kill police", "police killed the gunman") == 0.5
    assert (rouge_l("", ""), rouge_l("a", ""), rouge_l("", "a")) == (1.0, 0.0, 0.0)


def test_a_script_without_spaces_is_compared_by_its_letters() -> None:
    assert words("一只猫 坐着") == ["一", "只", "猫", "坐", "着"]
    assert rouge_l("一只狗坐着", "一只猫坐着") == 0.8
    assert words("A cat, 猫") == ["a", "cat,", "猫"]
    (bleu,) = [
        each for each in text_scores(["一只猫坐在桌子上"], [["一只猫坐在桌子上"]], 5, 0) if each.metric == "bleu"
    ]
    assert "tok:zh" in bleu.signature
    assert bleu.found.value == pytest.approx(100)


def test_bleu_and_chrf_are_sacrebleus_with_its_signature() -> None:
    made = ["a bold seven drawn by hand", "an eight in a thin pen"]
    wanted = ["a bold seven written by hand", "an eight in a thick pen"]
    found = {each.metric: each for each in text_scores(made, [[each] for each in wanted], 20, 0)}
    assert found["bleu"].found.value == pytest.approx(sacrebleu.corpus_bleu(made, [wanted]).score)
    assert found["chrf"].found.value == pytest.approx(sacrebleu.corpus_chrf(made, [wanted]).score)
    assert found["bleu"].found.low < found["bleu"].found.value < found["bleu"].found.high
    assert f"version:{sacrebleu.__version__}" in found["bleu"].signature
    assert "tok:13a" in found["bleu"].signature


def test_resamples_without_any_match_count_as_others_do() -> None:
    """One text of four has something right: about a third of the resamples have nothing."""
    made, real = ["one two three four five", "aa", "bb", "cc"], ["one two three four five", "xx", "yy", "zz"]
    for found in text_scores(made, [[each] for each in real], resamples=50, seed=0)[:2]:
        assert 0 <= found.found.low < found.found.value < found.found.high <= 100, found.metric


def test_any_of_a_samples_texts_counts_as_right() -> None:
    found = scored(["seven", "a  nine", "two"], [["a seven", "seven"], ["a nine"], ["one", "zero", "four"]])
    assert found["exact_match"] == pytest.approx(2 / 3)
    assert found["rouge_l"] == pytest.approx(2 / 3)
    assert scored(["seven"], [["no", "seven"]])["chrf"] == pytest.approx(100)


def test_texts_without_references_are_refused() -> None:
    for made, references in (([], []), (["a"], [[]]), (["a", "b"], [["a"]])):
        with pytest.raises(ValueError, match="wanted texts with references"):
            text_scores(made, references, 5, 0)


def test_perplexity_of_even_odds_is_their_number() -> None:
    found = perplexity([-3 * math.log(8), -5 * math.log(8)], [3, 5], 50, 0)
    assert found.value == pytest.approx(8)
    assert found.n == 2
    uneven = perplexity([-1.0, -30.0, -2.0, -9.0], [3, 3, 3, 3], 200, 0)
    assert uneven.low < uneven.value < uneven.high
    with pytest.raises(ValueError, match="at least one token"):
        perplexity([-1.0], [0], 5, 0)
