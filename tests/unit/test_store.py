"""The store: atomic writes, create-only commits, clear errors."""

import functools
import http.server
import os
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmgen.errors import StoreError
from mmgen.store import Store, sha256, sha256_file
from mmgen.uris import list_uri, read_uri, read_uris, stat_uri, stat_uris


def test_write_then_read_gives_the_same_bytes_and_replaces(tmp_path):
    store = Store(tmp_path / "s")
    store.write("a/b.bin", b"one")
    store.write("a/b.bin", b"two")
    assert store.read("a/b.bin") == b"two"
    assert store.size("a/b.bin") == 3
    assert store.read_range("a/b.bin", 1, 2) == b"wo"
    assert store.names("a") == ["b.bin"]
    assert store.walk() == ["a/b.bin"]


def test_create_refuses_to_replace(tmp_path):
    store = Store(tmp_path)
    assert store.create("n/manifest.json", b"first")
    assert not store.create("n/manifest.json", b"second")
    assert store.read("n/manifest.json") == b"first"


def test_of_many_racing_creates_exactly_one_wins(tmp_path):
    store = Store(tmp_path)
    won = []
    barrier = threading.Barrier(16)

    def race(number: int) -> None:
        barrier.wait()
        if store.create("claim", str(number).encode()):
            won.append(number)

    threads = [threading.Thread(target=race, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert store.read("claim") == str(won[0]).encode()
    assert store.names("") == ["claim"]


def test_a_missing_file_is_no_outside_error(tmp_path):
    store = Store(tmp_path)
    assert store.size("x") is None
    assert not store.exists("x")
    assert store.names("x") == []
    with pytest.raises(FileNotFoundError):
        store.read("x")


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/passwd"])
def test_a_path_that_leaves_the_store_is_refused(tmp_path, path):
    with pytest.raises(StoreError, match="leaves the store"):
        Store(tmp_path).write(path, b"")


def test_a_store_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match=r"could not write .*file/x"):
        Store(tmp_path).write("file/x", b"data")


def test_a_writer_killed_at_any_moment_leaves_old_or_new_but_never_half(tmp_path):
    store = Store(tmp_path)
    old, new = b"o" * 4_000_000, b"n" * 4_000_000
    store.write("f", old)
    code = "import sys\nfrom mmgen.store import Store\ns = Store(sys.argv[1])\nprint('go', flush=True)\n" + (
        "while True:\n    s.write('f', b'n' * 4_000_000)\n"
    )
    for delay in (0.0, 0.003, 0.01, 0.02):
        writer = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        writer.stdout.readline()
        threading.Event().wait(delay)
        writer.kill()
        writer.wait()
        writer.stdout.close()
        assert store.read("f") in (old, new)


def use_in_another_process(store: Store) -> None:
    store.write("x", b"1")


def test_a_store_travels_to_another_process(tmp_path):
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        pool.submit(use_in_another_process, Store(tmp_path)).result()
    assert (tmp_path / "x").read_bytes() == b"1"


@given(st.binary(max_size=3_000))
def test_digests_agree(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("d") / "f"
    path.write_bytes(data)
    assert sha256_file(path) == sha256(data)


def test_uris_are_read_listed_and_told_apart_by_size_and_mark(tmp_path):
    (tmp_path / "a").mkdir()
    file = tmp_path / "a" / "x.txt"
    file.write_bytes(b"hello")
    size, mark = stat_uri(str(file))
    assert size == 5
    assert read_uri(str(file)) == b"hello"
    assert read_uri(str(file), limit_bytes=2) == b"hel"
    assert list_uri(str(tmp_path)) == [str(file)]
    os.utime(file, ns=(1, 1))
    assert stat_uri(str(file))[1] != mark
    with pytest.raises(FileNotFoundError):
        stat_uri(str(tmp_path / "none"))


def test_many_remote_files_come_in_order_with_their_failures_in_place():
    remote = Store("memory://many")
    for number in range(30):
        remote.write(f"{number}", bytes([number]))
    uris = [f"memory://many/{number}" for number in range(30)]
    uris[7:7] = ["memory://many/nowhere"]
    found, states = list(read_uris(uris, 2)), list(stat_uris(uris, 2))
    assert [type(each) for each in (found.pop(7), states.pop(7))] == [FileNotFoundError] * 2
    assert [data for _, data in found] == [bytes([number]) for number in range(30)]
    assert states == [stat_uri(f"memory://many/{number}") for number in range(30)]
    assert list(read_uris([], 2)) == []


def test_of_a_web_server_the_mark_comes_with_the_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"one")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        (mark, data), missing = read_uris([f"{address}/a", f"{address}/b"], 4)
        assert (3, mark) == stat_uri(f"{address}/a")
        server.shutdown()
    assert data == b"one"
    assert isinstance(missing, FileNotFoundError)
    (gone,) = read_uris([f"{address}/a"], 4)
    assert isinstance(gone, StoreError)
    assert f"could not read {address}/a" in str(gone)
