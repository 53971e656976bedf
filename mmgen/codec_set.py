"""The fitted codecs of a configuration as one thing: any slot's bytes to latents and back.

Latents leave here standardised (per number of D, over the training data) and come back so: fusion and generators
never see a scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import safetensors.torch
import torch
from pydantic import TypeAdapter
from torch import Tensor, nn

from mmgen.artifact import Artifact
from mmgen.codecs.table import CODECS, VOCODERS
from mmgen.errors import IntegrityError, unknown_name
from mmgen.modalities.config import AudioSlot, ImageSlot, SlotConfig, TextSlot
from mmgen.preprocess.audio import AudioPreprocess
from mmgen.preprocess.table import Preprocess, preprocesses
from mmgen.preprocess.text import TextPreprocess, Tokenizer
from mmgen.records import Modality
from mmgen.store import Store

AnySlot = TextSlot | ImageSlot | AudioSlot
_SLOTS: TypeAdapter[dict[str, AnySlot]] = TypeAdapter(dict[str, SlotConfig])
# rows decoded at once: bounds memory, and the same on every machine so that bytes do not depend on it
ROWS = 64


def read_slots(plain: Mapping[str, Any]) -> dict[str, AnySlot]:
    """Slot settings from plain data, in the order of their names, which is a manifest's and so that of all networks."""
    return _SLOTS.validate_python(dict(sorted(plain.items())))


def codec_names(slots: Mapping[str, AnySlot]) -> dict[str, str]:
    """Slot → its codec. Slots of one modality share one where their values agree in size and range.

    The slot with the modality's name, else the first of its slots by name, gives its codec that name; one that differs
    from it has a codec of its own, `<modality>-<slot>`, which further slots like it share.
    """
    first: dict[str, str] = {}
    named: dict[str, str] = {}
    for slot in sorted(slots, key=lambda name: (name != slots[name].modality, name)):
        settings = slots[slot]
        # how a file is cut or which column it is from does not show in a value
        alike = settings.model_dump_json(exclude={"column", "crop", "resize"})
        taken = settings.modality in first.values()
        named[slot] = first.setdefault(alike, f"{settings.modality}-{slot}" if taken else settings.modality)
    return named


