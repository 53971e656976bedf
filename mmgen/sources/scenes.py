"""`scenes`: two or three things composed by relations, said in two languages, for a generator to compose anew.

Made from packages alone: Noto's colour emoji (Debian's `fonts-noto-color-emoji`) and eSpeak NG's voices (extra
`demo`). Names are those of Unicode CLDR 48's annotations (npm's `cldr-annotations-full`), English and Chinese; where
the annotation's name says more than the picture does (`red apple`), its plain keyword. There is no emoji of a table:
it is drawn. Written as what a user has: `images/*.png`, `audio/*.flac` and `pairs.csv`. Everything follows from the
row's number, and some combinations are only in the test split.
"""

from __future__ import annotations

import hashlib
import io
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from mmgen.errors import StoreError, UserError
from mmgen.runtime import Progress, Silent
from mmgen.sources.espeak import package_folder, resample
from mmgen.sources.spoken import in_one_process, speaker, write_table

ROWS, TEST_SHARE, VALIDATION_SHARE = 12_000, 0.04, 0.03
BATCH_ROWS = 100
SIZE_PX, RATE_HZ = 64, 16_000
FONT = "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf"
# the one size of the font's bitmaps
FONT_PX = 109
COLUMNS = ("key", "caption_en", "caption_zh", "image", "audio", "scene", "language", "split")
#: share of the combinations of three things, and of two, that training never sees
HELD_OUT = {3: 0.25, 2: 0.1}


@dataclass(frozen=True, slots=True)
class Thing:
    """emoji, its names, the Chinese measure word; whether it sits."""

    emoji: str
    en: str
    zh: str
    measure: str
    sits: bool = False


