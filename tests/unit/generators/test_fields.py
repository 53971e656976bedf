"""Networks of the flow: what is absent is never looked at, rows stand alone, and older weights still load."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mmgen.errors import ConfigError
from mmgen.generators.fields import FIELDS
from mmgen.generators.joint_flow import JointFlow
from mmgen.generators.roles import ABSENT, GIVEN, TARGET

SHAPES = {"a": (2, 3), "b": (1, 4), "c": (3, 1)}
E, ROWS = 5, 4


def flow(network: str, shown: bool = True) -> JointFlow:
    torch.manual_seed(0)
    made = JointFlow(slots=SHAPES, network=network, width=32, blocks=2, embedding_width=E)
    # the last layers start at zero; here they must show what comes in
    for parameter in made.parameters() if shown else ():
        torch.nn.init.normal_(parameter, std=0.2)
    return made.eval()


def inputs() -> tuple[dict[str, Tensor], Tensor, Tensor, dict[str, Tensor]]:
    rng = torch.Generator().manual_seed(1)
    x_t = {slot: torch.randn((ROWS, *shape), generator=rng) for slot, shape in SHAPES.items()}
    roles_BS = torch.tensor([[TARGET, GIVEN, ABSENT], [TARGET, TARGET, TARGET], [GIVEN, ABSENT, TARGET], [ABSENT] * 3])
    t_BS = torch.rand((ROWS, len(SHAPES)), generator=rng)
    return x_t, t_BS, roles_BS, {slot: torch.randn((ROWS, E), generator=rng) for slot in SHAPES}


@pytest.mark.parametrize("network", FIELDS)
class TestFields:
    def test_it_starts_as_no_motion(self, network: str) -> None:
        found = flow(network, shown=False).velocity(*inputs())
        assert all(not value.any() for value in found.values())
        assert {slot: tuple(value.shape[1:]) for slot, value in found.items()} == SHAPES

    def test_what_is_absent_is_never_looked_at(self, network: str) -> None:
        x_t, t_BS, roles_BS, embeddings = inputs()
        plain = flow(network).velocity(x_t, t_BS, roles_BS, embeddings)
        for number, slot in enumerate(SHAPES):
            absent_B = roles_BS[:, number] == ABSENT
            x_t[slot][absent_B] = float("nan")
            embeddings[slot][roles_BS[:, number] != GIVEN] = float("nan")
        with_nan = flow(network).velocity(x_t, t_BS, roles_BS, embeddings)
        for number, slot in enumerate(SHAPES):
            there_B = roles_BS[:, number] != ABSENT
            assert torch.equal(plain[slot][there_B], with_nan[slot][there_B])

    def test_a_slot_that_is_left_out_is_absent(self, network: str) -> None:
        x_t, t_BS, _, embeddings = inputs()
        roles_BS = torch.tensor([[TARGET, GIVEN, ABSENT]]).expand(ROWS, -1)
        whole = flow(network).velocity(x_t, t_BS, roles_BS, embeddings)
        part = flow(network).velocity({slot: x_t[slot] for slot in "ab"}, t_BS, roles_BS, {"b": embeddings["b"]})
        assert torch.allclose(whole["a"], part["a"], atol=1e-6)

    def test_given_latents_and_embeddings_and_times_count(self, network: str) -> None:
        x_t, t_BS, roles_BS, embeddings = inputs()
        plain = flow(network).velocity(x_t, t_BS, roles_BS, embeddings)["a"][0]
        other = dict(x_t, b=x_t["b"] + 1)
        assert not torch.allclose(plain, flow(network).velocity(other, t_BS, roles_BS, embeddings)["a"][0])
        assert not torch.allclose(
            plain, flow(network).velocity(x_t, t_BS, roles_BS, dict(embeddings, b=-embeddings["b"]))["a"][0]
        )
        assert not torch.allclose(plain, flow(network).velocity(x_t, t_BS * 0.5, roles_BS, embeddings)["a"][0])

    def test_a_row_does_not_depend_on_its_neighbours(self, network: str) -> None:
        x_t, t_BS, roles_BS, embeddings = inputs()
        whole = flow(network).velocity(x_t, t_BS, roles_BS, embeddings)
        alone = flow(network).velocity(
            {slot: value[:1] for slot, value in x_t.items()}, t_BS[:1], roles_BS[:1],
            {slot: value[:1] for slot, value in embeddings.items()},
        )  # fmt: skip
        assert all(torch.allclose(whole[slot][:1], alone[slot], atol=1e-5) for slot in SHAPES)


def test_weights_of_the_first_models_load_under_todays_names() -> None:
    made = flow("residual")
    old = {}
    for name, tensor in made.state_dict().items():
        old[name.removeprefix("field.").removeprefix("waves.")] = tensor
    assert "frequencies" in old
    fresh = flow("residual", shown=False)
    fresh.load_state_dict(old)
    assert all(torch.equal(value, made.state_dict()[name]) for name, value in fresh.state_dict().items())


def test_an_unknown_network_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="residual"):
        flow("residuals")
