"""The model card: what it shows, that it escapes, that it stays bounded, and its JSON twin."""

import dataclasses
import html
import io
import json
import re
import shlex

import polars as pl
import pytest

from mmgen import promotions
from mmgen.artifact import Draft
from mmgen.report import card, curves, score_tables
from tests import hand_made


@pytest.fixture
def parts(store):
    return promotions.lineage(store, hand_made.line(store))


def rendered(store, parts, alias="champion", why="its gate passed"):
    page, twin = card.render(store, parts, name="digits", alias=alias, why=why)
    return page.decode(), json.loads(twin)


def with_scores(store, parts, rows, passed=True, **more):
    draft = Draft(store, "scores", "digits", "9" * 64)
    out = io.BytesIO()
    names = ("metric", "given", "made", "judge", "value", "low", "high", "n")
    pl.DataFrame([dict(zip(names, row, strict=True)) for row in rows]).write_parquet(out)
    draft.put("scores.parquet", out.getvalue(), "scores")
    for number, (side, slot, name, data) in enumerate(more.pop("examples", [])):
        draft.put(name, data, "example", example=number // 2, side=side, slot=slot)
    return parts | {"scores": hand_made.commit(draft, "evaluate", facts={"gate": []}, passed=passed)}


def test_every_score_is_on_the_page_with_its_interval_and_its_ceilings(store, parts):
    page, twin = rendered(store, parts)
    assert len(twin["scores"]) == 2 + 6 + 3 + 3
    for row in twin["scores"]:
        assert f"{row['low']:.3f} – {row['high']:.3f}" in page
    drawn = re.findall(r'class="axis" title="([^"]*)"', page)
    assert len(drawn) == 12
    assert all("judge on real data 0.985" in title and "codec ceiling 0.975" in title for title in drawn)


def test_the_held_out_split_has_scores_of_its_own_and_what_did_not_run_is_said(store, parts):
    page, twin = rendered(store, parts)
    assert [row["value"] for row in twin["heldout"] if row["metric"] == "mean_coherence"] == [0.85]
    assert "Coherence, held out" in page
    assert "Independent recogniser: no &lt;recogniser&gt;." in page
    flat = score_tables.flat_scores(store, parts["scores"])
    assert (flat["mean_coherence"], flat["heldout/mean_coherence"]) == (0.95, 0.85)


def test_the_page_stands_alone_and_runs_nothing(store, parts):
    page, _ = rendered(store, parts)
    assert "<script" not in page
    sources = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert sources
    assert all(source.startswith(("data:image/png", "data:audio/wav", "#")) for source in sources)
    assert page.count("<audio") == 3


def test_texts_of_the_data_are_escaped_everywhere(store, parts):
    page, _ = rendered(store, parts, alias=None, why="<img src=x onerror=alert(1)>")
    assert "a &lt;script&gt; number" in page
    assert "<img src=x" not in page


def test_a_failed_gate_names_its_reasons_and_no_alias(store):
    parts = promotions.lineage(store, hand_made.line(store, passed=False))
    page, twin = rendered(store, parts, alias=None, why="its gate did not pass")
    assert "gate failed" in page
    assert "coherence image→audio 0.412 &lt; 0.600" in page
    assert "champion" not in page
    assert twin["gate"] == ["coherence image→audio 0.412 < 0.600"]


def test_a_table_without_labels_shows_retrieval_and_distances(store, parts):
    rows = [
        ("mean_retrieval", "", "", "fusion", 0.31, 0.27, 0.35, 200),
        ("retrieval", "text", "image", "fusion", 0.31, 0.27, 0.35, 200),
        ("retrieval_real", "text", "image", "fusion", 0.62, 0.58, 0.66, 200),
        ("kernel_distance", "text", "image", "fusion", -0.001, -0.004, 0.002, 200),
    ]
    page, _ = rendered(store, with_scores(store, parts, rows))
    assert "recall@1 of the condition among 100" in page.replace("Recall", "recall")
    assert re.search(r"real partners 0\.620", page)
    assert "-0.001" in page


def test_a_metric_that_the_card_does_not_know_is_shown_under_its_own_name(store, parts):
    page, _ = rendered(store, with_scores(store, parts, [("novel<b>", "", "image", "j", 0.5, 0.4, 0.6, 9)]))
    assert "novel&lt;b&gt;" in page


def test_lineage_and_configuration_name_what_made_the_model(store, parts):
    page, twin = rendered(store, parts)
    assert [line["role"] for line in twin["lineage"]] == [
        "dataset",
        "codecs",
        "features",
        "fusion",
        "generator",
        "scores",
    ]
    for line in twin["lineage"]:
        assert line["ref"] in page
        assert line["fingerprint"] in page
        assert parts[line["role"]].fingerprint.startswith(line["fingerprint"])
    assert twin["settings"]["generator"]["width"] == 512
    assert "width: 512" in page
    assert "cccccccccccc" in page


def test_the_page_keeps_within_its_budget_and_counts_what_it_left_out(store, parts, monkeypatch):
    whole, _ = rendered(store, parts)
    monkeypatch.setattr(card, "MAX_MEDIA_BYTES", 20_000)
    page, _ = rendered(store, parts)
    assert len(page) < len(whole)
    left_out = int(re.search(r"(\d+) further files", page)[1])
    assert left_out >= 1
    assert page.count("data:") - whole.count("data:") == -left_out


def test_the_same_artifacts_give_the_same_bytes(store, parts):
    assert rendered(store, parts) == rendered(store, parts)


def test_the_command_is_quoted_for_a_shell_and_shows_a_condition_of_the_data(store, parts):
    nasty = 'it\'s $HOME; rm -rf "x"'
    examples = [("given", "text", "a.txt", nasty.encode()), ("made", "image", "b.png", hand_made.png(3))]
    made = with_scores(store, parts, [("coherence", "text", "image", "j", 0.5, 0.4, 0.6, 9)], examples=examples)
    page, _ = rendered(store, made)
    command = html.unescape(re.search(r"<pre>(mmgen generate.*?)</pre>", page)[1])
    words = shlex.split(command)
    assert words[:2] == ["mmgen", "generate"]
    assert words[words.index("--text") + 1] == nasty


def test_metric_names_are_ones_that_mlflow_takes_and_do_not_collide(store, parts):
    rows = [
        ("recognised", "text", "audio", "pocketsphinx", 0.8, 0.7, 0.9, 50),
        ("recognised", "text", "audio", "other/judge é", 0.7, 0.6, 0.8, 50),
        ("joint_coherence", "", "text+image", "", 0.5, 0.4, 0.6, 50),
        ("kernel_distance", "text", "image", "", float("nan"), 0.0, 0.0, 50),
    ]
    flat = score_tables.flat_scores(store, with_scores(store, parts, rows)["scores"])
    assert len(flat) == 3 * 3 + 2
    assert all(re.fullmatch(r"[/\w.\- :]+", key) for key in flat)
    assert flat["recognised/text-to-audio/pocketsphinx"] == 0.8
    assert flat["joint_coherence/text-and-image.high"] == 0.6


def test_curves_are_read_per_column_thinned_and_end_where_training_ended(store):
    draft = Draft(store, "model", "m", "a" * 64)
    rows = [{"step": step, "loss": 1 / step, "note": "x", "flag": True} for step in range(1, 5001)]
    rows[10]["loss"] = float("nan")
    draft.put("h.jsonl", "\n".join(json.dumps(row) for row in rows).encode(), "history")
    (curve,) = curves.read_curves(store, hand_made.commit(draft, "train-generator"))
    assert curve.name == "loss"
    assert len(curve.points) <= curves.MAX_POINTS + 1
    assert curve.points[-1] == (5000, 1 / 5000)


def test_slots_of_any_name_are_shown_in_the_command(store, parts):
    facts = {"slots": {"question": "text", "answer": "text"}}
    codecs = dataclasses.replace(parts["codecs"], facts=facts)
    page, _ = rendered(store, parts | {"codecs": codecs})
    assert "--slot" in page
    assert 'to=("question",)' in html.unescape(page)


def test_a_model_of_one_target_is_asked_for_no_other(store, parts):
    model = dataclasses.replace(parts["generator"], facts={"args": {"target": "text"}, "kind": "concat_baseline"})
    page, twin = rendered(store, parts | {"generator": model})
    assert twin["makes"] == ["text"]
    assert "makes text from" in page
    assert "--image picture.png --to text" in html.unescape(page)


def test_what_is_made_from_several_inputs_stands_below_single_ones_and_has_a_mean_of_its_own(store, parts):
    rows = [
        ("coherence", "audio+text", "image", "j", 0.99, 0.98, 1.0, 90),
        ("coherence", "text", "image", "j", 0.5, 0.4, 0.6, 90),
        ("mean_coherence_of_2", "", "", "all", 0.99, 0.98, 1.0, 90),
        ("coverage", "text", "image", "j", 0.7, 0.6, 0.8, 90),
        ("coverage_real", "", "image", "j", 0.96, 0.9, 0.99, 45),
        ("bleu", "image", "text", "sacrebleu nrefs:1|tok:13a|version:2", 41.5, 40.0, 43.0, 90),
    ]
    made = with_scores(store, parts, rows)
    page, _ = rendered(store, made)
    assert page.index("<span>text → image</span>") < page.index("<span>audio + text → image</span>")
    assert "mean coherence, 2 inputs" in page
    assert "half of the real data 0.960" in page
    assert 'title="sacrebleu nrefs:1|tok:13a|version:2"' in page
    flat = score_tables.flat_scores(store, made["scores"])
    assert flat["coherence/audio-and-text-to-image"] == 0.99
    assert all(re.fullmatch(r"[/\w.\- :]+", key) for key in flat)


def test_a_made_sample_stands_beside_its_nearest_training_sample(store, parts):
    draft = Draft(store, "scores", "digits", "7" * 64)
    draft.put("scores.parquet", hand_made.scores_table(), "scores", split="test")
    for pair, distance in ((0, 0.25), (1, 3.0)):
        for side in ("made", "training"):
            facts = {"pair": pair, "side": side, "slot": "image", "given": "", "distance": distance, "shard": "d"}
            draft.put(f"nearest/image-{pair}-{side}.png", hand_made.png(pair), "nearest", **facts)
    made = hand_made.commit(draft, "evaluate", facts={"gate": []})
    page, _ = rendered(store, parts | {"scores": made})
    assert page.index("from nothing, 0.25 apart") < page.index("from nothing, 3 apart")
    assert page.count('alt="training"') == page.count('alt="made"') == 2
