"""`vqa`: pictures of one shape each, questions about them, typed and spoken, and their answers.

Made from packages alone: PyPI's `easy-vqa` (extra `vqa`; 64×64 pictures, 107 questions, 13 answers, its own split of
training and test pictures) and eSpeak NG's voices (extra `demo`). Written as what a user has: `images/*.png`,
`speech/*.flac` and `pairs.csv`; rows that ask about one picture share its file, and it is their group.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

from mmgen.errors import StoreError, UserError
from mmgen.runtime import Progress, Silent
from mmgen.sources.espeak import package_folder, resample
from mmgen.sources.spoken import in_one_process, speaker, write_table

#: pictures of the package's training part, and of its test part
PICTURES = {"train": 4_000, "test": 1_000}
#: of the training pictures, the last ones are for validation
VALIDATION_SHARE = 0.05
RATE_HZ = 16_000
COLUMNS = ("key", "image", "question", "speech", "answer", "picture", "split")
VOICES = ("en-us", "en-us+f1", "en-us+f2", "en-us+m1", "en-us+m5", "en-us+m6")


def build(folder: str | Path, pictures: int = PICTURES["train"], progress: Progress | None = None) -> Path:
    """Write all questions about the first `pictures` of the training part, and about as large a share of the test part.

    Returns the path of `pairs.csv`, written last. Raises UserError (`pictures` out of range, an extra that is not
    installed), StoreError.
    """
    if not 20 <= pictures <= PICTURES["train"]:
        raise UserError(f"pictures: wanted 20 to {PICTURES['train']}, came {pictures}")
    data, root = package_folder("easy_vqa", "the recipe vqa") / "data", Path(folder)
    package_folder("espeakng_loader", "the speech of vqa")
    try:
        for name in ("images", "speech"):
            (root / name).mkdir(parents=True, exist_ok=True)
        rows = list(_rows(data, pictures))
        questions = sorted({question for _, _, question, _ in rows})
        lines = [_line(number, row, questions, pictures) for number, row in enumerate(rows)]
        wanted = {speech for _, _, _, speech, *_ in lines}
        batches = [(str(root), number, question, wanted) for number, question in enumerate(questions)]
        in_one_process(_say, batches, "vqa", len(wanted), progress or Silent())
        for part, picture in sorted({(part, picture) for part, picture, _, _ in rows}):
            shutil.copyfile(data / part / "images" / f"{picture}.png", root / "images" / f"{part}-{picture:04d}.png")
        return write_table(root, COLUMNS, lines)
    except OSError as error:
        raise StoreError(f"vqa: could not write below {root}: {error.strerror or error}") from error


def _rows(data: Path, pictures: int) -> Iterator[tuple[str, int, str, str]]:
    """(part, picture, question, answer), in the package's order."""
    for part, count in PICTURES.items():
        kept = round(count * pictures / PICTURES["train"])
        for question, answer, picture in json.loads((data / part / "questions.json").read_text(encoding="utf-8")):
            if picture < kept:
                yield part, int(picture), str(question), str(answer)


def _line(number: int, row: tuple[str, int, str, str], questions: list[str], pictures: int) -> tuple[str, ...]:
    part, picture, question, answer = row
    # who asks follows from the row's number
    voice = int(np.random.default_rng([2026, 12, number]).integers(len(VOICES)))
    held = part == "train" and picture >= pictures - max(1, round(VALIDATION_SHARE * pictures))
    group = f"{part}-{picture:04d}"
    speech = _file(questions.index(question), voice)
    split = "validation" if held else part
    return f"vqa-{number:05d}", f"images/{group}.png", question, speech, answer, group, split


# ---------------------------------------------------------------- speech


def _file(number: int, voice: int) -> str:
    return f"speech/{number:03d}-{voice}.flac"


def _say(root: str, number: int, question: str, wanted: set[str]) -> list[tuple[str, ...]]:
    """Every voice says it; the wanted files are kept, and named."""
    kept: list[tuple[str, ...]] = []
    for at, voice in enumerate(VOICES):
        # said whether wanted or not: what eSpeak says next follows from it
        wave = speaker().say(question, voice=voice, words_per_minute=185, pitch=50).astype(np.float64)
        if _file(number, at) not in wanted:
            continue
        clip = resample(wave, speaker().rate_hz, RATE_HZ)
        path = Path(root) / _file(number, at)
        soundfile.write(path, np.clip(clip, -32768, 32767).astype(np.int16), RATE_HZ, format="FLAC")
        kept.append((path.name,))
    return kept
