"""The per-shard table: every shard, what it holds, and which are unlike the others."""

from mmgen.records import ShardInfo
from mmgen.report import shard_report


def shard(number: int, size: int, split: str = "train") -> ShardInfo:
    digest = f"{number:064x}"
    return ShardInfo(split, digest, f"{digest}.tar", f"{digest}.parquet", 10, size)


STATS = {"present": {"text": 10, "image": 5}, "labels": {"a": 4, "b": 6}}


def test_every_shard_has_a_row_with_what_its_slots_hold():
    (row,) = shard_report.shard_rows([shard(1, 1_000)], [STATS])
    assert (row["samples"], row["each"], row["labels"]) == (10, 100, 2)
    assert row["present"] == {"text": 1.0, "image": 0.5}
    assert not row["outlier"]


def test_a_shard_far_from_its_splits_median_is_an_outlier():
    shards = [shard(number, 1_000 + number) for number in range(6)] + [shard(9, 9_000), shard(10, 9_000, "test")]
    rows = shard_report.shard_rows(shards, [STATS] * len(shards))
    assert [row["outlier"] for row in rows] == [False] * 6 + [True, False]


def test_few_or_equal_shards_have_no_outliers():
    assert shard_report.outliers([1, 1, 100]) == [False] * 3
    assert shard_report.outliers([100, 100, 100, 100.5, 100]) == [False] * 5


def test_the_page_names_outliers_first_and_escapes_names():
    shards = [shard(number, 1_000) for number in range(5)] + [shard(77, 50_000)]
    page = shard_report.render("a&b", 3, shards, [STATS] * 6, ["text", "image", "<audio>"]).decode()
    assert "a&amp;b" in page
    assert "&lt;audio&gt;" in page
    assert page.index(f"{77:064x}"[:12]) <= page.index(">outlier<")
    assert page.count("<tr>") == 7
