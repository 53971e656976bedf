"""Golden values of `evaluate`: the same samples get the same scores on every machine.

A failure means that the step measures something else now: raise STEP_VERSIONS["evaluate"], so that older scores are not
compared with newer ones, and write the new values here.
"""

from __future__ import annotations

import io
from typing import Any

import polars as pl
import pytest
import torch

from mmgen.evaluate.intervals import wilson
from mmgen.evaluate.kernel_distance import kernel_distance, unit_scale
from mmgen.evaluate.retrieval import recall_at_1
from mmgen.evaluate.scores import COHERENCE, MEAN_COHERENCE, mean_of, score, to_parquet
from mmgen.identity import STEP_VERSIONS

EVALUATE: dict[str, Any] = {
    "version": 2,
    "recall_at_1": [0.291667, 0.217816, 0.378442],
    "kernel_distance": [0.914124, 0.831707, 0.996541],
    "table": [
        ("coherence", "text", "image", "image", 0.93, 0.862505, 0.965681, 100),
        ("coherence", "image", "text", "text", 0.88, 0.801879, 0.930006, 100),
        ("mean_coherence", "", "", "all", 0.905, 0.832192, 0.947843, 100),
    ],
}


def waves(step: float) -> torch.Tensor:
    """(120, 16) embeddings from arithmetic alone, in float64."""
    places = torch.arange(120 * 16, dtype=torch.float64).reshape(120, 16)
    return torch.sin(places * step) + 0.1 * torch.cos(places * 0.7)


def test_golden_evaluate() -> None:
    assert STEP_VERSIONS["evaluate"] == EVALUATE["version"]
    made_ND, given_ND = waves(0.37), waves(0.3702)
    recall = recall_at_1(made_ND, given_ND, torch.Generator().manual_seed(3))
    distance = kernel_distance(unit_scale(made_ND), unit_scale(waves(0.51)))
    rows = [
        score(COHERENCE, ["text"], ["image"], "image", wilson(93, 100)),
        score(COHERENCE, ["image"], ["text"], "text", wilson(88, 100)),
    ]
    table = pl.read_parquet(io.BytesIO(to_parquet([*rows, mean_of(MEAN_COHERENCE, rows, "all")])))

    assert [recall.value, recall.low, recall.high] == pytest.approx(EVALUATE["recall_at_1"], abs=1e-6)
    assert [distance.value, distance.low, distance.high] == pytest.approx(EVALUATE["kernel_distance"], abs=1e-5)
    assert [
        tuple(round(each, 6) if isinstance(each, float) else each for each in row) for row in table.rows()
    ] == EVALUATE["table"]
