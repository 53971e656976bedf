"""The parts of `fit`, one function each: tokenizer, codec, latent statistics, judge, and what they score."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mmgen.artifact import FileEntry
from mmgen.batches import VALUE, Batch, Loader, Samples
from mmgen.codec_set import CodecSet, codec_names, make_codec
from mmgen.codecs.config import (
    AudioCodecConfig,
    AutoencoderKLConfig,
    AutoregressiveTextConfig,
    EncodecConfig,
    GridTerms,
    ImageCodecConfig,
    JudgesConfig,
    TextCodecConfig,
)
from mmgen.codecs.grid import GridCodec
from mmgen.codecs.learner import GridLearner
from mmgen.codecs.pretrained import AutoencoderKLCodec, EncodecCodec, architecture_of
from mmgen.errors import ConfigError
from mmgen.evaluate.judges import Judge, make_judge
from mmgen.extract import alternatives, read_media
from mmgen.preprocess.audio import AudioPreprocess, lengths
from mmgen.preprocess.image import ImagePreprocess
from mmgen.preprocess.table import Preprocess
from mmgen.preprocess.text import PAD, TextPreprocess, Tokenizer
from mmgen.pretrained import folder_of
from mmgen.records import Modality
from mmgen.runtime import Progress
from mmgen.store import Store
from mmgen.training.checkpoint import Checkpoint
from mmgen.training.loop import Callbacks, Trained, mean_loss, seed_of, train
from mmgen.training.parallel import World

CodecConfig = ImageCodecConfig | AudioCodecConfig | TextCodecConfig | AutoregressiveTextConfig
# enough to learn a vocabulary from; more only costs time
TOKENIZER_TEXTS = 200_000
# rows that statistics and scores look at, at most
STATISTIC_ROWS, SCORE_ROWS = 8192, 1024


@dataclass(frozen=True)
class Bench:
    """What all trainings of a step share."""

    store: Store
    world: World
    progress: Progress
    #: see `Runtime`
    profiles: dict[str, Any] | None = None

    def note(self, what: str, trained: Trained) -> None:
        """Lay down where a training's time went, if that was asked for."""
        if self.profiles is not None and trained.profile is not None:
            self.profiles[what] = trained.profile


def part_seed(seed: int, part: str) -> int:
    """A seed of its own for each part, so that leaving one out changes no other."""
    return seed_of(seed, *part.encode())


def fit_tokenizer(store: Store, shards: Sequence[FileEntry], slots: Sequence[str], vocab_size: int) -> bytes:
    """The JSON of a tokenizer learned from the texts of these slots in these media shards, alternatives included."""
    texts: list[str] = []
    for shard in shards:
        with read_media(store, shard.path) as reader:
            for safe in reader.keys():  # noqa: SIM118
                about = json.loads(reader.read(f"{safe}.json"))
                texts += [text.decode() for slot in slots for text in alternatives({}, slot, "text", about)]
        if len(texts) >= TOKENIZER_TEXTS:
            break
    return Tokenizer.fit(texts[:TOKENIZER_TEXTS], vocab_size).to_json()


def codec_args(config: CodecConfig, how: Preprocess) -> dict[str, Any]:
    """A codec's constructor arguments: the size of the slot's values, and the settings."""
    settings = config.model_dump(
        mode="json", exclude={"kind", "train", "vocab_size", "vocoder", *GridTerms.model_fields}
    )
    if isinstance(how, TextPreprocess):
        return {"vocabulary": len(how.tokenizer), "length": how.max_tokens, **settings}
    names = ("channels", "height", "width") if how.modality == "image" else ("mels", "frames")
    # a codec of fixed length is recorded as it was before there were others
    variable = {"variable": True} if isinstance(how, AudioPreprocess) and how.variable else {}
    return {**dict(zip(names, how.shape, strict=True)), **settings, **variable}


