"""Calibration error against cases whose value is known, and what a temperature does to it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmgen.evaluate.calibration import calibration, calibration_error, estimate_error, temperature


def draws(n: int, scale: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that are `scale` times those whose probabilities the labels really follow."""
    rng = torch.Generator().manual_seed(seed)
    true_NK = torch.randn(n, 4, generator=rng) * 2
    labels_N = torch.multinomial(true_NK.softmax(1), 1, generator=rng)[:, 0]
    return true_NK * scale, labels_N


def test_always_sure_and_half_right_is_an_error_of_a_half() -> None:
    right = np.tile([1.0, 0.0], 50)
    assert calibration_error(np.ones(100), right, bins=5) == pytest.approx(0.5)
    assert calibration_error(np.full(100, 0.5), right, bins=5) == pytest.approx(0.0)


def test_bins_hold_equally_many_rows() -> None:
    # sure of 0.9 in three of four rows, of 0.1 in one: two bins of two rows, of which the lower mixes them
    sure, right = np.array([0.1, 0.9, 0.9, 0.9]), np.array([0.0, 1.0, 1.0, 1.0])
    assert calibration_error(sure, right, bins=2) == pytest.approx((2 * 0.0 + 2 * 0.1) / 4)


def test_the_interval_holds_the_value() -> None:
    rng = np.random.default_rng(0)
    sure = rng.uniform(0.3, 1.0, 400)
    found = estimate_error(sure, (rng.uniform(size=400) < sure).astype(float), seed=1)
    assert found.low <= found.value <= found.high
    assert found.high < 0.15


def test_the_temperature_undoes_what_made_logits_too_sure() -> None:
    logits, labels = draws(4_000, 3.0)
    assert temperature(logits, labels) == pytest.approx(3.0, rel=0.15)


def test_overconfidence_is_seen_and_tempered() -> None:
    plain, tempered = calibration(*draws(2_000, 4.0), ["image"], seed=0)
    assert (plain.metric, tempered.metric) == ("calibration_error", "calibration_error_tempered")
    assert plain.value > 0.1
    assert tempered.value < 0.05
    assert plain.n == 2_000


def test_few_rows_have_no_calibration() -> None:
    assert calibration(*draws(20, 1.0), ["image"], seed=0) == []
