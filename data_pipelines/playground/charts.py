"""Charts: bars (standing or lying), lines and pies of 3 to 6 named integers from 1 to 20.

Values of one chart are all different, so the largest and the smallest have one answer. A value is asked only where it
can be read off: it is written at its mark, or the mark ends on a numbered line of the axis.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from data_pipelines.playground import canvas
from data_pipelines.playground.base import Item, Split, pick
from data_pipelines.playground.chart_painting import TOP, Area, Plan, paint
from data_pipelines.playground.words import Fact, ask

FAMILY = "charts"
NAMED = {
    "red": (214, 40, 40),
    "green": (44, 160, 44),
    "blue": (38, 90, 220),
    "yellow": (245, 210, 40),
    "purple": (140, 60, 190),
    "orange": (250, 130, 20),
}
LABELS = (
    ("A", "B", "C", "D", "E", "F"),
    ("P", "Q", "R", "S", "T", "U"),
    ("Jan", "Feb", "Mar", "Apr", "May", "Jun"),
    ("Jul", "Aug", "Sep", "Oct", "Nov", "Dec"),
    ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat"),
)
MARK = {"bars": "bar", "lying bars": "bar", "line": "point", "pie": "slice"}
MOST = {"bars": ("tallest", "shortest"), "lying bars": ("longest", "shortest")}  # others: highest and lowest, or size

PHRASINGS = {
    "everything": (
        "List all values that can be read.",
        "Read the whole chart.",
        "Name every label with its value.",
        "Write down all labels and values.",
        "What are all the values?",
        "Go through the chart: which label has which value?",
    ),
    "ranked": (  # in training only, like everything
        "Name all labels from the smallest to the largest value.",
        "Sort the labels by value, smallest first.",
        "What are the labels in rising order of their values?",
        "List the labels, the smallest value first.",
        "Put the labels in order of value, from the lowest up.",
        "Which labels are there, from the least to the most?",
    ),
    "largest": (
        "Which {mark} is the {most}?",
        "Which {mark} has the largest value?",
        "Which {mark} stands for the largest value?",
        "What is the {most} {mark}?",
        "Name the {most} {mark}.",
        "Which is the {most} {mark}?",
        "Which has the highest value?",
        "Which {mark} has the highest value?",
        "Name the {mark} with the largest value.",
    ),
    "smallest": (
        "Which {mark} is the {least}?",
        "Which {mark} has the smallest value?",
        "Which {mark} stands for the smallest value?",
        "What is the {least} {mark}?",
        "Name the {least} {mark}.",
        "Which is the {least} {mark}?",
        "Which has the lowest value?",
        "Which {mark} has the lowest value?",
        "Name the {mark} with the smallest value.",
    ),
    "value": (
        "What is the value of {a}?",
        "What value does {a} have?",
        "How much is {a}?",
        "Which value is shown for {a}?",
        "Read the value of {a}.",
        "What number belongs to {a}?",
        "How large is {a}?",
        "What is the number for {a}?",
        "Give the value of {a}.",
    ),
    "count": (
        "How many {mark}s are there?",
        "How many {mark}s does the chart have?",
        "Count the {mark}s.",
        "How many {mark}s do you see?",
        "What is the number of {mark}s?",
        "How many {mark}s are shown?",
    ),
    "compare": (
        "Is {a} larger than {b}?",
        "Is {a} more than {b}?",
        "Does {a} have a larger value than {b}?",
        "Is the value of {a} larger than that of {b}?",
        "Is {a} bigger than {b}?",
        "Is {a} greater than {b}?",
    ),
    "larger": (
        "Which is larger, {a} or {b}?",
        "Which has the larger value, {a} or {b}?",
        "Which is greater, {a} or {b}?",
        "What is larger: {a} or {b}?",
        "Which of the two is more, {a} or {b}?",
        "Which of {a} and {b} is larger?",
    ),
    "kind": (
        "What kind of chart is this?",
        "Is this a bar, a line or a pie chart?",
        "Which type of chart is it?",
        "What type of chart is shown?",
        "Bar, line or pie chart?",
        "What sort of chart do you see?",
    ),
}


def make(rng: np.random.Generator, split: Split, n_turns: int, max_side: int) -> Item:
    """One chart and ``n_turns`` questions; the first asks for an extreme or a value."""
    paper = canvas.style(rng, split)
    plan = _plan(rng, paper)
    width, height, em = canvas.frame(rng, *_needs(plan, paper.font), max_side)
    image = canvas.blank(width, height, paper)
    zones = paint(rng, image, paper, plan, Area(0.3 * em, 0.2 * em, width - 0.3 * em, height - 0.2 * em, em))
    facts, everything = _facts(rng, plan), _everything(plan, ranked=split == "train" and rng.random() < 0.5)
    turns, asked = ask(rng, split, FAMILY, PHRASINGS, facts, n_turns, everything)
    meta: dict[str, Any] = {"kind": plan.kind, "labels": list(plan.labels), "values": list(plan.values)}
    meta |= {"by_color": plan.by_color, "step": plan.step, "zones": zones, "em": em, "asked": asked}
    meta |= {"font": paper.font, "ink": paper.ink, "papers": [paper.background, paper.shade]}
    return Item([canvas.finish(rng, image)], "image", turns, meta)


def readable(value: int, step: int) -> bool:
    """Whether a value can be read off exactly: written (``step`` 0), or on a numbered line."""
    return step == 0 or value % step == 0


def _plan(rng: np.random.Generator, paper: canvas.Style) -> Plan:
    kind = pick(rng, tuple(MARK))
    count = int(rng.integers(3, 7))
    by_color = kind != "line" and bool(rng.random() < 0.4)
    if by_color:
        labels = tuple(list(NAMED)[i] for i in rng.permutation(6)[:count].tolist())
        colors = tuple(NAMED[label] for label in labels)
    else:
        labels = _labels(rng, kind, count, paper.font)
        colors = _colors(rng, kind, len(labels))
    # Lying bars have their numbers side by side, and there is no room for those of every fourth value.
    step = 0 if kind == "pie" or rng.random() < 0.65 else pick(rng, (5,) if kind == "lying bars" else (4, 5))
    return Plan(kind, labels, _values(rng, kind, len(labels), step), colors, by_color, step)


def _labels(rng: np.random.Generator, kind: str, count: int, font: str) -> tuple[str, ...]:
    """Neighbours of one family of names, fewer of them where they would not fit side by side."""
    family = pick(rng, LABELS)
    if kind in ("bars", "line"):
        cell = max(canvas.width_em(label, font) for label in family) + 0.35
        count = max(3, min(count, int((canvas.LIMIT - 2.2) / cell)))
    start = int(rng.integers(0, 7 - count))
    return family[start : start + count]


def _colors(rng: np.random.Generator, kind: str, count: int) -> tuple[canvas.Color, ...]:
    palette = [list(NAMED.values())[i] for i in rng.permutation(6).tolist()]
    return tuple(palette[:count]) if kind == "pie" or rng.random() < 0.4 else (palette[0],) * count


def _values(rng: np.random.Generator, kind: str, count: int, step: int) -> tuple[int, ...]:
    """Different values; a pie's are all at least a tenth of it, an axis has two or more on its numbered lines."""
    while True:
        values = tuple((rng.permutation(TOP)[:count] + 1).tolist())
        thick = kind != "pie" or min(values) >= 0.1 * sum(values)
        if thick and sum(readable(value, step) for value in values) >= 2:
            return values


