"""The vocoder's part of `fit`: the training split's own sounds as batches of segments, and the training on them.

`tensors` features hold spectrograms only, so the sounds are read from the media shards, a batch at a time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmgen.artifact import FileEntry
from mmgen.batches import NO_LABEL, VALUE, Batch, Loader, Samples
from mmgen.codec_set import make_vocoder
from mmgen.codecs.config import IstftConfig
from mmgen.codecs.vocoder import vocoder_loss
from mmgen.extract import read_media
from mmgen.features import SlotLayout
from mmgen.fit_parts import Bench
from mmgen.modalities.audio import AudioMedia, downmix
from mmgen.modalities.table import MODALITIES
from mmgen.preprocess.audio import AudioPreprocess
from mmgen.store import Store
from mmgen.tars import TarReader, key_of, member_suffix
from mmgen.training.checkpoint import Checkpoint
from mmgen.training.loop import Trained, train

#: places of a recording where a segment may start, from its beginning to its end
PLACES = 1 << 16
#: media shards that are open at once
OPEN = 64


class Recordings(Samples):
    """The sounds of media shards as samples whose one slot, `value`, holds a segment (N,) of each, float32.

    The places where a segment may be cut count as alternatives, of which a Loader draws one per epoch. A segment may
    begin anywhere up to half its length before the end of its sound; what it has after that is silence. Of the sounds
    themselves only where they lie is held.

    hows: audio slot → its preprocessing (crop included); all of one rate, hop and cap. seconds: length of a segment.
    """

    def __init__(
        self, store: Store, shards: Sequence[FileEntry], hows: Mapping[str, AudioPreprocess], seconds: float
    ) -> None:
        self.store, self.hows = store, dict(hows)
        how = next(iter(hows.values()))
        wanted = round(seconds * how.sample_rate_hz)
        # whole frames, so that the vocoder makes as many samples as it is compared with; and more than one window
        frames = min(how.samples, max(wanted, 2 * how.n_fft)) // how.hop
        self.segment = frames * how.hop
        self.paths = [shard.path for shard in shards]
        slot_of = {member_suffix(slot, ending): slot for slot in hows for ending in MODALITIES["audio"].extensions}
        self._readers: OrderedDict[int, TarReader] = OrderedDict()
        #: (shard, member, slot) of each recording
        self.places: list[tuple[int, str, str]] = []
        for shard in range(len(self.paths)):
            members = self._reader(shard).index.members
            self.places += [(shard, each.name, slot_of[each.suffix]) for each in members if each.suffix in slot_of]
        self.layouts = {VALUE: SlotLayout("audio", (self.segment,), "float32")}
        self.counts = {VALUE: np.full(len(self.places), PLACES)}
        self.labels = np.full(len(self.places), NO_LABEL, dtype=np.int64)
        self.drawn_with = {}

    def __enter__(self) -> Recordings:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()

    def __len__(self) -> int:
        return len(self.places)

    @property
    def keys(self) -> list[str]:
        """Names of the members, in index order."""
        return [name for _, name, _ in self.places]

    def tokens(self, slot: str) -> int:
        """T of the mask: 1."""
        return 1

    def padded(self, slot: str) -> bool:
        """No: what is silent is sound."""
        return False

    def gather(self, slot: str, indices: np.ndarray, alternatives: np.ndarray) -> np.ndarray:
        """Segments (B, N) of these recordings at these places. Raises IntegrityError, SourceError."""
        out = np.zeros((len(indices), self.segment), dtype=np.float32)
        for row, (index, place) in enumerate(zip(indices.tolist(), alternatives.tolist(), strict=True)):
            wave = self.wave(index)
            start = max(0, len(wave) - self.segment // 2) * place // PLACES
            part = wave[start : start + self.segment]
            out[row, : len(part)] = part.numpy()
        return out

    def wave(self, index: int) -> Tensor:
        """A recording (N,) as the slot's preprocessing takes it, without padding."""
        shard, name, slot = self.places[index]
        samples, rate_hz = AudioMedia().decode(self._reader(shard).read(name))
        key = f"{key_of(name.split('.', 1)[0])}/{slot}"
        return self.hows[slot].cropped(torch.from_numpy(downmix(samples)), rate_hz, key)

    def _reader(self, shard: int) -> TarReader:
        if shard not in self._readers:
            while len(self._readers) >= OPEN:
                self._readers.popitem(last=False)[1].close()
            self._readers[shard] = read_media(self.store, self.paths[shard])
        self._readers.move_to_end(shard)
        return self._readers[shard]


def fit_vocoder(
    bench: Bench, config: IstftConfig, how: AudioPreprocess, sounds: Recordings, seed: int, checkpoint: Checkpoint
) -> tuple[dict[str, Any], Trained]:
    """Train a vocoder on these sounds. Returns what it is made with, {"kind", "args"}, and the training."""
    args = {"mels": how.mels, "n_fft": how.n_fft, "hop": how.hop, "width": config.width, "depth": config.depth}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vocoder: Any = make_vocoder(config.kind, args)
    vocoder.start_from(how.bank, how.log_floor, how.log_ceiling)
    vocoder.to(bench.world.device)

    def loss(batch: Batch, _rng: torch.Generator) -> dict[str, Tensor]:
        # padding rows are copies of real ones
        return vocoder_loss(vocoder, how, batch.values[VALUE], config.mel_weight)

    loader = Loader(
        sounds, batch_size=config.train.batch_size, seed=seed, rank=bench.world.rank, world=bench.world.size,
        device=bench.world.device,
    )  # fmt: skip
    trained = train(
        vocoder, loss, loader, config.train, world=bench.world, seed=seed, what="vocoder", checkpoint=checkpoint,
        progress=bench.progress,
    )  # fmt: skip
    return {"kind": config.kind, "args": args}, trained
