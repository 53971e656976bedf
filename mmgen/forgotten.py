"""The ledger of forgotten keys: `forgotten/<dataset>/<n>.json`, create-only lines that ingest looks into.

A line holds hashes of keys with a salt of the ledger, so that what was forgotten is not listed by name: who has the key
can ask for it, who has the ledger cannot read it off. A row whose key is in it is counted and left out, unread.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from mmgen.errors import StoreError
from mmgen.store import Store

FOLDER = "forgotten"
FORMAT = 1
TOKEN_DIGITS = 16


@dataclass(frozen=True)
class Ledger:
    """The lines of a data set's ledger. hashes: salted hash → number of the line that has it."""

    store: Store
    name: str
    salt: bytes = b""
    hashes: Mapping[str, int] = field(default_factory=dict)
    lines: int = 0

    @classmethod
    def read(cls, store: Store, name: str) -> Ledger:
        """The ledger as it is; an empty one if nothing was ever forgotten."""
        numbers = sorted(int(each.removesuffix(".json")) for each in store.names(f"{FOLDER}/{name}")
                         if each.removesuffix(".json").isdigit())  # fmt: skip
        salt, hashes = b"", dict[str, int]()
        for number in numbers:
            line = json.loads(store.read(f"{FOLDER}/{name}/{number}.json"))
            salt = salt or bytes.fromhex(line["salt"])
            for each in line["keys"]:
                hashes.setdefault(each, number)
        return cls(store, name, salt, hashes, max(numbers, default=0))

    def line_of(self, key: str) -> int | None:
        """The line that names `key`."""
        # the usual case: an empty ledger costs no hashing
        return self.hashes.get(_hash(key, self.salt)) if self.hashes else None

    def refuse(self, keys: Iterable[str], what: str) -> None:
        """Raises StoreError if any of `keys` was forgotten while `what` was made, or what it is made from."""
        if known := [key for key in keys if self.line_of(key) is not None]:
            raise StoreError(
                f"{what}: {len(known)} of its keys were forgotten since its source was read; run the line again from "
                "ingest on (`mmgen gc` deletes what this run has written)"
            )

    def token(self, key: str) -> str:
        """What stands for a forgotten key in tables: the same for the same key, and not the key."""
        return f"forgotten-{_hash(key, self.salt)[:TOKEN_DIGITS]}"

    def add(self, keys: Iterable[str]) -> Ledger:
        """A ledger that has `keys` too: those that are new make one line. Raises StoreError."""
        new = sorted({key for key in keys if self.line_of(key) is None})
        if not new:
            return self
        salt = self.salt or secrets.token_bytes(32)
        line = {"format": FORMAT, "salt": salt.hex(), "keys": sorted(_hash(key, salt) for key in new),
                "time": datetime.now(UTC).isoformat(timespec="seconds")}  # fmt: skip
        self.store.create(f"{FOLDER}/{self.name}/{self.lines + 1}.json", json.dumps(line, indent=1).encode())
        # where another one was faster, its line has this number (and the salt, if it is the first)
        return Ledger.read(self.store, self.name).add(keys)


def _hash(key: str, salt: bytes) -> str:
    return hashlib.blake2b(key.encode("utf-8", "surrogatepass"), key=salt, digest_size=32).hexdigest()
