"""The training loop: its overhead over the bare step, what cached latents save, and what sampling costs.

    make bench-training             # or: python -m benchmarks.training --json

Networks and sizes are those of the recipe spoken_digits, weights and data are random: speed does not depend on them.
CPU-seconds are of the whole process, wall seconds beside them; medians over rounds in which the arms take turns.
The bare step is forward, backward, clipping and the fused optimiser on one batch that lies in memory; `with average`
adds the moving average of the weights, which the recipe asks for, and which no loop has for nothing.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn

from mmgen.batches import Batch, Loader, Samples
from mmgen.codec_set import make_codec
from mmgen.config import build
from mmgen.features import FeatureSet, FeatureShard, SlotLayout, SlotRows, to_bytes
from mmgen.generators.joint_flow import JointFlow, embedding_key
from mmgen.generators.sampling import Sampling
from mmgen.maker import embed_slot, new_fusion
from mmgen.records import Modality
from mmgen.training.config import TrainConfig
from mmgen.training.loop import Callbacks, bf16_works, train
from mmgen.training.optimise import Average
from mmgen.training.parallel import World

CPU = torch.device("cpu")
ALONE = World(0, 1, CPU)
# rows a shard; of the values, at the recipe's sizes
SHARD_ROWS = 1000
VALUES: dict[str, tuple[Modality, tuple[int, ...], str]] = {
    "text": ("text", (16,), "int32"),
    "image": ("image", (1, 32, 32), "uint8"),
    "audio": ("audio", (64, 64), "float16"),
}
VOCABULARY = 512
EMBEDDING = 128


def recipe() -> Any:
    """The configuration of the recipe spoken_digits."""
    source = {"path": "pairs.csv", "key": "key", "text": "caption", "image": "image", "audio": "audio"}
    return build({"name": "bench", "recipe": "spoken_digits", "source": source})


def codecs_of(config: Any) -> dict[str, Any]:
    """Slot → a fresh codec of the recipe's settings."""
    sizes: dict[str, dict[str, int]] = {
        "text": {"vocabulary": VOCABULARY, "length": 16},
        "image": {"channels": 1, "height": 32, "width": 32},
        "audio": {"mels": 64, "frames": 64},
    }
    made = {}
    for slot, size in sizes.items():
        chosen = getattr(config.codecs, slot)
        settings = chosen.model_dump(mode="json", exclude={"kind", "train", "vocab_size"})
        codec: Any = make_codec(chosen.kind, {**size, **settings})
        made[slot] = codec.eval().requires_grad_(False)
    return made


def fusion_of(config: Any) -> nn.Module:
    """A fresh fusion of the recipe's settings."""
    settings = config.fusion.model_dump(mode="json", exclude={"kind", "train", "pin"})
    shapes = {"text": [16, VOCABULARY], "image": [1, 32, 32], "audio": [64, 64]}
    args = {"modalities": {slot: slot for slot in shapes}, "shapes": shapes, "classes": 10, **settings}
    return new_fusion({"kind": config.fusion.kind, "args": args}).eval().requires_grad_(False)


def flow_of(config: Any, codecs: Mapping[str, Any]) -> JointFlow:
    """A fresh generator of the recipe's settings."""
    settings = config.generator.model_dump(mode="json", exclude={"kind", "train", "pin", "fusion_condition"})
    shapes = {slot: tuple(codec.latent_shape) for slot, codec in codecs.items()}
    return JointFlow(slots=shapes, embedding_width=EMBEDDING, **settings)


