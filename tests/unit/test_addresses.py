"""Fetches reach public addresses and named hosts: real servers on loopback, which nothing but a name lets in."""

from __future__ import annotations

import contextlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmgen import config as configs
from mmgen.addresses import hosts_of, is_public
from mmgen.errors import AddressRefused, SourceError, StoreError
from mmgen.ingest import ingest
from mmgen.runtime import Runtime
from mmgen.uris import read_uri, stat_uri
from tests.data_sources import rejections_of
from tests.unit.sources.media import png


class Web(http.server.BaseHTTPRequestHandler):
    """Answers every path with a picture, but those of `to` with a redirect. Keeps what it was asked."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", bytes.fromhex(self.path.removeprefix("/to/").removesuffix("/t.csv")).decode())
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(png(1))))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(png(1))

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        return


def to(address: str) -> str:
    """The path that redirects to `address`."""
    return f"/to/{address.encode().hex()}"


@contextlib.contextmanager
def serving() -> Iterator[tuple[int, list[str]]]:
    """(port on 127.0.0.1, the paths that were asked for)."""
    web = type("Web", (Web,), {"asked": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), web) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server.server_port, web.asked
        server.shutdown()


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
        "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255", "198.18.0.1", "192.0.2.1",
        "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12::1", "fec0::1", "ff02::1", "2001:db8::1",
        "::ffff:127.0.0.1", "::ffff:a00:1", "64:ff9b::7f00:1", "2002:7f00:1::", "::127.0.0.1",
        "2130706433", "0x7f.1", "0177.0.0.1", "127.1", "localhost", "",
    ],
)  # fmt: skip
def test_what_is_not_public(host: str) -> None:
    assert not is_public(host)


@pytest.mark.parametrize("host", ["8.8.8.8", "1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_what_is_public(host: str) -> None:
    assert is_public(host)


def test_named_hosts_are_those_of_addresses() -> None:
    named = [
        "data/pairs.csv",
        "s3://bucket/x",
        "https://",
        "http://A.example:8000/set",
        "https://[::1]:1/",
        "http://b/",
    ]
    assert hosts_of(named) == ("::1:1", "a.example:8000", "b:443", "b:80")


#: spellings of loopback that a resolver or a system understands
LOOPBACK = ["127.0.0.1", "localhost", "0.0.0.0", "2130706433", "0x7f000001", "0177.0.0.1", "127.1",
            "[::ffff:127.0.0.1]", "LOCALHOST"]  # fmt: skip
#: the client itself knows only plain spellings of IPv4
REFUSED = r"is no public address; name it in source\.allow_roots|is not a canonical IPv4 address"


@pytest.mark.parametrize("host", LOOPBACK)
def test_loopback_is_refused_in_every_spelling_unless_it_is_named(host: str) -> None:
    with serving() as (port, asked):
        for look in (read_uri, stat_uri):
            with pytest.raises(StoreError, match=REFUSED):
                look(f"http://{host}:{port}/1.png", named=[])
        # the same name on another port is another server
        with pytest.raises(StoreError, match=REFUSED):
            read_uri(f"http://{host}:{port}/1.png", named=hosts_of(["http://127.0.0.1:1/"]))
        assert asked == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_named_host_is_read_wherever_it_is(host: str) -> None:
    with serving() as (port, _):
        assert read_uri(f"http://{host}:{port}/1.png") == png(1)
        assert read_uri(f"http://{host}:{port}/1.png", named=hosts_of([f"http://{host}:{port}/set"])) == png(1)


@pytest.mark.parametrize("host", LOOPBACK)
def test_a_redirect_to_a_private_address_is_not_followed(host: str) -> None:
    with serving() as (inner, secrets), serving() as (port, asked):
        with pytest.raises(StoreError, match=REFUSED):
            read_uri(f"http://127.0.0.1:{port}{to(f'http://{host}:{inner}/secret')}")
        assert asked
        assert secrets == []


def test_a_redirect_within_named_hosts_is_followed_and_one_to_a_file_never() -> None:
    with serving() as (inner, _), serving() as (port, _):
        assert read_uri(f"http://127.0.0.1:{port}{to(f'http://127.0.0.1:{port}/1.png')}") == png(1)
        both = hosts_of([f"http://127.0.0.1:{port}", f"http://127.0.0.1:{inner}"])
        there = to(f"http://127.0.0.1:{inner}/1.png")
        assert read_uri(f"http://127.0.0.1:{port}{there}", named=both) == png(1)
        with pytest.raises((StoreError, FileNotFoundError)):
            read_uri(f"http://127.0.0.1:{port}{to('file:///etc/passwd')}")


def test_a_name_that_means_another_machine_a_moment_later_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a name means is looked at when a connection is made, not before: there is no gap to slip through."""
    import socket

    with serving() as (port, asked):
        answers = iter(["93.184.215.14", "127.0.0.1", "127.0.0.1", "127.0.0.1"])
        real = socket.getaddrinfo

        def rebinding(host: str, *rest: object, **more: object) -> object:
            return real(next(answers) if host == "rebind.example" else host, *rest, **more)  # type: ignore[arg-type]

        monkeypatch.setattr(socket, "getaddrinfo", rebinding)
        assert is_public(socket.getaddrinfo("rebind.example", port)[0][4][0])
        with pytest.raises(AddressRefused, match=r"rebind\.example:\d+ \(127\.0\.0\.1\)"):
            read_uri(f"http://rebind.example:{port}/1.png", named=[])
        assert asked == []