def fit_codec(
    bench: Bench, config: CodecConfig, how: Preprocess, samples: Samples, seed: int, checkpoint: Checkpoint,
    validation: Samples | None = None,
) -> tuple[dict[str, Any], Trained]:  # fmt: skip
    """Train one codec on pooled samples. Returns what it is made with, {"kind", "args"}, and the training.

    validation: pooled samples for `validate_steps`, by the loss that is trained.
    """
    args = codec_args(config, how)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        codec: Any = make_codec(config.kind, args).to(bench.world.device)
    learner: Any = codec_learner(codec, config, part_seed(seed, "adversary")).to(bench.world.device)

    def loss(batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        # padding rows are copies of real ones, so a loss that knows no weights is safe with them
        found: dict[str, Tensor] = learner.loss(batch.values[VALUE], rng)
        return found

    def look(held: Any) -> float:
        assert validation is not None
        rows = Loader(
            validation, batch_size=config.train.batch_size, to_value={VALUE: how.value},
            indices=validation.having(VALUE), shuffle=False, device=bench.world.device,
        )  # fmt: skip
        return mean_loss(held, lambda batch, rng: held.loss(batch.values[VALUE], rng), rows, seed)

    loader = _loader(bench, samples, samples.having(VALUE), how, config.train.batch_size, seed)
    looks = config.train.validate_steps and validation is not None and len(validation.having(VALUE))
    trained = train(
        learner, loss, loader, config.train, world=bench.world, seed=seed, what=f"codec:{how.modality}",
        checkpoint=checkpoint, callbacks=Callbacks(validate=look) if looks else None, progress=bench.progress,
        profile=bench.profiles is not None,
    )  # fmt: skip
    bench.note(f"codec:{how.modality}", trained)
    return {"kind": config.kind, "args": args}, replace(trained, module=codec)


def codec_learner(codec: nn.Module, config: CodecConfig, seed: int) -> nn.Module:
    """What the loop trains: the codec, with what its further terms need beside it if there are any."""
    terms = config.terms() if isinstance(config, GridTerms) else {}
    if not any(terms.values()):
        return codec
    assert isinstance(codec, GridCodec)
    return GridLearner(codec, **terms, seed=seed)


def load_codec(config: AutoencoderKLConfig | EncodecConfig, how: Preprocess) -> tuple[dict[str, Any], nn.Module]:
    """A codec that another library trained. Returns what it is made with, {"kind", "args"}, and itself.

    Raises ConfigError for slots whose values are not what it was trained on.
    """
    folder = folder_of(config.source, config.revision, f"codecs.{how.modality}.source")
    sizes: dict[str, Any]
    if isinstance(config, AutoencoderKLConfig):
        assert isinstance(how, ImagePreprocess)
        if (how.mean, how.std) != (0.5, 0.5):
            raise ConfigError(
                "slots.….mean, std: wanted 0.5 and 0.5 for autoencoder_kl (it was trained on [-1, 1]), "
                f"came {how.mean} and {how.std}"
            )
        sizes = dict(zip(("channels", "height", "width"), how.shape, strict=True))
        made: nn.Module = AutoencoderKLCodec.load(folder, **sizes)
        architecture = architecture_of(folder, "AutoencoderKL")
    else:
        assert isinstance(how, AudioPreprocess)
        if how.representation != "waveform":
            raise ConfigError(
                "slots.….representation: wanted waveform for encodec, which reads and makes sound itself, came mel"
            )
        sizes = {"samples": how.samples, "sample_rate_hz": how.sample_rate_hz}
        made, architecture = EncodecCodec.load(folder, **sizes), architecture_of(folder, "EncodecModel")
    return {"kind": config.kind, "args": {"architecture": architecture, **sizes}}, made


def _loader(bench: Bench, samples: Samples, indices: np.ndarray, how: Preprocess, batch_size: int, seed: int) -> Loader:
    return Loader(
        samples, batch_size=batch_size, seed=seed, to_value={VALUE: how.value}, indices=indices,
        rank=bench.world.rank, world=bench.world.size, device=bench.world.device,
    )  # fmt: skip


@torch.no_grad()
def latent_scale(network: nn.Module, how: Preprocess, samples: Samples, device: torch.device) -> dict[str, list[float]]:
    """Mean and standard deviation of each number of D over training latents; samples: of one slot, pooled."""
    codec: Any = network
    rows = samples.having(VALUE)[:STATISTIC_ROWS]
    if len(rows) == 0:
        width = int(codec.latent_shape[1])
        return {"mean": [0.0] * width, "std": [1.0] * width}
    made = []
    for start in range(0, len(rows), 256):
        made.append(codec.encode(values_of(samples, VALUE, rows[start : start + 256], how, device)).float())
    z_ND = torch.cat(made).flatten(0, 1).double()
    std_D = z_ND.std(dim=0, correction=0).clamp(min=1e-3)
    return {"mean": z_ND.mean(dim=0).tolist(), "std": std_D.tolist()}


def values_of(samples: Samples, slot: str, rows: np.ndarray, how: Preprocess, device: torch.device) -> Tensor:
    """Values (B, …) of these samples' first alternatives."""
    compact = samples.gather(slot, rows, np.zeros(len(rows), dtype=np.int64))
    return how.value(torch.from_numpy(compact).to(device))


# ---------------------------------------------------------------- judges


def judge_shape(how: Preprocess) -> tuple[int, ...]:
    """The shape that a judge is made for: image (C, H, W), audio (M, T), text (L, vocabulary)."""
    return (*how.shape, len(how.tokenizer)) if isinstance(how, TextPreprocess) else how.shape


def fit_judge(
    bench: Bench, config: JudgesConfig, how: Preprocess, samples: Samples, classes: int, checkpoint: Checkpoint
) -> tuple[Judge, Trained]:
    """Train one judge on the labelled rows of pooled real samples."""
    seed = part_seed(config.seed, how.modality)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        judge = make_judge(how.modality, judge_shape(how), classes, config.width).to(bench.world.device)

    def loss(batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
        return judge.loss(batch.values[VALUE], batch.labels_B.masked_fill(batch.weights_B == 0, -1), rng)

    rows = np.flatnonzero((samples.counts[VALUE] > 0) & (samples.labels >= 0))
    loader = _loader(bench, samples, rows, how, config.train.batch_size, seed)
    trained = train(
        judge, loss, loader, config.train, world=bench.world, seed=seed, what=f"judge:{how.modality}",
        checkpoint=checkpoint, progress=bench.progress, profile=bench.profiles is not None,
    )  # fmt: skip
    bench.note(f"judge:{how.modality}", trained)
    return judge, trained


@torch.no_grad()
def accuracy(judge: Judge, how: Preprocess, samples: Samples, slot: str, device: torch.device) -> dict[str, float]:
    """{"value": share judged right, "n": rows} of the labelled rows of a slot; empty if there are none."""
    rows = np.flatnonzero((samples.counts[slot] > 0) & (samples.labels >= 0))
    right = 0
    for start in range(0, len(rows), 256):
        part = rows[start : start + 256]
        guesses = judge(values_of(samples, slot, part, how, device)).argmax(dim=1).cpu().numpy()
        right += int((guesses == samples.labels[part]).sum())
    return {"value": right / len(rows), "n": len(rows)} if len(rows) else {}


# ---------------------------------------------------------------- reconstruction


@torch.no_grad()
def reconstruction(
    codecs: CodecSet, samples: Samples, judges: Mapping[Modality, Judge], device: torch.device
) -> dict[str, dict[str, float]]:
    """Slot → how well its codec gives back what it took in. Slots without a sample are left out.

    score: 1 - squared error / variance for image and audio, share of right tokens for text. exact: share of texts that
    come back whole. frames_off: mean error of the length of variable sounds, in frames.
    judged, judged_real: share of reconstructions, and of the real ones, that the judge gets right.
    """
    found: dict[str, dict[str, float]] = {}
    for slot, how in codecs.preprocesses.items():
        rows = samples.having(slot)[:SCORE_ROWS]
        if len(rows) == 0:
            continue
        real = values_of(samples, slot, rows, how, device)
        made = codecs.decode(slot, codecs.encode(slot, real))
        score = _text_score(made, real) if how.modality == "text" else _grid_score(made, real)
        if isinstance(how, AudioPreprocess) and how.variable:
            # levels alone: to get the mark after the end right is no sound that came back
            score = _grid_score(made.clamp(min=-1), real.clamp(min=-1))
            score["frames_off"] = (lengths(made) - lengths(real)).abs().double().mean().item()
        labels_B = torch.from_numpy(samples.labels[rows])
        # a judge of its modality that looks at values of this size
        if how.modality in judges and codec_names(codecs.slots)[slot] == how.modality and bool((labels_B >= 0).any()):
            judge = judges[how.modality]
            score["judged"] = _judged(judge, made, labels_B)
            score["judged_real"] = _judged(judge, real, labels_B)
        found[slot] = {**score, "n": len(rows)}
    return found


def _grid_score(made: Tensor, real: Tensor) -> dict[str, float]:
    error, variance = (made - real).square().mean().item(), real.var(correction=0).item()
    return {"score": max(0.0, 1 - error / max(variance, 1e-12)), "squared_error": error}


def _text_score(made: Tensor, real: Tensor) -> dict[str, float]:
    counts = (real != PAD) | (made != PAD)
    right = (made == real) & counts
    exact = (made == real).all(dim=1).float().mean().item()
    return {"score": (right.sum() / counts.sum().clamp(min=1)).item(), "exact": exact}


def _judged(judge: Judge, value: Tensor, labels_B: Tensor) -> float:
    guesses_B = torch.cat([judge(part).argmax(dim=1) for part in torch.split(value, 256)]).cpu()
    labelled = labels_B >= 0
    return (guesses_B == labels_B)[labelled].float().mean().item()
