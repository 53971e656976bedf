"""The textbook floor: its parts, what it makes, and what it must not look at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from mmgen import config as configs
from mmgen.batches import Batch
from mmgen.errors import ConfigError
from mmgen.generators.concat_baseline import EOS_ID, PAD_ID, ConcatBaseline
from mmgen.generators.config import ConcatBaselineConfig
from mmgen.generators.sampling import Sampling
from mmgen.records import Modality

MODALITIES: dict[str, Modality] = {"text": "text", "image": "image", "audio": "audio"}
SHAPES: dict[str, tuple[int, ...]] = {"text": (10, 24), "image": (1, 32, 32), "audio": (16, 20)}
KINDS = {"text": "bilstm_text", "image": "cnn_image", "audio": "cnn_mel"}


def baseline(target: str = "image", slots: tuple[str, ...] = ("text", "image", "audio"), **more: Any) -> ConcatBaseline:
    torch.manual_seed(0)
    kinds = {slot: KINDS[slot] for slot in slots}
    return ConcatBaseline(MODALITIES, SHAPES, kinds, dict.fromkeys(slots, 32), target, classes=3, **more)


def batch(rows: int = 6, absent: dict[str, list[int]] | None = None) -> Batch:
    rng = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 24, (rows, 10), generator=rng)
    ids[:, 0], ids[:, 6], ids[:, 7:] = 1, EOS_ID, PAD_ID
    values = {
        "text": ids,
        "image": torch.randn(rows, 1, 32, 32, generator=rng),
        "audio": torch.randn(rows, 16, 20, generator=rng),
    }
    masks = {slot: torch.ones(rows, 1, dtype=torch.bool) for slot in values}
    for slot, gone in (absent or {}).items():
        masks[slot][gone] = False
        values[slot][gone] = 0
    return Batch(values, masks, torch.arange(rows) % 3, torch.ones(rows), [str(row) for row in range(rows)])


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_its_parts_have_the_textbooks_sizes() -> None:
    model = baseline()
    wide = [[layer.out_features for layer in net if isinstance(layer, nn.Linear)]
            for net in (model.generate_net, model.decode_net)]  # fmt: skip
    assert model.encode.width == 3 * 32
    assert wide == [[512, 256], [128, 64, 32 * 32]]
    assert model.label_head is not None
    assert model.label_head.in_features == 256


@pytest.mark.parametrize(("target", "shape"), [("image", (6, 1, 32, 32)), ("audio", (6, 16, 20)), ("text", (6, 10))])
def test_it_makes_its_target_as_a_value(target: str, shape: tuple[int, ...]) -> None:
    made = baseline(target).eval().sample(batch(), (target,), Sampling(steps=1, guidance=1.0), rng())[target]
    assert made.shape == shape
    assert made.dtype == (torch.long if target == "text" else torch.float32)


def test_a_text_is_padding_after_its_end() -> None:
    model = baseline("text").eval()
    last = model.decode_net[-1]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.weight.zero_()
        last.bias.view(10, 24)[:, 9] = 1.0
        last.bias.view(10, 24)[4, EOS_ID] = 2.0
    made = model.sample(batch(2), ("text",), Sampling(steps=1, guidance=1.0), rng())["text"]
    assert made.tolist() == [[9, 9, 9, 9, EOS_ID, 0, 0, 0, 0, 0]] * 2


def test_sampling_never_looks_at_the_targets_own_value() -> None:
    model, first, second = baseline().eval(), batch(), batch()
    second.values["image"].normal_(generator=rng())
    made = [model.sample(each, ("image",), Sampling(steps=1, guidance=1.0), rng())["image"] for each in (first, second)]
    assert torch.equal(*made)


def test_it_makes_no_other_slot() -> None:
    with pytest.raises(ConfigError, match="makes 'image' only, asked for audio"):
        baseline().sample(batch(), ("audio",), Sampling(steps=1, guidance=1.0), rng())


def test_rows_without_the_target_teach_the_label_alone() -> None:
    model = baseline().eval()
    rows = batch(absent={"image": [0, 1, 2, 3, 4, 5]})
    losses = model.loss(rows, rng())
    assert losses["reconstruction"] == 0
    assert losses["label"] > 0


def test_padding_rows_change_no_loss() -> None:
    model = baseline(hide=0.0).eval()
    four = batch().rows(0, 4)
    six = Batch(batch().values, batch().masks, batch().labels_B, torch.tensor([1.0, 1, 1, 1, 0, 0]), batch().keys)
    for name, value in model.loss(four, rng()).items():
        assert torch.allclose(value, model.loss(six, rng())[name], atol=1e-6)


def test_hiding_keeps_at_least_one_slot_of_each_row_and_hides_about_its_share() -> None:
    model = baseline(hide=0.5).train()
    present = {slot: torch.ones(4_000, dtype=torch.bool) for slot in KINDS}
    kept = torch.stack(list(model._hidden(present, rng()).values()), dim=1)
    assert kept.any(dim=1).all()
    # all three drawn away (1/8) gives all three back
    assert kept.float().mean().item() == pytest.approx(0.5 + 1 / 8, abs=0.02)


def test_the_target_or_an_input_that_is_no_slot_is_refused() -> None:
    with pytest.raises(ConfigError, match="'video' is not a slot"):
        baseline("video")


def test_a_lone_present_row_trains_through_a_batch_norm() -> None:
    torch.manual_seed(0)
    model = ConcatBaseline(MODALITIES, SHAPES, {"image": "resnet18_image"}, {"image": 8}, "image").train()
    loss = model.loss(batch(3, absent={"image": [1, 2]}), rng())["loss"]
    loss.backward()
    assert torch.isfinite(loss)


RECIPES = sorted(path.stem for path in Path(configs.RECIPES).glob("concat_baseline_*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES)
def test_each_recipe_is_the_textbooks_architecture_for_either_output(recipe: str) -> None:
    slots = recipe.removeprefix("concat_baseline_").split("_")
    columns = {slot: slot for slot in slots}
    for target in slots:
        raw = {"name": "x", "recipe": recipe, "source": {"path": "t.csv", **columns}, "generator": {"target": target}}
        generator = configs.build(raw).generator
        assert isinstance(generator, ConcatBaselineConfig)
        assert generator.target == target
        assert sorted(generator.encoders) == sorted(slots)
        assert {encoder.width for encoder in generator.encoders.values()} == {256}
        assert (generator.train.learning_rate, generator.train.batch_size, generator.train.epochs) == (1e-3, 16, 10)
        assert generator.train.optimizer == "adam"


def test_the_recipes_pair_encoders_as_the_textbook_does() -> None:
    pairs = {}
    for recipe in RECIPES:
        raw = yaml.safe_load((configs.RECIPES / f"{recipe}.yaml").read_text())
        pairs[recipe.removeprefix("concat_baseline_")] = {s: e["kind"] for s, e in raw["generator"]["encoders"].items()}
    assert pairs == {
        "text_image": {"text": "bilstm_text", "image": "resnet18_image"},
        "audio_image": {"audio": "cnn_mel", "image": "bilstm_rows"},
        "text_audio": {"text": "bilstm_text", "audio": "cnn_mel"},
        "text_image_audio": {"text": "bilstm_text", "image": "resnet18_image", "audio": "cnn_mel"},
    }
