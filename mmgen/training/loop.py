"""The one training loop: codecs, fusion, generators and judges all go through `train`.

The host never waits for the device within a step: losses, norms and what is not finite stay there as tensors and are
read every few steps. What a step draws depends on (seed, step, slice) alone, so a run that was stopped goes on as if it
had not been.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from mmgen.batches import Batch, Loader
from mmgen.errors import ConfigError, GateError
from mmgen.runtime import Bar, Progress, Silent
from mmgen.training.checkpoint import Checkpoint
from mmgen.training.config import TrainConfig
from mmgen.training.optimise import Average, Optimiser, rate_at
from mmgen.training.parallel import World

READ_STEPS = 25
CHECKPOINT_SECONDS = 60.0

# (batch, noise) → {"loss": scalar to minimise, …: further scalars to show}, means over rows of weight 1
Loss = Callable[[Batch, torch.Generator], dict[str, Tensor]]


@dataclass
class Curves:
    """What was read during a training: one entry each per reading (means over the steps since the one before)."""

    step: list[int] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)
    norm: list[float] = field(default_factory=list)
    parts: dict[str, list[float]] = field(default_factory=dict)

    @property
    def loss(self) -> list[float]:
        return self.parts.get("loss", [])


@dataclass(frozen=True)
class Trained:
    """steps: taken in all. skipped: of these, without an update because something was not finite.
    seconds: of this process, after a resume only its own part. module holds the average if one was kept."""

    module: nn.Module
    steps: int
    skipped: int
    curves: Curves
    seconds: float
    samples: int
    bf16: bool


@dataclass(frozen=True)
class Callbacks:
    """What is called during a training. on_epoch: (epoch from 1, mean loss of it). on_read: (step, means by name)."""

    on_epoch: Callable[[int, float], None] | None = None
    on_read: Callable[[int, dict[str, float]], None] | None = None


def seed_of(*parts: int) -> int:
    """A 63-bit seed that depends on all parts."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


