"""Plots of the fusion model's robustness on a card."""

from __future__ import annotations

from mmgen.report.robustness import robustness_plots
from mmgen.report.score_tables import Score


def row(metric: str, given: str, value: float) -> Score:
    return Score(metric, given, "", "fusion", value, value, value, 10)


def test_a_curve_for_each_subset_under_each_disturbance() -> None:
    rows = [
        row("label_accuracy" + end, given, 0.9)
        for given in ("audio", "image", "audio+image")
        for end in ("", "_noise_0.5", "_noise_1", "_pgd_0.1")
    ]
    found = robustness_plots([*rows, row("coherence", "audio", 1.0), row("subset_recall_at_1", "audio", 0.1)])
    assert [title for title, _ in found] == ["Fusion under noise", "Fusion under attack"]
    for _, svg in found:
        assert all(f">{name}<" in svg for name in ("audio", "image", "audio+image", "label accuracy"))


def test_the_error_of_numbers_is_drawn_in_the_place_of_accuracy() -> None:
    rows = [row("mean_absolute_error" + end, "text", 1.5) for end in ("", "_pgd_0.1", "_noise_1")]
    found = robustness_plots([*rows, row("subset_recall_at_1", "text", 0.5)])
    assert [">mean absolute error<" in svg for _, svg in found] == [True, True]


def test_without_labels_retrieval_is_drawn_and_without_either_nothing() -> None:
    rows = [row("subset_recall_at_1" + end, "text", 0.5) for end in ("", "_pgd_0.1", "_noise_1")]
    assert all(">recall@1 of the rest<" in svg for _, svg in robustness_plots(rows))
    assert robustness_plots([row("coherence", "audio", 1.0)]) == []


def test_of_many_subsets_the_shortest_and_all_are_drawn() -> None:
    names = [f"s{number}" for number in range(8)]
    rows = [row("label_accuracy", given, 0.5) for given in (*names, "+".join(names))]
    ((_, svg), _) = robustness_plots(rows)
    assert ">s0+s1+" in svg
    assert ">s7<" not in svg
