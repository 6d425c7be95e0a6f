"""Score against speed as reports draw it: a run's families, or several runs over the same items as curves.

The deciding choice: speed is tokens per forward, which the machine has no part in.
"""

from collections.abc import Sequence

from eval.document import Block, Figure, Table, Text
from eval.plots import against_speed
from eval.record import ItemRecord, RunRecord
from eval.summary import summary, totals

PACE = ("threshold", "denoising_steps", "block_size", "policy_args")  # along a curve these differ
CAPTION = "Score against tokens per forward"
HEADER = ("run", "mean score", "95 % interval", "forwards / item", "tokens / forward", "tokens / s")
MEAN = "mean score of the families, %"
Found = tuple[RunRecord, list[ItemRecord]]


def of_runs(names: Sequence[str], runs: Sequence[Found]) -> list[Block]:
    """Mean scores over the items that all runs hold; runs of one model that differ in pace are joined.

    Raises:
        ValueError: the runs are of different suites or seeds, or have no item in common.
    """
    records = shared(runs)
    found = [(name, totals(items)) for name, items in zip(names, records)]
    uri = against_speed([_point(*pair) for pair in found], MEAN, [curve(run) for run, _ in runs])
    columns = ("forwards_per_item", "tokens_per_forward", "tokens_per_second")
    lines = [(n, f["score"], f"{f['low']:.1f} – {f['high']:.1f}", *(f[c] for c in columns)) for n, f in found]
    over = f"Over the {len(records[0])} items that all of these runs hold."
    return [Figure(uri, CAPTION), Table(HEADER, lines), Text(over)]


def of_families(records: Sequence[ItemRecord]) -> list[Block]:
    """The score of each family of a run, if there are several."""
    points = [_point(family, found) for family, found in summary(records).items()]
    return [Figure(against_speed(points, "score of a family, %"), CAPTION)] if len(points) > 1 else []


def shared(runs: Sequence[Found]) -> list[list[ItemRecord]]:
    """The items of each run that all of them hold."""
    first = runs[0][0]
    for run, _ in runs[1:]:
        refuse_others(first, run)
    held = set.intersection(*({_key(record) for record in records} for _, records in runs))
    if not held:
        raise ValueError("the runs have no item in common")
    return [[record for record in records if _key(record) in held] for _, records in runs]


def refuse_others(a: RunRecord, b: RunRecord) -> None:
    """ValueError for runs of different suites or seeds."""
    for key in ("suite", "seed"):
        if getattr(a, key) != getattr(b, key):
            raise ValueError(f"the runs differ in {key}: {getattr(a, key)!r} and {getattr(b, key)!r}")


def _key(record: ItemRecord) -> tuple:
    return record.family, record.index, record.question, record.expected


def curve(run: RunRecord) -> str:
    """Runs of one model that differ in how fast they decode, and in nothing else, lie on one curve."""
    return repr((run.model_hash, sorted((k, v) for k, v in run.settings.items() if k not in PACE)))


def _point(name: str, found: dict) -> tuple[str, float, float, float, float]:
    return name, found["tokens_per_forward"], found["score"], found["low"], found["high"]
