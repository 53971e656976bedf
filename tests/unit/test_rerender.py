"""What a purge leaves to be read: whole pages and tables, that tell of the others what they told, and nothing of it."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from mmgen import artifact, forget, promotions, tombstones
from mmgen.artifact import Artifact, Draft
from mmgen.forgotten import Ledger
from mmgen.holders import find_holders
from mmgen.report import card, page
from mmgen.store import Store, sha256
from mmgen.tables import read_parquet
from mmgen.trace import trace
from tests import hand_made
from tests.data_sources import table_config, write_source
from tests.unit.test_forget import ROWS, holding, run

HTML = "datasets/tiny/versions/1/report.html"
TWIN = "datasets/tiny/versions/1/report.json"
#: shown in the gallery, which draws by hash; row 9 repeats it
KEY, ROW = "s0007", 7


def change(rows: list[dict[str, str]], _: Path) -> None:
    rows[9] |= {name: rows[ROW][name] for name in ("image", "audio")}
    rows[3]["image"] = "nowhere.png"
    rows[ROW]["caption"] = "words that nobody else says"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    config = table_config(
        write_source(tmp_path / "source", ROWS, change), shard={"max_samples": 8}, ingest={"batch_rows": 10},
        validate={"near_duplicates": "drop"},
    )  # fmt: skip
    run(config, Store(tmp_path / "store"))
    return Store(tmp_path / "store")


class Page(HTMLParser):
    """Whether every element of a page is closed, and what it says."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.open: list[str] = []
        self.said = ""
        self.feed(data.decode())
        self.close()

    def handle_starttag(self, tag: str, _: object) -> None:
        if tag not in ("meta", "img", "br", "link", "input", "source"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.said += data


def twin_of(store: Store) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(store.read(TWIN))
    return found


def test_the_page_says_what_it_said_without_the_sample(store: Store, tmp_path: Path) -> None:
    shown = str(page.picture((tmp_path / "source" / f"{ROW}.png").read_bytes())).encode()
    clip = str(page.clip((tmp_path / "source" / f"{ROW}.wav").read_bytes())).encode()
    other = str(page.picture((tmp_path / "source" / "8.png").read_bytes())).encode()
    needles = (KEY.encode(), shown, clip, b"words that nobody else says")
    before, was = store.read(HTML), twin_of(store)
    assert all(needle in before for needle in needles)
    found = forget.forget(store, "tiny", [KEY, "s0009"], purge=True)
    assert {HTML, TWIN} < set(found.rerendered)
    assert not set(found.rerendered) & set(found.purged)
    assert not holding(store, *needles)
    html, now = store.read(HTML), twin_of(store)
    opened = Page(html)
    assert opened.open == []
    assert "2 samples were forgotten since" in opened.said
    assert (other in html) == (other in before)
    assert html.count(b"<audio") >= 20, "the others are still shown and heard"
    assert html.count(b"<svg") == before.count(b"<svg")
    assert now["rendered_again"] == {"forgotten": 2, "measured": True}
    # one of the two was kept, the other was dropped before as what repeats it
    assert was["counts"] == {"inputs": ROWS, "kept": ROWS - 2, "quarantined": 1, "dropped": 1}
    assert now["counts"] == was["counts"] | {"kept": ROWS - 3, "dropped": 2}
    assert sum(now["splits"].values()) == now["presence"]["of"] == ROWS - 3
    assert [(row["reason"], row["rows"]) for row in now["funnel"]["dropped"]] == [("forgotten", 2)]
    assert now["funnel"]["quarantined"] == was["funnel"]["quarantined"]
    assert now["fingerprint"] == was["fingerprint"]
    assert list(now) == sorted({*was, "rendered_again"})


def test_where_another_row_names_the_key_a_token_stands(store: Store, tmp_path: Path) -> None:
    shown = str(page.picture((tmp_path / "source" / f"{ROW}.png").read_bytes())).encode()
    forget.forget(store, "tiny", [KEY], purge=True)
    assert not holding(store, KEY.encode(), b"words that nobody else says", shown)
    stands = Ledger.read(store, "tiny").token(KEY)
    table = read_parquet(store, "datasets/tiny/versions/1/verdicts.parquet")
    seventh, ninth = (table.row(by_predicate=pl.col("row") == row, named=True) for row in (ROW, 9))
    assert (seventh["key"], seventh["verdict"], seventh["reason"]) == (stands, "dropped", "forgotten")
    assert seventh["digest"] is seventh["split"] is None
    assert (ninth["key"], ninth["exemplar"]) == ("s0009", stands)
    assert ninth["message"].startswith(f"repeats '{stands}'")
    assert [each["key"] for each in twin_of(store)["duplicates"]["clusters"]] == [["s0009"]]


def test_the_others_are_traced_as_before_and_it_is_not(store: Store) -> None:
    told = trace(store, "s0003", ["tiny"])
    forget.forget(store, "tiny", [KEY], purge=True)
    (before,), (after,) = (each[0]["versions"] for each in (told, trace(store, "s0003", ["tiny"])))
    assert after == before
    assert not find_holders(store, "tiny", {KEY}).found


def test_drift_is_told_as_it_was_and_every_version_is_made_again(store: Store, tmp_path: Path) -> None:
    later = write_source(tmp_path / "source", ROWS + 10, change)
    run(table_config(later, shard={"max_samples": 8}, ingest={"batch_rows": 10}), store)
    second = "datasets/tiny/versions/2/report"
    was = json.loads(store.read(f"{second}.json"))
    assert was["drift"]
    found = forget.forget(store, "tiny", [KEY], purge=True)
    assert {HTML, f"{second}.html"} < set(found.rerendered)
    now = json.loads(store.read(f"{second}.json"))
    told = ("previous", "previous_fingerprint", "drift")
    assert {name: now[name] for name in told} == {name: was[name] for name in told}
    assert now["changes"]["unchanged"] == was["changes"]["unchanged"] - 1
    assert now["changes"]["removed"] == was["changes"]["removed"]
    opened = Page(store.read(f"{second}.html"))
    assert opened.open == []
    assert "Drift is as it was told before" in " ".join(opened.said.split())
    assert not holding(store, KEY.encode())


def test_verify_and_a_tombstone_tell_what_was_made_again(store: Store) -> None:
    found = forget.forget(store, "tiny", [KEY], purge=True)
    verdicts = artifact.load(store, "verdicts", "tiny", 1)
    damaged = {line.split(": ")[0] for line in artifact.damaged(store, verdicts, rehash=True)}
    assert damaged
    assert damaged <= tombstones.purged(store, verdicts)
    again = tombstones.rerendered(store, verdicts)
    assert set(again) == set(found.rerendered)
    assert all(sha256(store.read(path)) == digest for path, digest in again.items())


def test_a_second_purge_leaves_out_what_cannot_be_measured_and_says_so(store: Store) -> None:
    forget.forget(store, "tiny", [KEY], purge=True)
    found = forget.forget(store, "tiny", ["s0031"], purge=True)
    assert HTML in found.rerendered
    assert not holding(store, KEY.encode(), b"s0031")
    now = twin_of(store)
    assert now["rendered_again"] == {"forgotten": 2, "measured": False}
    assert now["counts"] == {"inputs": ROWS, "kept": ROWS - 4, "quarantined": 1, "dropped": 3}
    assert "distributions" not in now
    opened = Page(store.read(HTML))
    assert opened.open == []
    assert "staging batches that are gone" in opened.said
    assert forget.forget(store, "tiny", ["s0031"], purge=True).rerendered == ()
    assert store.exists(HTML), "a purge that finds nothing leaves the pages alone"


def test_a_page_that_a_dead_purge_left_goes_where_none_is_made_again(store: Store) -> None:
    verdicts = artifact.load(store, "verdicts", "tiny", 1)
    forget.forget(store, "tiny", [KEY], purge=True)
    tombstones.put(store, verdicts, frozenset(), {HTML: sha256(b"what was to be there")})
    found = forget.forget(store, "tiny", [KEY], purge=True)
    assert found.purged == (HTML,)
    assert found.rerendered == ()


def test_a_page_whose_sources_are_gone_goes(store: Store) -> None:
    store.delete("datasets/tiny/versions/1/quarantine.parquet")
    found = forget.forget(store, "tiny", [KEY], purge=True)
    assert found.rerendered == ()
    assert HTML in found.purged
    assert not holding(store, KEY.encode())


@pytest.mark.parametrize("at", [HTML, TWIN, "datasets/tiny/versions/1/verdicts.parquet"])
def test_a_purge_that_died_is_finished_by_one_of_another_key(
    store: Store, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    whole = Store.write

    def dies(mine: Store, path: str, data: bytes) -> None:
        if path == at:
            raise KeyboardInterrupt
        whole(mine, path, data)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "write", dies)
        with pytest.raises(KeyboardInterrupt):
            forget.forget(store, "tiny", [KEY], purge=True)
    assert holding(store, KEY.encode())
    forget.forget(store, "tiny", ["s0031"], purge=True)
    assert not holding(store, KEY.encode(), b"s0031")
    assert twin_of(store)["rendered_again"]["forgotten"] == 2


# ---------------------------------------------------------------- cards


def promoted(store: Store, keys: list[str]) -> Artifact:
    """A promotion with a card, made by hand, whose exam has these keys of the data set tiny."""
    exam = Draft(store, "evalset", "digits", "e" * 64)
    exam.put("keys.json", json.dumps({"test": [{"key": key} for key in keys]}).encode(), "keys")
    evalset = hand_made.commit(exam, "fit")

    def fill(part: str, *_: object) -> dict[str, Any]:
        return {"facts": {"slots": hand_made.SLOTS, "evalset": evalset.ref}} if part == "codecs" else {}

    inputs = hand_made.line(store, fill=fill)
    draft = Draft(store, "promotion", "digits", "p" * 64)
    parts = promotions.lineage(store, inputs)
    html, twin = card.render(store, parts, name="digits", alias="champion", why="its gate passed")
    draft.put("card.html", html, "card")
    draft.put("card.json", twin, "card-json")
    facts = {"alias": "champion", "why": "its gate passed", "model": parts["generator"].ref}
    return hand_made.commit(draft, "register", inputs={role: part.link for role, part in inputs.items()}, facts=facts)


def test_a_card_keeps_its_scores_and_shows_no_sample_of_the_exam(store: Store) -> None:
    line = promoted(store, [KEY])
    html, twin = line.file("card").path, line.file("card-json").path
    before, was = store.read(html), json.loads(store.read(twin))
    assert b"number 2" in before
    found = forget.forget(store, "tiny", [KEY], purge=True)
    assert {html, twin} < set(found.rerendered)
    after, now = store.read(html), json.loads(store.read(twin))
    assert now == was | {"samples": "purged"}
    opened = Page(after)
    assert opened.open == []
    assert "without its samples" in opened.said
    assert b"number 2" not in after
    assert b"<audio" not in after
    assert after.count(b'class="score"') == before.count(b'class="score"')
    shows = [
        entry.path for role in card.SHOWING for entry in artifact.load_link(store, line.inputs["scores"]).by_role(role)
    ]
    assert shows
    assert set(shows) <= set(found.purged)
    gone = {each.split(": ")[0] for each in artifact.damaged(store, line)}
    assert gone == {html, twin}
    assert gone <= tombstones.purged(store, line)


def test_a_training_sample_that_was_the_nearest_goes_from_the_card_that_shows_it(store: Store) -> None:
    """Its exam has none of the forgotten keys."""
    versions = artifact.history(store, "dataset", "tiny")
    shard = next(iter(find_holders(store, "tiny", {KEY}).shards))
    assert any(entry.facts.get("digest") == shard for entry in versions[0].files)

    def fill(part: str, *_: object) -> dict[str, Any]:
        facts = {"slots": hand_made.SLOTS, "evalset": "evalset:other@1"}
        return {"facts": facts} if part == "codecs" else {}

    inputs = hand_made.line(store, fill=fill)
    draft = Draft(store, "scores", "digits", "8" * 64)
    draft.put("scores.parquet", hand_made.scores_table(), "scores", split="test")
    for side, data in (("made", hand_made.png(1)), ("training", hand_made.png(2))):
        facts = {"pair": 0, "side": side, "slot": "image", "given": "text", "distance": 0.5, "shard": shard}
        draft.put(f"nearest/image-0-{side}.png", data, "nearest", **facts)
    links = {role: inputs[role].link for role in ("codecs", "fusion", "generator")}
    scores = hand_made.commit(draft, "evaluate", inputs=links, facts={"gate": []})
    parts = promotions.lineage(store, inputs | {"scores": scores})
    html, twin = card.render(store, parts, name="digits", alias=None, why="so")
    assert b"Nearest training samples" in html
    assert b"from text, 0.5 apart" in html
    line = Draft(store, "promotion", "digits", "q" * 64)
    line.put("card.html", html, "card")
    line.put("card.json", twin, "card-json")
    facts = {"alias": None, "why": "so", "model": inputs["generator"].ref}
    made = hand_made.commit(
        line, "register", inputs={role: part.link for role, part in (inputs | {"scores": scores}).items()}, facts=facts
    )
    found = forget.forget(store, "tiny", [KEY], purge=True)
    assert {entry.path for entry in scores.by_role("nearest")} <= set(found.purged)
    assert b"Nearest training samples" not in store.read(made.file("card").path)
    assert store.exists(scores.file("scores").path)


def test_a_card_of_another_exam_stays_as_it_is(store: Store) -> None:
    line = promoted(store, ["s0001"])
    found = forget.forget(store, "tiny", [KEY], purge=True)
    assert HTML in found.rerendered
    assert artifact.damaged(store, line, rehash=True) == []
