from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mmgen.errors import StoreError
from mmgen.sources import digests
from mmgen.sources.digests import THREADED_BYTES, DigestCache, Look, cache_path
from mmgen.sources.fetching import ATTEMPTS, GIVEN_UP, Patience
from mmgen.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.png"
    path.write_bytes(b"one")
    return path


def kept(store: Store, file: Path, *, rehash: bool = False) -> str:
    cache = DigestCache(store, "x", rehash=rehash)
    found = cache.of(str(file)).sha256
    cache.save()
    return found


def test_an_unchanged_file_is_not_read_again(store: Store, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = kept(store, file)
    assert first == hashlib.sha256(b"one").hexdigest()
    monkeypatch.setattr(digests, "sha256_file", lambda path: pytest.fail("read again"))
    assert kept(store, file) == first


def test_another_size_or_time_is_read_again(store: Store, file: Path) -> None:
    kept(store, file)
    file.write_bytes(b"other")
    assert kept(store, file) == hashlib.sha256(b"other").hexdigest()
    file.write_bytes(b"OTHER")
    os.utime(file, ns=(1, 1))
    assert kept(store, file) == hashlib.sha256(b"OTHER").hexdigest()


def test_rehash_sees_a_change_that_size_and_time_hide(store: Store, file: Path) -> None:
    before = file.stat()
    kept(store, file)
    file.write_bytes(b"two")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert kept(store, file) == hashlib.sha256(b"one").hexdigest()
    assert kept(store, file, rehash=True) == hashlib.sha256(b"two").hexdigest()
    assert kept(store, file) == hashlib.sha256(b"two").hexdigest()


def test_a_missing_file_is_told_as_such(store: Store, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        DigestCache(store, "x").of(str(tmp_path / "nowhere.png"))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_a_damaged_cache_is_an_empty_one(store: Store, file: Path, share: float) -> None:
    kept(store, file)
    data = store.read(cache_path("x"))
    cut = int(len(data) * share)
    for broken in (data[:cut], data[:cut] + bytes(len(data) - cut), b"no database at all"):
        store.write(cache_path("x"), broken)
        assert kept(store, file) == hashlib.sha256(b"one").hexdigest()


def test_files_no_longer_asked_for_are_forgotten(store: Store, file: Path, tmp_path: Path) -> None:
    other = tmp_path / "b.png"
    other.write_bytes(b"b")
    kept(store, file)
    kept(store, other)
    assert str(file).encode() not in store.read(cache_path("x"))


def test_a_look_stands_until_a_file_changes(store: Store, file: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone.png"

    def look(stamp: str = "s") -> Look | None:
        with contextlib.closing(DigestCache(store, "x")) as cache:
            return cache.unchanged(stamp)

    def save() -> Look:
        cache, made = DigestCache(store, "x"), Look("s", (("batch", 2),))
        cache.prefetch([str(file), str(gone)])
        cache.save(made)
        return made

    assert look() is None
    assert save() == look()
    assert look("another stamp") is None
    gone.write_bytes(b"")
    assert look() is None, "a file that was missing is there"
    assert save() == look()
    file.write_bytes(b"changed")
    assert look() is None
    assert save() == look()
    file.unlink()
    assert look() is None
    with contextlib.closing(DigestCache(store, "x", rehash=True)) as cache:
        assert cache.unchanged("s") is None


def test_a_look_with_a_file_in_an_unknown_state_does_not_stand(store: Store, file: Path) -> None:
    cache = DigestCache(store, "x")
    cache.prefetch([str(file), f"{file}/below-a-file"])
    with pytest.raises(StoreError):
        cache.of(f"{file}/below-a-file")
    cache.save(Look("s", ()))
    assert DigestCache(store, "x").unchanged("s") is None


def test_many_large_files_are_hashed_as_one_by_one(store: Store, tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.bin" for number in range(20)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number]) * (THREADED_BYTES * (number % 2) + 1))
    cache = DigestCache(store, "x")
    cache.prefetch(map(str, paths))
    assert [cache.of(str(path)).sha256 for path in paths] == [
        hashlib.sha256(path.read_bytes()).hexdigest() for path in paths
    ]


def test_a_remote_folder_is_looked_up_in_one_listing(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store("memory://listing")
    for number in range(10):
        store.write(f"pictures/{number}.png", b"%d" % number)
    monkeypatch.setattr(digests, "stat_uri", lambda uri: pytest.fail("asked for one file"))
    cache = DigestCache(store, "x")
    uris = [f"memory://listing/pictures/{number}.png" for number in range(10)]
    cache.prefetch(uris)
    assert [cache.of(uri).sha256 for uri in uris] == [
        hashlib.sha256(b"%d" % number).hexdigest() for number in range(10)
    ]


def test_remote_files_are_looked_up_side_by_side() -> None:
    store = Store("memory://digests")
    store.write("pictures/1.png", b"one")
    store.write("pictures/2.png", b"two")
    uris = [f"memory://digests/pictures/{number}.png" for number in (1, 2, 3)]
    cache = DigestCache(store, "x")
    cache.prefetch(uris)
    assert [cache.of(uri).sha256 for uri in uris[:2]] == [hashlib.sha256(data).hexdigest() for data in (b"one", b"two")]
    with pytest.raises(FileNotFoundError):
        cache.of(uris[2])


class _Away(OSError):
    """What a client says of a busy server."""

    status = 503


def failing(times: int, error: Exception) -> Callable[[], str]:
    left = iter(range(times))

    def work() -> str:
        if next(left, None) is not None:
            raise StoreError("away") from error
        return "there"

    return work


def test_what_passes_is_waited_for_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    patience = Patience()
    for error in (_Away(), TimeoutError(), ConnectionResetError()):
        assert patience(failing(3, error)) == "there"
    assert (patience.calls, patience.retries) == (3, 9)
    assert waits[:3] == [0.5, 1.0, 2.0]
    with pytest.raises(StoreError):
        patience(failing(4, TimeoutError()))


@pytest.mark.parametrize("error", [PermissionError(), ValueError(), type("Gone", (OSError,), {"status": 410})()])
def test_what_does_not_pass_is_asked_once(error: Exception) -> None:
    patience = Patience()
    with pytest.raises(StoreError):
        patience(failing(1, error))
    assert patience.retries == 0


def test_a_source_that_is_gone_is_not_waited_for_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    patience = Patience()
    for _ in range(2 * GIVEN_UP):
        with pytest.raises(StoreError):
            patience(failing(9, TimeoutError()))
    assert patience.retries == GIVEN_UP * (ATTEMPTS - 1)
    assert patience(failing(0, TimeoutError())) == "there"
    assert patience(failing(2, TimeoutError())) == "there", "one that answers makes it patient again"