def samples_of(
    folder: Path, rows: int, feature_set: FeatureSet, layouts: Mapping[str, SlotLayout], rng: np.random.Generator
) -> Samples:
    """Random feature shards in memory-mapped Arrow files, as `extract` leaves them."""
    shards = []
    for number in range(-(-rows // SHARD_ROWS)):
        count = min(SHARD_ROWS, rows - number * SHARD_ROWS)
        slots = {}
        for slot, layout in layouts.items():
            whole = np.issubdtype(np.dtype(layout.dtype), np.integer)
            drawn = (
                rng.integers(3, 250, (count, *layout.shape)) if whole else rng.standard_normal((count, *layout.shape))
            )
            slots[slot] = SlotRows(drawn.astype(layout.dtype), np.arange(count + 1, dtype=np.int32))
        path = folder / f"{feature_set}-{number}.arrow"
        keys = [f"{number}-{row}" for row in range(count)]
        path.write_bytes(
            to_bytes(
                feature_set=feature_set, fingerprint="f", media_digest="m", keys=keys, labels=[None] * count,
                layouts=layouts, slots=slots,
            )
        )  # fmt: skip
        shards.append(FeatureShard.open(path))
    return Samples(shards)


def latent_samples(folder: Path, rows: int, flow: JointFlow, rng: np.random.Generator) -> Samples:
    """Latents, with fusion embeddings beside them."""
    layouts = {slot: SlotLayout(slot, shape, "float32") for slot, shape in flow.shapes.items()}
    layouts |= {embedding_key(slot): SlotLayout(slot, (1, EMBEDDING), "float32") for slot in flow.shapes}
    return samples_of(folder, rows, "latents", layouts, rng)


def marking(marks: list[tuple[float, float]]) -> Callbacks:
    """Lays the time of each reading into `marks`."""
    return Callbacks(on_read=lambda step, means: marks.append(_now()))


# ---------------------------------------------------------------- (a) the loop and the bare step


def bare(flow: JointFlow, batch: Batch, settings: TrainConfig, steps: int, average: bool) -> Callable[[], None]:
    """`steps` steps as one writes them by hand, with what lasts from step to step made before."""
    optimiser = torch.optim.AdamW(flow.parameters(), lr=settings.learning_rate, fused=True)
    kept = Average(flow, settings.ema_decay or 0.999) if average else None
    rng, network = torch.Generator(), flow
    on = bf16_works(CPU)

    def steps_of_it() -> None:
        network.train()
        for step in range(steps):
            optimiser.zero_grad(set_to_none=True)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=on):
                loss = network.loss(batch, rng)["loss"]
            torch.autograd.backward([loss])
            torch.nn.utils.clip_grad_norm_(network.parameters(), settings.max_grad_norm or 1.0)
            optimiser.step()
            if kept is not None:
                kept.update(step)

    return steps_of_it


def overhead(folder: Path, steps: int, rounds: int) -> dict[str, Any]:
    """Milliseconds a step of the loop (between its first reading and its last), and of the bare step."""
    config = recipe()
    flow = flow_of(config, codecs_of(config))
    samples = latent_samples(folder, 4000, flow, np.random.default_rng(0))
    settings = config.generator.train.model_copy(update={"steps": steps + 25})
    size = settings.batch_size
    batch = Loader(samples, batch_size=size, seed=1).next()
    arms = {name: bare(flow, batch, settings, steps, name == "with average") for name in ("bare", "with average")}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in (*arms, "loop")}
    # the loop keeps what it frees (mmgen.runtime.keep_freed_memory); from the second round on all arms have that
    for _ in range(rounds):
        marks: list[tuple[float, float]] = []
        train(
            flow, flow.loss, Loader(samples, batch_size=size, seed=1), settings, world=ALONE, seed=1, what="flow",
            callbacks=marking(marks),
        )  # fmt: skip
        found["loop"].append(_between(marks[0], marks[-1], steps))
        for name, arm in arms.items():
            before = _now()
            arm()
            found[name].append(_between(before, _now(), steps))
    result: dict[str, Any] = {"batch": size, "steps": steps, "rounds": rounds, "bf16": bf16_works(CPU)}
    for at, clock in enumerate(("cpu", "wall")):
        ms = {name: 1e3 * median(each[at] for each in times) for name, times in found.items()}
        result |= {f"{name.replace(' ', '_')}_{clock}_ms": round(value, 2) for name, value in ms.items()}
        for name in arms:
            # round by round, so that a busy machine meets both
            ratio = median(loop[at] / other[at] for loop, other in zip(found["loop"], found[name], strict=True))
            result[f"over_{name.replace(' ', '_')}_{clock}"] = round(ratio - 1, 4)
    return result


def _now() -> tuple[float, float]:
    return time.process_time(), time.perf_counter()


def _between(before: tuple[float, float], after: tuple[float, float], count: int) -> tuple[float, float]:
    return (after[0] - before[0]) / count, (after[1] - before[1]) / count


# ---------------------------------------------------------------- (b) cached latents


class WithCodecs(nn.Module):
    """The flow, fed from values: encodes and embeds them at every step, as a loop without a cache has to."""

    def __init__(self, flow: JointFlow, codecs: Mapping[str, Any], fusion: nn.Module) -> None:
        super().__init__()
        # in a dict, so that they are no part of what is trained
        self.flow, self.codecs, self.fusion = flow, dict(codecs), {"fusion": fusion}

    def loss(self, batch: Batch, rng: torch.Generator) -> dict[str, torch.Tensor]:
        """The flow's loss of the batch's values."""
        with torch.no_grad():
            values = {slot: codec.encode(batch.values[slot]).float() for slot, codec in self.codecs.items()}
            for slot in self.codecs:
                embedded = embed_slot(self.fusion["fusion"], slot, batch.values[slot])
                values[embedding_key(slot)] = embedded[:, None]
        masks = {name: torch.ones(value.shape[:2], dtype=torch.bool) for name, value in values.items()}
        return self.flow.loss(Batch(values, masks, batch.labels_B, batch.weights_B, batch.keys), rng)


