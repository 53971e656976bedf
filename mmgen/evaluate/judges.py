"""Judges: one classifier per modality, trained on real data only, for evaluation only (law 16: never a loss).

They share no code with the networks that they judge: no group norm, no transformer, another augmentation.
Shape suffixes: B batch, C channels, H, W, M mels, T frames, L text length, K classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmgen.errors import ConfigError, unknown_name
from mmgen.preprocess.wave_mel import WaveMel, is_waveform
from mmgen.records import Modality

PAD = 0


class Judge(nn.Module, ABC):
    """A value of one modality to logits over the data set's classes."""

    modality: ClassVar[Modality]

    @abstractmethod
    def features(self, value: Tensor) -> Tensor:
        """value to what the last layer reads (B, D): the space in which distances of samples are measured."""

    @abstractmethod
    def classify(self, features_BD: Tensor) -> Tensor:
        """features to logits (B, K), float32."""

    def forward(self, value: Tensor) -> Tensor:
        """value to logits (B, K), float32."""
        return self.classify(self.features(value))

    @abstractmethod
    def augment(self, value: Tensor, rng: torch.Generator | None) -> Tensor:
        """`value` disturbed as training data may be without changing its class."""

    def loss(self, value: Tensor, labels_B: Tensor, rng: torch.Generator | None = None) -> dict[str, Tensor]:
        """Cross-entropy of the labelled rows as `loss`, and their `accuracy`. A label of -1 is none."""
        logits_BK = self(self.augment(value, rng))
        labelled_B = labels_B >= 0
        weights_B = labelled_B.float()
        count = weights_B.sum().clamp_min(1.0)
        each_B = F.cross_entropy(logits_BK, labels_B.clamp_min(0), reduction="none", label_smoothing=0.05)
        right_B = (logits_BK.argmax(1) == labels_B).float()
        return {"loss": (each_B * weights_B).sum() / count, "accuracy": (right_B.detach() * weights_B).sum() / count}


def _plain_convolutions(channels: int, width: int, levels: int) -> nn.Sequential:
    """(B, channels, H, W) to (B, width · 2^(levels - 1), H / 2^levels, W / 2^levels): conv, ReLU, max pool; no norm."""
    layers: list[nn.Module] = []
    for level in range(levels):
        out = width * 2**level
        layers += [nn.Conv2d(channels, out, 3, padding=1), nn.MaxPool2d(2), nn.ReLU()]
        channels = out
    return nn.Sequential(*layers)


def _shift(x_BCHW: Tensor, rows: int, columns: int, fill: float, rng: torch.Generator | None) -> Tensor:
    """Every sample moved by its own whole number of rows and columns, at most `rows` and `columns`."""
    count, _, height, width = x_BCHW.shape
    device = x_BCHW.device
    down_B = torch.randint(0, 2 * rows + 1, (count,), generator=rng, device=device)
    right_B = torch.randint(0, 2 * columns + 1, (count,), generator=rng, device=device)
    padded = F.pad(x_BCHW, (columns, columns, rows, rows), value=fill)
    row_BH = down_B[:, None] + torch.arange(height, device=device)
    column_BW = right_B[:, None] + torch.arange(width, device=device)
    rows_B = torch.arange(count, device=device)[:, None, None]
    # advanced indexing puts the channels last
    return padded.permute(0, 2, 3, 1)[rows_B, row_BH[:, :, None], column_BW[:, None, :]].permute(0, 3, 1, 2)


