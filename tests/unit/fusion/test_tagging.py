"""Tags of words: read, and scored as spans."""

from __future__ import annotations

import pytest

from mmgen.errors import ConfigError
from mmgen.fusion.tagging import read_tags, span_counts, spans, words_of
from mmgen.preprocess.text import Tokenizer


def test_spans_end_where_another_begins_and_a_stray_inside_begins_one() -> None:
    tags = ["B-PER", "I-PER", "B-PER", "O", "I-LOC", "I-LOC", "I-PER"]
    assert spans(tags) == {("PER", 0, 2), ("PER", 2, 3), ("LOC", 4, 6), ("PER", 6, 7)}
    assert spans(["O", "O"]) == set()


def test_a_span_counts_only_with_both_its_ends() -> None:
    wanted = [["B-A", "I-A", "O"], ["B-B", "O", "O"]]
    came = [["B-A", "O", "O"], ["B-B", "O", "B-A"]]
    assert span_counts(wanted, came) == {"A": (0, 2, 1), "B": (1, 1, 1)}


def test_a_tag_is_wanted_for_each_word() -> None:
    assert read_tags("O B-COLOUR O", "a  red\tsquare", "s1") == ["O", "B-COLOUR", "O"]
    with pytest.raises(ConfigError, match="s1: wanted a tag for each of the 2 words of its text, came 1"):
        read_tags("O", "two words", "s1")
    with pytest.raises(ConfigError, match="came 'X-A'"):
        read_tags("O X-A", "two words", "s1")


def test_a_word_is_found_in_the_row_of_ids_and_is_none_where_it_was_cut() -> None:
    tokenizer = Tokenizer.fit(["the red square is on a mat"] * 3, 300)
    text = "the red  square ünïcode square"
    starts = [start for start, _ in words_of(text)]
    row = tokenizer.encode(text, 40)
    places = tokenizer.places(text, 40, starts)
    assert len(places) == 5
    words = [
        tokenizer.decode(row[place:stop]).strip()
        for place, stop in zip(places, [*places[1:], len(row)], strict=True)
        if place is not None
    ]
    # the second of two spaces is a token of its own, or begins the word after it
    assert words == ["the", "red", "square", "ünïcode", "square"]
    assert tokenizer.places(text, 5, starts)[-1] is None
    assert tokenizer.places(text, 5, starts)[0] == 1
