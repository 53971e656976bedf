"""The comparison's plain parts: which cells there are, who is in which variant, and tables and plots from scores."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from PIL import Image

from benchmarks.models import cells, drawing, judging, lines, settings, tables
from benchmarks.models.__main__ import Results, best_of
from benchmarks.models.cells import BASELINE, FLOW
from benchmarks.models.ours import with_steps
from mmgen import config as configs
from mmgen.evaluate import scores
from mmgen.evaluate.scores import Score
from mmgen.preprocess.text import TextPreprocess, Tokenizer

# ---------------------------------------------------------------- cells


def test_at_most_six_settings_are_tried_of_each_peer() -> None:
    found = Counter(cell.contender for cell in cells.tuning())
    assert set(found) == set(settings.GRID)
    assert max(found.values()) <= 6
    assert {cell.minutes for cell in cells.tuning()} == {2.0}


def test_the_comparison_has_every_contender_on_both_variants_and_the_seeds_of_ours_and_the_best() -> None:
    found = list(cells.comparison("mopoe"))
    assert len({cell.name for cell in found}) == len(found)
    for variant in ("complete", "half"):
        seeds = Counter(cell.contender for cell in found if cell.variant == variant and cell.minutes == 10)
        assert seeds == {FLOW: 3, "mopoe": 3, "mvtcae": 1, "mmvae_plus": 1, "jnf": 1, BASELINE: 1}
    curve = {cell.minutes for cell in found if cell.contender == FLOW and cell.variant == "complete"}
    assert curve == {1, 2, 5, 10}
    assert {cell.variant for cell in found} == {"complete", "half", "most", "pairs-500", "pairs-1000", "pairs-2000"}


def test_ours_scales_every_training_and_keeps_the_rest_of_the_recipe() -> None:
    (changes,) = cells.flow(1.0)
    recipe = lines.config_of(Path("pairs.csv"), "complete")
    assert lines.config_of(Path("pairs.csv"), "complete", changes=changes) == recipe
    (short,) = cells.flow(0.01)
    config = lines.config_of(Path("pairs.csv"), "complete", changes=short)
    generator = config.generator.train
    assert (generator.steps, generator.warmup_steps) == (25, 5)
    assert config.fusion.train.steps == 20
    assert config.judges == recipe.judges


@pytest.mark.parametrize("contender", [FLOW, BASELINE])
def test_ours_is_trained_anew_and_shorter_where_it_went_beyond_its_budget(contender, tmp_path, monkeypatch) -> None:
    place, asked = cells.Place(tmp_path, tmp_path), []
    (place.cells / "pace.json").write_text('{"fixed_s": 0.0, "recipe_s": 300.0}')
    recipe = cells.flow(1.0)[0]["generator"]["train"]["steps"]

    def slower(place, cell, trainings, made):
        # half as fast as when its pace was measured
        planned = [each.get("budget_s") or 300 * each["generator"]["train"]["steps"] / recipe for each in trainings]
        asked.append(2 * sum(planned))
        return {"cpu_s": asked[-1]}

    monkeypatch.setattr(cells, "_ours", slower)
    found = cells.run(place, cells.Cell(contender, "complete", 0, 10), {}, "test")
    assert len(asked) == 2
    assert asked[0] > 600
    assert 0.9 * 600 < found["cpu_s"] <= 600


def test_the_pace_of_two_trainings_plans_a_share_of_the_recipe_that_stays_within_a_budget() -> None:
    pace = cells.Pace.between((0.05, 40.0), (0.15, 100.0))
    assert (pace.fixed_s, pace.recipe_s) == pytest.approx((10.0, 600.0))
    assert pace.share(10) == pytest.approx((settings.MARGIN * 600 - 10) / 600)
    assert pace.share(0.01) == 0


def test_the_baseline_has_one_training_for_each_slot_and_a_third_of_the_time() -> None:
    found = cells.baseline(10)
    assert [each["generator"]["target"] for each in found] == ["text", "image", "audio"]
    assert sum(each.pop("budget_s") for each in found) == pytest.approx(600)
    config = lines.config_of(Path("pairs.csv"), "complete", changes=with_steps(found[0], 70))
    assert (config.generator.kind, config.generator.train.steps) == ("concat_baseline", 70)
    tried = configs.build(
        {"name": "x", "recipe": "concat_baseline_text_image_audio",
         "source": {"path": "p.csv", "text": "caption", "image": "image", "audio": "audio"}}
    )  # fmt: skip
    assert config.generator.encoders == tried.generator.encoders  # type: ignore[union-attr]


# ---------------------------------------------------------------- variants


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with open(tmp_path / "pairs.csv", "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["key", "caption", "image", "audio", "label", "voice"])
        writer.writerows([f"k{n}", "a digit", f"{n}.png", f"{n}.flac", n % 10, "f1"] for n in range(400))
    return tmp_path


SPLITS = {f"k{n}": ("train", "train", "train", "test")[n % 4] for n in range(400) if n != 5}


def read(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def test_half_of_the_cells_of_training_rows_are_missing_and_never_all_of_a_row(folder: Path) -> None:
    rows = read(lines.table_of(folder, "half", SPLITS))
    assert {row["key"]: row["split"] for row in rows} == SPLITS
    kept = {split: [sum(bool(row[column]) for column in lines.SLOT_COLUMNS) for row in rows if row["split"] == split]
            for split in ("train", "test")}  # fmt: skip
    assert set(kept["test"]) == {3}
    assert set(kept["train"]) == {1, 2, 3}
    # an eighth of the rows would have lost all three and keeps one
    assert sum(kept["train"]) / len(kept["train"]) / 3 == pytest.approx(0.5 + 1 / 24, abs=0.05)
    assert read(lines.table_of(folder, "half", SPLITS)) == rows


def test_more_of_the_cells_are_missing_in_the_variant_of_most(folder: Path) -> None:
    empty = [
        sum(not row[column] for row in read(lines.table_of(folder, variant, SPLITS)) for column in lines.SLOT_COLUMNS)
        for variant in ("half", "most")
    ]
    assert empty[0] < empty[1]


def test_a_curve_over_pairs_drops_training_rows_alone(folder: Path) -> None:
    rows = read(lines.table_of(folder, "pairs-50", SPLITS))
    assert Counter(row["split"] for row in rows) == {"train": 50, "test": 100}
    assert all(row[column] for row in rows for column in lines.SLOT_COLUMNS)
    more = read(lines.table_of(folder, "pairs-60", SPLITS))
    assert {row["key"] for row in rows} < {row["key"] for row in more}


def test_texts_are_retold_in_another_tokenizer_s_ids_up_to_their_end() -> None:
    texts = ["the digit three", "a seven, spoken"]
    have, want = (
        TextPreprocess(Tokenizer.fit(said, 300), 24)
        for said in ([*texts, "the the the digit digit"], ["a seven, spoken"])
    )
    value = torch.from_numpy(np.stack([have.compact(text.encode(), "") for text in texts])).long()
    # a contender may leave anything behind the end
    value[0, -3:] = 7
    found = lines.retold(value, have, want)
    assert want.texts(torch.from_numpy(found)) == texts
    assert not np.array_equal(found, value.numpy())
    np.testing.assert_array_equal(found, np.stack([want.compact(text.encode(), "") for text in texts]))


def test_means_are_of_directions_from_one_and_from_two_inputs() -> None:
    rows = [Score(scores.COHERENCE, given, "image", "image", value, value, value, 10)
            for given, value in (("text", 0.2), ("audio", 0.4), ("audio+text", 0.9))]  # fmt: skip
    assert [(row.metric, round(row.value, 6)) for row in judging.means(rows)] == [
        ("mean_coherence", 0.3),
        ("mean_coherence_of_2", 0.9),
    ]
    assert judging.value_of([(row, "") for row in rows], scores.COHERENCE) == 0.9


# ---------------------------------------------------------------- tables and plots


def rows_of(
    contender: str, value: float, *, seed: int = 0, minutes: float = 10.0, variant: str = "complete"
) -> pl.DataFrame:
    each = [
        (scores.COHERENCE, "text", "image", ""), (scores.COHERENCE, "audio+text", "image", ""),
        (scores.JUDGE_KERNEL_DISTANCE, "text", "image", ""), (scores.COVERAGE, "text", "image", ""),
        (scores.COVERAGE, "", "image", "prior"), (scores.MEAN_COHERENCE, "", "", ""),
        (f"{scores.MEAN_COHERENCE_OF}2", "", "", ""), (scores.JOINT_COHERENCE, "", "audio+image+text", "prior"),
    ]  # fmt: skip
    if contender != FLOW:
        each.append((scores.JOINT_COHERENCE, "", "audio+image+text", "gmm"))
    pairs = {"complete": 4000.0, "pairs-500": 500.0}.get(variant, 4000.0)
    about = {
        "contender": contender, "variant": variant, "seed": seed, "minutes": minutes, "cpu_s": 60 * minutes,
        "making_cpu_s": 5.0, "parameters": 1e6, "steps": 100.0, "skipped": 2.0, "rows": pairs, "commit": "c",
        "machine": "m", "command": "x",
    }  # fmt: skip
    return pl.DataFrame([
        {**about, "sampler": sampler, "metric": metric, "given": given, "made": made, "judge": "image",
         "value": value + (0.1 if sampler == "gmm" else 0.0), "low": value - 0.02, "high": value + 0.02, "n": 500}
        for metric, given, made, sampler in each
    ])  # fmt: skip


@pytest.fixture
def table() -> pl.DataFrame:
    real = rows_of("real", 0.99, minutes=0.0).filter(metric=scores.COVERAGE, sampler="")
    real = real.with_columns(metric=pl.lit(scores.COVERAGE + scores.REAL), given=pl.lit(""), value=0.97)
    return pl.concat([
        real, rows_of(FLOW, 0.9), rows_of(FLOW, 0.8, seed=1), rows_of(FLOW, 0.5, minutes=1.0), rows_of("mopoe", 0.4),
        rows_of("mopoe", 0.3, minutes=1.0), rows_of(FLOW, 0.7, variant="pairs-500"),
    ])  # fmt: skip


def line(text: str, start: str) -> list[str]:
    (found,) = [row for row in text.splitlines() if row.startswith(f"| {start} |")]
    return [cell.strip() for cell in found.strip("|").split("|")]


def test_a_table_has_contenders_side_by_side_and_ours_over_its_seeds(table: pl.DataFrame) -> None:
    text = tables.beside(table, "complete", scores.COHERENCE)
    assert line(text, "")[1:] == ["ours", "MoPoE", "real"]
    # the shorter budget is no part of it
    assert line(text, "text → image")[1:3] == ["0.850 [0.830, 0.870]", "0.400 [0.380, 0.420]"]
    assert line(text, "audio + text → image")[1].startswith("0.850")
    assert line(text, "**joint, mixture**")[1:3] == ["–", "0.500 [0.380, 0.420]"]
    shown = text.splitlines()
    assert shown.index(next(row for row in shown if "| text →" in row)) < shown.index(
        next(row for row in shown if "audio + text" in row)
    )


def test_coverage_stands_beside_that_of_real_rows_and_names_the_sampler(table: pl.DataFrame) -> None:
    text = tables.beside(table, "complete", scores.COVERAGE)
    assert line(text, "text → image")[-1].startswith("0.970")
    assert line(text, "image, prior")[2].startswith("0.400")


def test_the_curves_have_a_row_for_each_point(table: pl.DataFrame) -> None:
    assert line(tables.curve(table), "1 MoPoE")[2].startswith("0.300")
    # of the joint samples the better sampler
    assert line(tables.curve(table), "10 MoPoE")[4].startswith("0.500")
    assert [line(tables.pairs(table), start)[2][:5] for start in ("500 ours", "4000 ours")] == ["0.700", "0.900"]
    assert "2" in line(tables.costs(table, "complete"), "MoPoE")[6]


def test_the_share_of_missing_slots_has_a_row_for_each_variant_of_whole_size(table: pl.DataFrame) -> None:
    whole = pl.concat([table, rows_of(FLOW, 0.6, variant="most"), rows_of(FLOW, 0.7, variant="half")])
    text = tables.missing(whole)
    assert [line(text, start)[2][:5] for start in ("0 ours", "0.5 ours", "0.8 ours")] == ["0.900", "0.700", "0.600"]
    assert "most" not in tables.pairs(whole)
    assert len(tables.pairs(whole).splitlines()) == len(tables.pairs(table).splitlines())


def test_the_short_table_has_the_least_direction_and_the_better_sampler(table: pl.DataFrame) -> None:
    worse = rows_of("mopoe", 0.2).filter(metric=scores.COHERENCE, given="text").with_columns(given=pl.lit("audio"))
    text = tables.summary(pl.concat([table, worse]), "complete")
    # directions from two inputs are no part of it
    assert line(text, "least direction, one input")[1:] == ["0.850 text → image", "0.200 audio → image"]
    assert line(text, "mean, one input")[1:] == ["0.850 [0.830, 0.870]", "0.400 [0.380, 0.420]"]
    assert line(text, "joint, its better sampler")[1:] == ["0.850 [0.830, 0.870]", "0.500 [0.380, 0.420]"]
    # coverage of joint samples is no part of the mean over directions
    assert line(text, "coverage, mean")[1:] == ["0.850", "0.400"]


def test_every_machine_and_commit_of_a_contender_is_named_with_its_speed(table: pl.DataFrame) -> None:
    moved = rows_of("mopoe", 0.4, seed=1).with_columns(machine=pl.lit("another"), steps=pl.lit(600.0))
    text = tables.provenance(pl.concat([table, moved]))
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in text.splitlines()[2:]]
    assert ["MoPoE", "1", "another", "c", "1.00"] in rows
    assert ["ours", "4", "m", "c"] in [row[:4] for row in rows]
    assert "real" not in text


def test_tables_do_not_depend_on_the_order_in_which_cells_were_made(table: pl.DataFrame) -> None:
    moved = rows_of("mopoe", 0.4, seed=1).with_columns(machine=pl.lit("another"), commit=pl.lit("d"))
    whole = pl.concat([table, moved, rows_of("mopoe", 0.4, seed=2).with_columns(commit=pl.lit("b"))])
    assert {tables.everything(whole.sample(fraction=1.0, shuffle=True, seed=n)) for n in range(8)} == {
        tables.everything(whole)
    }


def test_a_grid_of_pictures_has_the_first_two_samples_of_each_class_of_every_maker(tmp_path: Path) -> None:
    labels_N = np.array([1, 0, 1, 0, 1])
    numbered = np.broadcast_to(np.array([-2, -0.5, 0, 0.5, 1])[:, None, None, None], (5, 1, 8, 6))
    images = {"real": numbered, "ours": -numbered}
    found = drawing.strips(images, labels_N)
    assert found["real"].shape == (8, 24)
    # rows 1 and 3 are of class 0; what no file can hold is clipped
    assert found["real"][0, ::6].tolist() == [-0.5, 0.5, -1, 0]
    assert found["ours"][0, ::6].tolist() == [0.5, -0.5, 1, 0]
    drawing.pictures(images, labels_N, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        shades = np.unique(np.asarray(picture.convert("L")))
    for shade in (0, 64, 127, 191):  # of -1, -0.5, 0 and 0.5
        assert np.abs(shades.astype(int) - shade).min() <= 1


def test_everything_leaves_out_a_variant_without_rows(table: pl.DataFrame) -> None:
    text = tables.everything(table)
    assert "complete data" in text
    assert "half of the training slots" not in text


def test_a_comparison_that_has_no_cell_of_ours_yet_has_its_tables(table: pl.DataFrame) -> None:
    text = tables.everything(table.filter(pl.col("contender") != FLOW))
    assert "### Coherence, complete data" in text
    assert "ours" not in text


def test_plots_are_drawn_where_there_are_two_points(table: pl.DataFrame, tmp_path: Path) -> None:
    drawn = drawing.draw(table, tmp_path)
    assert [path.name for path in drawn] == [drawing.MINUTES, drawing.PAIRS]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)
    one = table.filter(pl.col("variant") == "complete")
    assert [path.name for path in drawing.draw(one, tmp_path / "one")] == [drawing.MINUTES]


def test_results_grow_by_cells_and_know_what_they_have(table: pl.DataFrame, tmp_path: Path) -> None:
    results = Results(tmp_path / "results").scores
    about = {"contender": FLOW, "variant": "complete", "seed": 1, "minutes": 10.0}
    assert not results.has(about)
    results.add(rows_of("mopoe", 0.4))
    assert not results.has(about)
    results.add(rows_of(FLOW, 0.8, seed=1))
    assert results.has(about)
    found = results.table()
    assert found is not None
    assert len(found) == len(rows_of("mopoe", 0.4)) + len(rows_of(FLOW, 0.8))


def test_the_best_peer_is_that_with_the_highest_chosen_setting() -> None:
    tried = {peer: {"chosen": 1, "tried": [{"mean_coherence": 0.9}, {"mean_coherence": at / 10}]}
             for at, peer in enumerate(settings.GRID)}  # fmt: skip
    assert best_of(tried) == list(settings.GRID)[-1]
