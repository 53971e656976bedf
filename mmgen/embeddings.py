"""Encoder features: what frozen encoders say of preprocessed values, pooled to one vector a sample."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from mmgen.artifact import Artifact, fingerprint
from mmgen.codec_set import CodecSet
from mmgen.encoders.base import Encoder
from mmgen.encoders.config import EncoderConfig
from mmgen.encoders.table import make_encoder
from mmgen.errors import ConfigError, unknown_name
from mmgen.features import FeatureShard, SlotLayout, SlotRows, to_bytes
from mmgen.identity import STEP_VERSIONS, weights_digest
from mmgen.preprocess.text import TextPreprocess

#: layers that a weights file does not have are drawn with this
SEED = 7_002
ROWS = 256


def identity_of(encoders: Mapping[str, EncoderConfig], tensors: str) -> str:
    """The fingerprint of these encoders' features, made of the tensors of that fingerprint. Raises ConfigError."""
    named = {slot: encoder.model_dump(mode="json") for slot, encoder in encoders.items()}
    counted = {slot: {**each, "weights": weights_digest(slot, each["weights"])} for slot, each in named.items()}
    return fingerprint(set="embeddings", version=STEP_VERSIONS["extract"], encoders=counted, tensors=tensors, seed=SEED)


def recipe_of(encoders: Mapping[str, EncoderConfig], codecs: Artifact) -> str:
    """What a worker needs, as JSON. Raises ConfigError for an encoder of a slot that the data does not have."""
    slots = codecs.facts["slots"]
    for slot in encoders:
        if slot not in slots:
            raise ConfigError(f"encoders: {unknown_name('slot', slot, slots)}")
    named = {slot: encoder.model_dump(mode="json") for slot, encoder in encoders.items()}
    return json.dumps({"encoders": named, "codecs": codecs.ref})


def frozen(codecs: CodecSet, slot: str, settings: Mapping[str, Any], device: torch.device) -> Encoder:
    """The encoder of a slot, ready to be asked: no dropout, no gradient, running statistics."""
    how = codecs.preprocesses[slot]
    shape = (how.max_tokens, len(how.tokenizer)) if isinstance(how, TextPreprocess) else tuple(how.shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        made = make_encoder(settings["kind"], codecs.modality(slot), shape, settings["width"], settings["weights"])
    return made.to(device).eval().requires_grad_(False)


def embed_file(
    codecs: CodecSet, tensors: FeatureShard, mark: str, digest: str, encoders: Mapping[str, Any], device: torch.device
) -> bytes:
    """The feature file of one media shard: for each slot with an encoder (1, D) float32 a row."""
    layouts, slots = {}, {}
    for slot, settings in encoders.items():
        rows = tensors.slots[slot]
        encoder = frozen(codecs, slot, settings, device)
        layouts[slot] = SlotLayout(tensors.layouts[slot].modality, (1, int(settings["width"])), "float32")
        slots[slot] = SlotRows(embed_rows(codecs, slot, encoder, rows.rows, device), rows.offsets)
    return to_bytes(
        feature_set="embeddings", fingerprint=mark, media_digest=digest, keys=tensors.keys, labels=tensors.labels,
        layouts=layouts, slots=slots,
    )  # fmt: skip


@torch.no_grad()
def embed_rows(codecs: CodecSet, slot: str, encoder: Encoder, compact: np.ndarray, device: torch.device) -> np.ndarray:
    """(R, 1, D) float32 of compact rows (R, …)."""
    made = [np.empty((0, 1, encoder.width), dtype=np.float32)]
    for start in range(0, len(compact), ROWS):
        part = torch.from_numpy(np.array(compact[start : start + ROWS])).to(device)
        e_BD = encoder(codecs.preprocesses[slot].value(part))
        made.append(e_BD.float().cpu().numpy()[:, None])
    return np.concatenate(made)
