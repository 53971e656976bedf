"""Models of other libraries as folders: where one lies, which of its files it is, and what it counts by. Torch-free."""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmgen.artifact import fingerprint
from mmgen.errors import ConfigError, StoreError
from mmgen.store import sha256_file

#: the extra that brings the libraries
EXTRA = "pretrained"
CONFIG = "config.json"
#: kinds of codecs and encoders that are made by an optional library
_LIBRARIES = {
    "autoencoder_kl": "diffusers", "encodec": "transformers", "transformers_image": "transformers",
    "transformers_text": "transformers", "transformers_audio": "transformers",
}  # fmt: skip
#: what diffusers and transformers call a model's weights, whole or in parts
_WEIGHTS = ("model", "diffusion_pytorch_model")
#: what else decides what comes out: how pictures, sounds and texts are made ready
_BESIDE = (
    CONFIG, "preprocessor_config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "spiece.model",
    "tokenizer.model",
)  # fmt: skip


def libraries_of(made: Any) -> set[str]:
    """The optional libraries that parts of a model need, by the `kind` of each in what they are made from."""
    if not isinstance(made, Mapping):
        return set()
    kind = str(made.get("kind"))
    mine = {_LIBRARIES[kind]} if kind in _LIBRARIES else set[str]()
    return mine.union(*(libraries_of(each) for each in made.values()))


def library(name: str) -> Any:
    """An optional library, imported. Raises ConfigError that names the extra where it is missing."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"{name} is needed and cannot be imported ({error}); install the extra: mmgen[{EXTRA}]"
        ) from error


def folder_of(source: str, revision: str | None, where: str) -> Path:
    """The folder of a model: `source` itself, or what the hub's cache has of that name (fetched if it has nothing).

    where: the setting, for errors. Raises ConfigError (no such folder or name, or its weights are no safetensors),
    StoreError (the hub is away).
    """
    folder = Path(source).expanduser()
    if not folder.is_dir():
        if source.startswith((".", "/", "~")) or source.count("/") > 1:
            raise ConfigError(
                f"{where}: wanted a folder that save_pretrained wrote, or a hub's name; no folder {source}"
            )
        folder = _from_hub(source, revision, where)
    elif revision is not None:
        raise ConfigError(f"{where}: a revision belongs to a hub's name; {source} is a folder: leave `revision` out")
    if not (folder / CONFIG).is_file():
        raise ConfigError(f"{where}: wanted a folder with a {CONFIG} as save_pretrained writes it, {source} has none")
    if not any(path.suffix == ".safetensors" for path in files_of(folder)):
        raise ConfigError(
            f"{where}: wanted safetensors in {source}, found none (pickled weights are never read); save it anew with "
            "its library's save_pretrained"
        )
    return folder


def _from_hub(name: str, revision: str | None, where: str) -> Path:
    hub = library("huggingface_hub")
    patterns = [*_BESIDE, *(f"{stem}{end}" for stem in _WEIGHTS for end in (".safetensors", "-*-of-*.safetensors",
                                                                           ".safetensors.index.json"))]  # fmt: skip
    try:
        return Path(hub.snapshot_download(name, revision=revision, allow_patterns=patterns))
    except (hub.errors.LocalEntryNotFoundError, hub.errors.OfflineModeIsEnabled) as error:
        raise StoreError(f"{where}: '{name}' is no folder, is not in the hub's cache, and the hub is away") from error
    except (hub.errors.HfHubHTTPError, hub.errors.HFValidationError) as error:
        said = " ".join(str(error).split())[:200]
        raise ConfigError(f"{where}: '{name}' is no folder, and the hub says: {said}") from error
    except OSError as error:
        raise StoreError(f"{where}: '{name}' could not be fetched from the hub: {error}") from error


def files_of(folder: Path) -> list[Path]:
    """The files that decide what the model in `folder` gives, by name."""
    found = {folder / name for name in _BESIDE}
    for stem in _WEIGHTS:
        found |= {folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"}
        found |= set(folder.glob(f"{stem}-*-of-*.safetensors"))
    return sorted(path for path in found if path.is_file())


def digest_of(source: str, revision: str | None, where: str) -> str:
    """What a model counts by: the bytes of its files, not where they lie. Raises as `folder_of` does."""
    files = files_of(folder_of(source, revision, where))
    return f"sha256:{fingerprint(files={path.name: _sha256(path) for path in files})}"


def _sha256(path: Path) -> str:
    state = os.stat(path)
    return _hashed(str(path.resolve()), state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _hashed(path: str, _size: int, _mtime_ns: int) -> str:
    # weights are gigabytes, and every decision about a step asks again
    return sha256_file(path)


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """A JSON file of a model's folder; empty if there is none. Raises ConfigError if it is not JSON."""
    path = folder / name
    if not path.is_file():
        return {}
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ConfigError(f"{path}: wanted JSON: {error}") from error
    return found


def whole(kind: Any, folder: Path, **how: Any) -> Any:
    """The model in `folder` by its library's `from_pretrained`, from safetensors alone, without the network.

    how: further arguments of `from_pretrained`. Raises ConfigError if a tensor is missing, which the libraries would
    fill with random numbers, or is of another shape.
    """
    broken = importlib.import_module("safetensors").SafetensorError
    try:
        with _silent(kind.__module__.split(".")[0]):
            made, info = kind.from_pretrained(
                str(folder), use_safetensors=True, local_files_only=True, output_loading_info=True, **how
            )
    except (OSError, ValueError, RuntimeError, broken) as error:
        said = " ".join(str(error).split())[:300]
        raise ConfigError(f"{folder}: not a {kind.__name__} that can be read: {said}") from error
    if missing := sorted(map(str, info["missing_keys"])):
        raise ConfigError(f"{folder}: {len(missing)} tensors of {kind.__name__} are missing, first '{missing[0]}'")
    return made


@contextlib.contextmanager
def _silent(name: str) -> Iterator[None]:
    """Without a library's own progress bars and its table of tensors left over: what is missing is an error here."""
    words = importlib.import_module(f"{name}.utils.logging")
    shown, level = words.is_progress_bar_enabled(), words.get_verbosity()
    words.disable_progress_bar()
    words.set_verbosity_error()
    try:
        yield
    finally:
        words.set_verbosity(level)
        if shown:
            words.enable_progress_bar()
