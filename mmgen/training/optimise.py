"""Optimiser, learning-rate schedule and moving average of the weights. Nothing here waits for the device."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from mmgen.training.config import TrainConfig


def rate_at(step: int, total: int, config: TrainConfig) -> float:
    """Learning rate of step `step` (from 0) of `total`: linear warm-up, then constant or a half cosine to 0."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.learning_rate
    done = (step - config.warmup_steps) / max(1, total - config.warmup_steps)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


class Optimiser:
    """Adam or AdamW whose step does nothing, on the device and without asking, where `bad` is 1.

    Kingma & Ba, arXiv:1412.6980; Loshchilov & Hutter, arXiv:1711.05101. Weights of one dimension (biases, norms)
    do not decay.
    """

    def __init__(self, module: nn.Module, config: TrainConfig) -> None:
        self.named = {name: weight for name, weight in module.named_parameters() if weight.requires_grad}
        self.weights = list(self.named.values())
        decaying = [weight for weight in self.weights if weight.dim() > 1]
        others = [weight for weight in self.weights if weight.dim() <= 1]
        groups = [
            {"params": decaying, "weight_decay": config.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
        used = [group for group in groups if group["params"]]
        self.inner = kind(used, lr=config.learning_rate, betas=(config.beta1, 0.999), fused=True)
        self.max_grad_norm = config.max_grad_norm

    def clear(self) -> None:
        self.inner.zero_grad(set_to_none=True)

    def gradients(self) -> list[Tensor]:
        """Gradients of all weights; zeros where this process's part of the batch did not reach one."""
        for weight in self.weights:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        return [weight.grad for weight in self.weights if weight.grad is not None]

    def step(self, rate: float, loss: Tensor) -> tuple[Tensor, Tensor]:
        """Clip and update. Returns the gradient's norm and `bad`: 1.0 where it or the loss is not finite, else 0.0."""
        gradients = self.gradients()
        norm = torch.nn.utils.get_total_norm(gradients)
        bad = (~(torch.isfinite(norm) & torch.isfinite(loss))).float()
        if self.max_grad_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self.weights, self.max_grad_norm, norm)
        for group in self.inner.param_groups:
            group["lr"] = rate
        # the fused kernels read this tensor themselves, so the host need not know
        self.inner.found_inf = bad  # type: ignore[union-attr, attr-defined, unused-ignore]
        self.inner.step()
        return norm, bad

    def state(self) -> dict[str, Tensor]:
        """Its tensors by name, for a checkpoint."""
        found: dict[str, Tensor] = {}
        for name, weight in self.named.items():
            for key, tensor in self.inner.state[weight].items():
                found[f"{key}/{name}"] = tensor
        return found

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take back what `state` gave."""
        for name, weight in self.named.items():
            for key in ("step", "exp_avg", "exp_avg_sq"):
                if f"{key}/{name}" in state:
                    kept = state[f"{key}/{name}"].to(weight.device)
                    # the fused kernel goes by memory, not by index: a moment has to lie as its weight does
                    self.inner.state[weight][key] = torch.empty_like(weight).copy_(kept) if kept.dim() else kept


class Average:
    """Exponential moving average of a module's weights; its buffers are copied.

    The decay grows as (1 + step) / (10 + step) up to `decay`, so that early averages are not of the random start.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(module).requires_grad_(False).eval()
        self.decay = decay
        self._mine: list[Tensor] = [*self.module.parameters()]
        self._theirs = [weight.detach() for weight in module.parameters()]
        self._buffers = list(zip(self.module.buffers(), module.buffers(), strict=True))

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after step `step` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._mine, self._theirs, 1 - decay)
        for mine, theirs in self._buffers:
            mine.copy_(theirs)
