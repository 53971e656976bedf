"""The gate's reasons, floor by floor."""

from __future__ import annotations

from mmgen.evaluate import scores
from mmgen.evaluate.config import FloorsConfig
from mmgen.evaluate.gate import check
from mmgen.evaluate.scores import Score

FLOORS = FloorsConfig(mean_coherence=0.9, each_coherence=0.8, joint_coherence=0.7, retrieval=0.1, kernel_ratio=2.0)


def row(metric: str, value: float, given: str = "", made: str = "", high: float = 1.0) -> Score:
    return Score(metric, given, made, "judge", value, min(value, 0.0), max(value, high), 100)


def labelled(mean: float = 0.95, one: float = 0.85, joint: float = 0.75) -> list[Score]:
    return [
        row(scores.COHERENCE, one, "text", "image"),
        row(scores.MEAN_COHERENCE, mean),
        row(scores.JOINT_COHERENCE, joint, made="text+image"),
    ]


def test_floors_reached_exactly_pass() -> None:
    assert check(labelled(0.9, 0.8, 0.7), FLOORS) == (True, [])


def test_each_floor_missed_is_one_reason_that_names_it() -> None:
    passed, reasons = check(labelled(0.89, 0.79, 0.69), FLOORS)
    assert not passed
    assert reasons == [
        "mean_coherence 0.890 < 0.900",
        "coherence text→image 0.790 < 0.800",
        "joint_coherence text+image 0.690 < 0.700",
    ]


def test_a_recogniser_counts_only_where_a_floor_is_set() -> None:
    rows = [*labelled(), row(scores.RECOGNISED, 0.1, "text", "audio")]
    assert check(rows, FLOORS)[0]
    assert check(rows, FLOORS.model_copy(update={"recognised": 0.8}))[1] == ["recognised text→audio 0.100 < 0.800"]


def test_without_labels_retrieval_and_kernel_distance_decide() -> None:
    rows = [
        row(scores.MEAN_RETRIEVAL, 0.2),
        row(scores.KERNEL_FLOOR, 0.0, made="image", high=0.01),
        row(scores.KERNEL_DISTANCE, 0.019, "text", "image"),
    ]
    assert check(rows, FLOORS) == (True, [])
    rows[0], rows[2] = row(scores.MEAN_RETRIEVAL, 0.02), row(scores.KERNEL_DISTANCE, 0.03, "text", "image")
    assert check(rows, FLOORS)[1] == [
        "mean_retrieval 0.020 < 0.100",
        "kernel_distance text→image 0.0300 > 2 × the real data's 0.0100",
    ]
    assert len(check(rows, FLOORS.model_copy(update={"kernel_ratio": None}))[1]) == 1
    assert len(check([rows[0], rows[2]], FLOORS)[1]) == 1


def test_coherent_but_collapsed_does_not_pass_where_a_ratio_is_set() -> None:
    collapsed = [
        row(scores.KERNEL_FLOOR, 0.0, made="image", high=0.01),
        row(scores.KERNEL_DISTANCE, 0.5, "text", "image"),
    ]
    assert check([*labelled(), *collapsed], FLOORS)[1] == [
        "kernel_distance text→image 0.5000 > 2 × the real data's 0.0100"
    ]
    assert check([*labelled(), *collapsed], FLOORS.model_copy(update={"kernel_ratio": None})) == (True, [])


def test_a_table_that_measured_nothing_does_not_pass() -> None:
    assert check([], FLOORS)[0] is False
    assert check([row(scores.TEXT_EXACT, 1.0)], FLOORS)[0] is False