def cached(folder: Path, steps: int, rounds: int) -> dict[str, Any]:
    """Epochs per minute of 4,000 samples from cached latents, and with codecs and fusion in the loop."""
    config = recipe()
    codecs = codecs_of(config)
    flow = flow_of(config, codecs)
    rng = np.random.default_rng(0)
    latents = latent_samples(folder, 4000, flow, rng)
    layouts = {slot: SlotLayout(modality, shape, dtype) for slot, (modality, shape, dtype) in VALUES.items()}
    tensors = samples_of(folder, 4000, "tensors", layouts, rng)
    to_value: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "text": lambda ids: ids.long(), "image": lambda pixels: pixels.float() / 127.5 - 1,
        "audio": lambda mels: mels.float().clamp(-1, 1),
    }  # fmt: skip
    size = config.generator.train.batch_size
    arms: dict[str, tuple[JointFlow | WithCodecs, Callable[[], Loader]]] = {
        "cached": (flow, lambda: Loader(latents, batch_size=size, seed=1)),
        "codecs": (
            WithCodecs(flow_of(config, codecs), codecs, fusion_of(config)),
            lambda: Loader(tensors, batch_size=size, seed=1, to_value=to_value),
        ),
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in arms}
    settings = config.generator.train.model_copy(update={"steps": steps + 25})
    for _ in range(rounds):
        for name, (network, loader) in arms.items():
            marks: list[tuple[float, float]] = []
            train(
                network, network.loss, loader(), settings, world=ALONE, seed=1, what=name,
                callbacks=marking(marks),
            )  # fmt: skip
            found[name].append(_between(marks[0], marks[-1], steps))
    per_epoch = -(-4000 // size)
    minutes = {name: median(each[0] for each in times) * per_epoch / 60 for name, times in found.items()}
    ratio = median(slow[0] / fast[0] for slow, fast in zip(found["codecs"], found["cached"], strict=True))
    return {
        "samples": 4000, "steps": steps, "rounds": rounds, "times_as_many_epochs": round(ratio, 2),
        **{f"{name}_epochs_per_cpu_minute": round(1 / minute, 2) for name, minute in minutes.items()},
    }  # fmt: skip


# ---------------------------------------------------------------- (c) sampling


@torch.no_grad()
def sampling(count: int, rounds: int) -> dict[str, Any]:
    """CPU-seconds of `count` latents of image and audio from text, in 20 steps with guidance 2; decoding apart."""
    config = recipe()
    codecs = codecs_of(config)
    flow = flow_of(config, codecs).eval()
    shape = flow.shapes["text"]
    masks = {"text": torch.ones(count, shape[0], dtype=torch.bool)}
    masks[embedding_key("text")] = torch.ones(count, 1, dtype=torch.bool)
    values = {"text": torch.randn(count, *shape), embedding_key("text"): torch.randn(count, 1, EMBEDDING)}
    none, ones = torch.full((count,), -1), torch.ones(count)
    given = Batch(values, masks, none, ones, [""] * count)
    how = Sampling(steps=20, guidance=2.0)
    found: dict[str, list[tuple[float, float]]] = {"image": [], "audio": [], "image_and_audio": [], "decoding": []}
    for _ in range(rounds):
        for to in (("image",), ("audio",), ("image", "audio")):
            before = _now()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16_works(CPU)):
                latents = flow.sample(given, to, how, torch.Generator().manual_seed(0))
            found["_and_".join(to)].append(_between(before, _now(), 1))
        before = _now()
        for slot in ("image", "audio"):
            for part in torch.split(latents[slot].float(), 256):
                codecs[slot].decode(part)
        found["decoding"].append(_between(before, _now(), 1))
    return {"samples": count, "solver_steps": 20, "guidance": 2.0} | {
        f"{name}_{clock}_s": round(median(each[at] for each in times), 2)
        for name, times in found.items()
        for at, clock in enumerate(("cpu", "wall"))
    }


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=75, help="steps that are timed in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=1000, help="samples that are drawn")
    parser.add_argument("--only", choices=["overhead", "cached", "sampling"], default=None)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mmgen-bench-") as folder:
        parts: dict[str, Callable[[], dict[str, Any]]] = {
            "overhead": lambda: overhead(Path(folder), given.steps, given.rounds),
            "cached": lambda: cached(Path(folder), given.steps, given.rounds),
            "sampling": lambda: sampling(given.samples, given.rounds),
        }
        found = {name: part() for name, part in parts.items() if given.only in (None, name)}
    if given.json:
        print(json.dumps({"threads": torch.get_num_threads(), **found}))
        return
    for name, figures in found.items():
        print(name)
        for word, value in figures.items():
            print(f"  {word.replace('_', ' '):<34} {value}")


if __name__ == "__main__":
    main()
