"""Near-duplicates among random 64-bit hashes with planted neighbours: seconds, peak memory, recall.

    make bench-duplicates           # or: python -m benchmarks.duplicates --hashes 1000000 --json

Recall is measured twice: over all planted pairs (0 to 6 flipped bits), and against brute force over a sample of the
hashes, each compared with every other.
"""

from __future__ import annotations

import argparse
import json
import resource
import time

import numpy as np

from mmgen.duplicates import near_pairs

RADIUS_BITS = 6


def hashes(count: int, planted: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(count,) hashes, the last `planted` of them copies of others but for 0 to 6 bits; and of which."""
    found = rng.integers(0, 2**64, count, dtype=np.uint64, endpoint=False)
    origin = rng.integers(0, count - planted, planted)
    for place, source in enumerate(origin, count - planted):
        bits = rng.choice(64, rng.integers(0, RADIUS_BITS + 1), replace=False).astype(np.uint64)
        flips = np.bitwise_or.reduce(np.uint64(1) << bits) if len(bits) else np.uint64(0)
        found[place] = found[source] ^ flips
    return found, origin


def measure(count: int, sample: int) -> dict[str, float]:
    """One search."""
    rng = np.random.default_rng(0)
    found, origin = hashes(count, count // 100, rng)
    started = time.perf_counter()
    first, second = near_pairs(found, RADIUS_BITS)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    # a pair as one number, so that sets of them are sorted arrays
    pairs = np.sort(first.astype(np.int64) * count + second)
    planted = np.sort(origin * count + np.arange(count - len(origin), count))
    brute = []
    for place in rng.choice(count, sample, replace=False):
        near = np.flatnonzero(np.bitwise_count(found ^ found[place]) <= RADIUS_BITS)
        brute += [min(place, other) * count + max(place, other) for other in near if other != place]
    wanted = np.unique(np.array(brute, np.int64))
    return {
        "hashes": count, "pairs": len(pairs), "seconds": round(seconds, 1), "peak_mib": round(peak),
        "recall_planted": float(np.isin(planted, pairs).mean()),
        "recall_brute_force": float(np.isin(wanted, pairs).mean()), "brute_force_pairs": len(wanted),
    }  # fmt: skip


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--hashes", type=int, default=1_000_000)
    parser.add_argument("--sample", type=int, default=10_000, help="hashes that brute force compares with all others")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found = measure(given.hashes, given.sample)
    if given.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name.replace('_', ' '):<22} {value:,}")


if __name__ == "__main__":
    main()
