"""What a study writes: ``report.md`` with its tables and verdicts, ``results.json``, and plots as PNG.

The deciding choice: a study hands over columns and claims as data, and nothing is worded from them but the verdicts,
so that a table cannot say what the figures do not.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure as Canvas

from eval.document import Block, Heading, Table, Text, to_markdown
from eval.studies.frame import Claim, Result, over_seeds, values, write_json

COLORS = ("#3b6fd4", "#d9822b", "#2a9d6f", "#b0357a", "#7a6ff0", "#5f6b7a", "#b42318", "#0f8b8d")


@dataclass(frozen=True)
class Column:
    """A measure as the table of arms shows it.

    Attributes:
        measure: its name in `Result.measures`.
        title: head of the column.
        digits: behind the point.
    """

    measure: str
    title: str
    digits: int


@dataclass(frozen=True)
class Plot:
    """A picture: the ``curves`` of a name, or the bars of a measure.

    Attributes:
        kind: ``curves`` (mean of the seeds, their range as a band) or ``bars`` (mean and 95 % interval).
        of: name of the curve or of the measure.
        title: what it shows, with the unit.
        smooth: of ``curves``, how many points a running mean takes.
    """

    kind: str
    of: str
    title: str
    smooth: int = 1


def write(
    output: Path,
    title: str,
    about: str,
    results: Sequence[Result],
    columns: Sequence[Column],
    claims: Sequence[Claim],
    plots: Sequence[Plot],
    more: Sequence[Block] = (),
) -> str:
    """Write everything to ``output``, ``more`` below the table of arms; returns the report's Markdown."""
    drawn = {"curves": draw_curves, "bars": draw_bars}
    pictures = []
    for plot in plots:
        file = output / f"{plot.of.replace(' ', '-')}.png"
        drawn[plot.kind](file, plot, results)
        pictures.append(f"![{plot.title}]({file.name})\n")
    blocks = [
        Text(about),
        Heading("Verdicts"),
        claims_table(claims),
        Heading(f"Arms: mean of {_seeds(results)} with 95 % interval"),
        arms_table(results, columns),
        *more,
    ]
    text = to_markdown(title, blocks) + "\n" + "\n".join(pictures)
    (output / "report.md").write_text(text, encoding="utf-8")
    told = [{**asdict(claim), "verdict": claim.verdict} for claim in claims]
    found = [{"arm": r.arm, "seed": r.seed, **r.measures} for r in results]
    write_json(output / "results.json", {"study": title, "results": found, "claims": told})
    return text


def claims_table(claims: Sequence[Claim]) -> Table:
    lines = []
    for claim in claims:
        figure = f"{claim.figure.text(claim.digits, sign='+')} {claim.unit}"
        lines.append((claim.text, f"{claim.published} ({claim.source})", figure, claim.verdict))
    return Table(("claim", "published", "here, with 95 % interval", "verdict"), lines)


def arms_table(results: Sequence[Result], columns: Sequence[Column]) -> Table:
    lines = [
        (arm, *(over_seeds(values(results, arm, c.measure)).text(c.digits) for c in columns))
        for arm in arms_of(results)
    ]
    return Table(("arm", *(column.title for column in columns)), lines)


def arms_of(results: Sequence[Result]) -> list[str]:
    return list(dict.fromkeys(result.arm for result in results))


def draw_curves(file: Path, plot: Plot, results: Sequence[Result]) -> None:
    """A line an arm."""
    canvas = Canvas(figsize=(7.6, 4.4), layout="constrained")
    axes = canvas.subplots()
    for arm, color in zip(arms_of(results), _colors(results)):
        curves = [np.array(r.curves[plot.of]) for r in results if r.arm == arm]  # [points, 2] each
        steps = _smoothed(curves[0][:, 0], plot.smooth)
        lines = np.array([_smoothed(curve[:, 1], plot.smooth) for curve in curves])  # [seeds, points]
        axes.plot(steps, lines.mean(axis=0), color=color, lw=1.5, label=arm)
        axes.fill_between(steps, lines.min(axis=0), lines.max(axis=0), color=color, alpha=0.15, lw=0)
    axes.set(xlabel="optimiser step", ylabel=plot.title)
    axes.legend(frameon=False, fontsize=9)
    save(canvas, axes, file)


def draw_bars(file: Path, plot: Plot, results: Sequence[Result]) -> None:
    """A bar an arm, and a dot a seed."""
    names = arms_of(results)
    canvas = Canvas(figsize=(7.6, 0.9 + 0.42 * len(names)), layout="constrained")
    axes = canvas.subplots()
    for row, (arm, color) in enumerate(zip(names, _colors(results))):
        found = values(results, arm, plot.of)
        spread = over_seeds(found)
        axes.barh(row, spread.value, color=color, height=0.6, alpha=0.75)
        if np.isfinite(spread.high):
            axes.errorbar(spread.value, row, xerr=spread.high - spread.value, color="#1d2433", capsize=3, lw=1)
        axes.plot(found, [row] * len(found), "o", color="#1d2433", ms=3)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel=plot.title)
    axes.set_xlim(left=0)
    axes.invert_yaxis()
    save(canvas, axes, file)


def _colors(results: Sequence[Result]) -> list[str]:
    return [COLORS[i % len(COLORS)] for i in range(len(arms_of(results)))]


def _smoothed(line: np.ndarray, width: int) -> np.ndarray:
    """Running mean of ``width`` points, fewer if the line is shorter; only where the window is full."""
    width = min(width, len(line))
    return np.convolve(line, np.full(width, 1 / width), mode="valid")


def save(canvas: Canvas, axes, file: Path) -> None:
    axes.grid(color="#e4e7ec", lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    canvas.savefig(file, dpi=120, metadata={"Software": None})


def _seeds(results: Sequence[Result]) -> str:
    count = len({result.seed for result in results})
    return f"{count} seed{'s' if count > 1 else ''}"
