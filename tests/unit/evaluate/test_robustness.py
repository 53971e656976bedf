"""Robustness and the other scores of the fusion model, on one that learned eight samples by heart."""

from __future__ import annotations

import functools
from dataclasses import asdict, replace

import pytest
import torch

from mmgen.batches import Batch
from mmgen.evaluate import robustness as tables
from mmgen.evaluate.fused import class_scores, fusion_scores, retrieval, zero_shot
from mmgen.evaluate.robustness import noisy, robustness, subsets, without_tokens
from mmgen.evaluate.scores import Score, to_parquet
from mmgen.fusion.attack import Attack
from mmgen.fusion.fusion import Fusion
from mmgen.fusion.targets import batch_with_targets, read_targets
from tests.unit.fusion.test_fusion import batch, make, without

SINGLES = ("picture", "sound", "question")
LABELS = ("a", "b", "c", "d")


@functools.cache
def learned(classes: int = 4) -> Fusion:
    fusion, whole = make(classes=classes, augment=False), batch()
    optimiser = torch.optim.Adam(fusion.parameters(), lr=3e-3)
    for step in range(100):
        optimiser.zero_grad()
        fusion.loss(whole, torch.Generator().manual_seed(step))["loss"].backward()
        optimiser.step()
    return fusion.eval().requires_grad_(False)


def by_name(rows: list[Score]) -> dict[tuple[str, str], Score]:
    return {(row.metric, row.given): row for row in rows}


@functools.cache
def table() -> dict[tuple[str, str], Score]:
    return by_name(robustness(learned(), batch(), seed=0))


def test_every_subset_stands_under_every_disturbance() -> None:
    names = {metric for metric, _ in table()}
    ends = ("", "_noise_0.25", "_noise_0.5", "_noise_1", "_pgd_0.1", "_pgd_0.3")
    assert names == {f"{name}{end}" for name in ("label_accuracy", "subset_recall_at_1") for end in ends}
    assert len([1 for metric, _ in table() if metric == "label_accuracy"]) == 7
    # all slots together leave nothing to be found
    assert len([1 for metric, _ in table() if metric == "subset_recall_at_1"]) == 6
    assert table()["subset_recall_at_1", "picture"].made == "question+sound"
    to_parquet(list(table().values()))


def test_what_was_learned_by_heart_is_known_until_it_is_disturbed() -> None:
    for given in ("picture", "question+sound", "question+picture+sound"):
        assert table()["label_accuracy", given].value == 1.0
    for metric in ("label_accuracy", "subset_recall_at_1"):
        means = [sum(table()[metric + end, each].value for each in SINGLES) for end in ("", "_noise_0.25", "_noise_1")]
        assert means[0] >= means[1] > means[2]


def test_a_stronger_attack_leaves_less(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "ATTACKS", (Attack(0.1, 10, 0.025), Attack(1.5, 10, 0.4)))
    rows = by_name(robustness(learned(), batch(), seed=0))
    for metric in ("label_accuracy", "subset_recall_at_1"):
        weak, strong = (sum(rows[f"{metric}_pgd_{end}", each].value for each in SINGLES) for end in ("0.1", "1.5"))
        assert strong < weak <= sum(rows[metric, each].value for each in SINGLES)


def test_the_same_seed_draws_the_same() -> None:
    assert by_name(robustness(learned(), batch(), seed=0)) == table()


def test_only_samples_that_have_all_of_a_subset_are_asked() -> None:
    thinned = without(without(batch(), "sound", slice(0, 3)), "picture", slice(2, 4))
    rows = by_name(robustness(learned(), thinned, seed=0))
    assert rows["label_accuracy", "sound"].n == 5
    assert rows["label_accuracy", "picture+sound"].n == 4
    nothing = replace(thinned, labels_B=torch.full((8,), -1))
    assert {row.metric.split("_")[0] for row in robustness(learned(), nothing, seed=0)} == {"subset"}


def test_noise_is_in_units_of_a_slots_values_and_spares_what_is_absent() -> None:
    whole = without(batch(64), "sound", slice(0, 5))
    whole.values["picture"] *= 7
    found = noisy(whole, learned().modalities, 0.5, seed=1)
    moved = found.values["picture"] - whole.values["picture"]
    assert float(moved.std()) == pytest.approx(3.5, rel=0.05)
    assert bool((found.values["sound"][:5] == whole.values["sound"][:5]).all())
    assert not torch.equal(found.values["sound"][5:], whole.values["sound"][5:])


def test_tokens_that_are_left_out_leave_a_shorter_text() -> None:
    ids = torch.tensor([[1, 5, 6, 7, 8, 2, 0, 0]]).repeat(500, 1)
    found = without_tokens(ids, 0.25, torch.Generator().manual_seed(0))
    kept = (found > 2).sum(1).float()
    assert float(kept.mean()) == pytest.approx(3.0, abs=0.15)
    for row in found.tolist():
        words = [each for each in row if each]
        assert words[0] == 1
        assert words[-1] == 2
        assert words == [*sorted(words[:-1]), 2]
        assert row == words + [0] * (8 - len(words))


