"""The one training loop: codecs, fusion, generators and judges all go through `train`.

The host never waits for the device within a step: losses, norms and what is not finite stay there as tensors and are
read every few steps. What a step draws depends on (seed, step, slice) alone, so a run that was stopped goes on as if it
had not been; looks at the validation loss draw from streams of their own.

A step whose loss or gradients are not finite changes neither weights nor moments, so there is never anything to put
back: it is skipped and counted. Many of them halve the learning rate until they stop, as the scale of mixed-precision
training does (Micikevicius et al. 2018, arXiv:1710.03740); too many in a row end the training.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmgen.batches import Batch, Loader
from mmgen.errors import ConfigError, GateError
from mmgen.runtime import Bar, Progress, Silent, keep_freed_memory
from mmgen.training.best import Best
from mmgen.training.checkpoint import Checkpoint
from mmgen.training.config import TrainConfig
from mmgen.training.kernels import deterministic
from mmgen.training.optimise import Average, Optimiser, rate_at
from mmgen.training.parallel import World
from mmgen.training.profile import Clock, Stopwatch, shown
from mmgen.training.readings import Curves, Readings

READ_STEPS = 25
CHECKPOINT_SECONDS = 60.0

# (batch, noise) → {"loss": scalar to minimise, …: further scalars to show}, means over rows of weight 1
Loss = Callable[[Batch, torch.Generator], dict[str, Tensor]]


@dataclass(frozen=True)
class Trained:
    """steps: taken in all. skipped: of these, without an update because something was not finite.
    seconds: of this process, after a resume only its own part. module holds the average if one was kept, of the step
    `taken`. profile: what `Stopwatch.found` gives, where it was asked for."""

    module: nn.Module
    steps: int
    skipped: int
    curves: Curves
    seconds: float
    samples: int
    bf16: bool
    taken: int
    profile: dict[str, Any] | None


@dataclass(frozen=True)
class Callbacks:
    """What is called during a training. on_epoch: (epoch from 1, mean loss of it). on_read: (step, means by name).

    validate: the validation loss of a module, which is the average if one is kept; on_look: (step, that loss).
    """

    on_epoch: Callable[[int, float], None] | None = None
    on_read: Callable[[int, dict[str, float]], None] | None = None
    validate: Callable[[nn.Module], float] | None = None
    on_look: Callable[[int, float], None] | None = None


def seed_of(*parts: int) -> int:
    """A 63-bit seed that depends on all parts."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1


def seed_torch(device: torch.device, seed: int) -> None:
    """Seed the stream that dropout draws from on `device`."""
    if device.type == "cpu":
        # torch.manual_seed looks for every kind of accelerator, which takes 1.3 ms
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


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
    profile: bool = False,
) -> Trained:
    """Train `module` (already on `world.device`) until its budget is spent. `loss` must use its weights.

    checkpoint: where to go on from, and to leave marks. bf16: None means where it has instructions of its own.
    profile: measure where the time goes, and say it at the end.
    Raises ConfigError (slices that do not fit the processes, `validate_steps` without `callbacks.validate`, no
    deterministic kernel), GateError (`max_bad_steps` in a row were not finite).
    """
    if config.validate_steps and (callbacks is None or callbacks.validate is None):
        raise ConfigError(f"{what}: validate_steps: wanted validation rows to look at, this training has none")
    if world.device.type == "cpu":
        # every step allocates and frees the same gradients: without this a tenth of its time is the kernel's
        keep_freed_memory()
    devices = [world.device] if world.device.type == "cuda" else []
    with deterministic(config.deterministic, what), torch.random.fork_rng(devices=devices):
        run = _Run(
            module, loss, loader, config, world, seed, what, checkpoint, callbacks or Callbacks(),
            progress or Silent(), bf16, Stopwatch(world.device) if profile else Clock(),
        )  # fmt: skip
        return run.run()


def mean_loss(module: nn.Module, loss: Loss, loader: Loader, seed: int) -> float:
    """Mean loss over one epoch of `loader`; see `mean_losses`."""
    return mean_losses(module, loss, loader, seed)["loss"]


