"""Plots for reports, as data URIs: scores with intervals, tokens per forward, score against speed.

The same numbers give the same bytes: no dates, fixed ids.
"""

import io
from collections.abc import Hashable, Sequence

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas

from eval.document import figure_uri

BLUE, GREY, INK = "#3b6fd4", "#9aa4b2", "#1d2433"
Point = tuple[str, float, float, float, float]  # name, tokens per forward, score, low, high in percent


def bars(families: dict[str, dict]) -> str:
    """A summary's scores with their intervals, and beside them tokens per forward, a bar a family."""
    names, height = [_literal(name) for name in families], 0.9 + 0.34 * len(families)
    canvas = Canvas(figsize=(9.2, height), layout="constrained")
    left, right = canvas.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    lines = list(families.values())
    scores = [line["score"] for line in lines]
    below = [max(0.0, line["score"] - line["low"]) for line in lines]  # rounding could make it negative
    above = [max(0.0, line["high"] - line["score"]) for line in lines]
    left.barh(
        names, scores, xerr=[below, above], color=BLUE, height=0.62, error_kw={"ecolor": INK, "capsize": 2.5, "lw": 1}
    )
    left.set(xlim=(0, 105), xlabel="score, %, with 95 % interval")
    speed = right.barh(names, [line["tokens_per_forward"] for line in lines], color=GREY, height=0.62)
    right.bar_label(speed, fmt="%.2f", padding=3, fontsize=8)
    right.set(xlabel="tokens per forward")
    right.margins(x=0.16)
    left.invert_yaxis()
    for axes in (left, right):
        _plain(axes, "x")
    return _svg(canvas)


def against_speed(points: Sequence[Point], ylabel: str, curves: Sequence[Hashable] = ()) -> str:
    """Points by their score and their tokens per forward; further up and to the right is better.

    Args:
        curves: what curve each point belongs to; a line joins the points of one, by their speed.
    """
    canvas = Canvas(figsize=(7.2, 4.2), layout="constrained")
    axes = canvas.subplots()
    for curve in dict.fromkeys(curves):
        line = sorted((point[1], point[2]) for point, own in zip(points, curves) if own == curve)
        axes.plot(*zip(*line), color=BLUE, alpha=0.45, lw=1.2)
    for name, speed, score, low, high in points:
        error = [[max(0.0, score - low)], [max(0.0, high - score)]]
        axes.errorbar(speed, score, yerr=error, fmt="o", color=BLUE, ecolor=INK, capsize=3, lw=1)
        axes.annotate(_named(name), (speed, score), xytext=(7, 5), textcoords="offset points", fontsize=9)
    axes.set(xlabel="tokens per forward", ylabel=ylabel)
    axes.margins(x=0.25)
    axes.set_xlim(left=0)  # the last: from here on margins do not count
    _plain(axes, "both")
    return _svg(canvas)


def _named(name: str) -> str:
    return _literal(name if len(name) <= 32 else "…" + name[-31:])


def _literal(name: str) -> str:
    """Dollar signs would begin a formula."""
    return name.replace("$", r"\$")


def _plain(axes: Axes, grid: str) -> None:
    axes.grid(axis=grid, color="#e4e7ec", lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left" if grid == "x" else "top"]].set_visible(False)
    axes.tick_params(length=0, labelsize=9)


def _svg(canvas: Canvas) -> str:
    out = io.BytesIO()
    with rc_context({"svg.hashsalt": "eval"}):
        canvas.savefig(out, format="svg", metadata={"Date": None})
    return figure_uri(out.getvalue(), "image/svg+xml")
