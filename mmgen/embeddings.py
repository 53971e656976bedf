"""Encoder features: what frozen encoders say of preprocessed values, as one vector a sample or one a token."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter

from mmgen.artifact import Artifact, fingerprint
from mmgen.codec_set import CodecSet
from mmgen.encoders.base import Encoder
from mmgen.encoders.config import EncoderConfig
from mmgen.encoders.foreign_text import give_tokenizer
from mmgen.encoders.specs import encoder_spec, encoder_start
from mmgen.encoders.table import make_encoder
from mmgen.errors import ConfigError, unknown_name
from mmgen.features import FeatureShard, SlotLayout, SlotRows, to_bytes
from mmgen.identity import STEP_VERSIONS, encoder_counted
from mmgen.preprocess.text import TextPreprocess

#: layers that a weights file does not have are drawn with this
SEED = 7_002
ROWS = 256
_ENCODER: TypeAdapter[EncoderConfig] = TypeAdapter(EncoderConfig)


def identity_of(encoders: Mapping[str, EncoderConfig], tensors: str) -> str:
    """The fingerprint of these encoders' features, made of the tensors of that fingerprint. Raises ConfigError."""
    # what training would change is of no account here: they are frozen
    unused = {"trainable", "adapter_width"}
    named = {slot: encoder.model_dump(mode="json", exclude=unused) for slot, encoder in encoders.items()}
    counted = {slot: encoder_counted(slot, each) for slot, each in named.items()}
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
    wanted = _ENCODER.validate_python(settings)
    spec = encoder_spec(wanted, how, slot)
    if not isinstance(spec, str):
        spec = {**spec, "trainable": "frozen"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        made = make_encoder(spec, codecs.modality(slot), shape, wanted.width, encoder_start(wanted))
    give_tokenizer(made, codecs.tokenizer)
    return made.to(device).eval().requires_grad_(False)


def embed_file(
    codecs: CodecSet, tensors: FeatureShard, mark: str, digest: str, encoders: Mapping[str, Any], device: torch.device
) -> bytes:
    """The feature file of one media shard: for each slot with an encoder (T, D) float32 a row, T = 1 where pooled.

    Tokens that are padding are zeros.
    """
    layouts, slots = {}, {}
    for slot, settings in encoders.items():
        rows = tensors.slots[slot]
        encoder = frozen(codecs, slot, settings, device)
        each = settings.get("output") == "tokens"
        shape = (encoder.token_count if each else 1, encoder.width)
        layouts[slot] = SlotLayout(tensors.layouts[slot].modality, shape, "float32")
        slots[slot] = SlotRows(embed_rows(codecs, slot, encoder, rows.rows, device, tokens=each), rows.offsets)
    return to_bytes(
        feature_set="embeddings", fingerprint=mark, media_digest=digest, keys=tensors.keys, labels=tensors.labels,
        layouts=layouts, slots=slots,
    )  # fmt: skip


@torch.no_grad()
def embed_rows(
    codecs: CodecSet, slot: str, encoder: Encoder, compact: np.ndarray, device: torch.device, *, tokens: bool = False
) -> np.ndarray:
    """(R, 1, D) float32 of compact rows (R, …), or of each its tokens (R, T, D)."""
    made = [np.empty((0, encoder.token_count if tokens else 1, encoder.width), dtype=np.float32)]
    for start in range(0, len(compact), ROWS):
        part = torch.from_numpy(np.array(compact[start : start + ROWS])).to(device)
        value = codecs.preprocesses[slot].value(part)
        x_BTD = encoder.token_features(value)[0] if tokens else encoder(value)[:, None]
        made.append(x_BTD.float().cpu().numpy())
    return np.concatenate(made)
