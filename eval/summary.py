"""Numbers and the terminal's table from item records: scores with their intervals, cost, what went wrong."""

import re
import zlib
from collections.abc import Callable, Sequence

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from eval.metrics import bootstrap_scores, f1, interval, wilson_interval
from eval.metrics.intervals import middle
from eval.record import ItemRecord, RunRecord

Loose = Callable[[ItemRecord], float] | None  # see `eval.suites.base.Suite.loose`


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


def result(run: RunRecord, records: Sequence[ItemRecord], loose: Loose = None) -> dict:
    """What ``summary.json`` holds; with loose scores for a suite that has them."""
    families, total = summary(records), totals(records)
    for name, score in loose_scores(records, loose).items():
        families.get(name, total)["loose"] = score
    return {"run": run.to_dict(), "families": families, "total": total}


def loose_scores(records: Sequence[ItemRecord], loose: Loose) -> dict[str, float]:
    """Percent by family, and their ``mean``; empty for a suite without loose scores."""
    if loose is None:
        return {}
    shares = {family: sum(map(loose, items)) / len(items) for family, items in by_family(records).items()}
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


def table(records: Sequence[ItemRecord], title: str, loose: Loose = None) -> Table:
    """The summary as a table for the terminal."""
    return terminal_table(title, header(loose), rows(records, loose))


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


def header(loose: Loose = None) -> tuple[str, ...]:
    """With loose scores the other ones are called strict, and there is no column for the metric."""
    return HEADER if loose is None else (*HEADER[:2], "strict", HEADER[4], "loose", *HEADER[5:])


def rows(records: Sequence[ItemRecord], loose: Loose = None) -> list[tuple[str, ...]]:
    """A line a family as texts, and one for the mean if there are several."""
    lines = [(family, s["n"], s["metric"], *_cells(s)) for family, s in summary(records).items()]
    if len(lines) > 1:
        lines.append(("mean", (s := totals(records))["n"], "", *_cells(s)))
    if scores := loose_scores(records, loose):
        lines = [(*line[:2], *line[3:5], f"{scores[line[0]]:.1f}", *line[5:]) for line in lines]
    return [tuple(map(str, line)) for line in lines]


def _cells(s: dict) -> tuple:
    spread = f"{s['low']:.1f} – {s['high']:.1f}"
    speed = (s["tokens_per_forward"], s["tokens_per_second"])
    return (f"{s['score']:.1f}", spread, *speed, s["unfinished"], s["not_asked"])


def _family(family: str, items: list[ItemRecord]) -> dict:
    low, high = interval_of(family, items)
    scores = {"score": _percent(score_of(items)), "low": _percent(low), "high": _percent(high)}
    return {"n": len(items), "metric": items[0].metric, **scores, **cost_of(items)}


def cost_of(items: Sequence[ItemRecord]) -> dict:
    """Speeds, and how many answers were cut off or never asked for."""
    tokens, forwards, seconds = (sum(getattr(r, k) for r in items) for k in ("tokens", "forwards", "seconds"))
    return {
        "tokens_per_forward": round(tokens / forwards, 2) if forwards else 0.0,
        "tokens_per_second": round(tokens / seconds, 1) if seconds else 0.0,
        "unfinished": sum(r.finish_reason == "length" for r in items),
        "not_asked": sum(r.error is not None for r in items),
    }


def _percent(share: float) -> float:
    return round(100 * share, 1)
