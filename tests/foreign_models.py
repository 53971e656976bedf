"""Tiny models with random weights in other libraries' real format, each saved once per test process."""

from __future__ import annotations

import functools
import string
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mmgen.preprocess.audio import AudioPreprocess
from mmgen.preprocess.image import ImagePreprocess
from mmgen.preprocess.text import TextPreprocess, Tokenizer

_FOLDER = tempfile.TemporaryDirectory(prefix="mmgen-foreign-")
SMALL = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
RATE_HZ, SAMPLES = 8_000, 4_800
#: torchaudio's wav2vec 2.0 at its smallest, as options of `wav2vec2_model`
WAV2VEC2: dict[str, Any] = {
    "extractor_mode": "group_norm", "extractor_conv_layer_config": [[8, 10, 5], [8, 8, 4], [8, 8, 8]],
    "extractor_conv_bias": False, "encoder_embed_dim": 8, "encoder_projection_dropout": 0.1,
    "encoder_pos_conv_kernel": 8, "encoder_pos_conv_groups": 2, "encoder_num_layers": 2, "encoder_num_heads": 2,
    "encoder_attention_dropout": 0.1, "encoder_ff_interm_features": 16, "encoder_ff_interm_dropout": 0.1,
    "encoder_dropout": 0.1, "encoder_layer_norm_first": False, "encoder_layer_drop": 0.1, "aux_num_out": None,
}  # fmt: skip
WORDS = ("a red square", "blue", "a very large green circle on a table")


def tokenizer() -> Tokenizer:
    return Tokenizer.fit(WORDS, 270)


def hows(size_px: int = 32, channels: int = 1) -> dict[str, Any]:
    """Preprocessing of a slot of each modality; sound as waveforms."""
    sound = AudioPreprocess(RATE_HZ, SAMPLES / RATE_HZ, 16, representation="waveform")
    return {"image": ImagePreprocess(size_px, channels), "audio": sound, "text": TextPreprocess(tokenizer(), 12)}


@functools.cache
def folder(name: str, seed: int = 0) -> str:
    """The folder of a model of `_MODELS`, as save_pretrained wrote it."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    target = Path(_FOLDER.name) / f"{name}-{seed}"
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        _MODELS[name](target)
    return str(target)


def _their_tokenizer(target: Path) -> int:
    """A word-piece tokenizer of single letters. Returns the size of its vocabulary."""
    import transformers

    letters = string.ascii_lowercase
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{each}" for each in letters)]
    transformers.BertTokenizer(vocab={word: number for number, word in enumerate(words)}).save_pretrained(target)
    return len(words)


def _autoencoder_kl(target: Path) -> None:
    from diffusers import AutoencoderKL

    AutoencoderKL(
        block_out_channels=(8, 8, 8), down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3, latent_channels=4, norm_num_groups=4, layers_per_block=1,
    ).save_pretrained(target)  # fmt: skip


def _encodec(target: Path) -> None:
    import transformers

    settings = transformers.EncodecConfig(
        sampling_rate=RATE_HZ, hidden_size=8, codebook_dim=8, codebook_size=16, num_filters=4,
        upsampling_ratios=[8, 5, 4], num_lstm_layers=1, target_bandwidths=[1.0, 2.0],
    )  # fmt: skip
    model = transformers.EncodecModel(settings)
    for layer in model.quantizer.layers:
        # codebooks start as zeros, which would make every sound the same
        layer.codebook.embed.normal_(std=0.1)
    model.save_pretrained(target)


def _bert(target: Path) -> None:
    import transformers

    size = _their_tokenizer(target)
    settings = transformers.BertConfig(vocab_size=size, max_position_embeddings=48, **SMALL)
    transformers.BertModel(settings).save_pretrained(target)


def _clip(target: Path) -> None:
    import transformers

    size = _their_tokenizer(target)
    text = {**SMALL, "vocab_size": size, "max_position_embeddings": 48, "bos_token_id": 2, "eos_token_id": 3}
    vision = {**SMALL, "image_size": 32, "patch_size": 8}
    settings = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    transformers.CLIPModel(settings).save_pretrained(target)
    crop = {"height": 32, "width": 32}
    transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=crop).save_pretrained(target)


def _wav2vec2(target: Path) -> None:
    import transformers

    settings = transformers.Wav2Vec2Config(
        conv_dim=(8, 8, 8), conv_kernel=(10, 8, 8), conv_stride=(5, 4, 8), num_feat_extract_layers=3,
        num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2, **SMALL,
    )  # fmt: skip
    transformers.Wav2Vec2Model(settings).save_pretrained(target)
    transformers.Wav2Vec2FeatureExtractor(sampling_rate=RATE_HZ).save_pretrained(target)


def _clap(target: Path) -> None:
    import transformers

    size = _their_tokenizer(target)
    audio = {
        "spec_size": 32, "num_mel_bins": 16, "window_size": 4, "depths": [1, 1], "num_attention_heads": [2, 2],
        "patch_embeds_hidden_size": 8, "hidden_size": 16, "patch_size": 4, "patch_stride": [4, 4],
        "num_hidden_layers": 2, "enable_fusion": False,
    }  # fmt: skip
    text = {**SMALL, "vocab_size": size, "max_position_embeddings": 48}
    settings = transformers.ClapConfig(audio_config=audio, text_config=text, projection_dim=8)
    transformers.ClapModel(settings).save_pretrained(target)
    transformers.ClapFeatureExtractor(
        feature_size=16, sampling_rate=RATE_HZ, hop_length=128, max_length_s=1, fft_window_size=256,
        frequency_max=4000, truncation="rand_trunc",
    ).save_pretrained(target)  # fmt: skip


_MODELS: dict[str, Callable[[Path], None]] = {
    "autoencoder_kl": _autoencoder_kl, "encodec": _encodec, "bert": _bert, "clip": _clip, "wav2vec2": _wav2vec2,
    "clap": _clap,
}  # fmt: skip
