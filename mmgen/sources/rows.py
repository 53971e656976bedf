"""From a record of any source to a row: a sample, or the reasons why it is none."""

from __future__ import annotations

import json
import math
import os
import posixpath
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol
from urllib.parse import unquote

from mmgen.errors import ConfigError, unknown_name
from mmgen.records import MediaRef, Modality, Rejection, Sample


@dataclass(frozen=True, slots=True)
class Row:
    """One input of a source. sample: None if the whole row is rejected. rejections: of the row, or of its slots."""

    number: int
    sample: Sample | None
    rejections: tuple[Rejection, ...] = ()


class Source(Protocol):
    """A declared source, opened."""

    def rows(self) -> Iterator[Row]:
        """All inputs in their order, numbered from 0 without gaps. Media are referred to, never read.

        Raises ConfigError for columns that are not there, SourceError for what cannot be read at all.
        """


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns are what. media: slot → (column, modality). texts: slot → the columns of its alternatives."""

    key: str | None = None
    texts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    media: Mapping[str, tuple[str, Modality]] = field(default_factory=dict)
    label: str | None = None
    group: str | None = None
    split: str | None = None
    meta: tuple[str, ...] = ()
    #: every column that is nothing else is metadata
    all_meta: bool = False
    language: str | None = None

    def with_all_meta(self, known: Sequence[str]) -> Columns:
        """These columns, with all others of `known` as metadata if they are wanted."""
        if not self.all_meta:
            return self
        used = {self.key, self.label, self.group, self.split, self.language, *(name for name, _ in self.media.values())}
        used |= {name for names in self.texts.values() for name in names}
        return replace(self, meta=tuple(name for name in known if name not in used))

    def check(self, known: Sequence[str], where: str) -> None:
        """Raises ConfigError for the first column that is not among `known`, naming the nearest."""
        wanted: list[tuple[str, str | None]] = [
            ("source.key", self.key), ("source.label", self.label), ("source.group", self.group),
            ("source.split", self.split), ("source.language", self.language),
            *(("source.meta", name) for name in self.meta),
            *((f"slot '{slot}'", name) for slot, names in self.texts.items() for name in names),
            *((f"slot '{slot}'", name) for slot, (name, _) in self.media.items()),
        ]  # fmt: skip
        for what, name in wanted:
            if name is not None and name not in known:
                raise ConfigError(f"{what}: {where} has {unknown_name('column', name, known)}")


# ---------------------------------------------------------------- paths


class Refused(Exception):
    """A path that a source may not name; the message says why."""


class Roots:
    """The folders that a source's paths may lie in: its own, and those that its configuration allows."""

    def __init__(self, base: str, allowed: Sequence[str] = ()) -> None:
        self.base = base.rstrip("/") if "://" in base else os.path.abspath(base)
        own = [*allowed, self.base]
        # a bare `https://` is any host that has a public address
        self._remote = tuple(root if root.endswith("://") else root.rstrip("/") + "/" for root in own if "://" in root)
        local = [os.path.abspath(os.path.join(self.base, root)) for root in own if "://" not in root]
        self._local = tuple({*local, *(os.path.realpath(root) for root in local)})
        self._real: dict[str, bool] = {}

    def resolve(self, written: str) -> str:
        """The absolute path or URL that `written` names. Raises Refused for one outside, also through links."""
        if "\0" in written:
            raise Refused("the path holds a zero byte")
        if "\\" in written:
            # a name here, a separator on other systems and for some servers: what it reaches is not known
            raise Refused("the path holds a backslash; write it with '/'")
        if "://" in written or "://" in self.base:
            return self._resolve_remote(written)
        path = os.path.normpath(os.path.join(self.base, written))
        if not self._inside(path):
            raise Refused(f"the path leaves {self.base}; name its folder in source.allow_roots to allow it")
        folder = os.path.dirname(path)
        if folder not in self._real:
            self._real[folder] = self._inside(os.path.realpath(folder))
        if not self._real[folder] or (_is_link(path) and not self._inside(os.path.realpath(path))):
            raise Refused(
                f"a link leads out of {self.base}; name its target's folder in source.allow_roots to allow it"
            )
        return path

    def _inside(self, path: str) -> bool:
        return any(path == root or path.startswith(root.rstrip(os.sep) + os.sep) for root in self._local)

    def _resolve_remote(self, written: str) -> str:
        if "://" in written:
            scheme, rest = written.split("://", 1)
        else:
            scheme, rest = self.base.split("://", 1)
            rest = f"{rest}/{written.lstrip('/')}"
        path, query = rest, ""
        if scheme in ("http", "https"):
            if hidden := _hidden_step(rest):
                raise Refused(f"'{hidden}' in the address hides a '.', a '/' or a '\\'; write it plainly")
            # what follows the path is the server's to understand
            path, mark, query = rest.partition("?")
            query = mark + query
        elif "::" in written:
            raise Refused("'::' chains file systems; write the address of the file alone")
        # a server may well tell `a//b` from `a/b`; with a step up in it, nobody knows where it leads
        stepping = scheme not in ("http", "https") or not {".", ".."}.isdisjoint(path.split("/"))
        url = f"{scheme}://{posixpath.normpath(path) if stepping else path}{query}"
        if not url.startswith(self._remote):
            raise Refused("the address lies outside the source; name its folder in source.allow_roots to allow it")
        return url


