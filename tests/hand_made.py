"""A line's artifacts made by hand: what the card and the registry read, without training anything."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import polars as pl
import soundfile
from PIL import Image

from mmgen.artifact import Artifact, Draft, Kind
from mmgen.store import Store

SLOTS = {"text": "text", "image": "image", "audio": "audio"}
PAIRS = [(given, made) for given in SLOTS for made in SLOTS if given != made]


def png(seed: int, height: int = 32, width: int = 32) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width), np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def wav(hertz: float) -> bytes:
    wave = 0.3 * np.sin(2 * math.pi * hertz * np.arange(8000) / 16000)
    out = io.BytesIO()
    soundfile.write(out, wave.astype(np.float32), 16000, format="WAV", subtype="PCM_16")
    return out.getvalue()


def scores_table(mean: float = 0.95) -> bytes:
    rows = [("mean_coherence", "", "", "", mean), ("joint_coherence", "", "+".join(SLOTS), "", mean - 0.15)]
    for number, (given, made) in enumerate(PAIRS):
        rows.append(("coherence", given, made, f"{made}-judge", mean - 0.01 * number))
    for made in SLOTS:
        rows.append(("judge_accuracy", "", made, f"{made}-judge", 0.985))
        rows.append(("reconstruction_coherence", "", made, f"{made}-judge", 0.975))
    names = ("metric", "given", "made", "judge", "value")
    table = [dict(zip(names, row, strict=True)) | {"low": row[-1] - 0.02, "high": min(1.0, row[-1] + 0.02), "n": 500}
             for row in rows]  # fmt: skip
    out = io.BytesIO()
    pl.DataFrame(table).write_parquet(out)
    return out.getvalue()


def history(length: int = 60) -> bytes:
    rows = [
        {"step": 25 * (at + 1), "rate": 1e-3, "norm": 1.0, "loss": 0.2 + math.exp(-at / 12)} for at in range(length)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


#: (part, draft, parts made before) → config and facts of its commit
Fill = Callable[[str, Draft, Mapping[str, Artifact]], dict[str, Any]]


def commit(draft: Draft, step: str, **more) -> Artifact:
    more = {
        "config": {},
        "inputs": {},
        "facts": {},
        "circumstance": {"time": "2026-01-02T03:04:05", "commit": "c" * 40},
    } | more
    return draft.commit(step=step, **more)


def line(
    store: Store,
    *,
    name: str = "digits",
    mean: float = 0.95,
    passed: bool = True,
    data: str = "d",
    fill: Fill | None = None,
) -> dict[str, Artifact]:
    """register's inputs (codecs, fusion, generator, scores), committed to `store` with the data behind them.

    fill: puts a part's real files into its draft and says what its commit needs (see tiny_model).
    """

    def filled(part: str, draft: Draft, made: Mapping[str, Artifact]) -> dict[str, Any]:
        return fill(part, draft, made) if fill else {}

    def draft(kind: Kind, suffix: str = "") -> Draft:
        return Draft(store, kind, name + suffix, (kind + suffix + data).encode().hex().ljust(64, "0")[:64])

    shards = draft("dataset")
    shards.put("report.html", b"<p>data</p>", "report")
    facts = {
        "counts": {"inputs": 5000, "kept": 4990},
        "splits": {"train": 4000, "validation": 490, "test": 500},
        "slots": {slot: {"modality": slot, "present": 4990} for slot in SLOTS},
    }
    dataset = commit(shards, "shard", config={"shard": {"samples": 1000}}, facts=facts)
    fitted = draft("codecs")
    fitted.put("codec-image.jsonl", history(), "history")
    fitted.put("codec-audio.jsonl", history(), "history")
    about = {"config": {"codecs": {"width": 64}, "seed": 0}, "facts": {"slots": SLOTS}} | filled("codecs", fitted, {})
    codecs = commit(fitted, "fit", inputs={"dataset": dataset.link}, **about)
    extracted = draft("features")
    features = commit(extracted, "extract", inputs={"dataset": dataset.link, "codecs": codecs.link})
    fused = draft("model", "-fusion")
    fused.put("history.jsonl", history(), "history")
    about = {"config": {"fusion": {"kind": "concat"}}} | filled("fusion", fused, {"codecs": codecs})
    fusion = commit(fused, "train-fusion", inputs={"features": features.link, "codecs": codecs.link}, **about)
    trained = draft("model")
    trained.put("history.jsonl", history(), "history")
    about = {"config": {"generator": {"kind": "joint_flow", "width": 512, "tags": ["<b>", "&"]}}}
    about |= filled("generator", trained, {"codecs": codecs, "fusion": fusion})
    inputs = {"features": features.link, "codecs": codecs.link, "fusion": fusion.link}
    generator = commit(trained, "train-generator", inputs=inputs, **about)
    judged = draft("scores")
    judged.put("scores-test.parquet", scores_table(mean), "scores", split="test")
    judged.put("scores-heldout.parquet", scores_table(mean - 0.1), "scores:heldout", split="heldout")
    judged.put("text-to-image.png", png(1, 160, 320), "grid", title="text → image", given="text", made="image")
    for number, (given, made) in enumerate(
        [("image", "audio"), ("audio", "image"), ("text", "audio"), ("image", "text")]
    ):
        for side, slot in (("given", given), ("made", made)):
            data_, suffix = {"image": (png(number), "png"), "audio": (wav(220 * (number + 1)), "wav"),
                             "text": (f"a <script> number {number}".encode(), "txt")}[slot]  # fmt: skip
            judged.put(f"{number}-{side}.{suffix}", data_, "example", example=number, side=side, slot=slot)
    gate = [] if passed else ["coherence image→audio 0.412 < 0.600"]
    links = {"codecs": codecs.link, "fusion": fusion.link, "generator": generator.link}
    scores = commit(
        judged,
        "evaluate",
        inputs=links,
        facts={"gate": gate, "not_run": {"recognised": "no <recogniser>"}},
        passed=passed,
    )
    return {"codecs": codecs, "fusion": fusion, "generator": generator, "scores": scores}
