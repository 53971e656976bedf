"""Convolutional encoders: our small CNN for images and mel spectrograms, and torchvision's ResNet-18."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models import resnet18

from mmgen.encoders.base import Encoder, check_rank
from mmgen.errors import ConfigError
from mmgen.preprocess.wave_mel import WaveMel, is_waveform
from mmgen.records import Modality

#: the last feature map is averaged to this grid: coarse place (and, for sound, order in time) is kept
GRID = 4
#: side of the smallest image that ResNet-18's five halvings leave something of
RESNET_MIN_PX = 32


def _trunk(channels: int, base: int) -> nn.Sequential:
    """(B, channels, H, W) → (B, 4·base, GRID, GRID).

    Group norm, not batch norm: a row's vector never depends on the rows beside it.
    """
    layers: list[nn.Module] = []
    for wide in (base, 2 * base, 4 * base):
        layers += [nn.Conv2d(channels, wide, 3, stride=2, padding=1), nn.GroupNorm(8, wide), nn.ReLU()]
        channels = wide
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(GRID))


class ConvEncoder(Encoder):
    """Our CNN: three strided convolutions, a 4×4 average, one projection. Image or mel spectrogram → e_BD.

    A waveform (B, 1, N) is read by its spectrogram.
    """

    modalities: ClassVar[frozenset[Modality]] = frozenset({"image", "audio"})

    def __init__(self, shape: tuple[int, ...], width: int = 256, base: int = 32) -> None:
        super().__init__(shape, width)
        if len(shape) != 2:
            check_rank(shape, "image (C, H, W) or audio (M, T)", 3)
        self.spectrum = WaveMel(shape[1]) if is_waveform(shape) else None
        self.trunk = _trunk(shape[0] if len(shape) == 3 else 1, base)
        self.project = nn.Linear(4 * base * GRID * GRID, width)

    def forward(self, value: Tensor) -> Tensor:
        projected: Tensor = self.project(self._map(value).flatten(1))
        return projected

    @property
    def token_count(self) -> int:
        return GRID * GRID

    def token_features(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """What each place of the grid adds to the vector (without its bias), row by row."""
        map_BCT = self._map(value).flatten(2)
        x_BTD = torch.einsum("bct,dct->btd", map_BCT, self.project.weight.view(self.width, *map_BCT.shape[1:]))
        return x_BTD, torch.ones(x_BTD.shape[:2], dtype=torch.bool, device=x_BTD.device)

    def _map(self, value: Tensor) -> Tensor:
        """(B, C, GRID, GRID)."""
        if self.spectrum is not None:
            value = self.spectrum(value)
        out: Tensor = self.trunk(value if value.dim() == 4 else value.unsqueeze(1))
        return out


class ResNet18Encoder(Encoder):
    """torchvision's ResNet-18 (He et al. 2016, arXiv:1512.03385) with its last layer replaced by one to `width`.

    weights: a local safetensors file of torchvision's names (its `fc` is left out); None: random.
    A grey image is given to all three colours.
    """

    modalities: ClassVar[frozenset[Modality]] = frozenset({"image"})

    def __init__(self, shape: tuple[int, ...], width: int = 256, weights: str | None = None) -> None:
        super().__init__(shape, width)
        check_rank(shape, "image (C, H, W)", 3)
        if shape[0] not in (1, 3):
            raise ConfigError(f"resnet18_image: wanted 1 or 3 colour channels, came {shape[0]}")
        if min(shape[1:]) < RESNET_MIN_PX:
            came = f"{shape[1]} × {shape[2]}"
            raise ConfigError(f"resnet18_image: wanted sides of {RESNET_MIN_PX} px or more, came {came}")
        self.net = resnet18(weights=None)
        self.net.fc = nn.Linear(self.net.fc.in_features, width)
        if weights is not None:
            self._start_from(weights)

    def _start_from(self, path: str) -> None:
        if not Path(path).is_file():
            raise ConfigError(f"encoders.weights: no file at {path}; wanted local safetensors, or null for random")
        found = {name: tensor for name, tensor in load_file(path).items() if not name.startswith("fc.")}
        # an older torchvision file lacks the counters, which only matter for momentum None
        counters = {name for name, _ in self.net.named_buffers() if name.endswith("num_batches_tracked")}
        wanted = {name for name in self.net.state_dict() if not name.startswith("fc.")}
        missing, extra = wanted - counters - set(found), set(found) - wanted
        if missing or extra:
            first = min(missing or extra)
            raise ConfigError(
                f"encoders.weights: {path} is not torchvision's resnet18: {len(missing)} missing, {len(extra)} unknown "
                f"tensors, first '{first}'"
            )
        self.net.load_state_dict(found, strict=False)

    def forward(self, value: Tensor) -> Tensor:
        e_BD: Tensor = self.net(value.expand(-1, 3, -1, -1))
        return e_BD
