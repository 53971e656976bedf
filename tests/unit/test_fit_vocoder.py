"""The vocoder as a part of `fit`: what it is trained on, how it is pinned and resumed, and where it is used."""

from __future__ import annotations

import functools
import io
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import torchaudio

from mmgen.artifact import Artifact, FileEntry
from mmgen.batches import VALUE, Loader
from mmgen.codec_set import CodecSet
from mmgen.codecs.config import AudioCodecConfig, CodecsConfig
from mmgen.codecs.vocoder import IstftVocoder
from mmgen.config import Config
from mmgen.errors import IntegrityError
from mmgen.fit import fit
from mmgen.fit_vocoder import OPEN, Recordings
from mmgen.generate import load_package, save_package
from mmgen.preprocess.audio import AudioPreprocess
from mmgen.runtime import Runtime
from mmgen.store import Store
from mmgen.tars import pack
from tests.data_sources import sound
from tests.tiny_line import PARTS, TRAIN, Line, Lines, config_of, copied, perform

VOCODER: dict[str, Any] = {
    "kind": "istft", "width": 8, "depth": 1, "segment_seconds": 0.1, "train": {**TRAIN, "steps": 6},
}  # fmt: skip
_FOLDER = tempfile.TemporaryDirectory(prefix="mmgen-vocoder-")


def config(**settings: Any) -> Config:
    """The tiny configuration with a vocoder."""
    audio = {**PARTS["codecs"]["audio"], "vocoder": {**VOCODER, **settings}}
    return config_of(codecs={**PARTS["codecs"], "audio": audio})


@functools.cache
def _original() -> Path:
    line = copied(Path(_FOLDER.name))
    perform(config(), line.runtime, "fit")
    return Path(_FOLDER.name) / "line-store"


@pytest.fixture
def line(tmp_path: Path) -> Line:
    """The tiny line, up to a `fit` with a vocoder on top of one without."""
    shutil.copytree(_original(), tmp_path / "store")
    runtime = Runtime(Store(tmp_path / "store"), device="cpu", progress=Lines())
    return perform(config(), runtime, "ingest", "validate", "shard", "fit")


def train_shards(line: Line) -> list[Any]:
    return [entry for entry in line.made["shard"].by_role("shard") if entry.facts["split"] == "train"]


def how_of(**more: Any) -> AudioPreprocess:
    return AudioPreprocess(**{**{k: v for k, v in PARTS["slots"]["audio"].items() if k != "modality"}, **more})


def refitted(old: Artifact, new: Artifact) -> set[str]:
    before, after = old.facts["parts"], new.facts["parts"]
    return {
        name for name in before | after
        if before.get(name, {}).get("fingerprint") != after.get(name, {}).get("fingerprint")
    }  # fmt: skip


# ---------------------------------------------------------------- settings


def test_a_codec_without_a_vocoder_is_identified_as_before_there_were_any() -> None:
    assert "vocoder" not in CodecsConfig().model_dump(mode="json")["audio"]
    assert "vocoder" not in AudioCodecConfig(vocoder={"kind": "griffin_lim"}).model_dump()  # type: ignore[arg-type]
    chosen = AudioCodecConfig(vocoder={"kind": "istft"})  # type: ignore[arg-type]
    assert AudioCodecConfig(**chosen.model_dump()) == chosen


# ---------------------------------------------------------------- recordings


def test_slots_are_told_apart_and_each_cuts_as_it_says(tmp_path: Path) -> None:
    members = {"a.json": b"{}", "a.wav": sound(0), "a.voice.wav": sound(1), "a.png": b"", "b.voice.wav": sound(2)}
    data, index = pack(members)
    store = Store(tmp_path)
    store.write("x.tar", data)
    store.write("x.tar.idx", index.to_bytes())
    shard = FileEntry("x.tar", len(data), index.sha256, "shard", {})
    hows = {"audio": how_of(), "voice": how_of(crop="centre")}
    with Recordings(store, [shard], hows, 0.1) as sounds:
        assert sounds.places == [(0, "a.voice.wav", "voice"), (0, "a.wav", "audio"), (0, "b.voice.wav", "voice")]
        for index_, seed, start in ((0, 1, 600), (1, 0, 0), (2, 2, 600)):
            samples, rate = soundfile.read(io.BytesIO(sound(seed)), dtype="float32")
            wanted = hows["audio"].cropped(torch.from_numpy(samples), rate)
            whole = torchaudio.functional.resample(torch.from_numpy(samples), rate, 8000)
            assert len(whole) == 3200
            assert torch.equal(sounds.wave(index_), whole[start : start + 2000])
            assert (start == 0) == torch.equal(sounds.wave(index_), wanted)
    with Recordings(store, [shard], {"other": how_of()}, 0.1) as sounds:
        assert len(sounds) == 0