def test_of_many_slots_not_all_subsets_are_taken() -> None:
    assert len(list(subsets("abcd"))) == 15
    assert [len(each) for each in subsets("abcdef")] == [1] * 6 + [5] * 6 + [6]


def test_retrieval_is_among_all_beside_its_chance() -> None:
    rows = {(row.metric, row.given, row.made): row for row in retrieval(learned(), batch())}
    assert len(rows) == 6 * 3 * 2
    assert rows["recall_at_1", "picture", "sound"].value == 1.0
    assert rows["recall_at_5_chance", "picture", "sound"].value == pytest.approx(5 / 8)
    assert rows["recall_at_5_chance", "picture", "sound"].n == 8
    few = without(batch(), "sound", slice(0, 5))
    assert ("recall_at_1", "picture", "sound") not in {
        (row.metric, row.given, row.made) for row in retrieval(learned(), few)
    }


def test_classes_are_scored_from_all_that_a_sample_has() -> None:
    rows = {(row.metric, row.judge): row.value for row in class_scores(learned(), batch(), LABELS, seed=0)}
    assert rows == {
        (f"class_{name}", f"fusion:{label}"): 1.0 for name in ("precision", "recall", "f1") for label in LABELS
    }


@functools.cache
def learned_targets(kind: str) -> tuple[Fusion, Batch]:
    """Eight samples by heart whose labels are sets, or numbers in units of two and a half."""
    said = [
        f"{LABELS[n % 4]}|{LABELS[(n + 1 + n // 4) % 4]}" if kind == "multi_label" else str(2.5 * n) for n in range(8)
    ]
    target = read_targets(kind, said, list("abcdefgh"))
    fusion = make(classes=target.outputs, augment=False, target=asdict(target))
    whole = batch_with_targets(batch(), target, said)
    optimiser = torch.optim.Adam(fusion.parameters(), lr=3e-3)
    for step in range(150):
        optimiser.zero_grad()
        fusion.loss(whole, torch.Generator().manual_seed(step))["loss"].backward()
        optimiser.step()
    return fusion.eval().requires_grad_(False), whole


@pytest.mark.parametrize("kind", ["multi_label", "regression"])
def test_labels_that_are_sets_or_numbers_are_scored_from_every_subset(kind: str) -> None:
    fusion, whole = learned_targets(kind)
    rows = by_name(fusion_scores(fusion, whole, (), seed=0))
    metric = {"multi_label": "label_accuracy", "regression": "mean_absolute_error"}[kind]
    assert len([1 for name, _ in rows if name == metric]) == 7
    clean, noisiest = (sum(rows[metric + end, each].value for each in SINGLES) for end in ("", "_noise_1"))
    if kind == "multi_label":
        assert clean == 3.0 > noisiest
        classes = {row.judge: row.value for row in class_scores(fusion, whole, (), seed=0) if row.metric == "class_f1"}
        assert classes == {f"fusion:{label}": 1.0 for label in LABELS}
    else:
        # in the labels' own unit, whose standard deviation is 5.7
        assert clean / 3 < 1.5 < noisiest / 3
    # one whose label is not known is not asked
    unknown = batch_with_targets(batch(), fusion.target, [None, *["1"] * 7])
    assert by_name(robustness(fusion, unknown, seed=0))[metric, "sound"].n == 7
    with pytest.raises(KeyError, match=r"label\.target"):
        robustness(fusion, batch(), seed=0)


def test_a_model_without_a_head_is_asked_for_no_class() -> None:
    names = {row.metric for row in fusion_scores(make(classes=0).eval(), batch(), (), seed=0)}
    assert names == {name for name in names if name.startswith(("recall_at", "subset_recall"))}


def test_a_prompt_for_each_class_names_it_without_a_head() -> None:
    fusion, whole = learned(), batch()
    # the prompt of a class is the question of its first sample
    prompts = {label: str(number) for number, label in enumerate(LABELS)}

    def read(text: str) -> torch.Tensor:
        return whole.values["question"][int(text)][None]

    first: Batch = whole.rows(0, 4)
    rows = zero_shot(fusion, first, LABELS, prompts, "question", read)
    assert {(row.metric, row.given, row.made) for row in rows} == {
        ("zero_shot", "picture", "question"), ("zero_shot", "sound", "question")
    }  # fmt: skip
    assert all(row.value == 1.0 for row in rows)
    swapped = {**prompts, "a": "1", "b": "0"}
    assert all(row.value == 0.5 for row in zero_shot(fusion, first, LABELS, swapped, "question", read))
    assert zero_shot(fusion, first, LABELS, {"a": "0"}, "question", read) == []