THINGS = {
    thing.en: thing
    for thing in (
        Thing("🐈", "cat", "猫", "只", True), Thing("🐕", "dog", "狗", "只", True),
        Thing("🐇", "rabbit", "兔子", "只", True), Thing("🐦", "bird", "鸟", "只", True),
        Thing("🐢", "turtle", "龟", "只", True), Thing("🍎", "apple", "苹果", "个"),
        Thing("🍌", "banana", "香蕉", "根"), Thing("⚽", "soccer ball", "足球", "个"),
        Thing("🍓", "strawberry", "草莓", "颗"), Thing("🌷", "tulip", "郁金香", "朵"),
    )
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Support:
    """What things are on or under. surface: its height above the ground, as a share of SIZE_PX."""

    emoji: str
    en: str
    zh: str
    surface: float


SUPPORTS = {
    support.en: support
    for support in (
        Support("", "table", "桌子", 0.42), Support("🪑", "chair", "椅子", 0.34), Support("🛏", "bed", "床", 0.31),
    )
}  # fmt: skip
Relation = Literal["on", "under", "left of"]
GROUND_PX, WIDEST_PX = 60, 58


@dataclass(frozen=True, slots=True, order=True)
class Fact:
    """`thing` stands in `relation` to `to`: a support, or for "left of" another thing."""

    thing: str
    relation: str
    to: str

    def __str__(self) -> str:
        return f"{self.thing} {self.relation} {self.to}"


Scene = tuple[Fact, ...]
#: 一只猫坐在桌子上，桌子上有一个苹果
ASKED: Scene = (Fact("apple", "on", "table"), Fact("cat", "on", "table"))


@cache
def combinations() -> tuple[Scene, ...]:
    """All scenes: one thing and a support, two things side by side, two things and a support."""
    places = [(relation, support) for support in SUPPORTS for relation in ("on", "under")]
    one = [(Fact(thing, relation, support),) for thing in THINGS for relation, support in places]
    beside = [(Fact(left, "left of", right),) for left, right in itertools.permutations(THINGS, 2)]
    two = [
        tuple(sorted((Fact(first, a, support), Fact(second, b, support))))
        for first, second in itertools.combinations(THINGS, 2)
        for support in SUPPORTS
        for a in ("on", "under")
        for b in ("on", "under")
    ]
    return (*one, *beside, *two)


def things_of(scene: Scene) -> set[str]:
    """Names of all that is in it, supports included."""
    return {name for fact in scene for name in (fact.thing, fact.to)}


def held_out(scene: Scene) -> bool:
    """Whether training never sees this combination."""
    if scene == ASKED:
        return True
    rank = int.from_bytes(hashlib.sha256("; ".join(map(str, scene)).encode()).digest()[:8], "big") / 2**64
    return rank < HELD_OUT[len(things_of(scene))]


# ---------------------------------------------------------------- words


def captions(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    """The scene in English and in Chinese, the same way of saying it in both."""
    order = list(rng.permutation(len(scene)))
    clauses = [clause(scene[at], bool(rng.random() < 0.5)) for at in order]
    return ", ".join(en for en, _ in clauses), "，".join(zh for _, zh in clauses)


def clause(fact: Fact, other: bool) -> tuple[str, str]:
    """A fact in English and in Chinese, in one of its two ways of saying; some have one only."""
    thing = THINGS[fact.thing]
    en, zh = f"{_article(thing.en)} {thing.en}", f"一{thing.measure}{thing.zh}"
    if fact.relation == "left of":
        beside = THINGS[fact.to]
        en_to, zh_to = f"{_article(beside.en)} {beside.en}", f"一{beside.measure}{beside.zh}"
        if other:
            return f"{en_to} is to the right of {en}", f"{zh_to}在{zh}的右边"
        return f"{en} is to the left of {en_to}", f"{zh}在{zh_to}的左边"
    support = SUPPORTS[fact.to]
    if fact.relation == "under":
        if other:
            return f"under the {support.en} is {en}", f"{support.zh}下有{zh}"
        return f"{en} is under the {support.en}", f"{zh}在{support.zh}下"
    if thing.sits and other:
        return f"{en} sits on the {support.en}", f"{zh}坐在{support.zh}上"
    return f"{en} is on the {support.en}", f"{support.zh}上有{zh}"


def _article(name: str) -> str:
    return "an" if name[0] in "aeiou" else "a"


# ---------------------------------------------------------------- pictures


@cache
def sprite(name: str) -> Image.Image:
    """The picture of a thing or support, RGBA, cut to what is drawn. Raises UserError without the font."""
    emoji = (THINGS.get(name) or SUPPORTS[name]).emoji
    if not emoji:
        return _table()
    if not Path(FONT).is_file():
        raise UserError(f"scenes need the font {Path(FONT).name}, which is not there: install fonts-noto-color-emoji")
    sheet = Image.new("RGBA", (160, 160), (0, 0, 0, 0))
    ImageDraw.Draw(sheet).text((8, 8), emoji, font=ImageFont.truetype(FONT, FONT_PX), embedded_color=True)
    return sheet.crop(sheet.getbbox())


def _table() -> Image.Image:
    """A table from the front."""
    sheet = Image.new("RGBA", (144, 84), (0, 0, 0, 0))
    pen = ImageDraw.Draw(sheet)
    for left in (10, 122):
        pen.rectangle((left, 14, left + 11, 83), fill=(122, 76, 40, 255))
    pen.rounded_rectangle((0, 0, 143, 17), 5, fill=(168, 110, 62, 255))
    return sheet


@dataclass(frozen=True, slots=True)
class Placed:
    """A sprite on the canvas: name, centre of its foot and height in pixels."""

    name: str
    x: float
    foot: float
    height: float


def layout(scene: Scene, rng: np.random.Generator) -> list[Placed]:
    """Where all things stand, back to front."""
    if scene[0].relation == "left of":
        spots = [(16 + rng.uniform(-3, 3), scene[0].thing), (48 + rng.uniform(-3, 3), scene[0].to)]
        foot = rng.uniform(44, 56)
        return [Placed(name, x, foot + rng.uniform(-2, 2), 25 * rng.uniform(0.9, 1.1)) for x, name in spots]
    support = SUPPORTS[scene[0].to]
    top = GROUND_PX - support.surface * SIZE_PX
    centre = 32 + rng.uniform(-3, 3)
    picture = sprite(support.en)
    height = (GROUND_PX - top) if not support.emoji else min(40, WIDEST_PX * picture.height / picture.width)
    found = [Placed(support.en, centre, GROUND_PX, height)]
    for relation, foot, size in (("on", top + 1, 21), ("under", GROUND_PX + 1, 17)):
        here = [fact.thing for fact in scene if fact.relation == relation]
        offsets = rng.permutation([-10.5, 10.5]) if len(here) == 2 else [rng.uniform(-8, 8)]
        for name, offset in zip(here, offsets, strict=False):
            x = centre + offset + rng.uniform(-1.5, 1.5)
            found.append(Placed(name, x, foot, size * rng.uniform(0.92, 1.08)))
    return found


def render(placed: Sequence[Placed], background: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Pixels (SIZE_PX, SIZE_PX, 3), drawn at four times the size."""
    scale = 4
    canvas = Image.new("RGBA", (SIZE_PX * scale, SIZE_PX * scale), (*background, 255))
    for each in placed:
        picture = sprite(each.name)
        height = max(1, round(each.height * scale))
        width = max(1, round(picture.width * height / picture.height))
        small = picture.resize((width, height), Image.Resampling.LANCZOS)
        canvas.alpha_composite(small, _inside(canvas, small, each.x * scale, each.foot * scale))
    shrunk = canvas.convert("RGB").resize((SIZE_PX, SIZE_PX), Image.Resampling.BOX)
    return np.asarray(shrunk)


def _inside(canvas: Image.Image, small: Image.Image, x: float, foot: float) -> tuple[int, int]:
    left, top = round(x - small.width / 2), round(foot - small.height)
    return (max(0, min(left, canvas.width - small.width)), max(0, min(top, canvas.height - small.height)))


def background_of(rng: np.random.Generator) -> tuple[int, int, int]:
    """A light colour."""
    red, green, blue = (int(value) for value in rng.integers(205, 256, 3))
    return red, green, blue


# ---------------------------------------------------------------- the folder


def build(folder: str | Path, rows: int = ROWS, progress: Progress | None = None) -> Path:
    """Write `rows` samples below `folder` and return the path of `pairs.csv`, written last.

    Raises UserError (fewer than 20 rows; the font or the extra `demo` is not installed), StoreError.
    """
    if rows < 20:
        raise UserError(f"rows: wanted at least 20, came {rows}")
    root = Path(folder)
    sprite("cat")
    package_folder("espeakng_loader", "the speech of scenes")
    try:
        for name in ("images", "audio"):
            (root / name).mkdir(parents=True, exist_ok=True)
        firsts = range(0, rows, BATCH_ROWS)
        batches = [(str(root), first, min(first + BATCH_ROWS, rows), rows) for first in firsts]
        return write_table(root, COLUMNS, in_one_process(_write_rows, batches, "scenes", rows, progress or Silent()))
    except OSError as error:
        raise StoreError(f"scenes: could not write below {root}: {error.strerror or error}") from error


def split_of(row: int, rows: int) -> str:
    """The split of a row: the last ones are for validation and, of combinations never seen, for the test."""
    if row >= rows - max(1, round(TEST_SHARE * rows)):
        return "test"
    return "validation" if row >= rows - max(2, round((TEST_SHARE + VALIDATION_SHARE) * rows)) else "train"


def draw_scene(split: str, rng: np.random.Generator) -> Scene:
    """One of the scenes of a split: those that training never sees are the test's."""
    pool = [scene for scene in combinations() if held_out(scene) == (split == "test")]
    return pool[rng.integers(len(pool))]


VOICES = {"en": ("en-us", "en-us+f2", "en-us+m1"), "zh": ("cmn", "cmn+f2", "cmn+m1")}


def _write_rows(root: str, first: int, end: int, rows: int) -> list[tuple[str, ...]]:
    return [_write_row(Path(root), row, rows) for row in range(first, end)]


def _write_row(root: Path, row: int, rows: int) -> tuple[str, ...]:
    key, split = f"scene-{row:05d}", split_of(row, rows)
    rng = np.random.default_rng([2026, 11, row])
    first_test = split == "test" and split_of(row - 1, rows) != "test"
    scene = ASKED if first_test else draw_scene(split, rng)
    en, zh = captions(scene, rng)
    image, audio = f"images/{key}.png", f"audio/{key}.flac"
    Image.fromarray(render(layout(scene, rng), background_of(rng))).save(root / image)
    language = "en" if rng.random() < 0.5 else "zh"
    voice = VOICES[language][rng.integers(3)]
    wave = speaker().say(
        en if language == "en" else zh, voice=voice, words_per_minute=int(rng.integers(170, 221)),
        pitch=int(rng.integers(40, 61)),
    )  # fmt: skip
    clip = resample(wave.astype(np.float64), speaker().rate_hz, RATE_HZ)
    sink = io.BytesIO()
    soundfile.write(sink, np.clip(clip, -32768, 32767).astype(np.int16), RATE_HZ, format="FLAC")
    (root / audio).write_bytes(sink.getvalue())
    return key, en, zh, image, audio, "; ".join(map(str, scene)), language, split
