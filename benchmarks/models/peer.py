"""One of multivae's models: trained within a budget of processor time, then asked for every direction.

    <the peers' python> benchmarks/models/peer.py REQUEST.json

Runs in the peers' environment, without mmgen. The request: {"peer", "settings", "train", "exam", "made", "seed",
"cpu_seconds", "threads", "vocabulary", "joint", "components"}; train and exam are archives of arrays: values of each
slot, and for training, which of them are there. What it makes goes to `made`, as arrays named "given>made" ("a+b>c"),
">a" from the prior and ">a@gmm" from a mixture fitted to the training latents; one line of JSON says what it cost.
Budgets are process time, all threads.
"""

from __future__ import annotations

import itertools
import json
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from multivae.data.datasets.base import IncompleteDataset, MultimodalBaseDataset
from multivae.models import JNF, MVTCAE, JNFConfig, MMVAEPlus, MMVAEPlusConfig, MoPoE, MoPoEConfig, MVTCAEConfig
from multivae.samplers import GaussianMixtureSampler, GaussianMixtureSamplerConfig
from peer_networks import decoders, encoders
from torch import Tensor

BATCH, RATE = 128, 1e-3
LATENT, PRIVATE = 64, 32
#: conditions that are encoded at once
ROWS = 256
# process time of the warm-up of JNF's joint model, the rest is for its flows
JNF_JOINT_SHARE = 0.6
Values = dict[str, Tensor]


def values_of(archive: str, vocabulary: int) -> Values:
    """Slot → float values: grids (N, C, H, W), texts one-hot (N, L, V)."""
    found = {}
    with np.load(archive) as arrays:
        for name in arrays.files:
            if not name.startswith("value/"):
                continue
            value = torch.from_numpy(arrays[name])
            if not value.is_floating_point():
                value = torch.nn.functional.one_hot(value.long(), vocabulary).float()
            elif value.dim() == 3:
                # a spectrogram has one channel
                value = value.unsqueeze(1)
            found[name.removeprefix("value/")] = value
    return found


def model_of(peer: str, shapes: dict[str, tuple[int, ...]], settings: dict[str, Any]) -> Any:
    """A fresh model. settings: scale (of the grids' normals), rescale, beta; alpha, K."""
    kinds = {slot: "categorical" if len(shape) == 2 else "normal" for slot, shape in shapes.items()}
    shared: dict[str, Any] = {
        "n_modalities": len(shapes), "latent_dim": LATENT, "input_dims": shapes, "beta": settings["beta"],
        "uses_likelihood_rescaling": settings["rescale"], "decoders_dist": kinds,
        "decoder_dist_params": {slot: {"scale": settings["scale"]} for slot, kind in kinds.items() if kind == "normal"},
    }  # fmt: skip
    match peer:
        case "mvtcae":
            return MVTCAE(
                MVTCAEConfig(**shared, alpha=settings["alpha"]), encoders(shapes, LATENT), decoders(shapes, LATENT)
            )
        case "mopoe":
            return MoPoE(MoPoEConfig(**shared), encoders(shapes, LATENT), decoders(shapes, LATENT))
        case "mmvae_plus":
            config = MMVAEPlusConfig(**shared, K=settings["K"], modalities_specific_dim=PRIVATE, loss="iwae_looser")
            return MMVAEPlus(config, encoders(shapes, LATENT, PRIVATE), decoders(shapes, LATENT + PRIVATE))
        case "jnf":
            return JNF(JNFConfig(**shared, warmup=1), encoders(shapes, LATENT), decoders(shapes, LATENT))
        case _:
            raise SystemExit(f"peer: wanted mvtcae, mopoe, mmvae_plus or jnf, came {peer}")


def batches(count: int, seed: int) -> Iterator[Tensor]:
    """Rows of shuffled epochs, whole batches only."""
    rng = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(count, generator=rng)
        yield from (part for part in order.split(BATCH) if len(part) == min(BATCH, count))


def train(model: Any, peer: str, values: Values, present: Values | None, budget: float, seed: int) -> dict[str, Any]:
    """Adam until the budget of process time is spent."""
    rows = batches(len(next(iter(values.values()))), seed)
    optimiser = torch.optim.Adam(model.parameters(), lr=RATE)
    start, steps, skipped, phase = time.process_time(), 0, 0, 1
    model.train()
    while (used := time.process_time() - start) < budget:
        if peer == "jnf" and phase == 1 and used > JNF_JOINT_SHARE * budget:
            phase = 2
            model._set_torch_no_grad_on_joint_vae()
            optimiser = torch.optim.Adam([w for w in model.parameters() if w.requires_grad], lr=RATE)
        batch = next(rows)
        data = {slot: value[batch] for slot, value in values.items()}
        if present is None:
            inputs = MultimodalBaseDataset(data)
        else:
            inputs = IncompleteDataset(data, {slot: mask[batch] for slot, mask in present.items()})
        optimiser.zero_grad(set_to_none=True)
        loss = model(inputs, epoch=phase).loss
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_([w for w in model.parameters() if w.grad is not None], 1000.0)
        if torch.isfinite(norm):
            optimiser.step()
        else:
            skipped += 1
        steps += 1
    return {"cpu_s": time.process_time() - start, "steps": steps, "skipped": skipped}