def test_segments_are_parts_of_the_recordings_and_silence_after_them(line: Line) -> None:
    how = how_of()
    with Recordings(line.store, train_shards(line), {"audio": how}, 0.1) as sounds:
        # at least two windows, and whole frames
        assert (sounds.segment, len(sounds)) == (750, line.made["shard"].facts["splits"]["train"])
        for index in (0, 3):
            wave = sounds.wave(index).numpy()
            number = int(sounds.keys[index][1:5])
            samples, rate = soundfile.read(io.BytesIO(sound(number)), dtype="float32")
            assert np.array_equal(wave, how.cropped(torch.from_numpy(samples), rate).numpy())
            places = np.array([0, (1 << 16) - 1])
            first, last = sounds.gather(VALUE, np.array([index, index]), places)
            assert np.array_equal(first, wave[:750])
            kept = len(last.nonzero()[0])
            assert 300 < kept <= 400
            assert np.array_equal(last[:376], wave[-376:])
            assert (last[376:] == 0).all()


def test_batches_come_in_one_order_that_is_taken_up_anywhere(line: Line) -> None:
    with Recordings(line.store, train_shards(line), {"audio": how_of()}, 0.1) as sounds:
        first, again = (Loader(sounds, batch_size=4, seed=5) for _ in range(2))
        batches = [first.next() for _ in range(9)]
        again.consumed = sum(int(batch.weights_B.sum()) for batch in batches[:7])
        late = [again.next() for _ in range(2)]
        for taken, wanted in zip(late, batches[7:], strict=True):
            assert taken.keys == wanted.keys
            assert torch.equal(taken.values[VALUE], wanted.values[VALUE])
        # another epoch cuts other segments of the same recordings
        epochs: dict[str, set[bytes]] = {}
        loader = Loader(sounds, batch_size=len(sounds), seed=5)
        for batch in (loader.next() for _ in range(2)):
            for key, wave in zip(batch.keys, batch.values[VALUE], strict=True):
                epochs.setdefault(key, set()).add(wave.numpy().tobytes())
        assert all(len(found) > 1 for found in epochs.values())


