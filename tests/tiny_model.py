"""A model with real networks of the smallest size and random weights, as the steps would commit it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from mmgen import config
from mmgen.artifact import Artifact, Draft
from mmgen.codec_set import CodecSet, make_codec, read_slots, weights_of
from mmgen.fit_parts import codec_args
from mmgen.maker import new_fusion, new_generator
from mmgen.network_args import fusion_args, joint_flow_args
from mmgen.preprocess.table import preprocesses
from mmgen.preprocess.text import Tokenizer
from mmgen.store import Store
from tests import hand_made

CONFIG = config.build(
    {
        "name": "digits",
        "source": {"kind": "table", "path": "x.csv", "key": "key", "text": "t", "image": "i", "audio": "a"},
        "slots": {
            "text": {"modality": "text", "max_tokens": 8},
            "image": {"modality": "image", "size_px": 16, "channels": 1},
            "audio": {"modality": "audio", "sample_rate_hz": 8000, "seconds": 0.25, "mels": 16, "hop": 125},
        },
        "fusion": {"width": 8},
        "generator": {"kind": "joint_flow", "width": 16, "blocks": 1},
    }
)


def line(store: Store) -> dict[str, Artifact]:
    """hand_made.line whose codecs, fusion and generator can be loaded and generate (noise)."""
    torch.manual_seed(0)
    tokenizer = Tokenizer.fit(["one two three"], 260).to_json()

    def fill(part: str, draft: Draft, made: Mapping[str, Artifact]) -> dict[str, Any]:
        if part == "codecs":
            return _codecs(draft, tokenizer)
        codecs = CodecSet.load(store, made["codecs"])
        if part == "fusion":
            spec = {"kind": CONFIG.fusion.kind, "args": fusion_args(CONFIG, codecs)}
            network = new_fusion(spec)
        else:
            spec = {"kind": CONFIG.generator.kind, "args": joint_flow_args(CONFIG, codecs, made)}
            network = new_generator(spec)
        draft.put("weights.safetensors", weights_of(network), "weights")
        return {"config": {part: {"kind": spec["kind"]}}, "facts": spec}

    return hand_made.line(store, fill=fill)


def _codecs(draft: Draft, tokenizer: bytes) -> dict[str, Any]:
    slots = CONFIG.to_json()["slots"]
    hows = preprocesses(read_slots(slots), Tokenizer.from_json(tokenizer))
    specs: dict[str, Any] = {}
    scale = {}
    for slot, how in hows.items():
        settings = getattr(CONFIG.codecs, how.modality)
        specs[how.modality] = {"kind": settings.kind, "args": codec_args(settings, how)}
        codec = make_codec(**specs[how.modality])
        width = int(codec.latent_shape[1])
        scale[slot] = {"mean": [0.0] * width, "std": [1.0] * width}
        draft.put(f"codec-{how.modality}.safetensors", weights_of(codec), f"codec:{how.modality}")
    draft.put("tokenizer.json", tokenizer, "tokenizer")
    facts = {"slots": hand_made.SLOTS, "labels": None, "codecs": specs, "scale": scale}
    return {"config": {"slots": slots}, "facts": facts}