def bf16_works(device: torch.device) -> bool:
    """Whether bfloat16 has instructions of its own there."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def train(
    module: nn.Module,
    loss: Loss,
    loader: Loader,
    config: TrainConfig,
    *,
    world: World,
    seed: int,
    what: str,
    checkpoint: Checkpoint | None = None,
    callbacks: Callbacks | None = None,
    progress: Progress | None = None,
    bf16: bool | None = None,
) -> Trained:
    """Train `module` (already on `world.device`) until its budget is spent. `loss` must use its weights.

    checkpoint: where to go on from, and to leave marks. bf16: None means where it has instructions of its own.
    Raises ConfigError (slices that do not fit the processes), GateError (`max_bad_steps` in a row were not finite).
    """
    run = _Run(module, loss, loader, config, world, seed, what, checkpoint, callbacks or Callbacks(), bf16)
    with torch.random.fork_rng(devices=[world.device] if world.device.type == "cuda" else []):
        return run.run(progress or Silent())


@torch.no_grad()
def mean_loss(module: nn.Module, loss: Loss, loader: Loader, seed: int) -> float:
    """Mean loss over one epoch of `loader`, in float32, with noise that depends on (seed, batch) alone."""
    rng = torch.Generator(loader.device)
    total, weight = 0.0, 0.0
    module.eval()
    for number, batch in enumerate(loader):
        rng.manual_seed(seed_of(seed, number))
        rows = float(batch.weights_B.sum())
        total += float(loss(batch, rng)["loss"]) * rows
        weight += rows
    return total / max(1.0, weight)


class _Run:
    """One training's state."""

    def __init__(
        self,
        module: nn.Module,
        loss: Loss,
        loader: Loader,
        config: TrainConfig,
        world: World,
        seed: int,
        what: str,
        checkpoint: Checkpoint | None,
        callbacks: Callbacks,
        bf16: bool | None,
    ) -> None:
        self.module, self.loss, self.loader, self.config = module, loss, loader, config
        self.world, self.seed, self.what = world, seed, what
        self.checkpoint, self.callbacks = checkpoint, callbacks
        self.slices = config.slices if world.size == 1 else max(config.slices, world.size)
        if self.slices % world.size:
            raise ConfigError(f"slices: wanted a multiple of the {world.size} processes, came {self.slices}")
        self.bf16 = bf16_works(world.device) if bf16 is None else bf16
        world.share([*module.parameters(), *module.buffers()])
        self.optimiser = Optimiser(module, config)
        self.average = Average(module, config.ema_decay) if config.ema_decay else None
        self.total = config.steps or (config.epochs or 0) * loader.per_epoch
        self.step, self.skipped, self.curves = 0, 0, Curves()
        self.rng = torch.Generator(world.device)
        self.window: dict[str, Tensor] = {}
        self.epoch_sum: dict[str, Tensor] = {}
        self.streak = torch.zeros((), device=world.device)

    def run(self, progress: Progress) -> Trained:
        started = marked = time.monotonic()
        self._resume()
        self.module.train()
        with progress.bar(self.what, self.total) as bar:
            bar.advance(self.step)
            while self.step < self.total:
                epoch = self.loader.epoch
                self._take_step()
                bar.advance(1)
                if self.step % READ_STEPS == 0 or self.step == self.total:
                    self._read(bar)
                if self.loader.epoch > epoch:
                    self._end_epoch(self.loader.epoch)
                if self._due(time.monotonic() - marked):
                    self._save()
                    marked = time.monotonic()
        if self.average is not None:
            self.module.load_state_dict(self.average.module.state_dict())
        self.module.eval()
        seconds = time.monotonic() - started
        return Trained(self.module, self.step, self.skipped, self.curves, seconds, self.loader.consumed, self.bf16)

    def _take_step(self) -> None:
        """One global batch: every slice's gradient, summed over slices and processes, then one update."""
        self.optimiser.clear()
        batch = self.loader.next()
        totals: dict[str, Tensor] = {}
        for number, part, share in self._parts(batch):
            self.rng.manual_seed(seed_of(self.seed, self.step, number))
            torch.manual_seed(seed_of(self.seed, self.step, number, 1))  # dropout draws from the global stream
            with self._autocast():
                losses = self.loss(part, self.rng)
            torch.autograd.backward([losses["loss"] * share])
            for name, value in losses.items():
                scaled = value.detach().float() * share
                totals[name] = totals[name] + scaled if name in totals else scaled
        self.world.sum([*self.optimiser.gradients(), *totals.values()])
        norm, bad = self.optimiser.step(rate_at(self.step, self.total, self.config), totals["loss"])
        if self.average is not None:
            self.average.update(self.step)
        self._note(totals, norm, bad)
        self.step += 1

    def _parts(self, batch: Batch) -> Iterator[tuple[int, Batch, Tensor]]:
        """(number of the slice in the global batch, its rows, its share of the global batch's weight)."""
        mine = self.slices // self.world.size
        size = len(batch) // mine
        for number in range(mine):
            part = batch.rows(number * size, (number + 1) * size) if mine > 1 else batch
            weight = part.weights_B.sum()
            # a slice of padding alone must still give a finite loss, which then counts nothing
            part.weights_B.masked_fill_(weight == 0, 1.0)
            yield self.world.rank * mine + number, part, weight / self.loader.real

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        if not self.bf16:
            return contextlib.nullcontext()
        return torch.autocast(self.world.device.type, dtype=torch.bfloat16)

    def _note(self, totals: dict[str, Tensor], norm: Tensor, bad: Tensor) -> None:
        """Add to what is read later, without looking at it."""
        self.streak = (self.streak + bad) * bad
        good = 1 - bad
        seen = {name: torch.where(bad > 0, 0.0, value) for name, value in totals.items()}
        seen |= {"|norm": torch.where(bad > 0, 0.0, norm), "|good": good, "|bad": bad}
        for name, value in seen.items():
            self.window[name] = self.window[name] + value if name in self.window else value
        for name in ("loss", "|good"):
            self.epoch_sum[name] = self.epoch_sum[name] + seen[name] if name in self.epoch_sum else seen[name]

    def _read(self, bar: Bar) -> None:
        """Look at the window (this is where the host waits). Raises GateError if nothing is finite any more."""
        names = list(self.window)
        read = dict(zip(names, torch.stack([*self.window.values()]).tolist(), strict=True))
        self.window = {}
        self.skipped += int(read.pop("|bad"))
        good = max(1.0, read.pop("|good"))
        if self.streak.item() >= self.config.max_bad_steps:
            raise GateError(
                f"{self.what}: the loss or its gradients were not finite for {int(self.streak.item())} steps in a row "
                f"up to step {self.step} (max_bad_steps {self.config.max_bad_steps}); "
                "a lower learning_rate or a smaller max_grad_norm may help"
            )
        means = {name: value / good for name, value in read.items()}
        self.curves.step.append(self.step)
        self.curves.rate.append(rate_at(self.step - 1, self.total, self.config))
        self.curves.norm.append(means.pop("|norm"))
        for name, value in means.items():
            self.curves.parts.setdefault(name, []).append(value)
        bar.advance(0, f"loss {means['loss']:.4f}")
        if self.callbacks.on_read:
            self.callbacks.on_read(self.step, means)

    def _end_epoch(self, epoch: int) -> None:
        total, good = torch.stack([self.epoch_sum["loss"], self.epoch_sum["|good"]]).tolist()
        self.epoch_sum = {}
        if self.callbacks.on_epoch:
            self.callbacks.on_epoch(epoch, total / max(1.0, good))
            self.module.train()

    def _due(self, seconds: float) -> bool:
        if self.checkpoint is None or not self.world.first:
            return False
        return self.step % self.config.checkpoint_steps == 0 or self.step == self.total or seconds > CHECKPOINT_SECONDS

    def _save(self) -> None:
        assert self.checkpoint is not None
        groups = {"module": self.module.state_dict(), "optimiser": self.optimiser.state()}
        if self.average is not None:
            groups["average"] = self.average.module.state_dict()
        groups["sums"] = {"streak": self.streak} | {f"window/{k}": v for k, v in self.window.items()}
        groups["sums"] |= {f"epoch/{k}": v for k, v in self.epoch_sum.items()}
        curves = self.curves
        counters = {
            "step": self.step, "consumed": self.loader.consumed, "skipped": self.skipped,
            "curves": {"step": curves.step, "rate": curves.rate, "norm": curves.norm, "parts": curves.parts},
        }  # fmt: skip
        self.checkpoint.save(groups, counters)

    def _resume(self) -> None:
        found = self.checkpoint.load() if self.checkpoint is not None else None
        if found is None:
            return
        groups, counters = found
        self.module.load_state_dict(groups["module"])
        if self.average is not None:
            self.average.module.load_state_dict(groups["average"])
        self.optimiser.restore(groups["optimiser"])
        device = self.world.device
        self.streak = groups["sums"].pop("streak").to(device)
        for full, tensor in groups["sums"].items():
            where, name = full.split("/", 1)
            (self.window if where == "window" else self.epoch_sum)[name] = tensor.to(device)
        self.step, self.skipped = counters["step"], counters["skipped"]
        self.loader.consumed = counters["consumed"]
        self.curves = Curves(**counters["curves"])