def test_no_more_than_so_many_shards_are_open_at_once(line: Line) -> None:
    (shard, *_) = train_shards(line)
    with Recordings(line.store, [shard] * (OPEN + 5), {"audio": how_of()}, 0.1) as sounds:
        assert len(sounds._readers) == OPEN
        assert torch.equal(sounds.wave(0), sounds.wave(len(sounds) // (OPEN + 5)))
        assert len(sounds._readers) == OPEN
    assert not sounds._readers


# ---------------------------------------------------------------- a part of fit


def test_it_is_a_part_beside_codecs_that_stay_as_they_were(line: Line) -> None:
    made, old = line.made["fit"], copied_fit(line)
    assert refitted(old, made) == {"vocoder"}
    assert made.facts["parts"]["vocoder"]["why"] == "its configuration changed"
    assert made.facts["parts"]["vocoder"]["steps"] == 6
    args = {"mels": 16, "n_fft": 256, "hop": 125, "width": 8, "depth": 1}
    assert made.facts["vocoder"] == {"kind": "istft", "args": args}
    assert old.facts["vocoder"] is None
    curve = [json.loads(row) for row in line.store.read(next(
        entry.path for entry in made.by_role("history") if entry.path.endswith("vocoder.jsonl")
    )).splitlines()]  # fmt: skip
    assert {"loss", "spectra", "mels"} <= set(curve[-1])
    assert not line.store.walk("runs/checkpoints")
    codecs = CodecSet.load(line.store, made)
    how = codecs.preprocesses["audio"]
    assert isinstance(how, AudioPreprocess)
    assert isinstance(how.vocoder, IstftVocoder)
    assert not how.vocoder.training


def copied_fit(line: Line) -> Artifact:
    """The `fit` without a vocoder that came before."""
    return perform(config_of(), line.runtime, "fit").made["fit"]


def test_it_is_adopted_while_its_settings_stay_and_refitted_alone_when_they_do_not(line: Line) -> None:
    audio = {**PARTS["codecs"]["audio"], "vocoder": VOCODER, "depth": 2}
    other_codec = config_of(codecs={**PARTS["codecs"], "audio": audio})
    adopted = perform(other_codec, line.runtime, "fit").made["fit"]
    assert refitted(line.made["fit"], adopted) == {"codec:audio"}
    assert adopted.file("vocoder") == line.made["fit"].file("vocoder")
    assert sum(entry.path.endswith("vocoder.jsonl") for entry in adopted.by_role("history")) == 1
    assert any("vocoder is adopted from codecs:tiny@" in said for said in line.said)
    wider = perform(config(width=16), line.runtime, "fit").made["fit"]
    assert refitted(line.made["fit"], wider) == {"vocoder"}


def test_latents_do_not_depend_on_it(line: Line) -> None:
    with_it = perform(config(), line.runtime, "fit", "extract").made["extract"]
    without = perform(config_of(), line.runtime, "fit", "extract").made["extract"]
    assert [entry.path for entry in with_it.files] == [entry.path for entry in without.files]


def test_a_killed_training_goes_on_and_ends_with_the_same_weights(line: Line) -> None:
    class Dying(Lines):
        """Ends the process in the middle of the vocoder's training."""

        def bar(self, what: str, total: int | None) -> Any:
            bar = super().bar(what, total)
            if what != "vocoder":
                return bar

            class Counting:
                steps = 0

                def __enter__(self) -> Any:
                    return self

                def __exit__(self, *error: object) -> None:
                    return None

                def advance(self, count: int = 1, note: str = "") -> None:
                    self.steps += count
                    if self.steps == 4:
                        raise KeyboardInterrupt

            return Counting()

    store, wanted = line.store, line.made["fit"].file("vocoder").sha256
    settings = config(train={**VOCODER["train"], "checkpoint_steps": 2})
    whole = perform(settings, line.runtime, "fit").made["fit"]
    assert whole.file("vocoder").sha256 == wanted
    shutil.rmtree(store.full("codecs"))
    with pytest.raises(KeyboardInterrupt):
        fit(settings, line.inputs("fit"), Runtime(store, device="cpu", progress=Dying()))
    assert store.walk("runs/checkpoints")
    assert fit(settings, line.inputs("fit"), Runtime(store, device="cpu")).file("vocoder").sha256 == wanted
    assert not store.walk("runs/checkpoints")


# ---------------------------------------------------------------- where it is used


def test_a_package_brings_it_and_its_files_are_made_with_it(line: Line, tmp_path: Path) -> None:
    made = perform(config(), line.runtime, "extract", "train-fusion", "train-generator").made | line.made
    plain = copied_fit(line)
    folders = [
        save_package(line.store, codecs, made["train-fusion"], made["train-generator"], tmp_path / name)
        for name, codecs in (("learned", line.made["fit"]), ("plain", plain))
    ]
    assert (folders[0] / "vocoder.safetensors").read_bytes() == line.store.read(line.made["fit"].file("vocoder").path)
    assert {path.name for path in folders[0].iterdir()} - {path.name for path in folders[1].iterdir()} == {
        "vocoder.safetensors"
    }
    assert "vocoder" not in json.loads((folders[1] / "config.json").read_text())
    learned, griffin_lim = (load_package(folder, device="cpu") for folder in folders)
    clips = [
        model.generate(text=["one", "two"], to=("image", "audio"), steps=2, seed=3) for model in (learned, griffin_lim)
    ]
    assert clips[0]["image"] == clips[1]["image"]
    assert clips[0]["audio"] != clips[1]["audio"]
    assert {len(soundfile.read(io.BytesIO(data))[0]) for each in clips for data in each["audio"]} == {2000}
    assert clips[0]["audio"] == learned.generate(text=["one", "two"], to=("image", "audio"), steps=2, seed=3)["audio"]
    (folders[0] / "vocoder.safetensors").unlink()
    with pytest.raises(IntegrityError, match=r"wanted vocoder\.safetensors"):
        load_package(folders[0])
