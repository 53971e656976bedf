"""What `make bench-models` compares, with which budgets. Torch-free."""

from __future__ import annotations

from typing import Any

#: processor seconds of training, codecs included, and of one tuning run
BUDGET_S, TUNING_S = 600.0, 120.0
#: the curve of quality over budget, in minutes of processor time; the last is the full one
CURVE_MINUTES: tuple[float, ...] = (1, 2, 5, 10)
SEEDS = (0, 1, 2)
#: shares of our recipe's steps by which its pace is measured, and the share of a budget that is then planned: what a
#: shared machine takes varies by a tenth, and a cell beyond its budget is trained anew
PACE_SHARES, MARGIN = (0.05, 0.15), 0.92
#: trainings of one of our cells at most, each shorter than the one before that went beyond the budget
TRIES = 3
#: of our flow
SAMPLER_STEPS = 20
#: rows of the embedded data set, and training pairs of the curve over them, whose last point is all that there are
ROWS = 5_000
PAIRS = (500, 1_000, 2_000)
#: variant → share of a training row's slots that are missing; ours alone learns from "most"
MISSING = {"complete": 0.0, "half": 0.5, "most": 0.8}
#: joint samples, and components of the mixture that is fitted to the peers' latents
JOINT, COMPONENTS = 500, 10
#: cells at once, each with so many threads: one is what wastes no processor time on waiting
JOBS, THREADS = 2, 1

#: at most six settings a peer: scale of the grids' normals, likelihoods rescaled by size or not, beta, and its own
GRID: dict[str, list[dict[str, Any]]] = {
    "mvtcae": [
        {"scale": scale, "rescale": rescale, "beta": beta, "alpha": alpha}
        for scale, rescale, beta, alpha in (
            (1.0, True, 2.5, 0.1), (1.0, True, 1.0, 0.1), (0.5, True, 2.5, 0.1),
            (0.5, True, 2.5, 0.8), (1.0, False, 1.0, 0.8), (0.5, False, 2.5, 0.8),
        )
    ],
    "mopoe": [
        {"scale": scale, "rescale": rescale, "beta": beta}
        for scale, rescale, beta in (
            (1.0, True, 1.0), (1.0, True, 2.5), (1.0, True, 0.5), (0.5, True, 1.0), (0.5, True, 2.5), (0.5, False, 2.5),
        )
    ],
    "mmvae_plus": [
        {"scale": scale, "rescale": rescale, "beta": beta, "K": draws}
        for scale, rescale, beta, draws in (
            (1.0, True, 1.0, 1), (1.0, True, 2.5, 1), (0.5, True, 1.0, 1), (0.5, True, 2.5, 1), (1.0, True, 1.0, 4),
            (1.0, True, 2.5, 4),
        )
    ],
    "jnf": [
        {"scale": scale, "rescale": rescale, "beta": beta}
        for scale, rescale, beta in (
            (1.0, True, 1.0), (1.0, True, 0.5), (0.5, True, 1.0), (0.5, True, 2.5), (0.5, False, 1.0),
            (1.0, False, 0.5),
        )
    ],
}  # fmt: skip
