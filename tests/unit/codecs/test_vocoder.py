"""The learned vocoder: sound of any mel settings, the magnitudes that it starts from, and that it learns."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from mmgen.codecs.vocoder import IstftVocoder, spectral_distance, vocoder_loss
from mmgen.preprocess.audio import AudioPreprocess, marked

HOW = AudioPreprocess(8000, 0.5, 32, n_fft=256, hop=100, log_floor=-5.0)


def vocoder(how: AudioPreprocess, width: int = 16, depth: int = 2) -> IstftVocoder:
    torch.manual_seed(0)
    made = IstftVocoder(mels=how.mels, n_fft=how.n_fft, hop=how.hop, width=width, depth=depth)
    made.start_from(how.bank, how.log_floor, how.log_ceiling)
    return made.eval()


def tones(count: int, how: AudioPreprocess) -> Tensor:
    """(B, N) tones, other ones in each row, that fade in and out."""
    rng, time = np.random.default_rng(0), np.arange(how.samples) / how.sample_rate_hz
    notes = rng.uniform(200, how.sample_rate_hz / 3, count)[:, None]
    fade = np.sin(np.pi * time / time[-1])
    return torch.from_numpy(0.4 * fade * np.sin(2 * np.pi * notes * time)).float()


@pytest.mark.parametrize(
    "how",
    [HOW, AudioPreprocess(16_000, 1.0, 64), AudioPreprocess(22_050, 0.73, 20, n_fft=512, hop=256, f_min_hz=50.0),
     AudioPreprocess(24_000, 0.3, 40, n_fft=600, hop=150, f_max_hz=9_000.0)],
    ids=["8k", "16k", "22k", "24k"],
)  # fmt: skip
def test_any_setting_of_a_slot_gives_clips_of_its_length(how: AudioPreprocess) -> None:
    with_it = replace(how, vocoder=vocoder(how))
    value = with_it.value(with_it.log_mel(tones(3, how)))
    wave = with_it.waves(value)
    assert wave.shape == (3, how.samples)
    assert wave.abs().max() <= 1
    assert not torch.equal(wave, how.waves(value))
    assert with_it == how


def test_a_sound_of_variable_length_is_cut_at_its_end() -> None:
    how = replace(HOW, variable=True, vocoder=vocoder(HOW))
    value = marked(HOW.value(HOW.log_mel(tones(3, HOW))), torch.tensor([5, 20, 40]))
    wave = how.waves(value)
    assert wave.shape == (3, HOW.samples)
    for row, frames in zip(wave, (5, 20, 40), strict=True):
        assert row[: frames * HOW.hop].abs().max() > 1e-3
        assert (row[frames * HOW.hop :] == 0).all()
    # 44 bytes of header, two for each sample
    assert [len(data) for data in how.files(value)] == [44 + 2 * frames * HOW.hop for frames in (5, 20, 40)]


def test_before_any_training_magnitudes_are_those_that_the_mels_imply() -> None:
    network = vocoder(HOW)
    noise = torch.randn(4, HOW.samples, generator=torch.Generator().manual_seed(0)) * 0.1
    spectrum = torch.fft.rfft(noise)
    shape = torch.linspace(1, 0.1, spectrum.shape[1])
    log_BMT = HOW.log_mel(torch.fft.irfft(spectrum * shape))
    with torch.no_grad():
        magnitude_BTF = network.implied(HOW.levels(log_BMT).transpose(1, 2)).exp()
    # what the filters see of them is what was given
    back_BMT = (magnitude_BTF @ HOW.bank).transpose(1, 2).log()
    assert (back_BMT - log_BMT).abs().mean() < 0.1
    assert (back_BMT - log_BMT).mean().abs() < 0.05


def test_the_same_value_gives_the_same_sound_beside_any_other() -> None:
    with_it = replace(HOW, vocoder=vocoder(HOW))
    value = HOW.value(HOW.log_mel(tones(20, HOW)))
    assert torch.equal(with_it.waves(value), with_it.waves(value))
    torch.testing.assert_close(with_it.waves(value)[17:19], with_it.waves(value[17:19]), atol=1e-5, rtol=1e-4)


def test_it_learns_tones_better_than_it_starts() -> None:
    network, wave = vocoder(HOW, width=32).train(), tones(8, HOW)
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    losses = []
    for _ in range(80):
        optimiser.zero_grad()
        loss = vocoder_loss(network, HOW, wave, 1.0)
        loss["loss"].backward()
        optimiser.step()
        losses.append({name: float(part.detach()) for name, part in loss.items()})
    assert losses[-1]["loss"] < 0.6 * losses[0]["loss"]
    assert losses[-1]["mels"] < 0.6 * losses[0]["mels"]


def test_bfloat16_around_it_leaves_transforms_in_full_precision() -> None:
    network, wave = vocoder(HOW), tones(4, HOW)
    plain = vocoder_loss(network, HOW, wave, 1.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = vocoder_loss(network, HOW, wave, 1.0)
    half["loss"].backward()
    assert half["loss"].dtype == torch.float32
    assert float(half["loss"].detach()) == pytest.approx(float(plain["loss"].detach()), rel=0.05)
    assert all(torch.isfinite(each.grad).all() for each in network.parameters() if each.grad is not None)


def test_the_distance_of_spectra_is_zero_for_the_same_and_silence_is_no_division_by_nothing() -> None:
    wave = tones(3, HOW)
    assert spectral_distance(wave, wave, [128, 256], 1e-3) == 0
    near, far = (spectral_distance(wave * scale, wave, [128, 256], 1e-3) for scale in (0.9, 0.5))
    assert 0 < near < far
    silence = torch.zeros_like(wave)
    assert spectral_distance(silence, silence, [128], 1e-3) == 0
    assert torch.isfinite(spectral_distance(wave, silence, [128], 1e-3))
