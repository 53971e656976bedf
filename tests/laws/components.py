"""Every component of every table as one case: how it is made at its smallest, what it reads, and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from mmgen.batches import Batch
from mmgen.codecs.pretrained import architecture_of
from mmgen.codecs.table import CODECS, VOCODERS
from mmgen.codecs.vocoder import vocoder_loss
from mmgen.encoders.config import EncoderConfig
from mmgen.encoders.foreign_text import give_tokenizer
from mmgen.encoders.specs import encoder_spec, encoder_start
from mmgen.encoders.table import ENCODERS, make_encoder
from mmgen.fusion.table import FUSES, make_fusion
from mmgen.generators.autoregressive import ids_key
from mmgen.generators.fields import FIELDS
from mmgen.generators.joint_flow import embedding_key
from mmgen.generators.sampling import Sampling
from mmgen.generators.table import GENERATORS
from mmgen.preprocess.audio import AudioPreprocess, marked
from mmgen.records import Modality
from tests import foreign_models

ROWS, CLASSES = 6, 3
VOCABULARY, LENGTH, EMBEDDING = 24, 8, 8
SHAPES: dict[str, tuple[int, ...]] = {"text": (LENGTH, VOCABULARY), "image": (1, 32, 32), "audio": (16, 16)}
LATENTS: dict[str, tuple[int, int]] = {"text": (2, 4), "image": (4, 3), "audio": (4, 2)}
MODALITIES: dict[str, Modality] = {"text": "text", "image": "image", "audio": "audio"}
ENCODER_OF: dict[Modality, str] = {"text": "bilstm_text", "image": "cnn_image", "audio": "cnn_mel"}


@dataclass(frozen=True)
class Case:
    """One component.

    make: a fresh one, its weights drawn from torch's global seed. batch: what it reads. outputs: everything it gives
    in evaluation mode, each with rows first. loss: a scalar to minimise. fits: what is left of the loss of one batch
    after `steps` steps of Adam, at most, as a share of its first value.
    """

    name: str
    make: Callable[[], nn.Module]
    batch: Callable[[], Batch]
    outputs: Callable[[Any, Batch], dict[str, Tensor]]
    loss: Callable[[Any, Batch, torch.Generator], Tensor]
    fits: float
    steps: int = 60
    rate: float = 3e-3


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def values() -> dict[str, Tensor]:
    """A value of each slot for ROWS samples; the texts are of several lengths."""
    ids = torch.randint(3, VOCABULARY, (ROWS, LENGTH), generator=rng(1))
    for row in range(ROWS):
        end = 3 + row % 4
        ids[row, 0], ids[row, end], ids[row, end + 1 :] = 1, 2, 0
    image = torch.rand(ROWS, *SHAPES["image"], generator=rng(2)) * 2 - 1
    audio = torch.rand(ROWS, *SHAPES["audio"], generator=rng(3)) * 2 - 1
    return {"text": ids, "image": image, "audio": audio}


def _batch(made: Mapping[str, Tensor], tokens: Mapping[str, int]) -> Batch:
    masks = {slot: torch.ones(ROWS, tokens[slot], dtype=torch.bool) for slot in made}
    return Batch(dict(made), masks, torch.arange(ROWS) % CLASSES, torch.ones(ROWS), [str(row) for row in range(ROWS)])


def tensors() -> Batch:
    return _batch(values(), dict.fromkeys(SHAPES, 1))


def foreign() -> Batch:
    """As `tensors`, but sounds are waveforms, two tones in each, and texts are words."""
    times = torch.arange(foreign_models.SAMPLES) / foreign_models.RATE_HZ
    hertz = 100.0 * (1 + torch.arange(ROWS))[:, None]
    wave = (hertz * times * 6.2832).sin() * 0.5 + (hertz * times * 2.5).cos() * 0.3
    how = foreign_models.hows()["text"]
    texts = ("a red", "blue sea", "green", "old blue", "red red", "one sea")
    ids = torch.stack([how.value(torch.from_numpy(how.compact(text.encode(), ""))) for text in texts])
    made = {**values(), "audio": wave[:, None], "text": ids}
    return _batch(made, dict.fromkeys(SHAPES, 1))


def latents() -> Batch:
    """Latents of each slot, and a fusion embedding beside each."""
    made, tokens = {}, {}
    for number, (slot, shape) in enumerate(LATENTS.items()):
        made[slot], tokens[slot] = torch.randn(ROWS, *shape, generator=rng(number)), shape[0]
        made[embedding_key(slot)] = torch.randn(ROWS, 1, EMBEDDING, generator=rng(10 + number))
        tokens[embedding_key(slot)] = 1
    return _batch(made, tokens)


# ---------------------------------------------------------------- cases

_CODEC_ARGS: dict[str, tuple[str, dict[str, Any]]] = {
    "conv_image": ("image", {"channels": 1, "height": 32, "width": 32, "patch": 4, "widths": (16, 16), "depth": 1,
                             "latent_width": 4, "kl_weight": 1e-4}),
    "conv_mel": ("audio", {"mels": 16, "frames": 16, "patch": 2, "widths": (16, 16), "depth": 1, "latent_width": 4,
                           "kl_weight": 1e-4}),
    "tokens": ("text", {"vocabulary": VOCABULARY, "length": LENGTH, "latent_tokens": 2, "latent_width": 8, "width": 32,
                        "heads": 2, "depth": 1, "kl_weight": 1e-4, "token_dropout": 0.0}),
    "autoregressive": ("text", {"vocabulary": VOCABULARY, "length": LENGTH, "latent_tokens": 2, "latent_width": 8,
                                "width": 32, "heads": 2, "depth": 1, "kl_weight": 1e-4, "token_dropout": 0.0,
                                "word_dropout": 0.2}),
}  # fmt: skip


def foreign_codec(kind: str, slot: str, library: str, fits: float, **sizes: int) -> Case:
    """A codec of another library, random as their library makes it."""

    def make() -> nn.Module:
        settings = architecture_of(Path(foreign_models.folder(kind)), library)
        chosen: Any = CODECS[kind]
        made = chosen(architecture=settings, **sizes)
        for buffer in (each for name, each in made.named_buffers() if name.endswith("codebook.embed")):
            buffer.normal_(std=0.1)
        return made  # type: ignore[no-any-return]

    def outputs(module: Any, batch: Batch) -> dict[str, Tensor]:
        z_BTD = module.encode(batch.values[slot])
        return {"latent": z_BTD, "value": module.decode(z_BTD)}

    return Case(
        f"codec:{kind}", make, foreign, outputs,
        lambda module, batch, noise: module.loss(batch.values[slot], noise)["loss"], fits=fits, steps=50,
    )  # fmt: skip


def codec(kind: str) -> Case:
    slot, args = _CODEC_ARGS[kind]

    def outputs(module: Any, batch: Batch) -> dict[str, Tensor]:
        z_BTD = module.encode(batch.values[slot])
        return {"latent": z_BTD, "value": module.decode(z_BTD).float()}

    return Case(
        f"codec:{kind}", lambda: CODECS[kind](**args), tensors, outputs,
        lambda module, batch, noise: module.loss(batch.values[slot], noise)["loss"], fits=0.5, steps=150,
    )  # fmt: skip


def variable_codec() -> Case:
    """The audio codec of sounds that end where they end."""
    args = {**_CODEC_ARGS["conv_mel"][1], "variable": True}

    def batch() -> Batch:
        made = tensors()
        made.values["audio"] = marked(made.values["audio"], torch.arange(ROWS) * 2 + 3)
        return made

    def outputs(module: Any, batch: Batch) -> dict[str, Tensor]:
        z_BTD = module.encode(batch.values["audio"])
        return {"latent": z_BTD, "value": module.decode(z_BTD)}

    return Case(
        "codec:conv_mel:variable", lambda: CODECS["conv_mel"](**args), batch, outputs,
        lambda module, batch, noise: module.loss(batch.values["audio"], noise)["loss"], fits=0.5, steps=150,
    )  # fmt: skip


def sounds() -> Batch:
    """A slot `wave` of noise with a slope of its own in each row, (ROWS, 2000) samples."""
    slopes = torch.linspace(0.2, 1.0, ROWS)[:, None] ** (torch.arange(1001) / 100)
    noise = torch.fft.rfft(torch.randn(ROWS, 2000, generator=rng(4)) * 0.2)
    return _batch({"wave": torch.fft.irfft(noise * slopes)}, {"wave": 1})


def vocoder(kind: str) -> Case:
    how = AudioPreprocess(8000, 0.25, 16, n_fft=128, hop=50)

    def make() -> nn.Module:
        made = VOCODERS[kind]
        assert made is not None
        return made(mels=16, n_fft=128, hop=50, width=32, depth=2)

    return Case(
        f"vocoder:{kind}", make, sounds,
        lambda module, batch: {"sound": module(how.levels(how.log_mel(batch.values["wave"])))},
        lambda module, batch, noise: vocoder_loss(module, how, batch.values["wave"], 1.0)["loss"], fits=0.5,
    )  # fmt: skip


def encoder(kind: str, modality: Modality) -> Case:
    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = make_encoder(kind, modality, SHAPES[modality], 16)
            self.head = nn.Linear(16, CLASSES)

    return Case(
        f"encoder:{kind}:{modality}", Classifier, tensors,
        lambda module, batch: {"vector": module.encoder(batch.values[modality])},
        lambda module, batch, noise: nn.functional.cross_entropy(
            module.head(module.encoder(batch.values[modality])), batch.labels_B
        ),
        fits=0.2, steps=30 if kind == "resnet18_image" else 60,
    )  # fmt: skip


_FOREIGN: dict[str, dict[str, Any]] = {
    "torchvision_image": {"model": "mobilenet_v3_small"},
    "torchaudio_audio": {"model": "wav2vec2_model", "options": foreign_models.WAV2VEC2, "sample_rate_hz": 8000},
    "transformers_image": {"source": "clip"},
    "transformers_text": {"source": "bert"},
    "transformers_audio": {"source": "wav2vec2"},
}


def foreign_encoder(kind: str) -> Case:
    """An encoder of another library; all of it is trained."""
    slot: Any = kind.rsplit("_", 1)[1]

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            settings = {"kind": kind, "trainable": "all", **_FOREIGN[kind]}
            if "source" in settings:
                settings["source"] = foreign_models.folder(settings["source"])
            wanted: Any = TypeAdapter(EncoderConfig).validate_python(settings)
            how = foreign_models.hows()[slot]
            shape = how.shape if slot != "text" else (*how.shape, len(how.tokenizer))
            self.encoder = make_encoder(encoder_spec(wanted, how, slot), slot, shape, 16, encoder_start(wanted))
            give_tokenizer(self, foreign_models.tokenizer())
            self.head = nn.Linear(16, CLASSES)

    def outputs(module: Any, batch: Batch) -> dict[str, Tensor]:
        x_BTD, mask_BT = module.encoder.token_features(batch.values[slot])
        return {"vector": module.encoder(batch.values[slot]), "tokens": x_BTD, "mask": mask_BT.float()}

    return Case(
        f"encoder:{kind}:{slot}", Classifier, foreign, outputs,
        lambda module, batch, noise: nn.functional.cross_entropy(
            module.head(module.encoder(batch.values[slot])), batch.labels_B
        ),
        fits=0.3, steps=100, rate=1e-2 if kind != "torchvision_image" else 3e-3,
    )  # fmt: skip


def fusion(kind: str) -> Case:
    def make() -> nn.Module:
        return make_fusion(
            kind, modalities=MODALITIES, shapes=SHAPES, encoders=ENCODER_OF, classes=CLASSES, width=16, augment=False
        )

    def outputs(module: Any, batch: Batch) -> dict[str, Tensor]:
        e_BD = module(batch)
        return {"fused": e_BD, "logits": module.logits(e_BD), "slots": module.slot_embeddings(batch)}

    return Case(f"fusion:{kind}", make, tensors, outputs, lambda m, b, noise: m.loss(b, noise)["loss"], fits=0.4)


def joint_flow(network: str) -> Case:
    def make() -> nn.Module:
        return GENERATORS["joint_flow"](  # type: ignore[call-arg]
            slots=LATENTS, network=network, width=64, blocks=2, embedding_width=EMBEDDING
        )

    def outputs(module: Any, batch: Batch) -> dict[str, Tensor]:
        # noise is drawn row by row, so that a row's sample does not depend on how many follow it
        made: dict[str, Tensor] = module.sample(batch, ("image",), Sampling(steps=3, guidance=2.0), rng(5))
        return made

    return Case(
        f"generator:joint_flow:{network}", make, latents, outputs, lambda m, b, noise: m.loss(b, noise)["loss"],
        # attention learns a batch of latents by heart later than one matrix over all of them
        fits=0.6 if network == "residual" else 0.85, steps=250,
    )  # fmt: skip


def concat_baseline(target: str) -> Case:
    def make() -> nn.Module:
        return GENERATORS["concat_baseline"](  # type: ignore[call-arg]
            MODALITIES, SHAPES, {slot: ENCODER_OF[MODALITIES[slot]] for slot in SHAPES}, dict.fromkeys(SHAPES, 16),
            target, CLASSES, hide=0.2,
        )  # fmt: skip

    def outputs(module: Any, batch: Batch) -> dict[str, Tensor]:
        made = module.sample(batch, (target,), Sampling(steps=1, guidance=1.0), rng())
        return {"made": made[target].float(), "logits": module.classify(batch)}

    return Case(
        f"generator:concat_baseline:{target}", make, tensors, outputs,
        lambda m, b, noise: m.loss(b, noise)["loss"], fits=0.6, steps=80,
    )  # fmt: skip


def adversarial(what: str) -> Case:
    """The generator by itself, as it is shipped, or with its discriminator, as it is trained."""

    def make() -> nn.Module:
        made: Any = GENERATORS["adversarial"](  # type: ignore[call-arg]
            slots=LATENTS, width=64, blocks=2, embedding_width=EMBEDDING, joint_share=0.0, given_share=1.0,
            given_noise=0.1,
        )  # fmt: skip
        learner: nn.Module = made.learner(torch.initial_seed())
        return made if what == "alone" else learner

    def outputs(module: Any, batch: Batch) -> dict[str, Tensor]:
        generator = module if what == "alone" else module.generator
        made: dict[str, Tensor] = generator.sample(batch, ("image",), Sampling(steps=1, guidance=1.0), rng(5))
        return made

    return Case(
        f"generator:adversarial:{what}", make, latents, outputs, lambda m, b, noise: m.loss(b, noise)["loss"],
        # the discriminator's loss, about 2 of the 3 that the learner starts with, is not there to vanish
        fits=0.4 if what == "alone" else 0.85, steps=250,
    )  # fmt: skip


def latents_and_ids() -> Batch:
    """`latents` with the ids of the texts beside them."""
    batch = latents()
    whole = torch.ones(ROWS, LENGTH, dtype=torch.bool)
    key = ids_key("text")
    return replace(batch, values={**batch.values, key: values()["text"]}, masks={**batch.masks, key: whole})


def autoregressive() -> Case:
    def make() -> nn.Module:
        return GENERATORS["autoregressive"](  # type: ignore[call-arg]
            slots=LATENTS, targets=("text",), vocabulary=VOCABULARY, length=LENGTH, width=32, heads=2, depth=2,
            embedding_width=EMBEDDING, condition_dropout=0.0,
        )  # fmt: skip

    def outputs(module: Any, batch: Batch) -> dict[str, Tensor]:
        key = ids_key("text")
        # two ids are given, the others are to be written
        begun = replace(batch, values={**batch.values, key: batch.values[key].clone()})
        begun.values[key][:, 3:] = 0
        drawn, searched = (Sampling(steps=1, guidance=2.0, beams=beams) for beams in (1, 2))
        return {
            "drawn": module.sample(begun, ("text",), drawn, rng(5))["text"].float(),
            "searched": module.sample(begun, ("text",), searched, rng(5))["text"].float(),
            "log_probability": module.log_probability(batch, "text", values()["text"][: len(batch)]),
        }

    return Case(
        "generator:autoregressive", make, latents_and_ids, outputs, lambda m, b, noise: m.loss(b, noise)["loss"],
        fits=0.6, steps=80,
    )  # fmt: skip


CASES: tuple[Case, ...] = (
    *(codec(kind) for kind in _CODEC_ARGS),
    variable_codec(),
    *(vocoder(kind) for kind, each in VOCODERS.items() if each is not None),
    foreign_codec("autoencoder_kl", "image", "AutoencoderKL", 0.9, channels=1, height=32, width=32),
    foreign_codec("encodec", "audio", "EncodecModel", 0.9, samples=foreign_models.SAMPLES, sample_rate_hz=8000),
    *(encoder(kind, modality) for kind, each in ENCODERS.items() for modality in MODALITIES.values()
      if modality in each.modalities and kind not in _FOREIGN),
    *(foreign_encoder(kind) for kind in _FOREIGN),
    *(fusion(kind) for kind in FUSES),
    *(joint_flow(network) for network in FIELDS),
    autoregressive(),
    *(concat_baseline(target) for target in SHAPES),
    *(adversarial(what) for what in ("alone", "learner")),
)  # fmt: skip
