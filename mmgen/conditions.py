"""What is asked of a model, in its own terms: conditions as values, slots that it has, how its flow is led."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from mmgen.asking import Asked, Given
from mmgen.batches import Batch
from mmgen.errors import ConfigError, UnknownReference, unknown_name
from mmgen.generators.sampling import Sampling, Steering
from mmgen.maker import Maker
from mmgen.preprocess.text import TextPreprocess
from mmgen.uris import read_uri

GUIDANCE, JOINT_GUIDANCE, STEPS, CANDIDATES = 2.0, 1.0, 20, 1


def targets(maker: Maker, named: set[str], to: tuple[str, ...]) -> tuple[str, ...]:
    """`to`, checked beside the named slots. Raises UnknownReference, ConfigError (none, or one that is not made)."""
    for slot in (*named, *to):
        if slot not in maker.slots:
            raise UnknownReference(unknown_name("slot", slot, maker.slots))
    if not to:
        raise ConfigError("generate: every slot is given, nothing is left to make; name what to make with `to`")
    if refused := [slot for slot in to if slot not in maker.makes]:
        raise ConfigError(f"this model makes {', '.join(maker.makes)}; asked for {', '.join(refused)}")
    return to


def check_pairs(
    pairs: Mapping[tuple[str, str], float], slots: Sequence[str], named: set[str], to: Sequence[str]
) -> None:
    """named: slots that are given. Raises UnknownReference, ConfigError for a pair that has nothing to say."""
    for given, made in pairs:
        for slot in (given, made):
            if slot not in slots:
                raise UnknownReference(unknown_name("slot", slot, slots))
        if made not in to or given == made or given not in named | set(to):
            raise ConfigError(
                f"pairs: wanted a slot that is given or made and another that is made, came {given}:{made}; "
                f"given: {', '.join(sorted(named)) or 'none'}; made: {', '.join(to)}"
            )


def sampling(defaults: Mapping[str, float], asked: Asked, led: bool) -> Sampling:
    """With what the model's package says where nothing is asked; led: whether there is any condition.

    Raises ConfigError for a negative condition that would change nothing, or numbers out of their range.
    """
    guidance, steps = asked.guidance, asked.steps
    if guidance is None:
        guidance = defaults.get("guidance", GUIDANCE) if led else defaults.get("joint_guidance", JOINT_GUIDANCE)
    if asked.negative and guidance == 1 and not asked.pairs:
        raise ConfigError("negative: a guidance of 1 moves away from nothing; wanted another guidance beside it")
    steps = int(defaults.get("steps", STEPS)) if steps is None else steps
    many = int(defaults.get("candidates", CANDIDATES)) if asked.candidates is None else asked.candidates
    return Sampling(
        steps, float(guidance), dict(asked.pairs), asked.sampler, asked.shift, asked.temperature, asked.top_k,
        asked.top_p, asked.beams, many,
    )  # fmt: skip


def steering(maker: Maker, given: Sequence[Mapping[str, Given]], to: tuple[str, ...], asked: Asked) -> Steering | None:
    """A row for each condition; None if there is nothing but conditions."""
    if not (asked.mix or asked.negative or asked.strength is not None):
        return None
    mix = tuple((weight, conditions(maker, [{**row, **mixed} for row in given])) for weight, mixed in asked.mix)
    negative = conditions(maker, [asked.negative] * len(given)) if asked.negative else None
    if asked.strength is None:
        return Steering(mix, negative)
    if missing := [slot for slot in to if any(slot not in row for row in given)]:
        raise ConfigError(f"strength: wanted what is varied, '{missing[0]}' is made and not given")
    return Steering(mix, negative, {slot: conditions(maker, given).values[slot] for slot in to}, asked.strength)


def beginnings(
    maker: Maker, prefix: Mapping[str, str | Sequence[str]], to: Sequence[str], count: int
) -> dict[str, Tensor]:
    """Text slot → ids (count, L) that its texts begin with, one row per condition. Raises ConfigError."""
    return {slot: _begun(maker, slot, begun, to, count) for slot, begun in prefix.items()}


def _begun(maker: Maker, slot: str, begun: str | Sequence[str], to: Sequence[str], count: int) -> Tensor:
    how = maker.codecs.preprocesses.get(slot)
    if slot not in to or not isinstance(how, TextPreprocess):
        raise ConfigError(f"prefix: wanted text slots that are made ({', '.join(to)}), came '{slot}'")
    texts = [begun] * count if isinstance(begun, str) else list(begun)
    if len(texts) != count:
        raise ConfigError(f"prefix.{slot}: wanted one text, or one for each of {count}, came {len(texts)}")
    for text in texts:
        # bos and eos count too, and one id more is to be written
        if (long := how.tokenizer.count(text)) >= how.max_tokens:
            room = how.max_tokens - 3
            raise ConfigError(f"prefix.{slot}: wanted at most {room} tokens, '{text[:40]}' has {long - 2}")
    rows = np.stack([how.compact(text.encode(), slot) for text in texts])
    return how.value(torch.from_numpy(rows)).to(maker.device)


def conditions(maker: Maker, given: Sequence[Mapping[str, Given]]) -> Batch:
    """`tensors` values of what each row gives; slots that it does not are absent."""
    values, masks = {}, {}
    for slot, how in maker.codecs.preprocesses.items():
        empty = how.value(torch.zeros((1, *how.shape), dtype=getattr(torch, how.dtype)))
        each = [
            maker.codecs.value(slot, read_given(row[slot], how.modality)) if slot in row else torch.zeros_like(empty)
            for row in given
        ]
        values[slot] = torch.cat(each).to(maker.device)
        masks[slot] = torch.tensor([[slot in row] for row in given], device=maker.device)
    count = len(given)
    labels, weights = torch.full((count,), -1, device=maker.device), torch.ones(count, device=maker.device)
    return Batch(values, masks, labels, weights, [str(row) for row in range(count)])


def read_given(given: Given, modality: str) -> bytes:
    """The bytes of what is given: a text's own, a file's. Raises UnknownReference."""
    if isinstance(given, bytes):
        return given
    if modality == "text" and isinstance(given, str):
        return given.encode()
    try:
        return read_uri(str(given))
    except FileNotFoundError:
        raise UnknownReference(f"{modality}: no such file '{given}'") from None
