"""Tables from item records: score with its 95 % interval, tokens per forward, answers cut off."""

from collections.abc import Sequence

from rich.table import Table

from eval.metrics import bootstrap_interval, f1, wilson_interval
from eval.record import ItemRecord


def summary(records: Sequence[ItemRecord]) -> dict[str, dict]:
    """Per family: n, metric, score and interval in percent, tokens per forward, how many answers were cut off."""
    families = dict.fromkeys(record.family for record in records)
    return {family: _family([r for r in records if r.family == family]) for family in families}


def _family(records: list[ItemRecord]) -> dict:
    n = len(records)
    if records[0].counts is not None:
        counts = [r.counts for r in records]
        score, interval, metric = f1(*map(sum, zip(*counts))), bootstrap_interval(counts), "slot-F1"
    else:
        right = sum(r.score for r in records)
        score, interval, metric = right / n, wilson_interval(right, n), "accuracy"
    return {
        "n": n,
        "metric": metric,
        "score": round(100 * score, 1),
        "low": round(100 * interval[0], 1),
        "high": round(100 * interval[1], 1),
        "tokens_per_forward": round(sum(r.tokens for r in records) / sum(r.forwards for r in records), 2),
        "unfinished": sum(r.finish_reason == "length" for r in records),
    }


def table(records: Sequence[ItemRecord], title: str) -> Table:
    """The summary as a table for the terminal."""
    out = Table(title=title)
    for name in ("family", "n", "metric", "score", "95 % interval", "tokens / forward", "cut off"):
        out.add_column(name, justify="left" if name in ("family", "metric") else "right")
    for family, s in summary(records).items():
        interval = f"{s['low']:.1f} – {s['high']:.1f}"
        cells = (family, s["n"], s["metric"], f"{s['score']:.1f}", interval, s["tokens_per_forward"], s["unfinished"])
        out.add_row(*map(str, cells))
    return out
