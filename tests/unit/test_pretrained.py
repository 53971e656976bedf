"""Folders of other libraries' models: what is found, what it counts by, and what is refused."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import huggingface_hub
import pytest
from safetensors.torch import load_file, save_file

from mmgen.errors import ConfigError, StoreError
from mmgen.pretrained import digest_of, files_of, folder_of, libraries_of, library, whole
from tests.foreign_models import folder


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return shutil.copytree(folder("bert"), tmp_path / "bert")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of a hub that cannot be reached."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def test_a_model_counts_by_its_bytes_and_not_by_its_place(bert: Path, tmp_path: Path) -> None:
    first = digest_of(str(bert), None, "x")
    assert first.startswith("sha256:")
    (bert / "README.md").write_text("said beside it")
    assert digest_of(str(bert.rename(tmp_path / "moved")), None, "x") == first
    assert digest_of(folder("bert", seed=1), None, "x") != first
    other = shutil.copytree(folder("bert"), tmp_path / "words")
    (other / "tokenizer.json").write_text((other / "tokenizer.json").read_text() + " ")
    assert digest_of(str(other), None, "x") != first


def test_what_is_no_folder_of_a_model_is_refused(bert: Path) -> None:
    with pytest.raises(ConfigError, match=r"encoders.text.source: wanted a folder .* no folder ./nowhere"):
        folder_of("./nowhere", None, "encoders.text.source")
    with pytest.raises(ConfigError, match="a revision belongs to a hub's name"):
        folder_of(str(bert), "main", "encoders.text.source")
    (bert / "model.safetensors").rename(bert / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="pickled weights are never read"):
        folder_of(str(bert), None, "encoders.text.source")
    (bert / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"wanted a folder with a config.json"):
        folder_of(str(bert), None, "encoders.text.source")


def test_a_hubs_name_is_taken_from_its_cache_and_from_no_network(bert: Path, hub: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    kept = hub / "models--someone--tiny-bert"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs" / "main").write_text(commit)
    shutil.copytree(bert, kept / "snapshots" / commit)
    assert files_of(folder_of("someone/tiny-bert", None, "x"))
    assert digest_of("someone/tiny-bert", commit, "x") == digest_of(str(bert), None, "x")
    with pytest.raises(
        StoreError, match=r"'someone/else' is no folder, is not in the hub's cache, and the hub is away"
    ):
        folder_of("someone/else", None, "x")
    with pytest.raises(ConfigError, match="the hub says"):
        folder_of("a bad name", None, "x")


def test_a_library_that_is_missing_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ConfigError, match=r"diffusers is needed .* install the extra: mmgen\[pretrained\]"):
        library("diffusers")


def test_weights_that_are_not_whole_are_no_random_numbers(bert: Path) -> None:
    from transformers import BertModel

    state = load_file(bert / "model.safetensors")
    lost = next(name for name in state if "layer.1" in name)
    save_file(
        {name: each for name, each in state.items() if name != lost}, bert / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(ConfigError, match=f"1 tensors of BertModel are missing, first '{lost}'"):
        whole(BertModel, bert)
    (bert / "model.safetensors").write_bytes(b"not safetensors at all")
    with pytest.raises(ConfigError, match="not a BertModel that can be read"):
        whole(BertModel, bert)


def test_what_a_model_is_made_from_says_which_libraries_it_needs() -> None:
    codecs = {"image": {"kind": "autoencoder_kl", "args": {}}, "text": {"kind": "tokens", "args": {}}}
    fusion = {"kind": "gated", "args": {"encoders": {"image": "cnn_image", "text": {"kind": "transformers_text"}}}}
    assert libraries_of({"codecs": codecs, "fusion": fusion}) == {"diffusers", "transformers"}
    assert libraries_of({"codecs": {"text": codecs["text"]}, "slots": None}) == set()
