"""Codecs trained with further terms: what each adds, what is kept of it, and image sizes from 32 to 256 px."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from mmgen.batches import Batch, Loader
from mmgen.codec_set import weights_of
from mmgen.codecs.config import AudioCodecConfig, GridTerms, ImageCodecConfig, TextCodecConfig
from mmgen.codecs.grid import GridCodec, Terms
from mmgen.codecs.image import ImageCodec
from mmgen.codecs.learner import GridLearner
from mmgen.codecs.table import CODECS
from mmgen.errors import ConfigError
from mmgen.fit_parts import codec_args, codec_learner
from mmgen.preprocess.image import ImagePreprocess
from mmgen.store import Store
from mmgen.training.checkpoint import Checkpoint
from mmgen.training.config import TrainConfig
from mmgen.training.loop import Trained, train
from mmgen.training.parallel import World
from tests.feature_sets import samples, shard

SMALL: dict[str, Any] = {"patch": 2, "widths": (8, 16), "depth": 1, "latent_width": 4, "kl_weight": 1e-3}
ALL = {"adversarial_weight": 0.1, "feature_weight": 0.2, "perceptual_weight": 0.5, "latent_noise": 0.1}
PARTS = {"discriminator", "adversarial", "feature", "perceptual"}


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def codec(kind: str = "conv_image", **more: Any) -> Any:
    torch.manual_seed(0)
    size = {"channels": 3, "height": 16, "width": 16} if kind == "conv_image" else {"mels": 16, "frames": 16}
    return CODECS[kind](**size, **{**SMALL, **more})


def values(kind: str = "conv_image", count: int = 4) -> Tensor:
    shape = (3, 16, 16) if kind == "conv_image" else (16, 16)
    return torch.rand((count, *shape), generator=rng(1)) * 2 - 1


def gradients(learner: Any, part: Any, value: Tensor) -> list[Tensor]:
    learner.zero_grad()
    learner.loss(value, rng())["loss"].backward()
    return [weight.grad.clone() for weight in part.parameters() if weight.grad is not None]


@pytest.mark.parametrize("kind", ["conv_image", "conv_mel"])
class TestBothGrids:
    def test_each_term_adds_its_part(self, kind: str) -> None:
        plain = codec(kind).loss(values(kind), rng())
        assert GridLearner(codec(kind)).loss(values(kind), rng())["loss"] == plain["loss"]
        found = GridLearner(codec(kind), **{**ALL, "latent_noise": 0.0}).loss(values(kind), rng())
        assert set(found) == set(plain) | PARTS
        assert torch.equal(found["reconstruction"], plain["reconstruction"])
        wanted = plain["loss"] + found["discriminator"] + 0.1 * found["adversarial"]
        wanted = wanted + 0.2 * found["feature"] + 0.5 * found["perceptual"]
        torch.testing.assert_close(found["loss"], wanted)
        assert [name for name, each in found.items() if each.requires_grad] == ["loss"]

    def test_it_overfits_one_batch_with_all_of_them(self, kind: str) -> None:
        learner, value = GridLearner(codec(kind), **ALL), values(kind)
        before = float(learner.loss(value, rng())["reconstruction"])
        optimiser = torch.optim.Adam(learner.parameters(), lr=5e-3, betas=(0.5, 0.999))
        for step in range(100):
            optimiser.zero_grad()
            learner.loss(value, rng(step))["loss"].backward()
            optimiser.step()
        assert learner.loss(value, rng())["reconstruction"] < 0.6 * before

    def test_what_is_kept_has_nothing_of_the_adversary(self, kind: str) -> None:
        learner = GridLearner(codec(kind), **ALL)
        learner.loss(values(kind), rng())["loss"].backward()
        assert set(learner.codec.state_dict()) == set(codec(kind).state_dict())
        assert weights_of(learner.codec) == weights_of(codec(kind))
        assert any(name.startswith("discriminator.") for name in learner.state_dict())

    def test_it_runs_in_bfloat16(self, kind: str) -> None:
        learner = GridLearner(codec(kind), **ALL)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = learner.loss(values(kind), rng())
        found["loss"].backward()
        assert all(torch.isfinite(each) and each.dtype == torch.float32 for each in found.values())


def test_the_discriminator_learns_the_same_whatever_it_counts_for_the_codec() -> None:
    one, other = (GridLearner(codec(), adversarial_weight=weight) for weight in (0.1, 5.0))
    assert one.discriminator is not None
    assert other.discriminator is not None
    mine, theirs = gradients(one, one.discriminator, values()), gradients(other, other.discriminator, values())
    assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
    decoders = [gradients(each, each.codec.decoder, values()) for each in (one, other)]
    assert not all(torch.equal(a, b) for a, b in zip(*decoders, strict=True))


def test_features_need_a_discriminator_and_the_perceptual_net_needs_none() -> None:
    assert GridLearner(codec(), feature_weight=1.0).discriminator is not None
    learner = GridLearner(codec(), perceptual_weight=1.0)
    assert learner.discriminator is None
    assert {weight for weight in learner.parameters() if weight.requires_grad} == set(learner.codec.parameters())


def test_the_seed_of_the_adversary_is_its_own() -> None:
    def net(seed: int) -> bytes:
        learner = GridLearner(codec(), adversarial_weight=1.0, seed=seed)
        assert learner.discriminator is not None
        return weights_of(learner.discriminator)

    assert net(1) == net(1) != net(2)


class TestLatentNoise:
    def test_no_scale_of_the_latents_escapes_it(self) -> None:
        terms = Terms(latent_noise=0.5)
        one, other = codec(kl_weight=0.0), codec(kl_weight=0.0)
        with torch.no_grad():
            other.encoder.layers[-1].weight *= 4
            other.encoder.layers[-1].bias *= 4
            other.decoder.layers[0].weight /= 4
        losses = [each.loss(values(), rng(), terms)["loss"] for each in (one, other)]
        torch.testing.assert_close(*losses)
        assert losses[0] != one.loss(values(), rng(), Terms(latent_noise=1.0))["loss"]

    def test_the_learnt_deviation_is_out_of_use(self) -> None:
        learner = GridLearner(codec(), latent_noise=0.5)
        learner.loss(values(), rng())["loss"].backward()
        grad = learner.codec.encoder.layers[-1].weight.grad
        assert isinstance(grad, Tensor)
        mean, log_variance = grad.chunk(2)
        assert mean.any()
        assert not log_variance.any()

    def test_a_batch_of_one_flat_image_is_finite(self) -> None:
        found = GridLearner(codec(), latent_noise=0.5).loss(torch.zeros(1, 3, 16, 16), rng())
        assert torch.isfinite(found["loss"])


class TestSettings:
    def test_by_default_there_are_none_and_nothing_that_is_written_says_so(self) -> None:
        for config in (ImageCodecConfig(), AudioCodecConfig()):
            assert not set(GridTerms.model_fields) & set(config.model_dump(mode="json"))
            kind = config.kind
            made = codec(kind)
            assert codec_learner(made, config, 0) is made

    def test_those_that_are_used_are_written_and_are_no_part_of_the_codec(self) -> None:
        config = ImageCodecConfig(adversarial_weight=0.1, latent_noise=0.2)
        assert ImageCodecConfig.model_validate(config.model_dump(mode="json")) == config
        assert {"adversarial_weight", "latent_noise"} <= set(config.model_dump(mode="json"))
        how = ImagePreprocess(size_px=32)
        assert codec_args(config, how) == codec_args(ImageCodecConfig(), how)
        learner = codec_learner(codec(), config, 0)
        assert isinstance(learner, GridLearner)
        assert (learner.adversarial_weight, learner.latent_noise, learner.perceptual) == (0.1, 0.2, None)

    def test_texts_have_none(self) -> None:
        made = codec()
        assert codec_learner(made, TextCodecConfig(), 0) is made


# ---------------------------------------------------------------- resume


class Killed(Exception):
    """Stands for a kill -9."""


def trained(learner: GridLearner, checkpoint: Checkpoint | None = None, stop: int | None = None) -> Trained:
    calls = 0

    def loss(batch: Batch, noise: torch.Generator) -> dict[str, Tensor]:
        nonlocal calls
        calls += 1
        if calls == stop:
            raise Killed
        return learner.loss(batch.values["image"], noise)

    to_value: dict[str, Callable[[Tensor], Tensor]] = {"image": lambda compact: compact.float() / 127.5 - 1}
    loader = Loader(samples([shard(21)]), batch_size=8, slots=["image"], to_value=to_value)
    config = TrainConfig(steps=8, batch_size=8, ema_decay=0.9, checkpoint_steps=1)
    return train(
        learner, loss, loader, config, world=World(0, 1, torch.device("cpu")), seed=1, what="codec",
        checkpoint=checkpoint, bf16=False,
    )  # fmt: skip


def learner_of_4_px(seed: int = 0) -> GridLearner:
    torch.manual_seed(seed)
    made = ImageCodec(channels=1, height=4, width=4, **{**SMALL, "widths": (8,)})
    return GridLearner(made, **ALL, seed=seed)


def test_a_killed_training_goes_on_with_its_adversary_as_if_it_had_not_been(store: Store) -> None:
    whole = trained(learner_of_4_px())
    checkpoint = Checkpoint(store, "ab" * 32)
    with pytest.raises(Killed):
        trained(learner_of_4_px(), checkpoint, stop=5)
    # another start, so that all that is equal in the end came from the checkpoint
    resumed = trained(learner_of_4_px(seed=1), checkpoint)
    assert weights_of(resumed.module) == weights_of(whole.module)
    assert resumed.curves == whole.curves


# ---------------------------------------------------------------- sizes

# patch and number of widths for about 16 and about 64 latent tokens, as ImageCodecConfig advises
SIZES = [(32, 4, 2, 16), (64, 4, 2, 64), (64, 4, 3, 16), (128, 4, 3, 64), (128, 4, 4, 16), (256, 8, 3, 64),
         (256, 8, 4, 16)]  # fmt: skip


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("size", "patch", "levels", "tokens"), SIZES)
def test_images_of_32_to_256_px_train_with_all_terms(
    size: int, patch: int, levels: int, tokens: int, channels: int
) -> None:
    config = ImageCodecConfig(patch=patch, widths=(8,) * levels, depth=1, latent_width=4, **ALL)
    how = ImagePreprocess(size_px=size, channels=channels)  # type: ignore[arg-type]
    torch.manual_seed(0)
    made = ImageCodec(**codec_args(config, how))
    learner: Any = codec_learner(made, config, 0)
    value = torch.rand((2, channels, size, size), generator=rng()) * 2 - 1
    found = learner.loss(value, rng())
    found["loss"].backward()
    assert torch.isfinite(found["loss"])
    assert made.latent_shape == (tokens, 4)
    assert made.decode(made.encode(value)).shape == value.shape


@pytest.mark.parametrize("size", [32, 64, 128, 256])
def test_the_default_fits_every_usual_size(size: int) -> None:
    with torch.device("meta"):
        made = ImageCodec(**codec_args(ImageCodecConfig(), ImagePreprocess(size_px=size)))
    assert made.latent_shape == ((size // 8) ** 2, 8)


@pytest.mark.parametrize(
    ("height", "width", "wanted"),
    [
        (
            100,
            100,
            r"multiples of 16, came 100 × 100; this size fits patch 4 with 1 width, or .* 96 × 96 and 112 × 112",
        ),
        (48, 48, r"multiples of 32, came 48 × 48; this size fits patch 4 with 3 widths, or patch 2 with 4 widths, or "),
        (33, 64, r"this size fits patch 1 with 1 width; 16 fits sizes such as 32 × 64 and 48 × 80"),
    ],
)
def test_a_size_that_does_not_divide_is_told_what_fits_it(height: int, width: int, wanted: str) -> None:
    widths = (8,) * (4 if height == 48 else 3)
    with pytest.raises(ConfigError, match=wanted) as refused:
        GridCodec(channels=1, height=height, width=width, **{**SMALL, "patch": 4, "widths": widths})
    # what it says does fit
    patch, levels = str(refused.value).split("patch ", 1)[1].split(" width")[0].split(" with ")
    GridCodec(channels=1, height=height, width=width, **{**SMALL, "patch": int(patch), "widths": (8,) * int(levels)})
