"""Pictures of decoding studies, in the style of `eval.studies.report`: a front, and lines over what is turned."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure as Canvas

from eval.studies.frame import Interval
from eval.studies.report import COLORS, save

INK, GREY = "#1d2433", "#9aa4b2"
APART = 0.04  # share of a panel's range between two dots that are both named


@dataclass(frozen=True)
class Dot:
    """A named point; ``best`` if it lies on the front."""

    name: str
    x: float
    y: float
    best: bool


def draw_fronts(file: Path, panels: dict[str, Sequence[Dot]], y_label: str) -> None:
    """A panel for each x axis: all dots, those of the front joined and in colour; in a crowd only some are named."""
    canvas = Canvas(figsize=(6.8 * len(panels), 5.2), layout="constrained")
    for axes, (label, dots) in zip(canvas.subplots(1, len(panels), squeeze=False)[0], panels.items()):
        best = sorted((dot.x, dot.y) for dot in dots if dot.best)
        axes.plot(*zip(*best), color=COLORS[0], lw=1.2, alpha=0.6)
        for dot in dots:
            axes.plot(dot.x, dot.y, "o", ms=5, color=COLORS[0] if dot.best else GREY)
        for dot in _named(dots):
            place = {"xytext": (3, 3), "textcoords": "offset points", "rotation": 45}  # neighbours stay legible
            axes.annotate(dot.name, (dot.x, dot.y), fontsize=7, color=INK if dot.best else GREY, **place)
        axes.set(xlabel=label, ylabel=y_label)
        axes.margins(x=0.18, y=0.12)
        _style(axes)
    save(canvas, axes, file)


def _named(dots: Sequence[Dot]) -> list[Dot]:
    """The dots whose names can be read: the front's first, then those that stand apart from the named ones."""
    wide, high = (max(ends) - min(ends) or 1.0 for ends in zip(*((dot.x, dot.y) for dot in dots)))
    named: list[Dot] = []
    for dot in sorted(dots, key=lambda dot: not dot.best):
        if all(abs(dot.x - n.x) > APART * wide or abs(dot.y - n.y) > 2 * APART * high for n in named):
            named.append(dot)
    return named


def draw_lines(file: Path, panels: dict[str, dict[str, Sequence[tuple[float, Interval]]]], labels: tuple) -> None:
    """A panel each, in it a line each of (x, y with its interval); ``labels`` are those of both axes."""
    canvas = Canvas(figsize=(1 + 5 * len(panels), 4.4), layout="constrained")
    for axes, (title, lines) in zip(canvas.subplots(1, len(panels), squeeze=False)[0], panels.items()):
        for (name, points), color in zip(lines.items(), COLORS * len(lines)):
            points = sorted(points, key=lambda point: point[0])
            x, y = [point[0] for point in points], [point[1].value for point in points]
            axes.plot(x, y, "o-", color=color, lw=1.5, ms=4, label=name)
            low = [max(0.0, p.value - p.low) if abs(p.low) < 1e9 else 0 for _, p in points]
            high = [max(0.0, p.high - p.value) if abs(p.high) < 1e9 else 0 for _, p in points]
            axes.errorbar(x, y, yerr=[low, high], fmt="none", ecolor=color, alpha=0.4, capsize=2, lw=1)
        axes.set(xlabel=labels[0], ylabel=labels[1], title=title)
        axes.legend(frameon=False, fontsize=8)
        _style(axes)
    save(canvas, axes, file)


def _style(axes) -> None:
    axes.grid(color="#e4e7ec", lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