@torch.no_grad()
def mean_losses(module: nn.Module, loss: Loss, loader: Loader, seed: int) -> dict[str, float]:
    """Mean over one epoch of `loader` of all that `loss` gives, in float32, with noise of (seed, batch) alone."""
    rng = torch.Generator(loader.device)
    totals: dict[str, float] = {}
    weight = 0.0
    module.eval()
    for number, batch in enumerate(loader):
        rng.manual_seed(seed_of(seed, number))
        rows = float(batch.weights_B.sum())
        for name, value in loss(batch, rng).items():
            totals[name] = totals.get(name, 0.0) + float(value) * rows
        weight += rows
    return {name: total / max(1.0, weight) for name, total in totals.items()}


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
        progress: Progress,
        bf16: bool | None,
        clock: Clock,
    ) -> None:
        self.module, self.loader, self.config = module, loader, config
        self.loss = torch.compile(loss) if config.compile else loss
        self.world, self.seed, self.what = world, seed, what
        self.checkpoint, self.callbacks, self.progress, self.clock = checkpoint, callbacks, progress, clock
        self.slices = config.slices if world.size == 1 else max(config.slices, world.size)
        if self.slices % world.size:
            raise ConfigError(f"slices: wanted a multiple of the {world.size} processes, came {self.slices}")
        self.bf16 = bf16_works(world.device) if bf16 is None else bf16
        world.share([*module.parameters(), *module.buffers()])
        self.optimiser = Optimiser(module, config)
        self.average = Average(module, config.ema_decay) if config.ema_decay else None
        self.total = config.steps or (config.epochs or 0) * loader.per_epoch
        self.step, self.skipped, self.curves = 0, 0, Curves()
        # what the back-off leaves of the learning rate
        self.share = 1.0
        self.best = Best()
        self.rng = torch.Generator(world.device)
        self.readings = Readings(world.device)

    def run(self) -> Trained:
        started = marked = time.monotonic()
        self._resume()
        first = self.step
        self.module.train()
        with self.progress.bar(self.what, self.total) as bar:
            bar.advance(self.step)
            while self.step < self.total and not self._patience_is_over():
                epoch = self.loader.epoch
                self._take_step()
                bar.advance(1)
                if self.step % READ_STEPS == 0 or self.step == self.total:
                    self._read(bar)
                if self.loader.epoch > epoch:
                    self._end_epoch(self.loader.epoch)
                if self._look_is_due():
                    self._look()
                if self._due(time.monotonic() - marked):
                    self._save()
                    marked = time.monotonic()
        return self._end(first, time.monotonic() - started)

    def _end(self, first: int, seconds: float) -> Trained:
        """What was asked for of what was made."""
        taken = self.step
        if self.config.take == "best" and self.best.weights:
            self.module.load_state_dict(self.best.weights)
            taken = self.best.step
        elif self.average is not None:
            self.module.load_state_dict(self.average.module.state_dict())
        self.module.eval()
        profile = self.clock.found(self.step - first) if isinstance(self.clock, Stopwatch) else None
        if profile is not None and self.world.first:
            self.progress.say(shown(self.what, profile))
        return Trained(
            self.module, self.step, self.skipped, self.curves, seconds, self.loader.consumed, self.bf16, taken, profile
        )

    def _take_step(self) -> None:
        """One global batch: every slice's gradient, summed over slices and processes, then one update."""
        self.clock.to("loader")
        batch = self.loader.next()
        self.clock.to("optimizer")
        self.optimiser.clear()
        names: list[str] = []
        sums_N: Tensor | None = None
        for number, part, share in self._parts(batch):
            self.clock.to("forward")
            self.rng.manual_seed(seed_of(self.seed, self.step, number))
            seed_torch(self.world.device, seed_of(self.seed, self.step, number, 1))
            with self._autocast():
                losses = self.loss(part, self.rng)
            self.clock.to("backward")
            torch.autograd.backward([losses["loss"] * share])
            self.clock.to("host")
            names = list(losses)
            scaled_N = torch.stack([value.detach().float() for value in losses.values()]) * share
            sums_N = scaled_N if sums_N is None else sums_N + scaled_N
        assert sums_N is not None
        self.clock.to("exchange")
        self.world.sum([*self.optimiser.gradients(), sums_N])
        self.clock.to("optimizer")
        norm, bad = self.optimiser.step(self._rate(self.step), sums_N[names.index("loss")])
        if self.average is not None:
            self.average.update(self.step)
        self.clock.to("host")
        self.readings.note(names, sums_N, norm, bad)
        self.step += 1

    def _rate(self, step: int) -> float:
        return rate_at(step, self.total, self.config) * self.share

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

    def _read(self, bar: Bar) -> None:
        """Look at the readings. Raises GateError if nothing is finite any more."""
        seen = self.readings.read()
        self.skipped += seen.bad
        if seen.streak >= self.config.max_bad_steps:
            raise GateError(
                f"{self.what}: the loss or its gradients were not finite for {seen.streak} steps in a row "
                f"up to step {self.step} (max_bad_steps {self.config.max_bad_steps}); "
                "a lower learning_rate or a smaller max_grad_norm may help"
            )
        self.curves.step.append(self.step)
        self.curves.rate.append(self._rate(self.step - 1))
        self.curves.norm.append(seen.norm)
        for name, value in seen.means.items():
            self.curves.parts.setdefault(name, []).append(value)
        bar.advance(0, f"loss {seen.means['loss']:.4f}")
        self._back_off(seen.bad)
        if self.callbacks.on_read:
            self.callbacks.on_read(self.step, seen.means)

    def _back_off(self, bad: int) -> None:
        """Halve the learning rate for many bad steps, double it back once there are none."""
        many = self.config.back_off_steps
        share = self.share
        if many is not None and bad >= many:
            share = self.share / 2
        elif bad == 0:
            share = min(1.0, self.share * 2)
        if share != self.share:
            self.share = share
            self.progress.say(
                f"{self.what}: {bad} of the steps up to {self.step} were not finite; learning rate × {share:g}"
            )

    def _end_epoch(self, epoch: int) -> None:
        mean = self.readings.end_epoch()
        if self.callbacks.on_epoch:
            self.callbacks.on_epoch(epoch, mean)
            self.module.train()

    def _look_is_due(self) -> bool:
        every = self.config.validate_steps
        return every is not None and (self.step % every == 0 or self.step == self.total)

    def _look(self) -> None:
        """The validation loss of what would be committed now, the same number in every process."""
        assert self.callbacks.validate is not None
        self.clock.to("validation")
        held = self.module if self.average is None else self.average.module
        told = torch.tensor(self.callbacks.validate(held.eval()), dtype=torch.float64, device=self.world.device)
        self.world.share([told])
        self.module.train()
        loss = float(told)
        self.best.look(self.step, loss, held)
        self.curves.looks.append(self.step)
        self.curves.validation.append(loss)
        self.clock.to("host")
        if self.callbacks.on_look:
            self.callbacks.on_look(self.step, loss)

    def _patience_is_over(self) -> bool:
        return self.config.patience is not None and self.best.since >= self.config.patience

    def _due(self, seconds: float) -> bool:
        if self.checkpoint is None or not self.world.first:
            return False
        ends = self.step == self.total or self._patience_is_over()
        return ends or self.step % self.config.checkpoint_steps == 0 or seconds > CHECKPOINT_SECONDS

    def _save(self) -> None:
        assert self.checkpoint is not None
        self.clock.to("checkpoint")
        groups = {"module": self.module.state_dict(), "optimiser": self.optimiser.state()}
        if self.average is not None:
            groups["average"] = self.average.module.state_dict()
        groups |= {"best": self.best.weights, "readings": self.readings.state()}
        counters = {
            "step": self.step, "consumed": self.loader.consumed, "skipped": self.skipped, "share": self.share,
            "best": self.best.counters(), "curves": vars(self.curves),
        }  # fmt: skip
        self.checkpoint.save(self.step, groups, counters)
        self.clock.to("host")

    def _resume(self) -> None:
        found = self.checkpoint.load() if self.checkpoint is not None else None
        if found is None:
            return
        for name in found.damaged:
            self.progress.say(f"{self.what}: {name} is damaged; going on from step {found.counters['step']}")
        groups, counters = found.groups, found.counters
        self.module.load_state_dict(groups["module"])
        if self.average is not None:
            self.average.module.load_state_dict(groups["average"])
        self.optimiser.restore(groups["optimiser"])
        self.readings.restore(groups["readings"])
        device = self.world.device
        weights = {name: tensor.to(device) for name, tensor in groups.get("best", {}).items()}
        self.best = Best.restored(counters["best"], weights)
        self.step, self.skipped, self.share = counters["step"], counters["skipped"], counters["share"]
        self.loader.consumed = counters["consumed"]
        self.curves = Curves(**counters["curves"])
