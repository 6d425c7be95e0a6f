"""``compare A B``: what changed between runs over the same items, and whether chance explains it.

The deciding choice: differences are paired. Items that both runs hold are resampled together, so that how hard an item
is cancels out, and an interval without zero speaks of the runs and not of the items.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table as TerminalTable

from eval.document import Block, Heading, Table, Text
from eval.metrics.intervals import middle
from eval.output import load
from eval.record import ItemRecord, RunRecord
from eval.report import hardware_table, settings_table
from eval.speed import of_runs, refuse_others
from eval.summary import by_family, cost_of, has_loose, loosely, mean_draws, mean_score, terminal_table

HEADER = ("family", "n", "A", "B", "B − A", "95 % interval", "up", "down", "tokens / forward", "tokens / s")
Families = dict[str, list[ItemRecord]]


@dataclass(frozen=True)
class Difference:
    """B against A on one family's common items (or on all families, their mean); scores in [0, 1].

    Attributes:
        better, worse: items whose score is higher, or lower, in B: for right-or-wrong items the flips.
        per_forward, per_second: tokens of A and of B.
    """

    family: str
    n: int
    a: float
    b: float
    low: float
    high: float
    better: int
    worse: int
    per_forward: tuple[float, float]
    per_second: tuple[float, float]

    @property
    def cells(self) -> tuple[str, ...]:
        spread = f"{100 * self.low:+.1f} – {100 * self.high:+.1f}"
        scores = (f"{100 * self.a:.1f}", f"{100 * self.b:.1f}", f"{100 * (self.b - self.a):+.1f}", spread)
        speeds = (" → ".join(map(str, pair)) for pair in (self.per_forward, self.per_second))
        return (self.family, str(self.n), *scores, str(self.better), str(self.worse), *speeds)


def differences(
    a: tuple[RunRecord, list[ItemRecord]], b: tuple[RunRecord, list[ItemRecord]]
) -> tuple[list[Difference], list[tuple[ItemRecord, ItemRecord]]]:
    """A difference a family, one of the mean if there are several, and the pairs of items that flipped.

    Raises:
        ValueError: the runs do not ask the same questions, or have no item in common.
    """
    ours, theirs = _common(a, b)
    found = [_difference(f, {f: ours[f]}, {f: theirs[f]}) for f in ours]
    if len(ours) > 1:
        found.append(_difference("mean", ours, theirs))
    pairs = [(x, y) for f in ours for x, y in zip(ours[f], theirs[f]) if x.score != y.score]
    return found, pairs


def table(found: Sequence[Difference], title: str) -> TerminalTable:
    """For the terminal, without the last column."""
    return terminal_table(title, HEADER[:-1], [difference.cells[:-1] for difference in found])


def compared(directories: Sequence[Path]) -> tuple[list[TerminalTable], list[Block]]:
    """Every later run against the first: tables for the terminal, and the blocks of a report.

    Raises:
        ValueError: see `eval.output.load` and `differences`.
    """
    runs = [load(directory) for directory in directories]
    names = [str(directory) for directory in directories]
    tables, content = [], [*of_runs(names, runs), Text(EXPLAINED)]
    for name, run in zip(names[1:], runs[1:]):
        found, flips = differences(runs[0], run)
        title = f"A {names[0]} · B {name}"
        tables.append(table(found, title))
        content += [Heading(title), Table(HEADER, [d.cells for d in found])]
        if has_loose(runs[0][1]) and has_loose(run[1]):  # the scores above are strict
            read, _ = differences(*((r, loosely(records)) for r, records in (runs[0], run)))
            tables.append(table(read, f"{title} · loose scores"))
            content += [Text("Loose scores, of the same answers:"), Table(HEADER[:-2], [d.cells[:-2] for d in read])]
        content += _flipped(flips)
    content += [b for n, (run, _) in zip(names, runs) for b in (Heading(n), settings_table(run), hardware_table(run))]
    return tables, content


EXPLAINED = (
    "Scores are percent, differences points. Intervals hold 95 % of 1000 resamplings of the items of both runs; one "
    "without zero is more than chance. Up and down count items whose own score rose or fell. Seconds can be "
    "compared on the same hardware only."
)


def _common(a: tuple[RunRecord, list[ItemRecord]], b: tuple[RunRecord, list[ItemRecord]]) -> tuple[Families, Families]:
    """The items of both runs, in the same order."""
    (run_a, items_a), (run_b, items_b) = a, b
    refuse_others(run_a, run_b)
    ours, theirs = ({(r.family, r.index): r for r in items} for items in (items_a, items_b))
    keys = [key for key in ours if key in theirs]
    if not keys:
        raise ValueError("the runs have no item in common")
    for key in keys:
        if _asked(ours[key]) != _asked(theirs[key]):
            raise ValueError(f"the runs do not ask the same: {key[0]} {key[1]} differs in question, answer or metric")
    return by_family([ours[key] for key in keys]), by_family([theirs[key] for key in keys])


def _asked(record: ItemRecord) -> tuple[str, str, str]:
    return record.question, record.expected, record.metric


def _difference(name: str, ours: Families, theirs: Families) -> Difference:
    low, high = middle(mean_draws(theirs) - mean_draws(ours))  # the same items are picked for both
    pairs = [(x.score, y.score) for f in ours for x, y in zip(ours[f], theirs[f])]
    costs = [cost_of([r for items in side.values() for r in items]) for side in (ours, theirs)]
    return Difference(
        name,
        len(pairs),
        mean_score(ours),
        mean_score(theirs),
        low,
        high,
        sum(y > x for x, y in pairs),
        sum(y < x for x, y in pairs),
        tuple(cost["tokens_per_forward"] for cost in costs),
        tuple(cost["tokens_per_second"] for cost in costs),
    )


def _flipped(pairs: Sequence[tuple[ItemRecord, ItemRecord]], most: int = 20) -> list[Block]:
    if not pairs:
        return [Text("No item's score differs.")]
    ranked = sorted(pairs, key=lambda pair: -abs(pair[1].score - pair[0].score))
    lines = [(x.family, x.index, x.question, x.expected, x.answer, y.answer) for x, y in ranked[:most]]
    header = ("family", "index", "question", "right", "A said", "B said")
    shown = f"; the {most} largest changes" if len(pairs) > most else ""
    count = "One item differs" if len(pairs) == 1 else f"{len(pairs)} items differ"
    return [Text(f"{count}{shown}:"), Table(header, lines)]