def plain(made: Tensor) -> np.ndarray:
    """What a judge reads: token ids (N, L) of texts, grids (N, C, H, W) as they are."""
    array: np.ndarray = made.argmax(-1).int().numpy() if made.dim() == 3 else made.numpy()
    return array


class Remembered(torch.nn.Module):
    """An encoder that answers at once for the tensor that it has just seen: JNF's sampler asks a thousand times."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder, self.latent_dim = encoder, encoder.latent_dim
        self.seen: tuple[Tensor, Any] | None = None

    def forward(self, x: Tensor) -> Any:
        if self.seen is None or self.seen[0].shape != x.shape or not torch.equal(self.seen[0], x):
            self.seen = (x, self.encoder(x))
        return self.seen[1]


@torch.no_grad()
def directions(model: Any, exam: Values, names: list[str]) -> Iterator[tuple[str, Tensor]]:
    """("given>made", values) for every proper subset of the slots and every slot outside it."""
    count = len(next(iter(exam.values())))
    for size in range(1, len(names)):
        for given in itertools.combinations(names, size):
            wanted = [slot for slot in names if slot not in given]
            parts: dict[str, list[Tensor]] = {slot: [] for slot in wanted}
            for start in range(0, count, ROWS):
                inputs = MultimodalBaseDataset({slot: value[start : start + ROWS] for slot, value in exam.items()})
                # JNF's product of posteriors is sampled by Hamiltonian steps, which want gradients
                with torch.enable_grad():
                    found = model.predict(inputs, cond_mod=list(given), gen_mod=wanted)
                for slot in wanted:
                    parts[slot].append(found[slot].detach())
            yield from ((f"{'+'.join(given)}>{slot}", torch.cat(parts[slot])) for slot in wanted)


@torch.no_grad()
def joint(model: Any, values: Values, count: int, components: int) -> Iterator[tuple[str, Tensor]]:
    """(">slot", values) from the prior, and (">slot@gmm", values) from a mixture fitted to training latents."""
    for slot, made in model.decode(model.generate_from_prior(count)).items():
        yield f">{slot}", made
    sampler = GaussianMixtureSampler(model, GaussianMixtureSamplerConfig(n_components=components))
    sampler.fit(MultimodalBaseDataset(values))
    for slot, made in model.decode(sampler.sample(count)).items():
        yield f">{slot}@gmm", made


def main(request: dict[str, Any]) -> dict[str, Any]:
    """Train and make; see the module."""
    logging.disable(logging.INFO)
    torch.set_num_threads(request["threads"])
    torch.manual_seed(request["seed"])
    np.random.seed(request["seed"])
    values, exam = (values_of(request[name], request["vocabulary"]) for name in ("train", "exam"))
    shapes = {slot: tuple(value.shape[1:]) for slot, value in values.items()}
    with np.load(request["train"]) as arrays:
        there = {slot: torch.from_numpy(arrays[f"present/{slot}"]) for slot in values}
    whole = torch.stack(list(there.values())).all(0)
    present = None if bool(whole.all()) else there
    if request["peer"] == "jnf" and present is not None:
        # it cannot take incomplete samples: those that are whole are what it has
        values, present = {slot: value[whole] for slot, value in values.items()}, None
    model = model_of(request["peer"], shapes, request["settings"])
    model.device = "cpu"
    cost = train(model, request["peer"], values, present, request["cpu_seconds"], request["seed"])
    model.eval().requires_grad_(False)
    if request["peer"] == "jnf":
        model.encoders = torch.nn.ModuleDict({slot: Remembered(each) for slot, each in model.encoders.items()})
    complete = values if present is None else {slot: value[whole] for slot, value in values.items()}
    start, names = time.process_time(), sorted(values)
    made = {}
    found = itertools.chain(
        directions(model, exam, names), joint(model, complete, request["joint"], request["components"])
    )
    for name, value in found:
        made[name] = plain(value)
    np.savez(request["made"], **made)
    weights = sum(weight.numel() for weight in model.parameters())
    return {**cost, "making_cpu_s": time.process_time() - start, "rows": len(next(iter(values.values()))),
            "parameters": weights}  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))))
