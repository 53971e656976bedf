"""Grids and examples: which samples are chosen, what a page is told of each file, what the pictures hold."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mmgen.batches import Batch
from mmgen.evaluate.exam import Exam
from mmgen.evaluate.examples import EXAMPLES, GRID_COLUMNS, GRID_ROWS, chosen, direction_files, grid, pictures
from mmgen.evaluate.measure import Draws
from mmgen.generators.sampling import Sampling
from mmgen.modalities.audio import AudioMedia
from mmgen.preprocess.audio import AudioPreprocess
from mmgen.preprocess.image import ImagePreprocess
from mmgen.preprocess.table import Preprocess
from mmgen.preprocess.text import TextPreprocess, Tokenizer

ROWS = 30
TOKENIZER = Tokenizer.fit(["a red square", "a blue square"], 300)
HOW: dict[str, Preprocess] = {
    "text": TextPreprocess(TOKENIZER, 8),
    "image": ImagePreprocess(16),
    "audio": AudioPreprocess(8_000, 0.25, 16, n_fft=256, hop=125),
}
SAMPLING = Draws(Sampling(steps=1, guidance=1.0), seed=0)


class Grey:
    """Makes grey of a level that falls with the row, silence, or one text."""

    makes = ("text", "image", "audio")

    def make(self, given: Batch, to: tuple[str, ...], how: Sampling, rng: torch.Generator) -> dict[str, Tensor]:
        count = len(given)
        level = torch.linspace(1, -1, count).view(-1, 1, 1, 1)
        made = {
            "image": level.expand(-1, 3, 16, 16),
            "audio": torch.full((count, 16, 16), -1.0),
            "text": torch.from_numpy(TOKENIZER.encode("a red square", 8)).long().expand(count, -1),
        }
        return {slot: made[slot] for slot in to}


def wav() -> bytes:
    wave = 0.5 * np.sin(np.arange(4_000) * 0.3).astype(np.float32)
    return AudioMedia().encode((wave[None], 8_000))


def exam() -> Exam:
    ids = torch.from_numpy(np.stack([TOKENIZER.encode("a blue square", 8)] * ROWS)).long()
    values = {"text": ids, "image": torch.zeros(ROWS, 3, 16, 16), "audio": torch.zeros(ROWS, 16, 16)}
    masks = {slot: torch.ones(ROWS, 1, dtype=torch.bool) for slot in values}
    real = Batch(values, masks, torch.arange(ROWS) // 10, torch.ones(ROWS), [f"k{row}" for row in range(ROWS)])
    return Exam("test", real, {"text": [b"a blue square"] * ROWS, "image": [b""] * ROWS, "audio": [wav()] * ROWS})


def test_classes_take_turns_in_what_is_shown() -> None:
    real = exam().real
    assert real.labels_B[chosen(real, ["text"], 7)].tolist() == [0, 1, 2, 0, 1, 2, 0]
    real.masks["text"][:10] = False
    assert set(real.labels_B[chosen(real, ["text"], 4)].tolist()) == {1, 2}


def test_a_direction_to_pictures_gives_examples_and_a_grid_of_its_size() -> None:
    files = direction_files(HOW, Grey(), exam(), "text", "image", SAMPLING, 8)
    examples = [each for each in files if each.role == "example"]
    assert [each.facts["example"] for each in examples if each.facts["side"] == "made"] == [8, 9, 10, 11]
    assert {each.name for each in examples} >= {"examples/008-given-text.txt", "examples/011-made-image.png"}
    (sheet,) = [each for each in files if each.role == "grid"]
    assert (sheet.name, sheet.facts["title"]) == ("grid-text-image.png", "text → image")
    picture = Image.open(io.BytesIO(sheet.data))
    assert picture.size == (200 + 68 * GRID_COLUMNS, 68 * GRID_ROWS)
    # the first sample is white, the last of all is black
    assert picture.getpixel((210, 10)) == (255, 255, 255)
    assert picture.getpixel((200 + 68 * (GRID_COLUMNS - 1) + 10, 68 * (GRID_ROWS - 1) + 10)) == (0, 0, 0)


def test_a_sound_as_the_condition_is_the_recording_itself() -> None:
    files = direction_files(HOW, Grey(), exam(), "audio", "text", SAMPLING, 0)
    given = [each for each in files if each.facts["side"] == "given"]
    assert len(files) == 2 * EXAMPLES
    samples, rate = AudioMedia().decode(given[0].data)
    original, _ = AudioMedia().decode(wav())
    assert (rate, samples.shape) == (8_000, (1, 2_000))
    assert np.allclose(samples, original[:, :2_000], atol=1e-4)
    assert next(each.data for each in files if each.facts["side"] == "made") == b"a red square"


def test_a_slot_that_no_sample_has_gives_no_files() -> None:
    empty = exam()
    empty.real.masks["text"][:] = False
    assert direction_files(HOW, Grey(), empty, "text", "image", SAMPLING, 0) == []


def test_a_spectrogram_is_drawn_with_low_tones_below() -> None:
    value = torch.full((1, 16, 16), -1.0)
    value[0, 0] = 1.0
    (picture,) = pictures(HOW["audio"], value)
    assert picture.shape == (16, 16, 1)
    assert (picture[-1] == 255).all()
    assert (picture[:-1] == 0).all()


def test_small_pictures_are_enlarged_by_whole_pixels_and_texts_stand_beside() -> None:
    dot = np.zeros((16, 16, 1), dtype=np.uint8)
    dot[0, 0] = 255
    sheet = Image.open(io.BytesIO(grid(["a caption of a dot"], [[dot]])))
    assert sheet.getpixel((200, 0)) == sheet.getpixel((203, 3)) == (255, 255, 255)
    assert sheet.getpixel((204, 0)) == (0, 0, 0)
    assert np.asarray(sheet)[:, :200].min() < 128
