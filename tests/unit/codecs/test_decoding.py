"""Writing token by token: what is drawn has the distribution that was asked for, and beams find the likeliest text."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from mmgen.codecs.decoding import allowed, beam_search, beginning, pick, row_noise, write
from mmgen.codecs.text import BOS, EOS, PAD

CPU = torch.device("cpu")
VOCABULARY, LENGTH = 6, 5


class Chain:
    """A first-order Markov chain over ids: each row's next id depends on the one just read, and on the row's table."""

    def __init__(self, logits_NVV: Tensor) -> None:
        self.logits_NVV = logits_NVV

    def next(self, ids_N: Tensor) -> Tensor:
        return self.logits_NVV[torch.arange(len(ids_N)), ids_N]

    def take(self, rows_N: Tensor) -> None:
        self.logits_NVV = self.logits_NVV[rows_N]


def chain(rows: int, seed: int = 0, scale: float = 2.0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn((rows, VOCABULARY, VOCABULARY), generator=rng) * scale


def mean_log_p(table_VV: Tensor, ids: list[int], given: int = 1) -> float:
    """Mean log-probability per id that follows the first `given`, up to eos, as `allowed` counts it."""
    end = ids.index(EOS) + 1
    steps = [float(allowed(table_VV[ids[at - 1]][None], last=at + 1 == LENGTH)[0, ids[at]]) for at in range(given, end)]
    return sum(steps) / len(steps)


def every_text() -> list[list[int]]:
    found = []
    for size in range(LENGTH - 1):
        for middle in itertools.product(range(3, VOCABULARY), repeat=size):
            found.append([BOS, *middle, EOS, *[PAD] * (LENGTH - 2 - size)])
    return found


def test_greedy_follows_the_likeliest_and_ends_each_text() -> None:
    tables = chain(8)
    made = write(Chain(tables), beginning(8, LENGTH, CPU))
    for row, ids in enumerate(made.tolist()):
        assert ids[0] == BOS
        assert ids.count(EOS) == 1
        end = ids.index(EOS)
        assert set(ids[end + 1 :]) <= {PAD}
        for at in range(1, end + 1):
            log_p = allowed(tables[row, ids[at - 1]][None], last=at + 1 == LENGTH)
            assert ids[at] == int(log_p.argmax())


def test_beams_find_the_text_of_the_best_mean_log_probability() -> None:
    tables, better = chain(12, seed=3), 0
    greedy = write(Chain(tables), beginning(12, LENGTH, CPU)).tolist()
    # as many beams as there are texts of any length: nothing is lost
    beams = 3 ** (LENGTH - 2)
    found = beam_search(Chain(tables.repeat_interleave(beams, dim=0)), beginning(12, LENGTH, CPU), beams).tolist()
    for row in range(12):
        best = max(every_text(), key=lambda ids: mean_log_p(tables[row], ids))
        assert mean_log_p(tables[row], found[row]) == pytest.approx(mean_log_p(tables[row], best), abs=1e-6)
        better += mean_log_p(tables[row], found[row]) > mean_log_p(tables[row], greedy[row]) + 1e-6
    assert better > 0, "greedy found them all: this chain tests nothing"


class SecondOrder:
    """A chain whose next id depends on the last two, so that a beam must go on with what it has itself read."""

    def __init__(self, logits_VVV: Tensor, rows: int) -> None:
        self.logits_VVV, self.before_N = logits_VVV, torch.full((rows,), PAD)

    def next(self, ids_N: Tensor) -> Tensor:
        found, self.before_N = self.logits_VVV[self.before_N, ids_N], ids_N
        return found

    def take(self, rows_N: Tensor) -> None:
        self.before_N = self.before_N[rows_N]


# in these, and in few others, a beam that went on with what another has read ends in another text
@pytest.mark.parametrize("seed", [7, 18, 23])
def test_a_beam_goes_on_with_what_it_has_itself_read(seed: int) -> None:
    table = torch.randn((VOCABULARY,) * 3, generator=torch.Generator().manual_seed(seed)) * 3
    # long texts, in which there is something to mix up
    table[..., EOS] = -8

    def score(ids: list[int]) -> float:
        read = [PAD, *ids[: ids.index(EOS) + 1]]
        each = [
            float(allowed(table[before, last][None], last=at == LENGTH - 2)[0, then])
            for at, (before, last, then) in enumerate(zip(read, read[1:], read[2:], strict=False))
        ]
        return sum(each) / len(each)

    beams = 3 ** (LENGTH - 2)
    (found,) = beam_search(SecondOrder(table, beams), beginning(1, LENGTH, CPU), beams).tolist()
    assert found == max(every_text(), key=score)


def test_what_a_text_begins_with_is_kept_and_is_not_scored() -> None:
    tables = chain(4, seed=5)
    start = beginning(4, LENGTH, CPU)
    start[0, 1:3], start[2, 1] = torch.tensor([5, 3]), 4
    for made in (
        write(Chain(tables), start),
        write(Chain(tables), start, row_noise(4, LENGTH, torch.Generator().manual_seed(0), CPU), temperature=1.0),
        beam_search(Chain(tables.repeat_interleave(4, dim=0)), start, 4),
    ):
        assert made[0, :3].tolist() == [BOS, 5, 3]
        assert made[2, :2].tolist() == [BOS, 4]
    beams = 3 ** (LENGTH - 2)
    best = beam_search(Chain(tables.repeat_interleave(beams, dim=0)), start, beams)[2].tolist()
    continued = [ids for ids in every_text() if ids[1] == 4]
    wanted = max(continued, key=lambda ids: mean_log_p(tables[2], ids, given=2))
    assert mean_log_p(tables[2], best, given=2) == pytest.approx(mean_log_p(tables[2], wanted, given=2), abs=1e-6)


def test_what_is_drawn_has_the_distribution_that_was_asked_for() -> None:
    p = torch.tensor([0.0, 0.0, 0.1, 0.4, 0.3, 0.2])
    log_p = p.log().expand(20_000, -1)
    u = torch.rand(20_000, generator=torch.Generator().manual_seed(0))

    def shares(temperature: float, top_k: int | None, top_p: float) -> Tensor:
        return torch.bincount(pick(log_p, u, temperature, top_k, top_p), minlength=6) / 20_000

    tempered = p.sqrt() / p.sqrt().sum()
    assert torch.allclose(shares(1.0, None, 1.0), p, atol=0.01)
    assert torch.allclose(shares(2.0, None, 1.0), tempered, atol=0.01)
    assert torch.allclose(shares(1.0, 2, 1.0), torch.tensor([0, 0, 0, 4, 3, 0]) / 7, atol=0.01)
    # 0.4 + 0.3 reach 0.6, so the third is not needed
    assert torch.allclose(shares(1.0, None, 0.6), torch.tensor([0, 0, 0, 4, 3, 0]) / 7, atol=0.01)
    assert shares(1.0, None, 0.05).tolist() == [0, 0, 0, 1, 0, 0]
    assert shares(0.0, None, 1.0).tolist() == [0, 0, 0, 1, 0, 0]


def test_numbers_at_the_ends_draw_what_may_be_drawn() -> None:
    log_p = torch.tensor([[0.0, 0.0, 0.1, 0.4, 0.3, 0.2]]).log().expand(2, -1)
    assert pick(log_p, torch.tensor([0.0, 1.0]), 1.0, 3, 1.0).tolist() == [3, 5]


def test_a_rows_numbers_do_not_depend_on_how_many_follow() -> None:
    few, many = (row_noise(count, 7, torch.Generator().manual_seed(1), CPU) for count in (2, 5))
    assert torch.equal(few, many[:2])
    assert row_noise(0, 7, None, CPU).shape == (0, 7)
