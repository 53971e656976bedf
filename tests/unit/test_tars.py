from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mmgen import tars
from mmgen.errors import IntegrityError, SourceError
from mmgen.tars import TarIndex, TarReader, TarWriter, key_of, pack, safe_key, scan, web_dataset

MEMBERS = {
    "b.png": b"picture" * 100,
    "a.json": b"{}",
    "a.png": b"",
    "a.question.txt": b"?",
    "c" * 130 + ".txt": b"long",
}

names = st.text("abc-_%0", min_size=1, max_size=12).map(lambda stem: f"{stem}.txt")
members_of = st.dictionaries(names, st.binary(max_size=1500), max_size=6)


def put(folder: Path, members: dict[str, bytes]) -> Path:
    data, index = pack(members)
    path = folder / "x.tar"
    path.write_bytes(data)
    Path(f"{path}.idx").write_bytes(index.to_bytes())
    return path


@given(members_of)
def test_packing_is_deterministic_and_stdlib_reads_it_back(members: dict[str, bytes]) -> None:
    data, index = pack(members)
    assert pack(dict(reversed(members.items())))[0] == data
    assert len(data) == index.length
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        infos = tar.getmembers()
        assert [info.name for info in infos] == sorted(members)
        assert {(info.mtime, info.uid, info.gid, info.uname, info.gname) for info in infos} <= {(0, 0, 0, "", "")}
        assert {info.name: tar.extractfile(info).read() for info in infos} == members  # type: ignore[union-attr]
    for member in index.members:
        assert data[member.offset : member.offset + member.length] == members[member.name]


# lengths around the block, the header's fields for the name, and names of several bytes a letter
@given(st.text(st.characters(exclude_categories=("Cs",), exclude_characters="/\0"), min_size=1, max_size=140),
       st.sampled_from([0, 1, 511, 512, 513, 70_000]))  # fmt: skip
def test_headers_are_those_of_the_standard_library(name: str, length: int) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = length, 0o644
    wanted = info.tobuf(tarfile.GNU_FORMAT, "utf-8", "strict") + bytes(length) + bytes(-length % 512) + bytes(1024)
    assume(name != "..")
    assert pack({name: bytes(length)})[0] == wanted


def test_a_tar_is_the_same_at_any_size_of_its_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pack(MEMBERS)
    monkeypatch.setattr(tars, "_GATHER", 100)
    assert pack(MEMBERS) == whole


# ---------------------------------------------------------------- damage: all of it is seen

SMALL = {"a.json": b"{}", "a.png": bytes(range(256)) * 3, "b.txt": b"words"}


def seen(folder: Path, index: TarIndex, data: bytes) -> bool:
    """Whether opening a damaged tar, or verifying it, says no."""
    path = folder / "damaged.tar"
    path.write_bytes(data)
    try:
        with TarReader(path, index) as reader:
            reader.verify()
    except IntegrityError:
        return True
    return False


def test_a_cut_at_any_byte_is_seen(tmp_path: Path) -> None:
    data, index = pack(SMALL)
    assert not seen(tmp_path, index, data)
    assert all(seen(tmp_path, index, data[:length]) for length in range(len(data)))


def test_a_flipped_bit_in_any_byte_is_seen(tmp_path: Path) -> None:
    data, index = pack(SMALL)
    for place in range(len(data)):
        assert seen(tmp_path, index, data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :])


def test_a_zeroed_block_is_seen(tmp_path: Path) -> None:
    data, index = pack(SMALL)
    blocks = [place for place in range(0, len(data), 512) if any(data[place : place + 512])]
    assert len(blocks) >= 6
    for place in blocks:
        assert seen(tmp_path, index, data[:place] + bytes(512) + data[place + 512 :])


def test_reading_a_member_sees_damage_to_its_bytes(tmp_path: Path) -> None:
    data, index = pack(SMALL)
    member = next(each for each in index.members if each.name == "a.png")
    for place in range(member.offset, member.offset + member.length):
        path = tmp_path / "damaged.tar"
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :])
        with TarReader(path, index) as reader, pytest.raises(IntegrityError, match=r"a\.png"):
            reader.read("a.png")


def test_a_tar_of_others_cut_anywhere_is_an_error(tmp_path: Path) -> None:
    """Also between two members, which the standard library takes for the end."""
    data, index = pack(SMALL)
    end = index.members[-1].offset + 512
    for length in [*range(1, end), end, end + 511]:
        with pytest.raises(SourceError, match=r"x\.tar"):
            list(scan(io.BytesIO(data[:length]), "x.tar"))
    # one empty block is an end that several programs write
    assert len(list(scan(io.BytesIO(data[: end + 512]), "x.tar"))) == len(SMALL)


@given(st.text())
def test_safe_keys_are_reversible_and_plain(key: str) -> None:
    try:
        key.encode()
    except UnicodeEncodeError:
        return
    safe = safe_key(key)
    assert key_of(safe) == key
    assert safe.isascii()
    assert not set(safe) & set("./\\ \0*?")


@pytest.mark.parametrize("key", ["__key", "__", "___x", "__a.b"])
def test_no_member_begins_with_two_underscores(key: str) -> None:
    """Hugging Face passes over such names as hidden ones, and the sample would be lost without a word."""
    assert not safe_key(key).startswith("__")
    assert key_of(safe_key(key)) == key
    assert safe_key("_one__two__") == "_one__two__"


@pytest.mark.parametrize("safe", ["a.b", "%2f", "%ZZ", "a b"])
def test_what_is_no_safe_key_is_refused(safe: str) -> None:
    with pytest.raises(ValueError):
        key_of(safe)


