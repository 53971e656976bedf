"""Which addresses a fetch over HTTP may reach: public ones, and whatever lies on a host that the user named.

They are looked at where a connection is made, so that redirects, and names that mean another machine a moment later,
count as well. Addresses are judged as IANA's special-purpose registries (RFC 6890) have them.
"""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import Any
from urllib.parse import urlsplit

_PORTS = {"http": 80, "https": 443}
#: translates to IPv4, whose address is its last 32 bits (RFC 6052)
_NAT64 = IPv6Network("64:ff9b::/96")


class PrivateAddress(OSError):
    """A host that nobody named, with an address that is not public."""


def is_public(host: str) -> bool:
    """Whether an address, plainly written, is reachable for everybody: not loopback, private, link-local, multicast,
    reserved or shared, nor one of these in IPv6's clothes."""
    try:
        address = ip_address(host)
    except ValueError:
        # `2130706433`, `0177.0.0.1`: other spellings mean the same addresses to a system, and nothing good
        return False
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            inner = ip_address(int(address) & 0xFFFFFFFF)  # type: ignore[assignment]
        if inner is not None:
            return is_public(str(inner))
        if address.is_site_local:
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def hosts_of(addresses: Iterable[str]) -> tuple[str, ...]:
    """`host:port` of each HTTP address that names one, sorted; both usual ports where it says none."""
    found = set()
    for address in addresses:
        scheme, separator, _ = address.partition("://")
        if not separator or scheme not in _PORTS:
            continue
        parts = urlsplit(address)
        if parts.hostname:
            found |= {f"{parts.hostname}:{port}" for port in ([parts.port] if parts.port else _PORTS.values())}
    return tuple(sorted(found))


@dataclass(frozen=True)
class Guard:
    """Makes HTTP clients that connect to public addresses, and to hosts of `named` (`host:port`) wherever they are."""

    named: tuple[str, ...]

    async def __call__(self, **settings: Any) -> Any:
        """An `aiohttp.ClientSession`, as fsspec asks for it."""
        # fsspec's own client for HTTP, which is loaded where it asks for one
        aiohttp = sys.modules["aiohttp"]
        gate = _Gate(self.named, aiohttp.ThreadedResolver())
        connector = aiohttp.TCPConnector(resolver=gate, socket_factory=gate.socket)
        return aiohttp.ClientSession(connector=connector, **settings)


class _Gate:
    """Resolves names, and opens sockets to what it let pass."""

    def __init__(self, named: tuple[str, ...], resolver: Any) -> None:
        self._named, self._resolver = frozenset(named), resolver
        self._known: set[tuple[str, int]] = set()

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[Any]:
        """The addresses of `host` that may be reached. Raises PrivateAddress if there are others only."""
        found = await self._resolver.resolve(host, port, family)
        if f"{host}:{port}" in self._named:
            self._known |= {(each["host"], each["port"]) for each in found}
            return list(found)
        public = [each for each in found if is_public(each["host"])]
        if not public:
            raise _refused(host, port, f" ({found[0]['host']})" if found else "")
        return public

    def socket(self, address: tuple[Any, ...]) -> socket.socket:
        """A socket for an address, which may have been written as such. Raises PrivateAddress."""
        family, kind, protocol, _, (host, port, *_) = address
        if (host, port) not in self._known and f"{host}:{port}" not in self._named and not is_public(host):
            raise _refused(host, port)
        return socket.socket(family, kind, protocol)

    async def close(self) -> None:
        await self._resolver.close()


def _refused(host: str, port: int, means: str = "") -> PrivateAddress:
    said = f"{host}:{port}{means} is no public address; name it in source.allow_roots to allow it"
    return PrivateAddress(errno.EACCES, said)