def _needs(plan: Plan, font: str) -> tuple[float, float]:
    """The least width and height in em that the chart stays legible in, margins included."""
    widest = 0.0 if plan.by_color else max(canvas.width_em(label, font) for label in plan.labels)
    axis = 1.7 if plan.step else 0.0
    if plan.kind == "pie":
        return 7.0 + 2 * widest, 9.4
    if plan.kind == "lying bars":
        numbers = TOP // plan.step * (canvas.width_em("20", font) + 0.35) if plan.step else 5.5
        return 1.6 + widest + numbers, 0.6 + 1.25 * len(plan.labels) + (1.4 if plan.step else 0.0)
    return 0.6 + axis + len(plan.labels) * max(1.5, widest + 0.3), 7.0


def _facts(rng: np.random.Generator, plan: Plan) -> list[Fact]:
    mark = MARK[plan.kind]
    most, least = MOST.get(plan.kind, ("highest", "lowest") if mark == "point" else ("biggest", "smallest"))
    by_value = sorted(zip(plan.values, plan.labels, strict=True))
    names = {label: _name(label, plan, mark) for label in plan.labels}
    facts = [Fact("largest", by_value[-1][1], {"mark": mark, "most": most})]
    facts += [Fact("smallest", by_value[0][1], {"mark": mark, "least": least})]
    shown = [(value, label) for value, label in by_value if readable(value, plan.step)]
    values = [Fact("value", str(value), {"a": names[label]}) for value, label in shown]
    rest = [Fact("count", str(len(plan.labels)), {"mark": mark}), Fact("kind", _kind(plan)), *_pairs(rng, plan, names)]
    facts.append(values.pop(int(rng.integers(len(values)))))
    first = facts.pop(int(rng.integers(3)))
    return [first, *facts, *values, *rest]


def _everything(plan: Plan, ranked: bool) -> Fact:
    """All that can be read, or all labels by ascending value: the look at every mark that a comparison needs."""
    pairs = list(zip(plan.values, plan.labels, strict=True))
    if ranked:
        return Fact("ranked", ", ".join(label for _, label in sorted(pairs)))
    return Fact("everything", ", ".join(f"{label} {value}" for value, label in pairs if readable(value, plan.step)))


def _pairs(rng: np.random.Generator, plan: Plan, names: dict[str, str]) -> Sequence[Fact]:
    """A yes/no and a which-of-two question, each about two marks of its own."""
    (i, j), (k, m) = (rng.permutation(len(plan.labels))[:2].tolist() for _ in range(2))
    a, b, c, d = (plan.labels[n] for n in (i, j, k, m))
    larger = c if plan.values[k] > plan.values[m] else d
    answer = "yes" if plan.values[i] > plan.values[j] else "no"
    return [
        Fact("compare", answer, {"a": names[a], "b": names[b]}),
        Fact("larger", larger, {"a": names[c], "b": names[d]}),
    ]


def _name(label: str, plan: Plan, mark: str) -> str:
    return f"the {label} {mark}" if plan.by_color else label


def _kind(plan: Plan) -> str:
    return {"line": "line", "pie": "pie"}.get(plan.kind, "bar")