def test_members_of_a_key_lie_together_even_if_keys_start_alike() -> None:
    keys = ["a", "a-b", "a_b", "ab", "a%20", "A"]
    _, index = pack({f"{key}.{ext}": b"" for key in keys for ext in ("json", "png")})
    order = [member.key for member in index.members]
    assert order == [key for key in dict.fromkeys(order) for _ in range(2)]


def test_reader_gives_every_member_and_sample(tmp_path: Path) -> None:
    with TarReader.open(put(tmp_path, MEMBERS)) as reader:
        assert {name: reader.read(name) for name in MEMBERS} == MEMBERS
        assert reader.sample("a") == {"json": b"{}", "png": b"", "question.txt": b"?"}
        assert sorted(reader.keys()) == ["a", "b", "c" * 130]
        assert "b.png" in reader
        assert "b.jpg" not in reader
        reader.verify()
        with pytest.raises(KeyError):
            reader.read("nobody.png")


def test_truncation_at_any_byte_is_detected(tmp_path: Path) -> None:
    path = put(tmp_path, {"a.txt": b"hello", "b.txt": b"x" * 600})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(IntegrityError, match="truncated or replaced"):
            TarReader.open(path)


def test_truncation_of_the_index_at_any_byte_is_detected(tmp_path: Path) -> None:
    whole = pack(MEMBERS)[1].to_bytes()
    for length in range(len(whole)):
        with pytest.raises(IntegrityError, match="not a whole tar index"):
            TarIndex.from_bytes(whole[:length], "x.idx")


@settings(max_examples=60)
@given(st.data())
def test_a_flipped_bit_anywhere_is_detected(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = put(tmp_path_factory.mktemp("flip"), {"a.txt": b"hello", "b.txt": b"x" * 600})
    whole = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(whole)
    with TarReader.open(path) as reader:
        with pytest.raises(IntegrityError, match="sha256"):
            reader.verify()
        for member in reader.index.members:
            if member.offset <= at < member.offset + member.length:
                with pytest.raises(IntegrityError, match="not what its index recorded"):
                    reader.read(member.name)


@given(st.data())
def test_a_flipped_bit_in_the_index_is_detected(data: st.DataObject) -> None:
    whole = bytearray(pack(MEMBERS)[1].to_bytes())
    whole[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(IntegrityError):
        TarIndex.from_bytes(bytes(whole), "x.idx")


def test_index_comes_back_as_it_was() -> None:
    index = pack({**MEMBERS, "ü\n.txt": b"1"})[1]
    assert TarIndex.from_bytes(index.to_bytes(), "x.idx") == index


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../up.txt", "a/../../up.txt"])
def test_hostile_member_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="relative path"):
        TarWriter(io.BytesIO()).add(name, b"")


@pytest.mark.parametrize("second", ["a.txt", "b.txt"])
def test_unsorted_and_repeated_names_are_refused(second: str) -> None:
    writer = TarWriter(io.BytesIO())
    writer.add("b.txt", b"")
    with pytest.raises(ValueError, match="sorted and unique"):
        writer.add(second, b"")


@pytest.mark.parametrize("gone", ["x.tar", "x.tar.idx"])
def test_missing_files_are_integrity_errors(tmp_path: Path, gone: str) -> None:
    path = put(tmp_path, MEMBERS)
    (tmp_path / gone).unlink()
    with pytest.raises(IntegrityError, match="missing"):
        TarReader.open(path)


def test_gnu_tar_lists_it_without_a_word(tmp_path: Path) -> None:
    ran = subprocess.run(["tar", "tf", str(put(tmp_path, MEMBERS))], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == sorted(MEMBERS)
    assert ran.stderr == ""


# ---------------------------------------------------------------- tars of others


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_scan_finds_regular_files_of_any_tar_format(form: int) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as tar:
        for name, data in (("d/a.txt", b"one"), ("d/ö.txt", b"two")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("link.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    found = {name: stream.getvalue()[at : at + length] for name, at, length in scan(stream, "x.tar")}
    assert found == {"d/a.txt": b"one", "d/ö.txt": b"two"}


def test_scan_refuses_a_tar_that_breaks_off_within_a_member() -> None:
    data, index = pack({"a.txt": b"1" * 600, "b.txt": b"2" * 600})
    last = index.members[-1]
    found = scan(io.BytesIO(data[: last.offset + 100]), "x.tar")
    assert next(found)[0] == "a.txt"
    with pytest.raises(SourceError, match=r"truncated within its member 'b\.txt'"):
        next(found)


@pytest.mark.parametrize("data", [b"not a tar at all" * 100, b"\x1f\x8b" + b"0" * 600])
def test_scan_refuses_what_is_no_tar(data: bytes) -> None:
    with pytest.raises(SourceError, match="not a whole, uncompressed tar"):
        list(scan(io.BytesIO(data), "x.tar"))


# the library leaves its files to the garbage collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_webdataset_reads_our_tars_and_sees_only_safe_extensions(tmp_path: Path) -> None:
    path = put(
        tmp_path, {"a.png": b"1", "a.txt": b"2", "a.pyd": b"evil", "b.png": b"3", "b.pickle": b"evil", "b.pth": b"e"}
    )
    found = [
        {name: value for name, value in sample.items() if not name.startswith("__") or name == "__key__"}
        for sample in web_dataset([path])
    ]
    assert found == [{"__key__": "a", "png": b"1", "txt": b"2"}, {"__key__": "b", "png": b"3"}]
    only = [set(sample) - {"__key__", "__url__", "__local_path__"} for sample in web_dataset([path], ["png", "pyd"])]
    assert only == [{"png"}, {"png"}]


@pytest.mark.parametrize("path", ["pipe:echo owned", "nowhere.tar", "http://localhost/x.tar"])
def test_webdataset_gets_no_command_or_address(path: str) -> None:
    with pytest.raises(SourceError, match="wanted a local tar file"):
        web_dataset([path])
