"""Sound made of spectrograms: Griffin-Lim beside a vocoder that was trained on the same data, on held-out clips.

    make bench-vocoder              # or: python -m benchmarks.vocoder --rows 1000 --steps 600 --json
    make bench-vocoder ARGS="--folder vocoder-bench"      # keeps data and checkpoints: killed, it goes on from there

The embedded spoken digits go through ingest, validate and shard; the vocoder learns from the training split, and both
make the clips of the test split and of the held-out voices anew from their mels. Against the recordings: the distance
of log spectra in dB and of log-mels in nats over the frames of each word, and in how many pocketsphinx hears it. Speed
in CPU seconds per second of sound.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmgen import config, steps
from mmgen.artifact import fingerprint
from mmgen.codecs.config import IstftConfig
from mmgen.evaluate.intervals import wilson
from mmgen.evaluate.recogniser import Pocketsphinx
from mmgen.fit_parts import Bench, part_seed
from mmgen.fit_vocoder import Recordings, fit_vocoder
from mmgen.preprocess.audio import AudioPreprocess
from mmgen.preprocess.table import preprocess
from mmgen.runtime import Runtime, Silent
from mmgen.sources.spoken_digits import WORDS, build
from mmgen.store import Store
from mmgen.training.checkpoint import Checkpoint
from mmgen.training.parallel import joined

#: magnitudes below this (full scale of a window of 512 samples is 128) count as this one
FLOOR = 1e-2
WINDOW, HOP = 512, 128
#: the held-out splits: other words' clips of the same voices, and two voices that nothing was trained on
SPLITS = ("test", "heldout")


def spectral_distance_db(made_BN: Tensor, real_BN: Tensor, samples: list[int]) -> float:
    """Root mean square over frequencies of the difference of log magnitudes, mean over frames within each clip."""
    logs = [
        20 * torch.stft(each, WINDOW, HOP, window=torch.hann_window(WINDOW), return_complex=True)
        .abs().clamp(min=FLOOR).log10()
        for each in (made_BN, real_BN)
    ]  # fmt: skip
    distance_BT = (logs[0] - logs[1]).square().mean(dim=1).sqrt()
    return float(torch.cat([row[: end // HOP] for row, end in zip(distance_BT, samples, strict=True)]).mean())


def mel_distance(how: AudioPreprocess, made_BN: Tensor, real_BN: Tensor, samples: list[int]) -> float:
    """Mean distance of log-mels in nats, over frames within each clip."""
    distance_BT = (how.log_mel(made_BN) - how.log_mel(real_BN)).abs().mean(dim=1)
    return float(torch.cat([row[: end // how.hop] for row, end in zip(distance_BT, samples, strict=True)]).mean())


def measured(
    how: AudioPreprocess, waves: list[Tensor], labels: list[str], make: Callable[[Tensor], Tensor]
) -> dict[str, Any]:
    """What `make` (recordings (B, N) → sounds (B, N)) gives of these recordings."""
    samples = [len(wave) for wave in waves]
    real_BN = torch.stack([torch.nn.functional.pad(wave, (0, how.samples - len(wave))) for wave in waves])
    started = time.process_time()
    made_BN = make(real_BN)
    seconds = time.process_time() - started
    listener = Pocketsphinx(WORDS)
    heard = [listener.hear(wave.numpy()) for wave in made_BN]
    share = wilson(sum(each == wanted for each, wanted in zip(heard, labels, strict=True)), len(labels))
    return {
        "clips": len(waves), "cpu_s_per_s": seconds / (len(waves) * how.seconds),
        "spectra_db": spectral_distance_db(made_BN, real_BN, samples),
        "mels_nats": mel_distance(how, made_BN, real_BN, samples),
        "recognised": share.value, "low": share.low, "high": share.high,
    }  # fmt: skip


def measure(folder: Path, rows: int, clips: int, settings: IstftConfig) -> dict[str, Any]:
    """The figures: the training's, and for each held-out split those of the recordings and of both ways."""
    with joined("cpu") as world:
        table, store = folder / f"source{rows}" / "pairs.csv", Store(folder / "store")
        if not table.exists():
            build(table.parent, rows)
        with table.open(encoding="utf-8", newline="") as stream:
            spoken = {row["key"]: WORDS[int(row["label"])] for row in csv.DictReader(stream)}
        line = config.build({"name": "vocoder", "recipe": "spoken_digits", "source": {"path": str(table)}})
        *_, last = steps.run(line, Runtime(store, workers=2), ("ingest", "validate", "shard"))
        how = preprocess("audio", line.slots["audio"], None)
        assert isinstance(how, AudioPreprocess)
        shards = {
            split: [entry for entry in last.artifact.by_role("shard") if entry.facts["split"] == split]
            for split in ("train", *SPLITS)
        }
        with Recordings(store, shards["train"], {"audio": how}, settings.segment_seconds) as sounds:
            started = time.process_time()
            spec, trained = fit_vocoder(
                Bench(store, world, Silent()), settings, how, sounds, part_seed(0, "vocoder"),
                Checkpoint(store, fingerprint(rows=rows, settings=settings.model_dump(mode="json"))),
            )  # fmt: skip
            found: dict[str, Any] = {
                "rows": rows, "recordings": len(sounds), "steps": trained.steps, "segment": sounds.segment,
                "cpu_s": time.process_time() - started,
                "parameters": sum(weight.numel() for weight in trained.module.parameters()),
                **{f"loss_{part}": values[-1] for part, values in trained.curves.parts.items()}, **spec["args"],
            }  # fmt: skip
        learned = replace(how, vocoder=trained.module)
        ways: dict[str, Callable[[Tensor], Tensor]] = {
            "recordings": lambda wave: wave,
            "griffin_lim": lambda wave: how.waves(how.value(how.log_mel(wave))),
            "istft": lambda wave: learned.waves(how.value(how.log_mel(wave))),
        }
        for split in SPLITS:
            with Recordings(store, shards[split], {"audio": how}, settings.segment_seconds) as sounds:
                chosen = range(min(clips, len(sounds)))
                waves = [sounds.wave(index) for index in chosen]
                labels = [spoken[sounds.keys[index].split(".", 1)[0]] for index in chosen]
            found[split] = {way: measured(how, waves, labels, make) for way, make in ways.items()}
        return found


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    usual = IstftConfig()
    parser.add_argument("--rows", type=int, default=2_000, help="Rows of the embedded data set.")
    parser.add_argument("--clips", type=int, default=200, help="Clips of each held-out split, at most.")
    parser.add_argument("--steps", type=int, default=usual.train.steps, help="Steps of the vocoder's training.")
    parser.add_argument("--width", type=int, default=usual.width)
    parser.add_argument("--depth", type=int, default=usual.depth)
    parser.add_argument("--folder", type=Path, help="Where data and checkpoints are kept; none: a temporary one.")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    changed = {"width": given.width, "depth": given.depth}
    settings = IstftConfig(**changed, train=usual.train.model_copy(update={"steps": given.steps}))
    with tempfile.TemporaryDirectory(prefix="mmgen-vocoder-") as passing:
        found = measure(given.folder or Path(passing), given.rows, given.clips, settings)
    if given.json:
        print(json.dumps(found))
        return
    print("  ".join(f"{key} {value:,.4g}" for key, value in found.items() if key not in SPLITS))
    for split in SPLITS:
        for way, figures in found[split].items():
            print(f"{split:<9}{way:<13}" + "  ".join(f"{key} {value:,.4g}" for key, value in figures.items()))


if __name__ == "__main__":
    main()
