"""Tags of a text's words in the BIO scheme: read from a column, laid on tokens, scored as spans.

A column of tags has one tag for each whitespace-separated word of the text, between spaces: `O`, `B-class` for the
first word of a span, `I-class` for a further one (Ramshaw & Marcus 1995, arXiv:cmp-lg/9505040).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from mmgen.errors import ConfigError

OUTSIDE = "O"
_TAG = re.compile(r"O|[BI]-\S+")
_WORD = re.compile(r"\S+")
# (class, first word, word after the last)
Span = tuple[str, int, int]


def words_of(text: str) -> list[tuple[int, int]]:
    """First character and the one after the last, of each whitespace-separated word."""
    return [match.span() for match in _WORD.finditer(text)]


def read_tags(tags: str, text: str, where: str) -> list[str]:
    """A tag for each word of `text`. Raises ConfigError."""
    found, words = tags.split(), len(words_of(text))
    if len(found) != words:
        raise ConfigError(
            f"{where}: wanted a tag for each of the {words} words of its text, came {len(found)}: '{tags}'"
        )
    if bad := [tag for tag in found if not _TAG.fullmatch(tag)]:
        raise ConfigError(f"{where}: wanted tags O, B-class and I-class, came '{bad[0]}'")
    return found


def spans(tags: Sequence[str]) -> set[Span]:
    """The spans of a row of tags. An I- tag that continues nothing of its class begins a span, as conlleval has it."""
    found: set[Span] = set()
    begun: tuple[str, int] | None = None
    for at, tag in enumerate([*tags, OUTSIDE]):
        kind = tag[2:]
        if begun is not None and not (tag.startswith("I-") and kind == begun[0]):
            found.add((begun[0], begun[1], at))
            begun = None
        if begun is None and tag != OUTSIDE:
            begun = (kind, at)
    return found


def span_counts(wanted: Sequence[Sequence[str]], came: Sequence[Sequence[str]]) -> dict[str, tuple[int, int, int]]:
    """Class → (spans found rightly, spans said, spans there) over texts; a span is right in class and both ends."""
    right, said, there = Counter[str](), Counter[str](), Counter[str]()
    for truth, guess in zip(wanted, came, strict=True):
        one, other = spans(truth), spans(guess)
        right.update(kind for kind, _, _ in one & other)
        said.update(kind for kind, _, _ in other)
        there.update(kind for kind, _, _ in one)
    return {kind: (right[kind], said[kind], there[kind]) for kind in sorted(there | said)}