def _hidden_step(address: str) -> str | None:
    """The first piece of `address` that a server may decode to another folder than the one written, e.g. `%2e%2e`."""
    for piece in address.split("?", 1)[0].split("/"):
        plainly, decoded = piece, unquote(piece)
        while decoded != plainly:
            # some servers decode twice
            if decoded in (".", "..") or "/" in decoded or "\\" in decoded:
                return piece
            plainly, decoded = decoded, unquote(decoded)
    return None


def _is_link(path: str) -> bool:
    try:
        return stat.S_ISLNK(os.lstat(path).st_mode)
    except OSError:
        # what is not there is told apart when it is read
        return False


# ---------------------------------------------------------------- records


def to_row(number: int, record: Mapping[str, Any], columns: Columns, roots: Roots) -> Row:
    """The row of a table's record. Cells that are null or blank are missing, which is normal."""
    key = str(number) if columns.key is None else plain(record.get(columns.key))
    if not key:
        return rejected(number, "", "missing_key", f"column '{columns.key}' is empty")
    texts = {
        slot: found
        for slot, names in columns.texts.items()
        if (found := tuple(text for name in names for text in alternatives(record.get(name))))
    }
    media: dict[str, MediaRef] = {}
    rejections = []
    for slot, (name, _) in columns.media.items():
        try:
            if (ref := _media(record.get(name), roots)) is not None:
                media[slot] = ref
        except Refused as error:
            message = f"'{plain(record.get(name))}': {error}"
            rejections.append(Rejection(number, key, "source", slot, "path_refused", "reject", message))
    sample = Sample(
        number, key, texts, media,
        label=_label(record, columns.label), group=_label(record, columns.group), split=_label(record, columns.split),
        meta=_meta(record, columns),
    )  # fmt: skip
    return Row(number, sample, tuple(rejections))


def _meta(record: Mapping[str, Any], columns: Columns) -> dict[str, str]:
    """What is kept beside the sample: metadata columns under their names, the language under "language"."""
    named = [(name, name) for name in columns.meta]
    named += [("language", columns.language)] if columns.language else []
    return {name: value for name, column in named if (value := plain(record.get(column)))}


def rejected(number: int, key: str, reason: str, message: str) -> Row:
    """A row that is no sample."""
    return Row(number, None, (Rejection(number, key, "source", None, reason, "reject", message),))


def with_clean_text(row: Row) -> Row:
    """`row`, rejected if any of its words cannot be written as UTF-8: they came from other bytes than UTF-8's."""
    sample = row.sample
    if sample is None:
        return row
    words = [sample.key, sample.label, sample.group, sample.split, *sample.meta.values()]
    words += [text for texts in sample.texts.values() for text in texts]
    words += [ref.written for ref in sample.media.values()] + [each.message for each in row.rejections]
    if all(word is None or word.isascii() or _is_clean(word) for word in words):
        return row
    return rejected(
        row.number, sample.key.encode("utf-8", "backslashreplace").decode(), "not_utf8", "a cell is not UTF-8"
    )


def _is_clean(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _label(record: Mapping[str, Any], column: str | None) -> str | None:
    return (plain(record.get(column)).strip() or None) if column is not None else None


def plain(value: Any) -> str:
    """A cell as text, empty for null; a list or an object as JSON, but of a file of a data set its path."""
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, Mapping) and "path" in value:
        return str(value["path"] or "")
    if isinstance(value, Mapping | list | tuple):
        return json.dumps(value, ensure_ascii=False, default=plain) if value else ""
    if isinstance(value, float) and math.isnan(value):
        return ""
    # a column of whole numbers with gaps arrives as floats
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def alternatives(value: Any) -> list[str]:
    """The texts of a cell: one, or those of a list; blank ones are none."""
    values = value if isinstance(value, list | tuple) else [value]
    return [text for each in values if (text := plain(each))]


def _media(value: Any, roots: Roots) -> MediaRef | None:
    """A path, embedded bytes, or the {bytes, path} that Hugging Face writes."""
    if isinstance(value, Mapping):
        data = value.get("bytes")
        value = data if isinstance(data, bytes) else value.get("path")
    if isinstance(value, bytes):
        return MediaRef(None, value, f"{len(value)} embedded bytes")
    written = plain(value)
    return MediaRef(roots.resolve(written.strip()), None, written) if written.strip() else None


def strict_json(text: str | bytes) -> Any:
    """The value, NaN as null (pandas writes what is missing so). Raises ValueError for a name that occurs twice."""
    return json.loads(text, object_pairs_hook=_object, parse_constant=_constant)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"'{next(name for name in names if names.count(name) > 1)}' occurs twice in an object")
    return made


def _constant(word: str) -> None:
    if word != "NaN":
        raise ValueError(f"'{word}' is no number of JSON")
