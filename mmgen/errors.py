"""Every error that mmgen raises on purpose.

    MmgenError
    ├── UserError (a ValueError)        exit 2   the user can mend it
    │   ├── ConfigError                          a configuration key, type or value
    │   ├── SourceError                          a source that cannot be read as declared
    │   └── UnknownReference                      a name, version or alias that is not there
    ├── GateError                       exit 1   a gate or a check said no
    │   └── IntegrityError                       bytes are not what their manifest says
    └── OutsideError                    exit 3   a store or a server is away
        └── StoreError
            └── AddressRefused               an address that nobody allowed

A message names the field, what was wanted, what came, and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MmgenError(Exception):
    """The root; `exit_code` is what the command line answers with."""

    exit_code = 3


class UserError(MmgenError, ValueError):
    """Something the user can mend."""

    exit_code = 2


class ConfigError(UserError):
    """A configuration has an unknown key, a wrong type or an impossible value."""


class SourceError(UserError):
    """A source cannot be read as it was declared."""


class UnknownReference(UserError):
    """A reference names nothing that is there."""


class GateError(MmgenError):
    """A gate or a check said no: the line stops, what was made stays inspectable."""

    exit_code = 1


class IntegrityError(GateError):
    """Bytes differ from what their manifest recorded."""


class OutsideError(MmgenError):
    """Something outside mmgen (store, server, network) did not answer."""

    exit_code = 3


class StoreError(OutsideError):
    """The store could not be read or written (full, refused, away)."""


class AddressRefused(StoreError):
    """A fetch led to an address that is not public, and that the configuration does not name."""


def unknown_name(what: str, name: str, known: Iterable[str], *, listed: bool = True) -> str:
    """One line that answers an unknown `name` with the nearest and (if `listed`) all known ones.

    >>> unknown_name("recipe", "smal", ["small", "large"])
    "unknown recipe 'smal': did you mean 'small'? known: large, small"
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f" did you mean '{near[0]}'?" if near else ""
    return f"unknown {what} '{name}':{hint}" + (f" known: {', '.join(names) or 'none'}" if listed else "")
