"""What each encoder must give, and what it must refuse."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import resnet18

from mmgen.encoders.base import TokenEncoder
from mmgen.encoders.config import EncoderConfig
from mmgen.encoders.table import ENCODERS, make_encoder
from mmgen.errors import ConfigError
from mmgen.records import Modality


def test_the_configuration_knows_exactly_the_encoders_of_the_table() -> None:
    variants = get_args(get_args(EncoderConfig)[0])
    kinds = [kind for each in variants for kind in get_args(each.model_fields["kind"].annotation)]
    assert sorted(kinds) == sorted(ENCODERS)


@pytest.mark.parametrize(
    ("kind", "modality", "shape", "value", "tokens"),
    [
        ("bilstm_text", "text", (12, 30), torch.ones(3, 12, dtype=torch.long), 12),
        ("transformer_text", "text", (12, 30), torch.ones(3, 12, dtype=torch.long), 12),
        ("bilstm_rows", "image", (3, 32, 20), torch.ones(3, 3, 32, 20), 32),
        ("bilstm_rows", "audio", (16, 24), torch.ones(3, 16, 24), 24),
        ("cnn_image", "image", (3, 20, 24), torch.ones(3, 3, 20, 24), 16),
        ("cnn_mel", "audio", (16, 24), torch.ones(3, 16, 24), 16),
        ("cnn_mel", "audio", (1, 4096), torch.ones(3, 1, 4096), 16),
        ("transformer_mel", "audio", (16, 25), torch.ones(3, 16, 25), 7),
        ("transformer_mel", "audio", (1, 4096), torch.ones(3, 1, 4096), 4),
        ("resnet18_image", "image", (1, 32, 32), torch.ones(3, 1, 32, 32), 1),
    ],
)
def test_every_encoder_gives_one_vector_of_its_width_or_one_for_each_token(
    kind: str, modality: Modality, shape: tuple[int, ...], value: torch.Tensor, tokens: int
) -> None:
    encoder = make_encoder(kind, modality, shape, 40)
    assert encoder(value).shape == (3, 40)
    assert encoder.width == 40
    x_BTD, mask_BT = encoder.token_features(value)
    assert x_BTD.shape == (3, tokens, 40)
    assert mask_BT.shape == (3, tokens)
    assert encoder.token_count == tokens
    assert bool(mask_BT.all())


def test_a_sound_is_heard_in_the_order_of_its_frames_and_by_itself() -> None:
    torch.manual_seed(0)
    encoder = make_encoder("transformer_mel", "audio", (16, 32), 40)
    value = torch.randn(3, 16, 32)
    assert (encoder(value) - encoder(value.flip(2))).abs().max() > 0.01
    torch.testing.assert_close(encoder(value[1:2]), encoder(value)[1:2])


def test_the_places_of_a_picture_add_up_to_its_vector() -> None:
    torch.manual_seed(0)
    encoder = make_encoder("cnn_image", "image", (3, 20, 24), 40)
    value = torch.randn(3, 3, 20, 24)
    torch.testing.assert_close(encoder.token_features(value)[0].sum(1) + encoder.project.bias, encoder(value))
    # what a place says is of its surroundings first: norms bring it a little of the whole
    spot = value.clone()
    spot[:, :, :4, :4] += 5
    moved_BT = (encoder.token_features(spot)[0] - encoder.token_features(value)[0]).abs().sum(-1)
    assert moved_BT[:, 0].min() > 3 * moved_BT[:, -1].max()


@pytest.mark.parametrize("kind", ["bilstm_text", "transformer_text"])
def test_padding_is_a_token_that_holds_nothing(kind: str) -> None:
    torch.manual_seed(0)
    encoder = make_encoder(kind, "text", (6, 30), 40).eval()
    x_BTD, mask_BT = encoder.token_features(torch.tensor([[1, 5, 7, 2, 0, 0]]))
    assert mask_BT.tolist() == [[True] * 4 + [False] * 2]
    assert x_BTD.any(-1).equal(mask_BT)


def test_a_text_gives_the_same_vector_however_far_it_is_padded() -> None:
    torch.manual_seed(0)
    encoder = make_encoder("bilstm_text", "text", (12, 30)).eval()
    short = torch.tensor([[1, 5, 7, 2]])
    long = torch.nn.functional.pad(short, (0, 8))
    assert torch.allclose(encoder(short), encoder(long), atol=1e-6)
    assert not torch.allclose(encoder(short), encoder(torch.tensor([[1, 5, 8, 2]])), atol=1e-3)


def test_an_image_upside_down_is_another_sequence_of_rows() -> None:
    torch.manual_seed(0)
    encoder = make_encoder("bilstm_rows", "image", (1, 8, 8)).eval()
    image = torch.randn(1, 1, 8, 8)
    assert encoder.lstm.input_size == 8
    assert not torch.allclose(encoder(image), encoder(image.flip(2)), atol=1e-3)


def test_resnet18_starts_from_a_local_file_of_torchvisions_names(tmp_path: Path) -> None:
    torch.manual_seed(1)
    source = resnet18(weights=None).state_dict()
    save_file(dict(source), tmp_path / "resnet18.safetensors")
    encoder = make_encoder("resnet18_image", "image", (3, 32, 32), 16, str(tmp_path / "resnet18.safetensors"))
    got = encoder.state_dict()
    assert torch.equal(got["net.layer4.1.conv2.weight"], source["layer4.1.conv2.weight"])
    assert got["net.fc.weight"].shape == (16, 512)


def test_weights_that_are_not_there_or_of_another_network_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no file at"):
        make_encoder("resnet18_image", "image", (3, 32, 32), 16, str(tmp_path / "none.safetensors"))
    save_file({"conv1.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "part.safetensors")
    with pytest.raises(ConfigError, match=r"not torchvision's resnet18: .* missing"):
        make_encoder("resnet18_image", "image", (3, 32, 32), 16, str(tmp_path / "part.safetensors"))
    with pytest.raises(ConfigError, match="is not a cnn_image of this size"):
        make_encoder("cnn_image", "image", (3, 32, 32), 16, str(tmp_path / "part.safetensors"))


def test_an_unknown_or_unfit_encoder_is_answered_with_those_that_fit() -> None:
    with pytest.raises(ConfigError, match="did you mean 'cnn_mel'"):
        make_encoder("cnn_mell", "audio", (16, 24))
    with pytest.raises(ConfigError, match=r"encoder for text slots 'cnn_mel'.*known: bilstm_text"):
        make_encoder("cnn_mel", "text", (12, 30))


@pytest.mark.parametrize(
    ("kind", "modality", "shape", "message"),
    [
        ("resnet18_image", "image", (3, 16, 32), "32 px or more"),
        ("resnet18_image", "image", (2, 32, 32), "1 or 3 colour"),
        ("cnn_image", "image", (32,), "wanted image"),
        ("bilstm_text", "text", (12,), "wanted text"),
    ],
)
def test_shapes_that_cannot_be_read_are_refused(
    kind: str, modality: Modality, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_encoder(kind, modality, shape)


@pytest.mark.parametrize("kind", ["bilstm_text", "transformer_text"])
def test_token_states_stand_in_their_place_and_know_the_text_around_them(kind: str) -> None:
    torch.manual_seed(0)
    encoder = make_encoder(kind, "text", (8, 20), 16).eval()
    assert isinstance(encoder, TokenEncoder)
    one = torch.tensor([[1, 5, 6, 2, 0, 0, 0, 0], [1, 5, 7, 8, 9, 2, 0, 0]])
    states_BLH = encoder.tokens(one)
    assert states_BLH.shape[:2] == (2, 8)
    torch.testing.assert_close(encoder.tokens(one[:1])[:, :4], states_BLH[:1, :4], atol=1e-5, rtol=1e-4)
    other = one.clone()
    other[0, 2] = 9
    # the same token beside another one
    assert not torch.allclose(encoder.tokens(other)[0, 1], states_BLH[0, 1])
