"""Encoder features: vectors of frozen encoders, cached beside the tensors that they were made from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mmgen.batches import Loader, open_samples
from mmgen.codec_set import CodecSet
from mmgen.embeddings import frozen, identity_of
from mmgen.encoders.config import ExtractConfig
from mmgen.encoders.table import make_encoder
from mmgen.errors import ConfigError
from mmgen.extract import extract
from mmgen.runtime import Runtime, map_local
from tests.foreign_models import folder
from tests.tiny_line import Line, copied


@pytest.fixture
def line(tmp_path: Path) -> Line:
    return copied(tmp_path)


def configured(line: Line, **encoders: dict[str, Any]) -> Any:
    return line.config.model_copy(update={"extract": ExtractConfig.model_validate({"encoders": encoders})})


def weights_file(path: Path, seed: int) -> str:
    """An encoder of the tiny line's pictures, as a user has it: trained elsewhere, saved as safetensors."""
    torch.manual_seed(seed)
    save_file(make_encoder("cnn_image", "image", (1, 16, 16), 8).state_dict(), path)
    return str(path)


def test_every_sample_has_the_vector_that_its_frozen_encoder_gives(line: Line, tmp_path: Path) -> None:
    weights = weights_file(tmp_path / "mine.safetensors", 1)
    asked = {
        "image": {"kind": "cnn_image", "width": 8, "weights": weights},
        "text": {"kind": "transformer_text", "width": 16},
    }
    config = configured(line, **asked)
    made = extract(config, line.inputs("extract"), Runtime(line.store, device="cpu"))
    assert set(made.facts["sets"]) == {"tensors", "latents", "embeddings"}
    cached = open_samples(line.store, made, "embeddings", "train")
    tensors = open_samples(line.store, made, "tensors", "train")
    assert cached is not None
    assert tensors is not None
    codecs = CodecSet.load(line.store, line.made["fit"])
    for slot, settings in config.extract.encoders.items():
        encoder = frozen(codecs, slot, settings.model_dump(), torch.device("cpu"))
        compact = torch.from_numpy(tensors.shards[0].slots[slot].rows[:5].copy())
        wanted = encoder(codecs.preprocesses[slot].value(compact)).numpy()
        came = cached.shards[0].slots[slot].rows[:5]
        assert came.shape == (5, 1, asked[slot]["width"])
        assert np.allclose(came[:, 0], wanted, atol=1e-5)
        assert came.std() > 0


def test_they_are_made_once_and_anew_for_other_weights(line: Line, tmp_path: Path) -> None:
    work: list[str] = []

    def counting(what: str, function: Any, arguments: Any, workers: int) -> list[Any]:
        work.append(what)
        return map_local(what, function, arguments, workers)

    runtime = Runtime(line.store, device="cpu", map=counting)
    for name, seed in (("a", 1), ("a_again", 1), ("b", 2)):
        weights = weights_file(tmp_path / f"{name}.safetensors", seed)
        config = configured(line, image={"kind": "cnn_image", "width": 8, "weights": weights})
        extract(config, line.inputs("extract"), runtime)
    assert work == ["extract embeddings", "extract embeddings"]


def test_weights_that_are_not_there_and_encoders_of_another_modality_are_the_users_mistake(
    line: Line, tmp_path: Path
) -> None:
    runtime = Runtime(line.store, device="cpu")
    lost = configured(line, image={"kind": "cnn_image", "weights": "nowhere.safetensors"})
    with pytest.raises(ConfigError, match=r"encoders.image.weights: wanted a local safetensors file"):
        extract(lost, line.inputs("extract"), runtime)
    with pytest.raises(ConfigError, match="encoder for image slots 'bilstm_text'"):
        extract(configured(line, image={"kind": "bilstm_text"}), line.inputs("extract"), runtime)
    (tmp_path / "other.safetensors").write_bytes(b"12345678")
    other = configured(line, image={"kind": "cnn_image", "weights": str(tmp_path / "other.safetensors")})
    with pytest.raises(ConfigError, match="is not a cnn_image of this size"):
        extract(other, line.inputs("extract"), runtime)


def test_tokens_of_a_foreign_encoder_are_cached_with_zeros_where_there_are_none(line: Line) -> None:
    asked = {
        "text": {"kind": "transformers_text", "source": folder("bert"), "output": "tokens"},
        "image": {"kind": "transformers_image", "source": folder("clip"), "output": "tokens", "width": 5},
    }
    config = configured(line, **asked)
    made = extract(config, line.inputs("extract"), Runtime(line.store, device="cpu"))
    cached = open_samples(line.store, made, "embeddings", "train")
    tensors = open_samples(line.store, made, "tensors", "train")
    assert cached is not None
    assert tensors is not None
    assert (cached.tokens("text"), cached.tokens("image")) == (48, 17)
    codecs = CodecSet.load(line.store, line.made["fit"])
    for slot, width in (("text", 8), ("image", 5)):
        encoder = frozen(codecs, slot, config.extract.encoders[slot].model_dump(), torch.device("cpu"))
        compact = torch.from_numpy(tensors.shards[0].slots[slot].rows[:5].copy())
        wanted_BTD, mask_BT = encoder.token_features(codecs.preprocesses[slot].value(compact))
        came = cached.shards[0].slots[slot].rows[:5]
        assert came.shape == (*mask_BT.shape, width)
        assert np.allclose(came, wanted_BTD.numpy(), atol=1e-5)
        # padding can be told from words by itself
        assert np.array_equal(came.any(axis=2), mask_BT.numpy())
    batch = Loader(cached, batch_size=4, device=torch.device("cpu")).next()
    assert batch.values["image"].shape == (4, 17, 5)
    assert torch.equal(batch.masks["text"], batch.values["text"].ne(0).any(-1))
    assert batch.masks["image"].all()
    assert not batch.masks["text"].all()


def test_a_foreign_encoder_counts_by_its_files_and_not_by_what_training_would_change() -> None:
    def counted(**changed: Any) -> str:
        raw = {"kind": "transformers_text", "source": folder("bert"), **changed}
        return identity_of(ExtractConfig.model_validate({"encoders": {"text": raw}}).encoders, "t")

    first = counted()
    assert counted(trainable="adapters") == first
    assert counted(source=folder("bert", seed=1)) != first
    assert counted(output="tokens") != first
