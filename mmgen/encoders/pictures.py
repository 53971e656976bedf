"""Encoders of pictures that others made: torchvision's by name, transformers' towers from their folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models

from mmgen.encoders.base import check_rank
from mmgen.encoders.foreign import ForeignEncoder, Reading, start_from_file
from mmgen.encoders.transformers_models import blocks_of, load_tower, new_tower
from mmgen.errors import ConfigError, unknown_name
from mmgen.records import Modality

# what torchvision's own weights were trained on
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LEAST_PX = 32
_HEADS = ("fc.", "classifier.", "heads.", "head.")


class _Ready(nn.Module):
    """Values of a slot as a model of others wants pictures: three colours, its size, its mean and deviation."""

    def __init__(self, ours: Sequence[float], size_px: int | None, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.ours, self.size_px = tuple(ours), size_px
        self.register_buffer("mean", torch.tensor(list(mean)).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(list(std)).view(3, 1, 1), persistent=False)

    def forward(self, value: Tensor) -> Tensor:
        x_BCHW = (value.float() * self.ours[1] + self.ours[0]).expand(-1, 3, -1, -1)
        if self.size_px is not None and x_BCHW.shape[-2:] != (self.size_px, self.size_px):
            side = (self.size_px, self.size_px)
            x_BCHW = F.interpolate(x_BCHW, side, mode="bicubic", align_corners=False, antialias=True).clamp(0, 1)
        return (x_BCHW - self.get_buffer("mean")) / self.get_buffer("std")


def _check(shape: tuple[int, ...], kind: str) -> None:
    check_rank(shape, "image (C, H, W)", 3)
    if shape[0] not in (1, 3):
        raise ConfigError(f"{kind}: wanted 1 or 3 colour channels, came {shape[0]}")


class TorchvisionImage(ForeignEncoder):
    """An architecture of torchvision.models without its classifier; images resized and normalised as for ImageNet.

    model, options: its name and its constructor's arguments. ours: (mean, std) of the slot's values. size_px: side that
    images are resized to; None: a ViT's own, else the slot's, at least 32. weights: {"weights": local safetensors}.
    Tokens are the patches of a ViT, the places of the last map of a convolutional network.
    """

    modalities: ClassVar[frozenset[Modality]] = frozenset({"image"})

    def __init__(
        self,
        shape: tuple[int, ...],
        width: int | None = None,
        *,
        model: str,
        options: Mapping[str, Any] | None = None,
        ours: Sequence[float] = (0.5, 0.5),
        size_px: int | None = None,
        trainable: str = "head",
        adapter_width: int = 16,
        weights: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(shape, width, trainable, adapter_width)
        _check(shape, "torchvision_image")
        self.trunk, self.model = _architecture(model, options or {}), model
        own = self.trunk.image_size if isinstance(self.trunk, models.VisionTransformer) else None
        if own and size_px not in (None, own):
            raise ConfigError(f"encoders.….size_px: wanted {own}, which {model} was made for, came {size_px}")
        # small pictures are made as large as five halvings leave something of
        least = max(LEAST_PX, *shape[1:]) if min(shape[1:]) < LEAST_PX or shape[1] != shape[2] else None
        self.ready = _Ready(ours, own or size_px or least, IMAGENET_MEAN, IMAGENET_STD)
        self.trunk.eval()
        with torch.no_grad():
            probe = self._map(self.ready(torch.zeros(1, *shape)))
        self._finish(probe.shape[2], probe.shape[1] - (1 if own else 0), weights)

    def blocks(self) -> nn.ModuleList | nn.Sequential | None:
        return self.trunk.encoder.layers if isinstance(self.trunk, models.VisionTransformer) else None

    def _start_trunk(self, weights: Mapping[str, Any]) -> None:
        start_from_file(self.trunk, weights["weights"], _HEADS, f"torchvision {self.model}")

    def read(self, value: Tensor) -> Reading:
        x_BTH = self._map(self.ready(value))
        if isinstance(self.trunk, models.VisionTransformer):
            return Reading.whole(x_BTH[:, 0], x_BTH[:, 1:])
        return Reading.whole(x_BTH.mean(1), x_BTH)

    def _map(self, x_BCHW: Tensor) -> Tensor:
        """(B, T, H): the last map, place by place; of a ViT its class token and patches."""
        net: Any = self.trunk
        match net:
            case models.VisionTransformer():
                x_BTH = net._process_input(x_BCHW)
                seen: Tensor = net.encoder(torch.cat([net.class_token.expand(len(x_BTH), -1, -1), x_BTH], dim=1))
                return seen
            case models.SwinTransformer():
                places: Tensor = net.norm(net.features(x_BCHW)).flatten(1, 2)
                return places
            case models.ResNet():
                for layer in (
                    net.conv1,
                    net.bn1,
                    net.relu,
                    net.maxpool,
                    net.layer1,
                    net.layer2,
                    net.layer3,
                    net.layer4,
                ):
                    x_BCHW = layer(x_BCHW)
            case models.RegNet():
                x_BCHW = net.trunk_output(net.stem(x_BCHW))
            case _:
                x_BCHW = net.features(x_BCHW)
        return x_BCHW.flatten(2).transpose(1, 2)


def _architecture(name: str, options: Mapping[str, Any]) -> nn.Module:
    """torchvision's network of that name, random, without its classifier. Raises ConfigError."""
    known = models.list_models(module=models)
    if name not in known:
        raise ConfigError(f"encoders.….model: {unknown_name('model of torchvision', name, known)}")
    try:
        made: nn.Module = models.get_model(name, weights=None, **options)
    except (TypeError, ValueError, AssertionError) as error:
        raise ConfigError(f"encoders.….options of {name}: {error}") from error
    if not (hasattr(made, "features") or isinstance(made, models.VisionTransformer | models.ResNet | models.RegNet)):
        raise ConfigError(
            f"encoders.….model: {name} gives no map of features; wanted a ResNet, RegNet, ViT, Swin, ConvNeXt, "
            "EfficientNet, MobileNet, DenseNet, VGG or their like"
        )
    for head in ("fc", "classifier", "heads", "head"):
        if hasattr(made, head):
            setattr(made, head, nn.Identity())
    return made


