"""The true answer to a question of `vqa`, for a picture of one shape in one colour: a grammar of easy-vqa's questions.

    question  = "what color is the " subject | "what is the color of the " subject
              | "what is the " colour " shape"
              | "what shape " ("is in the image" | "is present" | "does the image contain")
              | "is " ("a" | "no") " " thing " present" | "is there " ["not "] "a " thing [" in the image"]
              | "does the image " ["not "] "contain a " thing
    subject   = "shape" | shape
    thing     = shape | colour " shape"

each with a question mark behind it.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass

SHAPES = ("circle", "rectangle", "triangle")
COLOURS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")
YES_NO = ("yes", "no")

_SHAPE, _COLOUR = f"(?P<shape>{'|'.join(SHAPES)})", f"(?P<colour>{'|'.join(COLOURS)})"
_THING = f"(?:{_SHAPE}|{_COLOUR} shape)"
_GRAMMAR = (
    ("colour", rf"what (?:color is|is the color of) the (?:shape|{_SHAPE})\?"),
    ("shape", rf"what is the {_COLOUR} shape\?"),
    ("shape", r"what shape (?:is in the image|is present|does the image contain)\?"),
    ("yes/no", rf"is (?:a|(?P<no>no)) {_THING} present\?"),
    ("yes/no", rf"is there (?P<no>not )?a {_THING}(?: in the image)?\?"),
    ("yes/no", rf"does the image (?P<no>not )?contain a {_THING}\?"),
)
_RULES = tuple((kind, re.compile(rule)) for kind, rule in _GRAMMAR)


@dataclass(frozen=True, slots=True)
class Picture:
    """What a picture shows."""

    shape: str
    colour: str


@dataclass(frozen=True, slots=True)
class Question:
    """asks: "colour", "shape" or "yes/no". shape, colour: what it names. negated: whether yes means no such thing."""

    asks: str
    shape: str | None
    colour: str | None
    negated: bool

    def answer(self, picture: Picture) -> str | None:
        """The true answer; None where the question names what the picture does not show."""
        named = self.shape in (None, picture.shape) and self.colour in (None, picture.colour)
        if self.asks == "yes/no":
            return "yes" if named != self.negated else "no"
        if not named:
            return None
        return picture.colour if self.asks == "colour" else picture.shape


def parse(question: str) -> Question | None:
    """What a question asks; None if it is none of the grammar."""
    for asks, rule in _RULES:
        if found := rule.fullmatch(" ".join(question.split())):
            parts = found.groupdict()
            return Question(asks, parts.get("shape"), parts.get("colour"), parts.get("no") is not None)
    return None


def kind_of(answer: str) -> str:
    """The kind of question that an answer answers: "yes/no", "colour" or "shape". Raises ValueError."""
    for kind, answers in (("yes/no", YES_NO), ("colour", COLOURS), ("shape", SHAPES)):
        if answer in answers:
            return kind
    raise ValueError(f"answer: wanted one of {', '.join((*YES_NO, *COLOURS, *SHAPES))}, came '{answer}'")


def pictures(asked: Iterable[tuple[str, str]]) -> list[Picture]:
    """All pictures for which these (question, answer) are true: one, where they tell enough of it."""
    read = [(parse(question), answer) for question, answer in asked]
    return [
        picture
        for picture in (Picture(shape, colour) for shape, colour in itertools.product(SHAPES, COLOURS))
        if all(question is not None and question.answer(picture) == answer for question, answer in read)
    ]