@dataclass(frozen=True)
class CodecSet:
    """slots: name → settings. codecs: name (`codec_names`) → network in evaluation mode. mean, std: slot → (D,)."""

    slots: dict[str, AnySlot]
    preprocesses: dict[str, Preprocess]
    codecs: dict[str, nn.Module]
    mean: dict[str, Tensor]
    std: dict[str, Tensor]
    tokenizer: Tokenizer | None
    labels: tuple[str, ...]

    @classmethod
    def build(
        cls,
        *,
        slots: Mapping[str, Any],
        made: Mapping[str, Mapping[str, Any]],
        scale: Mapping[str, Mapping[str, list[float]]],
        weights: Mapping[str, bytes],
        tokenizer: bytes | None,
        labels: tuple[str, ...],
        vocoder: tuple[Mapping[str, Any], bytes] | None = None,
    ) -> CodecSet:
        """From plain data and bytes. made: codec → {"kind", "args"}. scale: slot → {"mean", "std"}.

        vocoder: ({"kind", "args"}, safetensors) of a learned one.
        """
        settings = read_slots(slots)
        words = Tokenizer.from_json(tokenizer) if tokenizer is not None else None
        hows = preprocesses(settings, words)
        if vocoder is not None:
            sounds = make_vocoder(vocoder[0]["kind"], vocoder[0]["args"])
            load_weights(sounds, vocoder[1], "vocoder")
            hows = with_vocoder(hows, sounds.eval().requires_grad_(False))
        codecs: dict[str, nn.Module] = {}
        for name, spec in made.items():
            codec = make_codec(spec["kind"], spec["args"])
            load_weights(codec, weights[name], f"codec:{name}")
            codecs[name] = codec.eval().requires_grad_(False)
        mean = {slot: torch.tensor(numbers["mean"]) for slot, numbers in scale.items()}
        std = {slot: torch.tensor(numbers["std"]) for slot, numbers in scale.items()}
        return cls(settings, hows, codecs, mean, std, words, labels)

    @classmethod
    def load(cls, store: Store, codecs: Artifact) -> CodecSet:
        """The codecs that an artifact holds."""
        words, vocoder = codecs.by_role("tokenizer"), codecs.facts.get("vocoder")
        return cls.build(
            slots=codecs.config["slots"],
            made=codecs.facts["codecs"],
            scale=codecs.facts["scale"],
            weights={m: store.read(codecs.file(f"codec:{m}").path) for m in codecs.facts["codecs"]},
            tokenizer=store.read(words[0].path) if words else None,
            labels=tuple(codecs.facts["labels"] or ()),
            vocoder=(vocoder, store.read(codecs.file("vocoder").path)) if vocoder else None,
        )

    def to(self, device: torch.device | str) -> CodecSet:
        """The same codecs elsewhere (networks are moved, not copied)."""
        vocoders = [how.vocoder for how in self.preprocesses.values() if isinstance(how, AudioPreprocess)]
        for network in (*self.codecs.values(), *(each for each in vocoders if each is not None)):
            network.to(device)
        for scale in (self.mean, self.std):
            scale.update({slot: numbers.to(device) for slot, numbers in scale.items()})
        return self

    def modality(self, slot: str) -> Modality:
        """The modality of a slot. Raises KeyError with the known ones."""
        if slot not in self.slots:
            raise KeyError(unknown_name("slot", slot, self.slots))
        return self.slots[slot].modality

    def codec(self, slot: str) -> nn.Module:
        """The codec of a slot. Raises KeyError with the known ones."""
        self.modality(slot)
        return self.codecs[codec_names(self.slots)[slot]]

    def latent_shape(self, slot: str) -> tuple[int, int]:
        """(T, D) of a slot's latent."""
        codec: Any = self.codec(slot)
        tokens, width = codec.latent_shape
        return int(tokens), int(width)

    @torch.no_grad()
    def encode(self, slot: str, value: Tensor) -> Tensor:
        """Standardised latents (B, T, D), float32, of values (B, …)."""
        codec: Any = self.codec(slot)
        z_BTD = torch.cat([codec.encode(part).float() for part in torch.split(value, ROWS)])
        return (z_BTD - self.mean[slot]) / self.std[slot]

    @torch.no_grad()
    def decode(self, slot: str, z_BTD: Tensor) -> Tensor:
        """Values (B, …) of standardised latents (B, T, D)."""
        codec: Any = self.codec(slot)
        raw_BTD = z_BTD.float() * self.std[slot] + self.mean[slot]
        return torch.cat([codec.decode(part) for part in torch.split(raw_BTD, ROWS)])

    def value(self, slot: str, data: bytes, key: str = "") -> Tensor:
        """The value (1, …) of one file's bytes. Raises SourceError."""
        how = self.preprocesses[slot]
        return how.value(torch.from_numpy(how.compact(data, key))[None])

    def texts(self, slot: str, value: Tensor) -> list[str]:
        """Strings of a text slot's ids (B, L)."""
        how = self.preprocesses[slot]
        assert isinstance(how, TextPreprocess), f"{slot} is no text slot"
        return how.texts(value)


def make_codec(kind: str, args: Mapping[str, Any]) -> nn.Module:
    """A codec of the table from its constructor's arguments. Raises IntegrityError for an unknown kind."""
    if kind not in CODECS:
        raise IntegrityError(unknown_name("codec", kind, CODECS))
    made: nn.Module = CODECS[kind](**args)
    return made


def make_vocoder(kind: str, args: Mapping[str, Any]) -> nn.Module:
    """A learned vocoder from its constructor's arguments. Raises IntegrityError for a kind that is none."""
    found = VOCODERS.get(kind)
    if found is None:
        raise IntegrityError(unknown_name("vocoder", kind, [name for name, each in VOCODERS.items() if each]))
    made: nn.Module = found(**args)
    return made


def with_vocoder(hows: Mapping[str, Preprocess], vocoder: nn.Module) -> dict[str, Preprocess]:
    """The same preprocessing, that of audio slots with this vocoder."""
    return {slot: replace(how, vocoder=vocoder) if isinstance(how, AudioPreprocess) else how
            for slot, how in hows.items()}  # fmt: skip


def load_weights(module: nn.Module, data: bytes, what: str) -> None:
    """Fill a module from safetensors bytes. Raises IntegrityError if they are not its own."""
    try:
        module.load_state_dict(safetensors.torch.load(data))
    except (RuntimeError, safetensors.SafetensorError) as error:
        raise IntegrityError(f"{what}: wanted weights of this network, {str(error).splitlines()[0]}") from error


def weights_of(module: nn.Module) -> bytes:
    """Safetensors bytes of a module; the same weights give the same bytes."""
    # copies, because safetensors refuses tensors that share memory
    state = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in module.state_dict().items()}
    return safetensors.torch.save(state)
