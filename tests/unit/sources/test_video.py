"""Videos: the right frame and the right sound at the right clip, from every container; what is broken is counted."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmgen import config as configs
from mmgen.config import Config
from mmgen.errors import ConfigError, SourceError
from mmgen.identity import config_part
from mmgen.ingest import ingest, pending, source_digest
from mmgen.modalities.audio import AudioMedia
from mmgen.modalities.config import CheckConfig
from mmgen.modalities.image import ImageMedia
from mmgen.records import Sample
from mmgen.runtime import Runtime
from mmgen.shards import shard
from mmgen.sources.clips import Unplayable, container_of, read_cuts, read_header
from mmgen.sources.rows import Row
from mmgen.sources.table import open_source
from mmgen.staging import StagedMedia, read_facts
from mmgen.store import Store
from mmgen.validate import validate
from tests.phantoms import colour_at, rejections_of, tone_at, video

LIMITS = CheckConfig()
#: container → codecs of its pictures and sound, and the sound's rate
CONTAINERS: dict[str, dict[str, Any]] = {
    "mp4": {},
    "mov": {"codec": "mpeg4", "sound": "pcm_s16le"},
    "mkv": {},
    "webm": {"codec": "libvpx", "sound": "libopus", "rate_hz": 48_000},
    "avi": {"sound": "pcm_s16le"},
    "ts": {"codec": "mpeg2video", "sound": "mp2", "rate_hz": 48_000, "fps": 25},
    "mpg": {"codec": "mpeg2video", "sound": "mp2", "rate_hz": 48_000, "fps": 25},
}


def config_of(path: Path | str, *, clip: dict[str, Any] | None = None, **parts: Any) -> Config:
    source = {"kind": "video", "path": str(path), "clip": clip or {"seconds": 1}}
    return configs.build({"name": "films", "source": source, **parts})


def rows_of(path: Path, **clip: Any) -> list[Row]:
    config = config_of(path, clip=clip or {"seconds": 1})
    return list(open_source(config.source, config.slots).rows())


def samples_of(path: Path, **clip: Any) -> list[Sample]:
    return [row.sample for row in rows_of(path, **clip) if row.sample is not None]


def pitch(data: bytes) -> float:
    """The loudest frequency of a WAV's middle, in Hz."""
    samples, rate = AudioMedia().decode(data)
    middle = samples[0, samples.shape[1] // 4 : -samples.shape[1] // 4]
    power = np.abs(np.fft.rfft(middle * np.hanning(len(middle)), 1 << 16))
    return float(power.argmax() * rate / (1 << 16))


def middle_colour(data: bytes) -> Any:
    pixels = ImageMedia().decode(data)
    return pixels[pixels.shape[0] // 2, pixels.shape[1] // 2].astype(int)


def close(data: bytes, second: int) -> bool:
    return bool(np.abs(middle_colour(data) - colour_at(second)).max() <= 6)


# ---------------------------------------------------------------- frames and sound


@pytest.mark.parametrize("container", CONTAINERS)
def test_each_clip_has_the_frame_and_the_sound_of_its_time(container: str, tmp_path: Path) -> None:
    path = video(tmp_path / f"film.{container}", 4, **CONTAINERS[container])
    rate = CONTAINERS[container].get("rate_hz", 16_000)
    # an MPEG program stream tells no length: FFmpeg estimates it from the rate of bytes
    assert read_header(str(path)).seconds == pytest.approx(4, abs=0.5 if container == "mpg" else 0.15)
    for second in (2, 0, 3, 1):
        start, end = second * 1000, second * 1000 + 1000
        cut = read_cuts(str(path), {"image": ("image", start, end), "audio": ("audio", start, end)}, LIMITS)
        assert close(cut["image"].data, second), middle_colour(cut["image"].data)
        samples, came = AudioMedia().decode(cut["audio"].data)
        assert (came, samples.shape[0]) == (rate, 2)
        assert samples.shape[1] == pytest.approx(rate, abs=0.1 * rate)
        assert pitch(cut["audio"].data) == pytest.approx(tone_at(second), abs=2)
        # left is twice as loud as right, and pieces join without a click
        assert np.abs(samples[0]).max() > 1.6 * np.abs(samples[1]).max()
        smooth = np.abs(np.diff(samples[0, rate // 8 : -rate // 8], 2)).max()
        assert smooth < 3 * 0.4 * (2 * np.pi * tone_at(second) / rate) ** 2 + 0.02


def test_sound_of_neighbouring_clips_joins_without_a_gap(tmp_path: Path) -> None:
    path = str(video(tmp_path / "film.mkv", 2, sound="pcm_s16le"))
    halves = [read_cuts(path, {"a": ("audio", at, at + 700)}, LIMITS)["a"].data for at in (0, 700)]
    whole = AudioMedia().decode(read_cuts(path, {"a": ("audio", 0, 1400)}, LIMITS)["a"].data)[0]
    assert np.array_equal(np.concatenate([AudioMedia().decode(each)[0] for each in halves], axis=1), whole)


def test_several_frames_come_from_the_middles_of_equal_spans(tmp_path: Path) -> None:
    path = video(tmp_path / "film.mp4", 4)
    (sample,) = samples_of(path, seconds=4, frames=4)
    assert list(sample.media) == ["frame_0", "frame_1", "frame_2", "frame_3", "audio"]
    runtime = Runtime(Store(tmp_path / "store"))
    staging = ingest(config_of(path, clip={"seconds": 4, "frames": 4}), {}, runtime)
    with StagedMedia(runtime.store, staging) as staged:
        assert all(close(staged.read(0, f"frame_{second}", "png"), second) for second in range(4))


def test_a_phones_rotation_is_applied(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    with av.open(str(path), "w") as container:
        pictures: Any = container.add_stream("mpeg4", rate=10)
        pictures.width, pictures.height, pictures.pix_fmt = 64, 48, "yuv420p"
        lit = np.zeros((48, 64, 3), np.uint8)
        lit[:, :32] = 250
        for packet in (*pictures.encode(av.VideoFrame.from_ndarray(lit, format="rgb24")), *pictures.encode()):
            container.mux(packet)
    data = path.read_bytes()
    # the matrix of the track (ISO 14496-12 8.3.2): x to the bottom, y to the left, a quarter turn clockwise
    plain, turned = (
        b"".join(value.to_bytes(4, "big", signed=True) for value in matrix)
        for matrix in ((1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30), (0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30))
    )
    at = data.index(plain, data.index(b"tkhd"))
    path.write_bytes(data[:at] + turned + data[at + 36 :])
    pixels = ImageMedia().decode(read_cuts(str(path), {"image": ("image", 0, 100)}, LIMITS)["image"].data)
    assert pixels.shape == (64, 48, 3)
    # what was left is at the top
    assert pixels[:24].min() > 200
    assert pixels[-24:].max() < 50


# ---------------------------------------------------------------- rows


def test_clips_of_a_film_are_one_group_and_share_what_is_said_of_it(tmp_path: Path) -> None:
    video(tmp_path / "a" / "film.mp4", 3)
    (tmp_path / "a" / "film.txt").write_text("colours that change")
    (tmp_path / "a" / "film.json").write_text(json.dumps({"label": "test", "part": "val", "tongue": "en"}))
    video(tmp_path / "other.mkv", 1)
    source = {"kind": "video", "path": str(tmp_path), "clip": {"seconds": 1}, "split": "part", "language": "tongue"}
    config = configs.build({"name": "films", "source": source})
    found = [row.sample for row in open_source(config.source, config.slots).rows() if row.sample]
    assert [sample.key for sample in found] == [f"a/film/{at:08d}" for at in (0, 1000, 2000)] + ["other/00000000"]
    assert [sample.row for sample in found] == [0, 1, 2, 3]
    assert [sample.group for sample in found] == ["a/film"] * 3 + ["other"]
    first = found[0]
    assert (first.texts["text"], first.label, first.split) == (("colours that change",), "test", "val")
    assert first.meta == {"language": "en"}
    assert not found[3].texts


def test_a_group_that_the_json_names_rules(tmp_path: Path) -> None:
    video(tmp_path / "film.mp4", 1)
    (tmp_path / "film.json").write_text('{"group": "speaker 7"}')
    assert [sample.group for sample in samples_of(tmp_path)] == ["speaker 7"]


@pytest.mark.parametrize(
    ("seconds", "clip", "spans"),
    [
        (3, 1, [(0, 1000), (1000, 2000), (2000, 3000)]),
        (3.4, 1, [(0, 1000), (1000, 2000), (2000, 3400)]),
        (3.5, 1, [(0, 1000), (1000, 2000), (2000, 3000), (3000, 3500)]),
        (0.4, 1, [(0, 400)]),
    ],
)
def test_the_end_of_a_film_is_never_lost(
    seconds: float, clip: float, spans: list[tuple[int, int]], tmp_path: Path
) -> None:
    path = video(tmp_path / "film.avi", seconds, sound=None)
    cuts = [sample.media["image"].cut for sample in samples_of(path, seconds=clip)]
    assert [(cut.start_ms, cut.end_ms) for cut in cuts if cut] == spans


def test_a_single_file_is_a_source_with_what_lies_beside_it(tmp_path: Path) -> None:
    path = video(tmp_path / "film.mp4", 1)
    video(tmp_path / "other.mp4", 1)
    (tmp_path / "film.txt").write_text("said")
    (sample,) = samples_of(path)
    assert (sample.key, sample.texts["text"]) == ("film/00000000", ("said",))
    with pytest.raises(SourceError, match="no such video or folder"):
        samples_of(tmp_path / "nowhere.mp4")


def test_a_video_is_known_by_its_bytes_and_others_are_no_inputs(tmp_path: Path) -> None:
    shutil.copy(video(tmp_path / "film.mp4", 1), tmp_path / "recording.dat")
    (tmp_path / "README.md").write_text("no video")
    (tmp_path / "poster.png").write_bytes(ImageMedia().encode(np.zeros((9, 9, 3), np.uint8)))
    assert [sample.key for sample in samples_of(tmp_path)] == ["film/00000000", "recording/00000000"]


def test_without_sound_the_slot_is_missing_and_nothing_is_said(tmp_path: Path) -> None:
    path = video(tmp_path / "film.mp4", 2, sound=None)
    runtime = Runtime(Store(tmp_path / "store"))
    staging = ingest(config_of(path), {}, runtime)
    facts = read_facts(runtime.store, staging)
    assert facts["audio.present"].to_list() == [False, False]
    assert facts["image.present"].to_list() == [True, True]
    assert rejections_of(runtime.store, staging) == []


def test_sound_that_ends_before_its_clip_is_flagged(tmp_path: Path) -> None:
    path = video(tmp_path / "film.mkv", 3, sound_seconds=1.5)
    runtime = Runtime(Store(tmp_path / "store"))
    staging = ingest(config_of(path), {}, runtime)
    facts = read_facts(runtime.store, staging)
    assert facts["audio.present"].to_list() == [True, True, False]
    assert facts["audio.seconds"][1] == pytest.approx(0.5, abs=0.1)
    found = [(each.row, each.reason, each.severity) for each in rejections_of(runtime.store, staging)]
    assert found == [(1, "sound_ends_early", "flag"), (2, "sound_ends_early", "flag")]


# ---------------------------------------------------------------- what is broken


def broken(tmp_path: Path) -> Path:
    folder = tmp_path / "films"
    video(folder / "good.mp4", 2)
    data = video(tmp_path / "long.mkv", 4).read_bytes()
    (folder / "cut.mkv").write_bytes(data[: len(data) // 2])
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mov").write_text("#EXTM3U\nfile:///etc/passwd\n")
    (folder / "garbage.webm").write_bytes(b"\x1aE\xdf\xa3" + bytes(5000))
    (folder / "twice.mp4").write_bytes(data)
    (folder / "twice.mkv").write_bytes(data)
    return folder


def test_broken_videos_are_counted_with_their_reasons(tmp_path: Path) -> None:
    runtime = Runtime(Store(tmp_path / "store"))
    staging = ingest(config_of(broken(tmp_path)), {}, runtime)
    found: dict[str, set[str]] = {}
    for each in rejections_of(runtime.store, staging):
        found.setdefault(each.key.partition("/")[0], set()).add(each.reason)
    assert found["empty"] == found["text"] == found["garbage"] == {"not_a_video"}
    assert found["twice"] == {"ambiguous_slot"}
    assert "truncated" in found["cut"]
    assert "good" not in found
    facts = staging.facts
    # 2 good clips, 4 of the one that was cut, and one row for each video that is none
    assert facts["inputs"] == facts["rows"] + facts["rejected"] == 2 + 4 + 4
    kept = read_facts(runtime.store, staging)["key"].to_list()
    assert {"good/00000000", "good/00001000", "cut/00000000"} <= set(kept)


def test_caps_are_checked_on_the_header(tmp_path: Path) -> None:
    path = video(tmp_path / "film.mp4", 2)
    for clip, said in (({"max_video_seconds": 1.5}, "1.5 s"), ({"max_video_bytes": 1000}, "1000 bytes")):
        (row,) = rows_of(path, **clip)
        assert row.sample is None
        assert row.rejections[0].reason == "video_too_long"
        assert said in row.rejections[0].message
    small = CheckConfig(max_image_pixels=1000)
    assert read_cuts(str(path), {"i": ("image", 0, 9)}, small)["i"].findings[0].reason == "too_many_pixels"
    mono = CheckConfig(max_audio_channels=1)
    assert read_cuts(str(path), {"a": ("audio", 0, 900)}, mono)["a"].findings[0].reason == "too_many_channels"


def test_what_would_fetch_other_files_is_no_video(tmp_path: Path) -> None:
    for text in ("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1/a.ts\n", "ffconcat version 1.0\nfile /etc/passwd\n", "v=0\r\n"):
        assert container_of(text.encode()) is None
        (tmp_path / "list.mp4").write_text(text)
        with pytest.raises(Unplayable, match="its bytes are none"):
            read_header(str(tmp_path / "list.mp4"))


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    outside = video(tmp_path / "outside" / "film.mp4", 1)
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "link.mp4").symlink_to(outside)
    (row,) = rows_of(tmp_path / "films")
    assert [each.reason for each in row.rejections] == ["path_refused"]


def test_without_pyav_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ConfigError, match=r"PyAV is not installed.*mmgen\[video\]"):
        rows_of(tmp_path)


FILMS: dict[str, bytes] = {}


def film(tmp: Path, container: str) -> bytes:
    if container not in FILMS:
        options = {**CONTAINERS[container], "key_every": 5}
        FILMS[container] = video(tmp / f"small.{container}", 0.6, size=(32, 32), **options).read_bytes()
    return FILMS[container]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    container=st.sampled_from(["mp4", "mkv", "avi", "ts", "webm"]),
    keep=st.floats(0, 1),
    flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=12),
)
def test_hostile_bytes_end_in_findings(
    container: str, keep: float, flips: list[tuple[int, int]], tmp_path: Path
) -> None:
    data = bytearray(film(tmp_path, container))
    for at, value in flips:
        data[at % len(data)] = value
    path = tmp_path / "hostile"
    path.write_bytes(bytes(data[: int(len(data) * keep)]))
    try:
        header = read_header(str(path))
    except Unplayable:
        return
    assert header.seconds > 0
    cuts = {"image": ("image", 0, 500), "audio": ("audio", 0, 500)}
    for slot, derived in read_cuts(str(path), cuts, LIMITS).items():  # type: ignore[arg-type]
        assert derived.data or derived.findings or slot == "audio"


# ---------------------------------------------------------------- the line


def test_the_same_video_gives_the_same_bytes_in_any_batch(tmp_path: Path) -> None:
    video(tmp_path / "films" / "film.mp4", 4)
    digests = []
    for number, batch_rows in enumerate((512, 1, 3)):
        runtime = Runtime(Store(tmp_path / str(number)))
        config = config_of(tmp_path / "films", ingest={"batch_rows": batch_rows})
        facts = read_facts(runtime.store, ingest(config, {}, runtime))
        digests.append((facts["image.sha256"].to_list(), facts["audio.sha256"].to_list()))
    assert digests[0] == digests[1] == digests[2]


def test_unchanged_videos_are_not_staged_again_and_changed_ones_are(tmp_path: Path) -> None:
    video(tmp_path / "films" / "a.mp4", 2)
    video(tmp_path / "films" / "b.mp4", 2)
    runtime = Runtime(Store(tmp_path / "store"))
    config = config_of(tmp_path / "films", ingest={"batch_rows": 2})
    ingest(config, {}, runtime)
    assert pending(config, runtime).rows == 0
    before = source_digest(config, runtime)
    video(tmp_path / "films" / "b.mp4", 2, key_every=7)
    assert pending(config, runtime).rows == 2
    assert source_digest(config, runtime) != before


def test_what_lies_beside_a_single_video_is_read_again_when_it_changes(tmp_path: Path) -> None:
    path = video(tmp_path / "film.mp4", 1)
    (tmp_path / "film.txt").write_text("one")
    runtime = Runtime(Store(tmp_path / "store"))
    before = source_digest(config_of(path), runtime, prepare=True)
    (tmp_path / "film.txt").write_text("other")
    assert source_digest(config_of(path), runtime) != before


def test_settings_of_clips_are_identity(tmp_path: Path) -> None:
    video(tmp_path / "film.mp4", 2)
    parts = [config_part("ingest", config_of(tmp_path, clip=clip)) for clip in ({"seconds": 1}, {"seconds": 0.5})]
    assert parts[0] != parts[1]


def test_a_config_of_several_frames_is_short_and_takes_the_images_settings(tmp_path: Path) -> None:
    slots = {"image": {"size_px": 64}, "frame_1": {"size_px": 16}}
    config = config_of(tmp_path, clip={"frames": 3}, slots=slots)
    assert list(config.slots) == ["text", "audio", "frame_0", "frame_1", "frame_2"]
    assert [config.slots[f"frame_{number}"].size_px for number in range(3)] == [64, 16, 64]  # type: ignore[union-attr]
    assert "image" in config_of(tmp_path, clip={"frames": 1}).slots
    for frames in (0, 65, "many"):
        with pytest.raises(ConfigError, match=r"source\.clip\.frames"):
            config_of(tmp_path, clip={"frames": frames})


def test_remote_videos_are_read_in_place_and_never_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # what reads a file whole
    monkeypatch.setattr("mmgen.sources.digests.read_uri", lambda *_: pytest.fail("held"))
    monkeypatch.setattr("mmgen.sources.reading.read_uri", lambda *_: pytest.fail("held"))
    remote = Store(f"memory:///{tmp_path.name}/films")
    remote.write("film.mp4", video(tmp_path / "film.mp4", 2).read_bytes())
    runtime = Runtime(Store(tmp_path / "store"))
    staging = ingest(config_of(remote.uri), {}, runtime)
    local = ingest(config_of(tmp_path / "film.mp4"), {}, Runtime(Store(tmp_path / "other")))
    ours, theirs = (
        read_facts(store, each) for store, each in ((runtime.store, staging), (Store(tmp_path / "other"), local))
    )
    assert ours["key"].to_list() == ["film/00000000", "film/00001000"]
    assert ours["image.sha256"].to_list() == theirs["image.sha256"].to_list()
    assert ours["audio.sha256"].to_list() == theirs["audio.sha256"].to_list()


def test_clips_of_one_film_never_part_into_two_splits(tmp_path: Path) -> None:
    for number in range(6):
        video(tmp_path / "films" / f"f{number}.mp4", 3, first=3 * number)
    runtime = Runtime(Store(tmp_path / "store"))
    config = config_of(tmp_path / "films", clip={"seconds": 1, "frames": 2})
    staging = ingest(config, {}, runtime)
    verdicts = validate(config, {"staging": staging}, runtime)
    version = shard(config, {"staging": staging, "verdicts": verdicts}, runtime)
    import mmgen

    with mmgen.open(f"{version.name}@{version.version}", store=str(tmp_path / "store")) as dataset:
        splits: dict[str, set[str]] = {}
        for split in dataset.splits:
            for key in dataset.keys(split):
                splits.setdefault(key.partition("/")[0], set()).add(split)
    assert len(splits) == 6
    assert all(len(each) == 1 for each in splits.values())