# ---------------------------------------------------------------- through the line


def table(folder: Path, cells: list[str], roots: list[str]) -> configs.Config:
    lines = [f"k{row},words,{cell}" for row, cell in enumerate(cells)]
    (folder / "t.csv").write_text("\n".join(["key,text,image", *lines]) + "\n")
    source = {"path": str(folder / "t.csv"), "key": "key", "text": "text", "image": "image", "allow_roots": roots}
    return configs.build({"name": "web", "source": source})


def test_a_table_of_any_public_host_reaches_no_private_one(tmp_path: Path, runtime: Runtime) -> None:
    with serving() as (inner, secrets), serving() as (port, _):
        cells = [f"http://127.0.0.1:{inner}/secret", f"http://localhost:{inner}/secret",
                 f"http://127.0.0.1:{port}{to(f'http://127.0.0.1:{inner}/secret')}", f"http://127.0.0.1:{port}/1.png",
                 "https://[::1]:1/x.png", "ftp://127.0.0.1/x.png"]  # fmt: skip
        made = ingest(table(tmp_path, cells, ["http://", "https://", f"http://127.0.0.1:{port}"]), {}, runtime)
    found = {each.row: each for each in rejections_of(runtime.store, made)}
    assert sorted(found) == [0, 1, 2, 4, 5]
    assert {each.reason for each in found.values()} == {"path_refused"}
    assert secrets == []


def test_a_table_on_a_private_host_names_its_own_pictures_and_no_others(tmp_path: Path, runtime: Runtime) -> None:
    class Files(Web):
        def do_GET(self) -> None:
            self.asked.append(self.path)
            body = (tmp_path / "t.csv").read_bytes() if self.path.endswith(".csv") else png(1)
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

    web = type("Web", (Files,), {"asked": []})
    with serving() as (inner, secrets), http.server.ThreadingHTTPServer(("127.0.0.1", 0), web) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        cells = ["a.png", f"{address}/set/b.png", f"{address}/c.png", f"http://127.0.0.1:{inner}/d.png", "../e.png"]
        table(tmp_path, cells, [])
        source = {"path": f"{address}/set/t.csv", "key": "key", "text": "text", "image": "image"}
        made = ingest(configs.build({"name": "web", "source": source}), {}, runtime)
        server.shutdown()
    assert {each.row: each.reason for each in rejections_of(runtime.store, made)} == dict.fromkeys(
        (2, 3, 4), "path_refused"
    )
    assert secrets == []


def test_a_table_that_leads_to_a_private_address_stops_the_run(tmp_path: Path, runtime: Runtime) -> None:
    with serving() as (inner, _), serving() as (port, _):
        there = to(f"http://127.0.0.1:{inner}/t") + "/t.csv"
        source = {"path": f"http://127.0.0.1:{port}{there}", "key": "key", "text": "text"}
        with pytest.raises((AddressRefused, SourceError), match="no public address"):
            ingest(configs.build({"name": "web", "source": source}), {}, runtime)
