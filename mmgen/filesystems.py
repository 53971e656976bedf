"""The one door to fsspec: its file systems, with a patience of seconds, and their failures told as ours."""

from __future__ import annotations

import asyncio
import configparser
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import fsspec
import fsspec.asyn
from fsspec.implementations.local import LocalFileSystem

from mmgen.addresses import Guard, PrivateAddress, hosts_of
from mmgen.errors import AddressRefused, StoreError

#: attempts of a request to S3, the first one included: some ten seconds until a server that is away is told
S3_ATTEMPTS = 5
#: seconds a web server may take to accept a connection, and to send the next bytes
CONNECT_SECONDS, SILENT_SECONDS = 10, 30


@contextlib.contextmanager
def outside(what: str, uri: str) -> Iterator[None]:
    """Turn an I/O failure into a StoreError that says what was tried and where. A missing file stays one."""
    try:
        yield
    except FileNotFoundError as error:
        # fsspec's HTTP says so of every failure; a real one has no cause, or one like itself
        _raise_refused(what, uri, error)
        if isinstance(error.__cause__, _client_errors()):
            raise StoreError(f"could not {what} {uri}: {error.__cause__}") from error
        raise
    except _client_errors() as error:
        # some are OSErrors as well, and say more in full than as such
        _raise_refused(what, uri, error)
        raise StoreError(f"could not {what} {uri}: {' '.join(str(error).split())}") from error
    except OSError as error:
        _raise_refused(what, uri, error)
        reason = error.strerror or str(error)
        raise StoreError(f"could not {what} {uri}: {reason}") from error


def _raise_refused(what: str, uri: str, error: BaseException) -> None:
    """Raises AddressRefused if `error` came of an address that may not be reached."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, PrivateAddress):
        cause = cause.__cause__
    if cause is not None:
        raise AddressRefused(f"could not {what} {uri}: {cause.strerror}") from error


def _client_errors() -> tuple[type[Exception], ...]:
    """What clients of S3 and HTTP raise beside OSError (no connection, no credentials); none where none was loaded."""
    s3, http = sys.modules.get("botocore.exceptions"), sys.modules.get("aiohttp")
    return (*((s3.BotoCoreError,) if s3 else ()), *((http.ClientError,) if http else ()))


def filesystem(uri: str, named: Sequence[str] | None = None) -> tuple[Any, str]:
    """fsspec's file system of `uri` and the path in it, with a patience of seconds. What the user set goes before.

    named: see `open_uri`.
    """
    scheme = uri.partition("://")[0] if "://" in uri else "file"
    if scheme in ("http", "https"):
        fsspec.get_filesystem_class(scheme)
        # its own is five minutes for a whole file, however slowly or quickly it comes
        limits = sys.modules["aiohttp"].ClientTimeout(
            total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENT_SECONDS
        )
        own = fsspec.config.conf.get(scheme, {}).get("client_kwargs", {})
        guard = Guard(hosts_of([uri]) if named is None else tuple(named))
        # the address as it is: `::` may be part of a host
        fs, path = fsspec.filesystem("http", get_client=guard, client_kwargs={"timeout": limits, **own}), uri
    elif scheme in ("s3", "s3a"):
        own = fsspec.config.conf.get(scheme, {}).get("config_kwargs", {})
        # "standard" ends soon for many requests to a server that is away: they share a quota of retries
        ours = {} if _has_aws_retries() else {"retries": {"mode": "standard", "total_max_attempts": S3_ATTEMPTS}}
        fs, path = fsspec.core.url_to_fs(uri, config_kwargs={**ours, **own})
        # it repeats all that its client has repeated already; twice is for answers that break off
        fs.retries = 2
    else:
        fs, path = fsspec.core.url_to_fs(uri)
    return fs, path


def _has_aws_retries() -> bool:
    """Whether the environment, or the profile of the AWS configuration file, says how often requests are repeated."""
    if {"AWS_MAX_ATTEMPTS", "AWS_RETRY_MODE"} & os.environ.keys():
        return True
    read = configparser.ConfigParser(interpolation=None, strict=False)
    with contextlib.suppress(configparser.Error, UnicodeDecodeError):
        read.read(Path(os.environ.get("AWS_CONFIG_FILE") or "~/.aws/config").expanduser(), encoding="utf-8")
    profile = os.environ.get("AWS_PROFILE", "default")
    section = profile if profile == "default" else f"profile {profile}"
    return any(read.has_option(section, name) for name in ("max_attempts", "retry_mode"))


class Reading:
    """A remote stream whose failures are StoreErrors also while it is read."""

    def __init__(self, stream: Any, uri: str) -> None:
        self._stream, self._uri = stream, uri

    def read(self, size: int | None = -1) -> bytes:
        with outside("read", self._uri):
            return bytes(self._stream.read(-1 if size is None else size))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __enter__(self) -> Reading:
        return self

    def __exit__(self, *error: object) -> None:
        self._stream.close()


def is_local(fs: Any) -> bool:
    """Whether a file system is this machine's own."""
    return isinstance(fs, LocalFileSystem)


def clients_loop() -> asyncio.AbstractEventLoop:
    """The event loop on which fsspec's clients live."""
    loop: asyncio.AbstractEventLoop = fsspec.asyn.get_loop()
    return loop
