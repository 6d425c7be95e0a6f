"""Numbers and the terminal's table from item records: scores with their intervals, cost, what went wrong."""

import re
import zlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from eval.metrics import bootstrap_scores, f1, interval, wilson_interval
from eval.metrics.intervals import middle
from eval.record import ItemRecord, RunRecord


def summary(records: Sequence[ItemRecord]) -> dict[str, dict]:
    """Per family: n, metric, score and its 95 % interval in percent, speed, answers cut off, items not asked."""
    return {family: _family(family, items) for family, items in by_family(records).items()}


def by_family(records: Sequence[ItemRecord]) -> dict[str, list[ItemRecord]]:
    families = dict.fromkeys(record.family for record in records)
    return {family: [r for r in records if r.family == family] for family in families}


def totals(records: Sequence[ItemRecord]) -> dict:
    """Of all families: n, the mean of their scores and its interval, tokens, forwards, seconds."""
    families = by_family(records)
    score = mean_score(families)
    low, high = mean_interval(families)
    return {
        "n": len(records),
        "score": _percent(score),
        "low": _percent(low),
        "high": _percent(high),
        **cost_of(records),
        "tokens": sum(r.tokens for r in records),
        "forwards": sum(r.forwards for r in records),
        "seconds": round(sum(r.seconds for r in records), 1),
    }


def result(run: RunRecord, records: Sequence[ItemRecord]) -> dict:
    """What ``summary.json`` holds; with loose scores of a suite that has them."""
    families, total = summary(records), totals(records)
    for name, score in loose_scores(records).items():
        families.get(name, total)["loose"] = score
    return {"run": run.to_dict(), "families": families, "total": total}


def has_loose(records: Sequence[ItemRecord]) -> bool:
    """Whether every item was read in two ways, strictly and loosely."""
    return bool(records) and all(record.loose is not None for record in records)


def loosely(records: Sequence[ItemRecord]) -> list[ItemRecord]:
    """The same items with their loose scores in the place of the strict ones."""
    return [replace(record, score=record.loose, metric="loose") for record in records]


def loose_scores(records: Sequence[ItemRecord]) -> dict[str, float]:
    """Percent by family, and their ``mean``; empty for items without loose scores."""
    if not has_loose(records):
        return {}
    shares = {family: score_of(items) for family, items in by_family(loosely(records)).items()}
    return {name: _percent(share) for name, share in {**shares, "mean": sum(shares.values()) / len(shares)}.items()}


def score_of(items: Sequence[ItemRecord]) -> float:
    """A family's score in [0, 1]: the mean of its items, or their micro-F1."""
    return f1(*map(sum, zip(*(item.row for item in items))))


def interval_of(family: str, items: Sequence[ItemRecord]) -> tuple[float, float]:
    return interval([item.row for item in items], stream_of(family))


def mean_score(families: dict[str, list[ItemRecord]]) -> float:
    return sum(map(score_of, families.values())) / len(families)


def mean_interval(families: dict[str, list[ItemRecord]]) -> tuple[float, float]:
    """Of the mean over families, each resampled apart; Wilson's where every item is right or every one wrong."""
    n, score = sum(map(len, families.values())), mean_score(families)
    return wilson_interval(score * n, n) if score in (0.0, 1.0) else middle(mean_draws(families))


def mean_draws(families: dict[str, list[ItemRecord]]) -> np.ndarray:
    """Mean over families [draws] of their resampled scores."""
    draws = [bootstrap_scores([r.row for r in items], stream=stream_of(f)) for f, items in families.items()]
    return np.mean(draws, axis=0)


def stream_of(family: str) -> int:
    """Which stream of random numbers resamples a family: its own, the same in every run."""
    return zlib.crc32(family.encode())


def table(records: Sequence[ItemRecord], title: str) -> Table:
    """The summary as a table for the terminal."""
    return terminal_table(title, header(records), rows(records))


def terminal_table(title: str, names: Sequence[str], lines: Sequence[Sequence[str]]) -> Table:
    """Narrow enough for 80 columns: a header's last word takes a second line, and so do long names, never numbers."""
    out = Table(title=title, box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name in names:
        header = re.sub(r" (?=\w{3,}$|s$)", "\n", name)
        if name in ("family", "metric"):
            out.add_column(header, overflow="fold")
        else:
            out.add_column(header, justify="right", no_wrap=True)
    for cells in lines:
        out.add_row(*cells)
    return out


HEADER = ("family", "n", "metric", "score", "95 % interval", "tokens / forward", "tokens / s", "cut off", "not asked")


def header(records: Sequence[ItemRecord] = ()) -> tuple[str, ...]:
    """Of items with loose scores the others are called strict, and forwards stand in for metric and seconds."""
    if not has_loose(records):
        return HEADER
    return (*HEADER[:2], "strict", HEADER[4], "loose", "forwards / item", HEADER[5], *HEADER[7:])


def rows(records: Sequence[ItemRecord]) -> list[tuple[str, ...]]:
    """A line a family as texts, and one for the mean if there are several; columns as in `header`."""
    found = summary(records)
    if len(found) > 1:
        found["mean"] = {"metric": "", **totals(records)}
    loose = loose_scores(records)
    return [tuple(map(str, _cells(family, s, loose.get(family)))) for family, s in found.items()]


def _cells(family: str, s: dict, loose: float | None) -> tuple:
    score, spread = f"{s['score']:.1f}", f"{s['low']:.1f} – {s['high']:.1f}"
    end = (s["unfinished"], s["not_asked"])
    if loose is None:
        return (family, s["n"], s["metric"], score, spread, s["tokens_per_forward"], s["tokens_per_second"], *end)
    return (family, s["n"], score, spread, f"{loose:.1f}", s["forwards_per_item"], s["tokens_per_forward"], *end)


def _family(family: str, items: list[ItemRecord]) -> dict:
    low, high = interval_of(family, items)
    scores = {"score": _percent(score_of(items)), "low": _percent(low), "high": _percent(high)}
    return {"n": len(items), "metric": items[0].metric, **scores, **cost_of(items)}


def cost_of(items: Sequence[ItemRecord]) -> dict:
    """Forwards and speeds, and how many answers were cut off or never asked for."""
    tokens, forwards, seconds = (sum(getattr(r, k) for r in items) for k in ("tokens", "forwards", "seconds"))
    asked = sum(r.error is None for r in items)
    return {
        "forwards_per_item": round(forwards / asked, 1) if asked else 0.0,
        "tokens_per_forward": round(tokens / forwards, 2) if forwards else 0.0,
        "tokens_per_second": round(tokens / seconds, 1) if seconds else 0.0,
        "unfinished": sum(r.finish_reason == "length" for r in items),
        "not_asked": len(items) - asked,
    }


def _percent(share: float) -> float:
    return round(100 * share, 1)
