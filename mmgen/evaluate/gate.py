"""The gate: which floors a generator must reach, and in one line each why it did not."""

from __future__ import annotations

from collections.abc import Sequence

from mmgen.evaluate import scores
from mmgen.evaluate.config import FloorsConfig
from mmgen.evaluate.scores import Score


def check(rows: Sequence[Score], floors: FloorsConfig) -> tuple[bool, list[str]]:
    """(passed, reasons). One reason per floor missed; none when it passed.

    What is made from several inputs is measured and not gated: floors are of single inputs and of the joint.
    Where there is coherence (labels), its floors count; where there is none, that of retrieval. The kernel distance
    is held against the real data's wherever `kernel_ratio` is set. A table that measured nothing does not pass.
    """
    rows = [row for row in rows if scores.AND not in row.given]
    labelled = any(row.metric == scores.COHERENCE for row in rows)
    reasons = _coherence(rows, floors) if labelled else _retrieval(rows, floors)
    reasons += _kernel(rows, floors)
    return not reasons, reasons


def _below(row: Score, floor: float) -> list[str]:
    direction = f" {row.given}→{row.made}" if row.given else f" {row.made}" if row.made else ""
    return [f"{row.metric}{direction} {row.value:.3f} < {floor:.3f}"] if row.value < floor else []


def _coherence(rows: Sequence[Score], floors: FloorsConfig) -> list[str]:
    wanted = {
        scores.MEAN_COHERENCE: floors.mean_coherence,
        scores.COHERENCE: floors.each_coherence,
        scores.JOINT_COHERENCE: floors.joint_coherence,
        scores.RECOGNISED: floors.recognised,
    }
    ordered = sorted((row for row in rows if row.metric in wanted), key=lambda row: list(wanted).index(row.metric))
    reasons = []
    for row in ordered:
        floor = wanted[row.metric]
        reasons += _below(row, floor) if floor is not None else []
    return reasons


def _retrieval(rows: Sequence[Score], floors: FloorsConfig) -> list[str]:
    retrieval = [row for row in rows if row.metric == scores.MEAN_RETRIEVAL]
    if not retrieval:
        return ["nothing was measured: no labels, and fewer than two slots or samples to retrieve among"]
    return _below(retrieval[0], floors.retrieval)


def _kernel(rows: Sequence[Score], floors: FloorsConfig) -> list[str]:
    if floors.kernel_ratio is None:
        return []
    reasons = []
    # a floor of an unbiased estimate may be below 0; its upper bound is what real data reach by chance
    highs = {row.made: row.high for row in rows if row.metric == scores.KERNEL_FLOOR}
    for row in rows:
        # too few rows for two halves leave nothing to hold it against
        held = row.metric == scores.KERNEL_DISTANCE and bool(row.given) and row.made in highs
        if held and row.value > floors.kernel_ratio * highs[row.made]:
            reasons.append(
                f"{row.metric} {row.given}→{row.made} {row.value:.4f} > "
                f"{floors.kernel_ratio:g} × the real data's {highs[row.made]:.4f}"
            )
    return reasons
