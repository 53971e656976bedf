"""Judges: logits of the right shape, rows apart, unlabelled rows uncounted, and they learn their classes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mmgen.errors import ConfigError
from mmgen.evaluate.judges import JUDGES, make_judge
from mmgen.records import Modality

SHAPES: dict[Modality, tuple[int, ...]] = {"image": (1, 16, 16), "audio": (16, 32), "text": (6, 20)}
MODALITIES = list(JUDGES)


def examples(modality: Modality, per_class: int) -> tuple[Tensor, Tensor]:
    """Three classes that differ plainly: where the bright half is, or which token is there."""
    labels = torch.arange(3).repeat(per_class)
    rng = torch.Generator().manual_seed(0)
    if modality == "text":
        ids = torch.randint(10, 20, (len(labels), 6), generator=rng)
        ids[:, 0], ids[:, 3], ids[:, 4], ids[:, 5] = 1, labels + 5, 2, 0
        return ids, labels
    height, width = SHAPES[modality][-2:]
    value = torch.rand((len(labels), height, width), generator=rng) * 0.2 - 1
    for row, label in enumerate(labels.tolist()):
        if label == 0:
            value[row, : height // 2] += 1.5
        elif label == 1:
            value[row, height // 2 :] += 1.5
    return (value[:, None] if modality == "image" else value), labels


def test_there_is_a_judge_for_every_modality_and_no_other() -> None:
    assert set(JUDGES) == {"image", "audio", "text"}
    with pytest.raises(ConfigError, match="did you mean 'image'"):
        make_judge("imagee", (1, 16, 16), 3)  # type: ignore[arg-type]


@pytest.mark.parametrize("modality", MODALITIES)
class TestEveryJudge:
    def test_a_row_does_not_depend_on_the_rows_beside_it(self, modality: Modality) -> None:
        torch.manual_seed(0)
        judge = make_judge(modality, SHAPES[modality], 3, width=8).eval()
        value, _ = examples(modality, 2)
        assert judge(value).shape == (6, 3)
        torch.testing.assert_close(judge(value)[:2], judge(value[:2]), atol=1e-5, rtol=1e-4)

    def test_rows_without_a_label_count_nothing(self, modality: Modality) -> None:
        torch.manual_seed(0)
        judge = make_judge(modality, SHAPES[modality], 3, width=8).eval()
        value, labels = examples(modality, 2)
        labels[3:] = -1
        found = judge.loss(value, labels, torch.Generator().manual_seed(1))
        assert torch.isfinite(found["loss"])
        nothing = judge.loss(value, torch.full_like(labels, -1), torch.Generator().manual_seed(1))
        assert nothing["loss"].item() == 0.0

    def test_it_learns_classes_that_differ_plainly(self, modality: Modality) -> None:
        torch.manual_seed(0)
        judge = make_judge(modality, SHAPES[modality], 3, width=8)
        value, labels = examples(modality, 8)
        optimiser = torch.optim.Adam(judge.parameters(), lr=1e-2)
        for step in range(60):
            optimiser.zero_grad()
            judge.loss(value, labels, torch.Generator().manual_seed(step))["loss"].backward()
            optimiser.step()
        assert judge.eval()(value).argmax(1).eq(labels).float().mean() > 0.9


def test_a_text_of_padding_alone_is_judged_without_nan() -> None:
    judge = make_judge("text", SHAPES["text"], 3).eval()
    assert torch.isfinite(judge(torch.zeros(1, 6, dtype=torch.long))).all()
