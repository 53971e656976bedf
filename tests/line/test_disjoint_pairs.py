"""Only texts with pictures and texts with sounds are seen together: a sound for a picture is still its colour's."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from mmgen import steps
from mmgen.conditions import conditions
from mmgen.config import build
from mmgen.generate import Model, load_package, save_package
from mmgen.generators.sampling import Sampling
from mmgen.runtime import Runtime
from mmgen.store import Store
from tests.data_sources import write_table

RATE_HZ, SECONDS, ROWS = 8_000, 0.256, 240
#: colour → (red, green, blue), the pitch that is heard with its name
KINDS = {"red": ((220, 20, 20), 400.0), "green": ((20, 200, 20), 1_100.0), "blue": ((20, 20, 230), 2_400.0)}
TRAIN: dict[str, Any] = {"batch_size": 40, "learning_rate": 5e-3, "warmup_steps": 10}
CONFIG: dict[str, Any] = {
    "name": "disjoint",
    "slots": {
        "text": {"modality": "text", "max_tokens": 8},
        "image": {"modality": "image", "size_px": 8, "channels": 3},
        "audio": {
            "modality": "audio", "sample_rate_hz": RATE_HZ, "seconds": SECONDS, "mels": 16, "n_fft": 256, "hop": 128,
        },
    },
    "validate": {"near_duplicates": "keep", "duplicates": "keep"},
    "codecs": {
        "text": {"vocab_size": 280, "width": 16, "heads": 2, "depth": 1, "train": {"steps": 150, **TRAIN}},
        "image": {"widths": [8], "depth": 1, "latent_width": 4, "train": {"steps": 100, **TRAIN}},
        "audio": {"widths": [8, 16], "depth": 1, "latent_width": 4, "train": {"steps": 150, **TRAIN}},
    },
    "judges": {"width": 8, "train": {"steps": 60, **TRAIN}},
    "fusion": {
        "width": 32, "augment": False, "encoders": {"image": "cnn_image", "audio": "cnn_mel", "text": "bilstm_text"},
        "train": {"steps": 60, **TRAIN},
    },
    "generator": {
        "kind": "joint_flow", "width": 64, "blocks": 2, "given_noise": 0.1,
        "train": {"steps": 300, "batch_size": 64, "learning_rate": 3e-3, "warmup_steps": 10, "ema_decay": 0.98},
    },
}  # fmt: skip


def picture(colour: str, rng: np.random.Generator) -> bytes:
    pixels = np.clip(np.array(KINDS[colour][0]) + rng.normal(0, 8, (8, 8, 3)), 0, 255).astype(np.uint8)
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "PNG")
    return sink.getvalue()


def tone(colour: str, rng: np.random.Generator) -> bytes:
    times = np.arange(round(RATE_HZ * SECONDS)) / RATE_HZ
    wave = 0.4 * np.sin(2 * np.pi * KINDS[colour][1] * times + rng.uniform(0, 6)) + rng.normal(0, 0.01, len(times))
    sink = io.BytesIO()
    soundfile.write(sink, wave, RATE_HZ, format="WAV")
    return sink.getvalue()


def pitch(wav: bytes) -> str:
    """The colour whose pitch is the loudest frequency's nearest."""
    wave, rate = soundfile.read(io.BytesIO(wav))
    loudest = np.fft.rfftfreq(len(wave), 1 / rate)[np.abs(np.fft.rfft(wave)).argmax()]
    return min(KINDS, key=lambda colour: abs(np.log(KINDS[colour][1] / max(loudest, 1.0))))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder, records = tmp_path_factory.mktemp("disjoint"), []
    for number in range(ROWS):
        rng, colour = np.random.default_rng(number), list(KINDS)[number // 2 % len(KINDS)]
        name = f"{number}.png" if number % 2 else f"{number}.wav"
        (folder / name).write_bytes(picture(colour, rng) if number % 2 else tone(colour, rng))
        records.append({"id": f"s{number}", "caption": f"{colour}", "label": colour,
                        "image": name if number % 2 else "", "audio": "" if number % 2 else name})  # fmt: skip
    write_table(folder / "table.csv", records)
    source = {"kind": "table", "path": str(folder / "table.csv"), "key": "id", "text": "caption", "image": "image",
              "audio": "audio", "label": "label"}  # fmt: skip
    config, threads = build({**CONFIG, "source": source}), torch.get_num_threads()
    # networks this small only wait for one another's threads
    torch.set_num_threads(1)
    runtime = Runtime(Store(folder / "store"), device="cpu")
    names = steps.NAMES[: steps.NAMES.index("train-generator") + 1]
    made = {outcome.step: outcome.artifact for outcome in steps.run(config, runtime, names)}
    torch.set_num_threads(threads)
    assert made["train-generator"].facts["args"]["unseen"] == [["audio", "image"]]
    parts = [made[step] for step in ("fit", "train-fusion", "train-generator")]
    return load_package(save_package(runtime.store, *parts, folder / "package"), device="cpu")


def test_a_sound_for_a_picture_goes_through_the_text(model: Model) -> None:
    colours = [colour for colour in KINDS for _ in range(6)]
    given = [picture(colour, np.random.default_rng(900 + at)) for at, colour in enumerate(colours)]
    heard = [pitch(wav) for wav in model.generate(image=given, to="audio", steps=10)["audio"]]
    assert sum(one == other for one, other in zip(heard, colours, strict=True)) >= 15, heard


def test_pairs_that_were_seen_are_made_at_once_and_all_three_from_nothing_agree(model: Model) -> None:
    heard = [pitch(wav) for wav in model.generate(text=list(KINDS) * 4, to="audio", steps=10)["audio"]]
    assert sum(one == other for one, other in zip(heard, list(KINDS) * 4, strict=True)) >= 10, heard
    made = model.generate(num=18, steps=10)
    agreeing = sum(pitch(wav) == text for wav, text in zip(made["audio"], made["text"], strict=True))
    assert agreeing >= 13, list(zip(made["text"], map(pitch, made["audio"]), strict=True))


def test_rows_that_give_different_slots_go_their_own_ways(model: Model) -> None:
    rng = np.random.default_rng(77)
    given = [{"image": picture("blue", rng)}, {"text": "red"}, {"image": picture("green", rng), "text": "green"}]
    from mmgen.generate import rows

    heard = [pitch(row["audio"]) for row in rows(model, given, to=("audio",), num=3)]
    assert sum(one == other for one, other in zip(heard, ["blue"] * 3 + ["red"] * 3 + ["green"] * 3, strict=True)) >= 7


def test_it_is_the_text_that_the_sound_is_made_of(model: Model) -> None:
    maker, how = model.maker, Sampling(steps=4, guidance=2.0)
    given = conditions(maker, [{"image": picture("blue", np.random.default_rng(5))}] * 3)
    at_once = maker.make(given, ("audio",), how, torch.Generator().manual_seed(3))["audio"]
    rng = torch.Generator().manual_seed(3)
    text = maker.make(given, ("text",), how, rng)["text"]
    there, nothing = torch.ones(3, 1, dtype=torch.bool), torch.zeros(3, 1, dtype=torch.bool)
    between = replace(
        given, values={**given.values, "text": text}, masks={"text": there, "image": nothing, "audio": nothing}
    )
    assert torch.equal(at_once, maker.make(between, ("audio",), how, rng)["audio"])
