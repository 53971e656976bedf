"""Encoder features: vectors of frozen encoders, cached beside the tensors that they were made from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mmgen.batches import open_samples
from mmgen.codec_set import CodecSet
from mmgen.embeddings import frozen
from mmgen.encoders.config import ExtractConfig
from mmgen.encoders.table import make_encoder
from mmgen.errors import ConfigError
from mmgen.extract import extract
from mmgen.runtime import Runtime, map_local
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
