"""`scenes`: are things and relations of pictures and captions right, in combinations never seen in training?

    make bench-scenes               # or: python -m benchmarks.scenes --json
    make bench-scenes ARGS="--store /tmp/scenes --quick"

The line of `mmgen demo scenes` is run up to its generator, or found in the store. Each test sample is asked for its
picture by its English and Chinese caption and by its speech, at once, through the caption that it hears, and as the
best of several (`--candidates`), for its captions by its picture and by its speech, for one caption by the other. A
picture is read by templates of the renderer's own sprites (scene_matcher.py), and what that gets right of the real
pictures of the same samples stands beside it, as judged from nothing. Of made captions it counts how many are the
sample's own word for word (there are several ways to say a scene), and how many tell its scene. The asked sentence,
whose scene training never sees, is drawn a few times more: single draws, and each the best of several. They are shown
in docs/scenes-asked.png, or beside the table that `--out` names. Intervals are Wilson's, of chrF a bootstrap's.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.demo_line import RESULTS, Line, arguments, first, keep, share, tell, trained
from benchmarks.scene_captions import scene_of
from benchmarks.scene_matcher import match
from mmgen.dataset import Item
from mmgen.evaluate.examples import grid
from mmgen.evaluate.scores import Score, score
from mmgen.evaluate.text_scores import text_scores
from mmgen.sources.scenes import ASKED, Scene, combinations, things_of

NAME = "scenes"
DOCS = Path(__file__).parents[1] / "docs"
SENTENCE = "一只猫坐在桌子上，桌子上有一个苹果"
MATCHER, CAPTIONS = "scene_matcher", "scene_captions"
CAPTION = {"en": "caption_en", "zh": "caption_zh"}
ASKED_COLUMNS = 8


def truth(item: Item) -> Scene:
    """The scene that a sample was made from. Raises KeyError for another data set's."""
    return {"; ".join(map(str, scene)): scene for scene in combinations()}[item.meta["scene"]]


def pixels(data: bytes) -> NDArray[np.uint8]:
    """(H, W, 3) of a picture's file."""
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture.convert("RGB"))


# ---------------------------------------------------------------- pictures


def picture_scores(found: Sequence[Scene], wanted: Sequence[Scene], given: str, suffix: str = "") -> list[Score]:
    """Shares of pictures whose things are right, and whose relations are right too. given: "" of real pictures."""
    pairs = list(zip(found, wanted, strict=True))
    sides = (given,) if given else ()
    return [
        *share(f"things_right{suffix}", sides, "image", MATCHER, [things_of(a) == things_of(b) for a, b in pairs]),
        *share(f"scene_right{suffix}", sides, "image", MATCHER, [a == b for a, b in pairs]),
    ]


def pictures(line: Line, items: Sequence[Item], seed: int, candidates: int) -> list[Score]:
    """Pictures from each caption and from speech, by its language too, beside real ones; then the best of several."""
    wanted = [truth(item) for item in items]
    found = picture_scores([match(pixels(first(item, "image"))) for item in items], wanted, "", "_real")
    for given in (*CAPTION.values(), "audio"):
        seen = [match(pixels(data)) for data in line.make(items, (given,), "image", seed=seed)]
        found += picture_scores(seen, wanted, given)
        if given == "audio":
            for language in CAPTION:
                places = [at for at, item in enumerate(items) if item.meta["language"] == language]
                mine = [seen[at] for at in places], [wanted[at] for at in places]
                found += picture_scores(*mine, given, f"_spoken_{language}")
    # what is heard is written down first: two calls of the same model
    heard = line.make(items, ("audio",), CAPTION["en"], seed=seed)
    drawn = line.ask({CAPTION["en"]: heard}, "image", seed=seed)
    found += picture_scores([match(pixels(data)) for data in drawn], wanted, "audio", f"_via_{CAPTION['en']}")
    for given in (*CAPTION.values(), "audio"):
        files = line.make(items, (given,), "image", seed=seed, candidates=candidates)
        found += picture_scores([match(pixels(data)) for data in files], wanted, given, f"_of_{candidates}")
    return found


def asked(line: Line, count: int, seed: int, candidates: int, page: Path) -> list[Score]:
    """So many pictures of the asked sentence, single draws and each the best of several, and a PNG of them."""
    lines, titles, found = [], [], []
    for many, suffix in ((1, "_asked"), (candidates, f"_asked_of_{candidates}")):
        files = line.ask({CAPTION["zh"]: SENTENCE}, "image", count, seed, candidates=many)
        shown = [pixels(data) for data in files]
        found += picture_scores([match(each) for each in shown], [ASKED] * count, CAPTION["zh"], suffix)
        mine = [shown[start : start + ASKED_COLUMNS] for start in range(0, count, ASKED_COLUMNS)]
        # in English: Pillow's own font has no Chinese letters
        titles += [f"a cat sits on the table, an apple is on the table: best of {many}", *[""] * (len(mine) - 1)]
        lines += mine
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_bytes(grid(titles, lines))
    return found


# ---------------------------------------------------------------- captions


def caption_scores(made: Sequence[str], items: Sequence[Item], given: str, to: str, resamples: int) -> list[Score]:
    """chrF, the share that is the sample's caption word for word, and the share that tells its scene."""
    texts = text_scores(made, [item.values[to] for item in items], resamples, seed=0)
    found = [
        score(each.metric, (given,), (to,), each.signature, each.found)
        for each in texts if each.metric in ("chrf", "exact_match")
    ]  # fmt: skip
    told = [scene_of(text) == truth(item) for text, item in zip(made, items, strict=True)]
    return found + share("scene_told", (given,), to, CAPTIONS, told)


def captions(line: Line, items: Sequence[Item], seed: int) -> list[Score]:
    """Captions of pictures in both languages, and each language from the other."""
    ways = [(given, slot) for given in ("image", "audio") for slot in CAPTION.values()]
    ways += [(one, other) for one in CAPTION.values() for other in CAPTION.values() if one != other]
    found = []
    for given, to in ways:
        made = line.make(items, (given,), to, seed=seed)
        found += caption_scores(made, items, given, to, line.config.evaluate.resamples)
    return found


def measure(line: Line, options: argparse.Namespace, page: Path) -> list[Score]:
    """All rows."""
    items = line.samples(options.split, options.rows)
    return [
        *pictures(line, items, options.seed, options.candidates),
        *asked(line, options.asked, options.seed, options.candidates, page),
        *captions(line, items, options.seed),
    ]


def main() -> None:
    """Measure, keep the table and the picture, and print."""
    parser = arguments(NAME, rows=None)
    parser.description = __doc__.splitlines()[0] if __doc__ else None
    parser.add_argument("--split", choices=("test", "validation"), default="test",
                        help="validation has combinations that training has seen")  # fmt: skip
    parser.add_argument("--asked", type=int, default=16, help="pictures of the asked sentence")
    parser.add_argument("--candidates", type=int, default=16, help="samples of which the best is kept")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    path = options.out or RESULTS / f"{NAME}.parquet"
    line = trained(NAME, options)
    rows = measure(line, options, path.with_suffix(".png") if options.out else DOCS / f"{NAME}-asked.png")
    keep(path, rows, line.generator.ref, split=options.split)
    tell(rows, path, options.json)


if __name__ == "__main__":
    main()