class TransformersImage(ForeignEncoder):
    """A transformers model of pictures, or the picture tower of CLIP and its kin.

    architecture: {"class", "config"} as `architecture_of` has it. ours: (mean, std) of the slot's values.
    size_px, mean, std: as its own preprocessor has them. weights: {"source", "revision"}. Pooled is the model's own
    pooled vector, else the mean of its tokens.
    """

    modalities: ClassVar[frozenset[Modality]] = frozenset({"image"})

    def __init__(
        self,
        shape: tuple[int, ...],
        width: int | None = None,
        *,
        architecture: Mapping[str, Any],
        ours: Sequence[float],
        size_px: int,
        mean: Sequence[float],
        std: Sequence[float],
        trainable: str = "head",
        adapter_width: int = 16,
        weights: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(shape, width, trainable, adapter_width)
        _check(shape, "transformers_image")
        self.trunk = new_tower(architecture)
        self.ready = _Ready(ours, size_px, mean, std)
        self._finish_as_probed(weights)

    def blocks(self) -> nn.ModuleList | nn.Sequential | None:
        return blocks_of(self.trunk)

    def _start_trunk(self, weights: Mapping[str, Any]) -> None:
        self.trunk = load_tower(self.trunk, weights, "image")

    def read(self, value: Tensor) -> Reading:
        found = self.trunk(pixel_values=self.ready(value))
        x_BTH = found.last_hidden_state
        if x_BTH.dim() == 4:
            x_BTH = x_BTH.flatten(2).transpose(1, 2)
        pooled = getattr(found, "pooler_output", None)
        return Reading.whole(x_BTH.mean(1) if pooled is None else pooled.flatten(1), x_BTH)
