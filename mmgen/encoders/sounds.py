"""Encoders of waveforms that others made: torchaudio's architectures by name, transformers' from their folders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torchaudio
from torch import Tensor, nn

from mmgen.encoders.foreign import ForeignEncoder, Reading, start_from_file
from mmgen.encoders.transformers_models import blocks_of, load_tower, new_tower
from mmgen.errors import ConfigError, unknown_name
from mmgen.preprocess.wave_mel import is_waveform
from mmgen.pretrained import library
from mmgen.records import Modality

ARCHITECTURES: dict[str, Any] = {
    "wav2vec2_model": torchaudio.models.wav2vec2_model,
    "wav2vec2_base": torchaudio.models.wav2vec2_base,
    "wav2vec2_large": torchaudio.models.wav2vec2_large,
    "wav2vec2_large_lv60k": torchaudio.models.wav2vec2_large_lv60k,
    "wav2vec2_xlsr_300m": torchaudio.models.wav2vec2_xlsr_300m,
    "hubert_base": torchaudio.models.hubert_base,
    "hubert_large": torchaudio.models.hubert_large,
    "wavlm_base": torchaudio.models.wavlm_base,
    "wavlm_large": torchaudio.models.wavlm_large,
}
# models of transformers that read a waveform as it is
RAW = ("wav2vec2", "hubert", "wavlm", "unispeech", "unispeech-sat", "data2vec-audio", "sew")
CLAP = "clap_audio_model"


def _check(shape: tuple[int, ...], kind: str) -> None:
    if not is_waveform(shape):
        raise ConfigError(
            f"{kind}: wanted waveforms (1, samples), came values of shape {tuple(shape)}; set the slot's "
            "`representation: waveform`"
        )


def _standard(wave_BN: Tensor) -> Tensor:
    """Each row with mean 0 and deviation 1."""
    centred_BN = wave_BN - wave_BN.mean(1, keepdim=True)
    return centred_BN / (centred_BN.square().mean(1, keepdim=True) + 1e-7).sqrt()


def _resampled(value: Tensor, rate_hz: int, theirs_hz: int) -> Tensor:
    """(B, N) at their rate of waveforms (B, 1, N)."""
    wave_BN = value[:, 0].float()
    if rate_hz == theirs_hz:
        return wave_BN
    resampled: Tensor = torchaudio.functional.resample(wave_BN, rate_hz, theirs_hz)
    return resampled


class TorchaudioAudio(ForeignEncoder):
    """A wav2vec 2.0, HuBERT or WavLM of torchaudio.models; pooled is the mean of its frames.

    model, options: the name of its constructor and what that is given. rate_hz: of the slot's waveforms;
    sample_rate_hz: that the model was trained at. weights: {"weights": local safetensors of torchaudio's names}; a
    head for letters (`aux`) is left out. The large kinds, whose extractor uses layer norm, want each clip at mean 0 and
    deviation 1.
    """

    modalities: ClassVar[frozenset[Modality]] = frozenset({"audio"})

    def __init__(
        self,
        shape: tuple[int, ...],
        width: int | None = None,
        *,
        model: str,
        rate_hz: int,
        options: Mapping[str, Any] | None = None,
        sample_rate_hz: int = 16_000,
        trainable: str = "head",
        adapter_width: int = 16,
        weights: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(shape, width, trainable, adapter_width)
        _check(shape, "torchaudio_audio")
        if model not in ARCHITECTURES:
            raise ConfigError(f"encoders.….model: {unknown_name('model of torchaudio', model, ARCHITECTURES)}")
        self.model, self.rate_hz, self.sample_rate_hz = model, rate_hz, sample_rate_hz
        try:
            self.trunk = ARCHITECTURES[model](**dict(options or {}))
        except (TypeError, ValueError) as error:
            raise ConfigError(f"encoders.….options of {model}: {error}") from error
        self._standard = any(isinstance(each, nn.LayerNorm) for each in self._net.feature_extractor.modules())
        self._finish_as_probed(weights)

    @property
    def _net(self) -> Any:
        return self.trunk

    def blocks(self) -> nn.ModuleList | nn.Sequential | None:
        found: nn.ModuleList = self._net.encoder.transformer.layers
        return found

    def _start_trunk(self, weights: Mapping[str, Any]) -> None:
        start_from_file(self.trunk, weights["weights"], ("aux.",), f"torchaudio {self.model}")

    def read(self, value: Tensor) -> Reading:
        wave_BN = _resampled(value, self.rate_hz, self.sample_rate_hz)
        wave_BN = _standard(wave_BN) if self._standard else wave_BN
        x_BTH, _ = self._net.feature_extractor(wave_BN, None)
        x_BTH = self._net.encoder(x_BTH, None)
        return Reading.whole(x_BTH.mean(1), x_BTH)


class TransformersAudio(ForeignEncoder):
    """A transformers model of waveforms (wav2vec 2.0, HuBERT, WavLM and their kin), or CLAP's audio tower.

    architecture: {"class", "config"}. rate_hz: of the slot's waveforms. preprocessor: the model's own
    preprocessor_config. weights: {"source", "revision"}. CLAP's spectrogram is made by its own feature extractor, on
    the CPU. Pooled is the model's own pooled vector, else the mean of its frames.
    """

    modalities: ClassVar[frozenset[Modality]] = frozenset({"audio"})

    def __init__(
        self,
        shape: tuple[int, ...],
        width: int | None = None,
        *,
        architecture: Mapping[str, Any],
        rate_hz: int,
        preprocessor: Mapping[str, Any],
        trainable: str = "head",
        adapter_width: int = 16,
        weights: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(shape, width, trainable, adapter_width)
        _check(shape, "transformers_audio")
        kind = str(architecture["config"].get("model_type", ""))
        if kind not in (*RAW, CLAP):
            raise ConfigError(f"transformers_audio: {unknown_name('model of waveforms', kind, (*RAW, CLAP))}")
        self.rate_hz, self.kind, self.preprocessor = rate_hz, kind, dict(preprocessor)
        self.theirs_hz = int(self.preprocessor.get("sampling_rate", 48_000 if kind == CLAP else 16_000))
        self.extractor: Any = (
            library("transformers").ClapFeatureExtractor(**self.preprocessor) if kind == CLAP else None
        )
        self.trunk = new_tower(architecture)
        self._finish_as_probed(weights)

    def blocks(self) -> nn.ModuleList | nn.Sequential | None:
        return blocks_of(self.trunk)

    def _start_trunk(self, weights: Mapping[str, Any]) -> None:
        self.trunk = load_tower(self.trunk, weights, "audio")

    def read(self, value: Tensor) -> Reading:
        wave_BN = _resampled(value, self.rate_hz, self.theirs_hz)
        if self.kind == CLAP:
            return self._clap(wave_BN)
        found = self.trunk(_standard(wave_BN) if self.preprocessor.get("do_normalize", True) else wave_BN)
        return Reading.whole(found.last_hidden_state.mean(1), found.last_hidden_state)

    def _clap(self, wave_BN: Tensor) -> Reading:
        # the library would cut a longer clip at a random place
        clips = list(wave_BN[:, : self.extractor.nb_max_samples].detach().cpu().numpy())
        seen = self.extractor(clips, sampling_rate=self.theirs_hz, return_tensors="pt")
        # no row is a longer one: the library would draw one to stand for it, and a row must not hang on its batch
        longer_B1 = torch.zeros(len(clips), 1, dtype=torch.bool, device=wave_BN.device)
        found = self.trunk(input_features=seen["input_features"].float().to(wave_BN.device), is_longer=longer_B1)
        return Reading.whole(found.pooler_output, found.last_hidden_state.flatten(2).transpose(1, 2))
