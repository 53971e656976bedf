"""What people look at: a grid of made pictures per direction, and single examples of every direction as files."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from mmgen.batches import Batch
from mmgen.evaluate.exam import Exam, recording
from mmgen.evaluate.measure import Draws, Maker, having, make
from mmgen.evaluate.memorisation import Pair
from mmgen.modalities.audio import AudioMedia
from mmgen.preprocess.audio import AudioPreprocess
from mmgen.preprocess.image import ImagePreprocess
from mmgen.preprocess.table import Preprocess
from mmgen.preprocess.text import TextPreprocess

#: conditions of a grid, and samples beside each
GRID_ROWS, GRID_COLUMNS = 10, 8
#: single examples of each direction
EXAMPLES = 4
#: single examples of each larger set of inputs, and of the joint
FEW = 2
#: a picture is shown at least this large
CELL_PX = 64
TEXT_PX, GAP_PX, LINE_CHARACTERS = 200, 4, 30

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class ExampleFile:
    """One file to keep. role: "grid", "example" or "nearest". facts: what a page needs to show it."""

    name: str
    data: bytes
    role: str
    facts: dict[str, str | int | float]


def chosen(real: Batch, given: Sequence[str], count: int) -> Tensor:
    """At most `count` rows that have all of `given`: the first of each class in turn, so that all classes show."""
    rows = having(real, *given) if given else torch.arange(len(real), device=real.labels_B.device)
    labels = real.labels_B[rows].tolist()
    turn: dict[int, int] = {}
    order = []
    for place, label in enumerate(labels):
        order.append((turn.get(label, 0), label, place))
        turn[label] = turn.get(label, 0) + 1
    return rows[[place for _, _, place in sorted(order)[:count]]]


def direction_files(
    how: Mapping[str, Preprocess], maker: Maker, exam: Exam, given: str, to: str, draws: Draws, first: int
) -> list[ExampleFile]:
    """Examples of one direction (numbered from `first`), and its grid if it makes pictures."""
    found = set_files(how, maker, exam, (given,), (to,), draws, first, EXAMPLES)
    if found and isinstance(how[to], ImagePreprocess):
        found.append(_direction_grid(how, maker, exam.real, given, to, draws))
    return found


def set_files(
    how: Mapping[str, Preprocess],
    maker: Maker,
    exam: Exam,
    given: Sequence[str],
    to: Sequence[str],
    draws: Draws,
    first: int,
    count: int = FEW,
) -> list[ExampleFile]:
    """At most `count` examples of what is made from these inputs together, or from none; numbered from `first`."""
    rows = chosen(exam.real, given, count)
    if len(rows) == 0:
        return []
    made = make(maker, exam.real, given, to, rows, draws)
    sides = [("given", slot, _real_files(how[slot], exam, slot, rows)) for slot in given]
    sides += [("made", slot, how[slot].files(made[slot])) for slot in to]
    found = []
    for side, slot, files in sides:
        for number, data in enumerate(files, start=first):
            name = f"examples/{number:03d}-{side}-{slot}.{how[slot].extension}"
            found.append(ExampleFile(name, data, "example", {"example": number, "side": side, "slot": slot}))
    return found


def pair_files(how: Preprocess, pairs: Sequence[Pair]) -> list[ExampleFile]:
    """Made samples beside their nearest training samples, all of one slot. The digest of the training sample's shard
    stands with each, so that a purge finds what shows it."""
    found = []
    made, training = (
        how.files(torch.stack(each)) for each in ([p.made for p in pairs], [p.training for p in pairs])
    )  # fmt: skip
    for number, pair in enumerate(pairs):
        about: dict[str, str | int | float] = {
            "pair": number, "slot": pair.slot, "given": pair.given, "distance": round(pair.distance, 4),
            "shard": pair.shard,
        }  # fmt: skip
        for side, data in (("made", made[number]), ("training", training[number])):
            name = f"nearest/{pair.slot}-{number}-{side}.{how.extension}"
            found.append(ExampleFile(name, data, "nearest", {**about, "side": side}))
    return found


def _real_files(how: Preprocess, exam: Exam, slot: str, rows: Tensor) -> list[bytes]:
    """What the conditions are: pictures and texts as the model sees them, sound as it was recorded."""
    if not isinstance(how, AudioPreprocess):
        return how.files(exam.real.values[slot][rows])
    found = []
    for row in rows.tolist():
        data = exam.files[slot][row]
        assert data is not None
        clip = recording(how, data, f"{exam.real.keys[row]}/{slot}")
        found.append(AudioMedia().encode((clip.numpy()[None], how.sample_rate_hz)))
    return found


def _direction_grid(
    how: Mapping[str, Preprocess], maker: Maker, real: Batch, given: str, to: str, draws: Draws
) -> ExampleFile:
    rows = chosen(real, [given], GRID_ROWS)
    made = make(maker, real, [given], [to], rows.repeat_interleave(GRID_COLUMNS), draws)[to]
    shown = pictures(how[to], made)
    beside = conditions(how[given], real.values[given][rows])
    lines = [shown[start : start + GRID_COLUMNS] for start in range(0, len(shown), GRID_COLUMNS)]
    facts: dict[str, str | int | float] = {"title": f"{given} → {to}", "given": given, "made": to}
    return ExampleFile(f"grid-{given}-{to}.png", grid(beside, lines), "grid", facts)


def pictures(how: Preprocess, value: Tensor) -> list[Pixels]:
    """Each of (B, …) as pixels (H, W, C): an image as it is, a spectrogram with low tones below."""
    if isinstance(how, ImagePreprocess):
        return list(how.pixels(value.detach().cpu()).permute(0, 2, 3, 1).numpy())
    level_BMT = ((value.detach().float().cpu().clamp(-1, 1) + 1) * 127.5).to(torch.uint8)
    return list(level_BMT.flip(1).unsqueeze(-1).numpy())


def conditions(how: Preprocess, value: Tensor) -> Sequence[str | Pixels]:
    """Each of (B, …) as what stands beside a row of a grid."""
    return how.texts(value) if isinstance(how, TextPreprocess) else pictures(how, value)


def grid(beside: Sequence[str | Pixels], lines: Sequence[Sequence[Pixels]]) -> bytes:
    """A PNG: one line per condition, the condition on the left, pictures to its right."""
    cell = max(CELL_PX, lines[0][0].shape[0])
    texts = any(isinstance(each, str) for each in beside)
    left = TEXT_PX if texts else cell + 3 * GAP_PX
    step = cell + GAP_PX
    sheet = Image.new("RGB", (left + step * len(lines[0]), step * len(lines)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for down, (condition, line) in enumerate(zip(beside, lines, strict=True)):
        if isinstance(condition, str):
            words = "\n".join(textwrap.wrap(condition, LINE_CHARACTERS)[:4])
            pen.multiline_text((4, down * step + 4), words, fill="black", font=font)
        else:
            sheet.paste(_square(condition, cell), (0, down * step))
        for across, picture in enumerate(line):
            sheet.paste(_square(picture, cell), (left + across * step, down * step))
    sink = io.BytesIO()
    sheet.save(sink, "PNG")
    return sink.getvalue()


def _square(pixels: Pixels, side: int) -> Image.Image:
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).convert("RGB")
    # whole pixels, so that small pictures are seen as they are
    return image.resize((side, side), Image.Resampling.NEAREST)
