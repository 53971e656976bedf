"""A real HTTP proxy in front of one server, that answers, drops, cuts or dies as a test wants it to."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

#: headers that belong to one connection, not to the message (RFC 9110, 7.6.1)
HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "expect"})

#: what becomes of a request of this number (from 1): None passes it on; a status is answered instead; "drop" closes
#: the connection unasked; "lost" passes it on and drops the answer; "cut" sends half of the answer's body
Fault = Callable[[int, str, str], int | str | None]


def every(nth: int, *faults: int | str, only: str = "") -> Fault:
    """Each nth request (of methods in `only`, if given) has the next of these faults."""

    def fault(number: int, method: str, _path: str) -> int | str | None:
        return faults[number // nth % len(faults)] if number % nth == 0 and (not only or method in only) else None

    return fault


class Proxy:
    """url: where it listens. requests: how many came. fault: what becomes of them; may be set at any time."""

    def __init__(self, upstream: str) -> None:
        self.upstream, self.fault, self.requests = urlsplit(upstream), _none, 0
        self.faults = 0
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._server: ThreadingHTTPServer | None = None
        self._dies_after: int | None = None
        self.up()
        assert self._server is not None
        self.port = int(self._server.server_address[1])
        self.url = f"http://127.0.0.1:{self.port}"

    def up(self) -> None:
        """Listen (again)."""
        proxy = self

        class Handler(_Handler):
            owner = proxy

        self._dies_after = None
        self._server = ThreadingHTTPServer(("127.0.0.1", getattr(self, "port", 0)), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def down(self) -> None:
        """Close the listening socket and every connection, as a machine that dies."""
        with self._lock:
            server, self._server = self._server, None
            for connection in list(self._open):
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        if server is not None:
            server.socket.close()
            threading.Thread(target=server.shutdown, daemon=True).start()

    def die_after(self, requests: int) -> None:
        """Go down when so many more requests have come."""
        self._dies_after = self.requests + requests

    def take(self, method: str, path: str) -> int | str | None:
        """Count a request and say what becomes of it."""
        with self._lock:
            self.requests += 1
            dead = self._dies_after is not None and self.requests > self._dies_after
            found = "drop" if dead else self.fault(self.requests, method, path)
            self.faults += found is not None
        if dead:
            self.down()
        return found


def _none(_number: int, _method: str, _path: str) -> None:
    return None


@contextlib.contextmanager
def proxy_of(upstream: str) -> Iterator[Proxy]:
    """A proxy in front of the server at `upstream`."""
    proxy = Proxy(upstream)
    try:
        yield proxy
    finally:
        proxy.down()


class _Handler(BaseHTTPRequestHandler):
    owner: Proxy
    protocol_version = "HTTP/1.1"
    timeout = 60

    def setup(self) -> None:
        super().setup()
        self.owner._open.add(self.connection)

    def finish(self) -> None:
        self.owner._open.discard(self.connection)
        with contextlib.suppress(OSError):
            super().finish()

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except OSError:
            self.close_connection = True

    def _pass(self) -> None:
        body = self._body()
        fault = self.owner.take(self.command, self.path)
        if isinstance(fault, int):
            code = {503: "SlowDown", 500: "InternalError"}.get(fault, "ServiceUnavailable")
            said = b"<?xml version='1.0'?><Error><Code>%b</Code><Message>a fault</Message></Error>" % code.encode()
            self._answer(fault, [("Content-Type", "application/xml")], said, len(said))
            return
        if fault == "hang":
            # accepted, and never answered
            time.sleep(self.timeout)
        if fault in ("drop", "hang"):
            self._break()
            return
        upstream = http.client.HTTPConnection(self.owner.upstream.hostname or "", self.owner.upstream.port, timeout=60)
        try:
            headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP}
            upstream.request(self.command, self.path, body, headers)
            answer = upstream.getresponse()
            data = answer.read()
        finally:
            upstream.close()
        if fault == "lost":
            self._break()
            return
        headers_out = [(name, value) for name, value in answer.getheaders() if name.lower() not in HOP]
        sent = data[: len(data) // 2] if fault == "cut" and self.command == "GET" else data
        self._answer(answer.status, headers_out, sent, len(data))
        if len(sent) < len(data):
            self._break()

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes, length: int) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() != "content-length" or self.command == "HEAD":
                self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _break(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        pieces = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(pieces)

    def log_message(self, *_: Any) -> None:
        """Nobody reads it."""
