"""What is counted of a version's kept rows, chunk by chunk in flat memory, and how far two countings lie apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from heapq import nsmallest
from typing import Any

import polars as pl

from mmgen.report.sketches import Names, Sketch, cohens_d, ks_statistic, total_variation

#: rows that are counted at once: few enough to be held, enough that the calls do not count
CHUNK = 16_384
#: values of a category, and combinations of slots, that are counted one by one
MAX_VALUES = 2_000
#: under what names beyond the limit are counted: no value of a table
FURTHER = "\0"
#: names whose shares changed most, of a shift
MOVED = 3
NUMERIC = {
    "image": ("width", "height", "bytes"),
    "audio": ("seconds", "rms_db", "peak", "bytes"),
    "text": ("chars", "words"),
}
CATEGORIES = {"image": ("mode", "ext"), "audio": ("rate_hz", "channels", "ext"), "text": ()}
#: |KS| or total variation from which a shift is called so
SHIFTS = ((0.3, "large"), (0.15, "medium"), (0.05, "small"))

Row = dict[str, Any]


def columns(slots: Mapping[str, str]) -> list[str]:
    """The columns of a facts table that are counted. slots: name → modality."""
    measured = (
        f"{slot}.{name}"
        for slot, modality in slots.items()
        for name in ("present", *NUMERIC[modality], *CATEGORIES[modality])
    )
    return ["split", "label", *measured]


def gathered(frames: Iterable[pl.DataFrame], rows: int = CHUNK) -> Iterator[pl.DataFrame]:
    """The same rows in the same order, in frames of about `rows`. A column that a frame lacks is null there."""
    held: list[pl.DataFrame] = []
    for frame in frames:
        for part in frame.iter_slices(rows):
            held.append(part)
            if sum(each.height for each in held) >= rows:
                yield pl.concat(held, how="diagonal_relaxed")
                held = []
    if held:
        yield pl.concat(held, how="diagonal_relaxed")


class Tally:
    """Counts and sketches of kept rows. slots: name → modality.

    rows: split → rows. present: slot → split → rows, without slots that no table had. patterns: which slots are there
    ("101", in the order of `slots`) → rows. labels: split → its labels. categories: column → its values.
    numbers: column → split → sketch of the present slot's values. However the rows are cut into chunks, the same rows
    in the same order give the same tally; its numbers are the same in any order.
    """

    def __init__(self, slots: Mapping[str, str]) -> None:
        self.slots = dict(slots)
        self.rows: Counter[str] = Counter()
        self.present: dict[str, Counter[str]] = {}
        self.patterns = Names(MAX_VALUES)
        self.labels: dict[str, Names] = {}
        self.categories: dict[str, Names] = {}
        self.numbers: dict[str, dict[str, Sketch]] = {}

    def add(self, chunk: pl.DataFrame) -> None:
        """Count a chunk of kept rows with their assigned split; dropped slots are absent in it."""
        if not chunk.height:
            return
        known = {slot: modality for slot, modality in self.slots.items() if f"{slot}.present" in chunk.columns}
        for (split,), part in chunk.group_by("split", maintain_order=True):
            self._add_split(str(split), part, known)
        flags = [
            pl.col(f"{slot}.present").fill_null(False) if slot in known else pl.lit(False).alias(f"{slot}.present")
            for slot in self.slots
        ]
        patterns = chunk.select(flags).group_by(pl.all(), maintain_order=True).len()
        self.patterns.add(("".join("01"[flag] for flag in row[:-1]), row[-1]) for row in patterns.iter_rows())
        for slot, modality in known.items():
            here = chunk.filter(pl.col(f"{slot}.present"))
            for name in CATEGORIES[modality]:
                if (column := f"{slot}.{name}") in chunk.columns:
                    self.categories.setdefault(column, Names(MAX_VALUES)).add(_counted(here[column]))

    def _add_split(self, split: str, part: pl.DataFrame, known: Mapping[str, str]) -> None:
        self.rows[split] += part.height
        if "label" in part.columns:
            self.labels.setdefault(split, Names()).add(_counted(part["label"]))
        for slot, modality in known.items():
            present_N = part[f"{slot}.present"].fill_null(False).to_numpy()
            self.present.setdefault(slot, Counter())[split] += int(present_N.sum())
            for name in NUMERIC[modality]:
                if (column := f"{slot}.{name}") in part.columns:
                    sketches = self.numbers.setdefault(column, {})
                    values = Sketch.of(part[column].cast(pl.Float64).to_numpy()[present_N])
                    sketches[split] = sketches.get(split, Sketch()) + values

    @property
    def n(self) -> int:
        """All rows."""
        return self.rows.total()

    def whole(self, column: str) -> Sketch:
        """The sketch of a numeric column over all splits."""
        return sum(self.numbers.get(column, {}).values(), Sketch())

    def all_labels(self) -> Counter[str]:
        """label → rows over all splits; those beyond the ones that are counted together, under a name no label has."""
        found: Counter[str] = Counter()
        for names in self.labels.values():
            found.update(_all(names))
        return found


def _counted(values: pl.Series) -> Iterator[tuple[str, int]]:
    """Each value that is there as a name, in the order of first appearance, and how often it occurs."""
    named = pl.DataFrame({"name": values.drop_nulls().cast(pl.String)})
    return named.group_by("name", maintain_order=True).len().iter_rows()


def _all(names: Names) -> dict[str, int]:
    return names.counts | ({FURTHER: names.further} if names.further else {})


def drift(before: Tally, now: Tally) -> list[Row]:
    """Shifts of every measured quantity, the strongest first; none if either is empty.

    Numbers: Kolmogorov–Smirnov's statistic (largest gap of cumulative shares) and Cohen's d. Names: total variation.
    Presence: the difference of the shares.
    """
    if not (before.n and now.n):
        return []
    rows: list[Row] = []
    for column in now.numbers:
        old, new = before.whole(column), now.whole(column)
        if old.n and new.n:
            rows.append(_shift(column, "KS", ks_statistic(old, new), old.mean, new.mean, cohens_d(old, new)))
    named: dict[str, tuple[Mapping[str, int], Mapping[str, int]]] = {"split": (before.rows, now.rows)}
    if before.labels and now.labels:
        named["label"] = before.all_labels(), now.all_labels()
    for column in now.categories.keys() & before.categories.keys():
        named[column] = _all(before.categories[column]), _all(now.categories[column])
    for what, (was, are) in named.items():
        rows.append(_shift(what, "total variation", total_variation(was, are), moved=_moved(was, are)))
    for slot in now.present.keys() & before.present.keys():
        had, has = (each.present[slot].total() / each.n for each in (before, now))
        rows.append(_shift(f"{slot}.present", "difference", abs(had - has), had, has))
    return sorted(rows, key=lambda row: (-row["effect"], row["what"]))


def _moved(was: Mapping[str, int], are: Mapping[str, int]) -> list[tuple[str, float]]:
    """The names whose shares changed most, and by how much."""
    whole_was, whole_are = sum(was.values()) or 1, sum(are.values()) or 1
    change = {name: are.get(name, 0) / whole_are - was.get(name, 0) / whole_was for name in {*was, *are} - {FURTHER}}
    most = nsmallest(MOVED, change.items(), key=lambda each: (-abs(each[1]), each[0]))
    return [(name, round(by, 12)) for name, by in most if by]


def _shift(
    what: str,
    measure: str,
    effect: float,
    before: float | None = None,
    now: float | None = None,
    d: float | None = None,
    moved: Sequence[tuple[str, float]] = (),
) -> Row:
    strength = next((name for edge, name in SHIFTS if effect >= edge), "none")
    return {
        "what": what, "measure": measure, "effect": round(effect, 12), "shift": strength,
        "before": before, "now": now, "cohens_d": d, "moved": list(moved),
    }  # fmt: skip
