"""`vqa`: answers to questions about pictures never seen, typed and spoken; backwards, questions that have the answer.

    make bench-vqa                  # or: python -m benchmarks.vqa --json
    make bench-vqa ARGS="--store /tmp/vqa --quick"

The line of `mmgen demo vqa` is run up to its generator, or found in the store. Samples are drawn from easy-vqa's own
test part. Floors: the same model with the question alone, the speech alone or the picture alone, the commonest answer
of the training split, and the commonest answer to each question there. Exact match is by kind of answer too. A made
question is right if its true answer for that picture is the given one (question_truth.py), which is judged on the
pictures whose shape and colour their own questions settle; beside it questions made from the answer alone.
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from benchmarks.demo_line import RESULTS, Line, arguments, counted, first, keep, share, tell, trained
from benchmarks.question_truth import Picture, kind_of, parse
from benchmarks.question_truth import pictures as pictures_of
from mmgen.dataset import Item
from mmgen.evaluate.intervals import bootstrap
from mmgen.evaluate.scores import Score

NAME, ANSWER, QUESTION = "vqa", "answer", "question"
#: what the answer is made from: what is asked, and its floors
WAYS = (("image", "question"), ("image", "speech"), ("question",), ("speech",), ("image",))
GRAMMAR = "question_truth"


# ---------------------------------------------------------------- answers


def exact_matches(metric: str, given: Sequence[str], made: Sequence[str], items: Sequence[Item]) -> list[Score]:
    """The share of right answers, of all and of each kind of answer."""
    wanted = [str(first(item, ANSWER)) for item in items]
    right = [" ".join(text.split()) == answer for text, answer in zip(made, wanted, strict=True)]
    found = share(metric, given, ANSWER, "text", right)
    for kind in ("yes/no", "colour", "shape"):
        mine = [each for each, answer in zip(right, wanted, strict=True) if kind_of(answer) == kind]
        found += share(f"{metric}, {kind}", given, ANSWER, "text", mine)
    return found


def commonest(training: Sequence[Item], items: Sequence[Item]) -> list[Score]:
    """What is right without a model: the commonest answer in training, of all and to each question."""
    overall: Counter[str] = Counter()
    by_question: dict[str, Counter[str]] = defaultdict(Counter)
    for item in training:
        answer = str(first(item, ANSWER))
        overall[answer] += 1
        by_question[str(first(item, QUESTION))][answer] += 1
    usual = overall.most_common(1)[0][0]
    # a question that training does not ask has the commonest answer of all
    guesses = [by_question.get(str(first(item, QUESTION)), overall).most_common(1)[0][0] for item in items]
    return [
        *exact_matches("commonest_answer", (), [usual] * len(items), items),
        *exact_matches("commonest_answer", (QUESTION,), guesses, items),
    ]


# ---------------------------------------------------------------- questions


def settled(items: Sequence[Item]) -> dict[str, Picture]:
    """Group → what its picture shows, for the pictures that their questions tell enough of."""
    asked: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for item in items:
        asked[str(item.group)].append((str(first(item, QUESTION)), str(first(item, ANSWER))))
    possible = {group: pictures_of(each) for group, each in asked.items()}
    return {group: each[0] for group, each in possible.items() if len(each) == 1}


def question_scores(
    made: Sequence[str], items: Sequence[Item], shown: dict[str, Picture], given: Sequence[str], resamples: int
) -> list[Score]:
    """Shares of made texts that are questions, and whose true answer is the given one, of all and by kind of answer;
    different questions over all that are questions, and the same of these samples' own."""
    wanted = [str(first(item, ANSWER)) for item in items]
    read = [parse(text) for text in made]
    right = [
        question is not None and question.answer(shown[str(item.group)]) == answer
        for question, item, answer in zip(read, items, wanted, strict=True)
    ]
    found = share("is_question", given, QUESTION, GRAMMAR, [question is not None for question in read])
    found += share("question_right", given, QUESTION, GRAMMAR, right)
    for kind in ("yes/no", "colour", "shape"):
        mine = [each for each, answer in zip(right, wanted, strict=True) if kind_of(answer) == kind]
        found += share(f"question_right, {kind}", given, QUESTION, GRAMMAR, mine)
    # nonsense is always distinct: questions alone, beside the own ones of the same samples
    asked = [(text, item) for text, item, question in zip(made, items, read, strict=True) if question is not None]
    if asked:
        found.append(distinct("distinct", given, [text for text, _ in asked], resamples))
        own = [str(first(item, QUESTION)) for _, item in asked]
        found.append(distinct("distinct_real", given, own, resamples))
    return found


def distinct(metric: str, given: Sequence[str], texts: Sequence[str], resamples: int) -> Score:
    """Different texts over all texts, with a bootstrap interval."""
    codes_N = np.unique(np.asarray(texts), return_inverse=True)[1]
    found = bootstrap(
        lambda places: len(np.unique(codes_N[places])) / len(places), [len(texts)], resamples, seed=0
    )  # fmt: skip
    # a bootstrap does not know that a share ends at 1
    inside = replace(found, low=max(0.0, found.low), high=min(1.0, found.high))
    return counted(metric, given, QUESTION, "text", inside)


def measure(line: Line, options: argparse.Namespace) -> list[Score]:
    """All rows."""
    every = line.samples("test")
    items = line.samples("test", options.rows)
    found = []
    for given in WAYS:
        found += exact_matches("exact_match", given, line.make(items, given, ANSWER, seed=options.seed), items)
    found += commonest(line.samples("train"), items)
    shown = settled(every)
    told = [item for item in items if str(item.group) in shown]
    for given in (("image", ANSWER), (ANSWER,)):
        # answers are the likeliest; of questions there are many
        made = line.make(told, given, QUESTION, seed=options.seed, temperature=1.0)
        found += question_scores(made, told, shown, given, line.config.evaluate.resamples)
    return found


def main() -> None:
    """Measure, keep the table, and print."""
    parser = arguments(NAME, rows=1_000)
    parser.description = __doc__.splitlines()[0] if __doc__ else None
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    path = options.out or RESULTS / f"{NAME}.parquet"
    line = trained(NAME, options)
    rows = measure(line, options)
    keep(path, rows, line.generator.ref, split="test")
    tell(rows, path, options.json)


if __name__ == "__main__":
    main()