class ImageJudge(Judge):
    """Plain convolutions, max pools, one hidden layer.

    Args:
        classes: K.
        shape: (C, H, W) of one image, H and W at least 8.
        width: channels of the first level.
    """

    modality: ClassVar[Modality] = "image"

    def __init__(self, *, classes: int, shape: tuple[int, ...], width: int = 32) -> None:
        super().__init__()
        channels, height, wide = shape
        self.trunk = _plain_convolutions(channels, width, 3)
        self.hidden = nn.Linear(4 * width * (height // 8) * (wide // 8), 4 * width)
        self.out = nn.Linear(4 * width, classes)

    def features(self, value: Tensor) -> Tensor:
        """Images (B, C, H, W) to (B, 4 · width)."""
        trunk = self.trunk(value.contiguous(memory_format=torch.channels_last))
        return F.relu(self.hidden(trunk.flatten(1)))

    def classify(self, features_BD: Tensor) -> Tensor:
        out: Tensor = self.out(F.dropout(features_BD, 0.3, self.training))
        return out.float()

    def augment(self, value: Tensor, rng: torch.Generator | None) -> Tensor:
        """Moved by up to 2 pixels, turned, sheared and scaled a little. Images (B, C, H, W)."""
        count, device = len(value), value.device
        angle_B, shear_B, scale_B = (torch.rand((3, count), generator=rng, device=device) * 2 - 1).unbind(0)
        angle_B, shear_B, scale_B = 0.2 * angle_B, 0.2 * shear_B, 1 + 0.1 * scale_B
        cos_B, sin_B = angle_B.cos() * scale_B, angle_B.sin() * scale_B
        move_B2 = (torch.rand((count, 2), generator=rng, device=device) * 2 - 1) * (4.0 / value.shape[-1])
        rows = [torch.stack([cos_B, shear_B - sin_B, move_B2[:, 0]], 1), torch.stack([sin_B, cos_B, move_B2[:, 1]], 1)]
        places = F.affine_grid(torch.stack(rows, 1), list(value.shape), align_corners=False)
        return F.grid_sample(value.float(), places, padding_mode="border", align_corners=False)


class AudioJudge(Judge):
    """Plain convolutions over the log-mel spectrogram, mean and peak over time.

    Args:
        classes: K.
        shape: (M, T) of one spectrogram, each at least 16; or (1, N) of a waveform, heard by its spectrogram.
        width: channels of the first level.
    """

    modality: ClassVar[Modality] = "audio"

    def __init__(self, *, classes: int, shape: tuple[int, ...], width: int = 32) -> None:
        super().__init__()
        self.spectrum = WaveMel(shape[1]) if is_waveform(shape) else None
        mels, _ = self.spectrum.shape if self.spectrum is not None else shape
        self.fold = nn.AvgPool2d(2)
        self.trunk = _plain_convolutions(1, width, 3)
        self.over_time = nn.Conv1d(4 * width * (mels // 16), 4 * width, 3, padding=1)
        self.out = nn.Linear(8 * width, classes)

    def features(self, value: Tensor) -> Tensor:
        """Spectrograms (B, M, T) to (B, 8 · width)."""
        map_BCMT = self.trunk(self.fold(self._seen(value).unsqueeze(1)).contiguous(memory_format=torch.channels_last))
        frames_BDT = F.relu(self.over_time(map_BCMT.flatten(1, 2)))
        return torch.cat([frames_BDT.mean(2), frames_BDT.amax(2)], dim=1)

    def classify(self, features_BD: Tensor) -> Tensor:
        out: Tensor = self.out(F.dropout(features_BD, 0.3, self.training))
        return out.float()

    def augment(self, value: Tensor, rng: torch.Generator | None) -> Tensor:
        """Moved by up to 3 mels (pitch) and 8 frames (start), with some noise. Spectrograms (B, M, T)."""
        moved = _shift(self._seen(value).float().unsqueeze(1), 3, 8, -1.0, rng).squeeze(1)
        return moved + 0.1 * torch.randn(moved.shape, generator=rng, device=moved.device)

    def _seen(self, value: Tensor) -> Tensor:
        """Spectrograms (B, M, T) of waveforms; what is one already (as `augment` gives it) stays as it is."""
        if self.spectrum is None or value.shape[1] > 1:
            return value
        seen: Tensor = self.spectrum(value)
        return seen


class TextJudge(Judge):
    """A bidirectional GRU over the tokens, its peak over the positions.

    Args:
        classes: K.
        shape: (L, V): length of the id rows, size of the vocabulary.
        width: of the token embedding and of each direction.
    """

    modality: ClassVar[Modality] = "text"

    def __init__(self, *, classes: int, shape: tuple[int, ...], width: int = 32) -> None:
        super().__init__()
        _, vocabulary = shape
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=PAD)
        self.over_tokens = nn.GRU(width, width, batch_first=True, bidirectional=True)
        self.out = nn.Linear(2 * width, classes)

    def features(self, value: Tensor) -> Tensor:
        """Ids (B, L) to (B, 2 · width)."""
        states_BLD, _ = self.over_tokens(self.embedding(value))
        # float32 minimum, not infinity: a text of padding alone must not make NaN
        hidden: Tensor = states_BLD.float().masked_fill((value == PAD)[..., None], -1e4)
        return hidden.amax(1)

    def classify(self, features_BD: Tensor) -> Tensor:
        out: Tensor = self.out(F.dropout(features_BD, 0.1, self.training))
        return out.float()

    def augment(self, value: Tensor, rng: torch.Generator | None) -> Tensor:
        """Ids (B, L) as they are: any token may be the one that names the class."""
        return value


JUDGES: dict[Modality, type[ImageJudge] | type[AudioJudge] | type[TextJudge]] = {
    "image": ImageJudge,
    "audio": AudioJudge,
    "text": TextJudge,
}


def make_judge(modality: Modality, shape: tuple[int, ...], classes: int, width: int = 32) -> Judge:
    """A fresh judge for values of `shape`: image (C, H, W), audio (M, T), text (L, vocabulary).

    Its weights follow torch's global seed. Raises ConfigError for an unknown modality.
    """
    if modality not in JUDGES:
        raise ConfigError(unknown_name("modality", modality, JUDGES))
    return JUDGES[modality](classes=classes, shape=shape, width=width)
