"""How a chart is drawn: standing or lying bars, a line, a pie, with written values or a numbered axis.

Every painter returns the zone of each mark, the part of the picture that belongs to it, label and number included.
"""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from data_pipelines.playground import canvas

TOP = 20  # the largest value and the axis' end
Zone = list[tuple[float, float]]  # the corners, in pixels, of the part of the picture that belongs to one mark


@dataclass(frozen=True)
class Plan:
    """A chart before it is drawn: ``values[i]`` belongs to ``labels[i]`` and is painted in ``colors[i]``."""

    kind: str
    labels: tuple[str, ...]
    values: tuple[int, ...]
    colors: tuple[canvas.Color, ...]
    by_color: bool  # labels are the colors' names and are not written
    step: int  # values between two numbered lines of the axis; 0 where each mark has its value written


@dataclass(frozen=True)
class Area:
    """Where to draw: the rectangle of the plot in pixels, and the size of an em."""

    left: float
    top: float
    right: float
    bottom: float
    em: float


def paint(rng: np.random.Generator, image: Image.Image, paper: canvas.Style, plan: Plan, area: Area) -> list[Zone]:
    """Draw ``plan`` on ``image`` within ``area``; returns the zone of each mark."""
    painter = {"bars": _bars, "lying bars": _lying_bars, "line": _line, "pie": _pie}[plan.kind]
    return painter(rng, image, paper, plan, area)


def _axis(draw: ImageDraw.ImageDraw, paper: canvas.Style, plan: Plan, area: Area, lying: bool) -> Area:
    """Numbered lines, if the plan has them; returns what is left for the marks."""
    if not plan.step:
        return area
    faint = _blend(paper.ink, paper.background, 0.65)
    face, em = canvas.font(paper.font, area.em), area.em
    if lying:
        inner = Area(area.left, area.top, area.right - 0.6 * em, area.bottom - 1.2 * em, em)
    else:
        inner = Area(area.left + 1.5 * em, area.top + 0.4 * em, area.right, area.bottom, em)
    for tick in range(0, TOP + 1, plan.step):
        if lying:
            x = inner.left + (inner.right - inner.left) * tick / TOP
            draw.line((x, inner.top, x, inner.bottom), fill=faint, width=_thin(em))
            draw.text((x, inner.bottom + 0.65 * em), str(tick), fill=paper.ink, font=face, anchor="mm")
        else:
            y = inner.bottom - (inner.bottom - inner.top) * tick / TOP
            draw.line((inner.left, y, inner.right, y), fill=faint, width=_thin(em))
            draw.text((inner.left - 0.25 * em, y), str(tick), fill=paper.ink, font=face, anchor="rm")
    return inner


def _standing(draw: ImageDraw.ImageDraw, paper: canvas.Style, plan: Plan, area: Area) -> tuple[Area, list[float]]:
    """Labels under, numbers left: returns the marks' area and the middle of each."""
    em, face = area.em, canvas.font(paper.font, area.em)
    foot = 0.15 if plan.by_color and not plan.step else 0.5 if plan.by_color else 1.25
    room = Area(area.left, area.top + (0.0 if plan.step else 1.2 * em), area.right, area.bottom - foot * em, em)
    inner = _axis(draw, paper, plan, room, lying=False)
    cell = (inner.right - inner.left) / len(plan.labels)
    middles = [inner.left + cell * (i + 0.5) for i in range(len(plan.labels))]
    draw.line((inner.left, inner.bottom, inner.right, inner.bottom), fill=paper.ink, width=_thin(em))
    if not plan.by_color:
        for x, label in zip(middles, plan.labels, strict=True):
            draw.text((x, inner.bottom + 0.7 * em), label, fill=paper.ink, font=face, anchor="mm")
    return inner, middles


def _bars(rng: np.random.Generator, image: Image.Image, paper: canvas.Style, plan: Plan, area: Area) -> list[Zone]:
    draw, em = ImageDraw.Draw(image), area.em
    inner, middles = _standing(draw, paper, plan, area)
    face = canvas.font(paper.font, em)
    half = (inner.right - inner.left) / len(middles) * rng.uniform(0.28, 0.42)
    for x, value, color in zip(middles, plan.values, plan.colors, strict=True):
        y = inner.bottom - (inner.bottom - inner.top) * value / TOP
        draw.rectangle((x - half, y, x + half, inner.bottom), fill=color, outline=paper.ink, width=_thin(em))
        if not plan.step:
            draw.text((x, y - 0.6 * em), str(value), fill=paper.ink, font=face, anchor="mm")
    return _columns(image, inner, len(middles))


def _lying_bars(
    rng: np.random.Generator, image: Image.Image, paper: canvas.Style, plan: Plan, area: Area
) -> list[Zone]:
    draw, em, face = ImageDraw.Draw(image), area.em, canvas.font(paper.font, area.em)
    head = 0.15 if plan.by_color else max(canvas.width_em(label, paper.font) for label in plan.labels) + 0.35
    if plan.step:
        head = max(head, 0.4)
    room = Area(area.left + head * em, area.top, area.right - (0 if plan.step else 1.6 * em), area.bottom, em)
    inner = _axis(draw, paper, plan, room, lying=True)
    cell = (inner.bottom - inner.top) / len(plan.labels)
    half = cell * rng.uniform(0.28, 0.42)
    for i, (label, value, color) in enumerate(zip(plan.labels, plan.values, plan.colors, strict=True)):
        y = inner.top + cell * (i + 0.5)
        x = inner.left + (inner.right - inner.left) * value / TOP
        draw.rectangle((inner.left, y - half, x, y + half), fill=color, outline=paper.ink, width=_thin(em))
        if not plan.step:
            draw.text((x + 0.25 * em, y), str(value), fill=paper.ink, font=face, anchor="lm")
        if not plan.by_color:
            draw.text((inner.left - 0.25 * em, y), label, fill=paper.ink, font=face, anchor="rm")
    draw.line((inner.left, inner.top, inner.left, inner.bottom), fill=paper.ink, width=_thin(em))
    ends = [(inner.top + cell * i, inner.top + cell * (i + 1)) for i in range(len(plan.labels))]
    return [[(0, top), (image.width, top), (image.width, bottom), (0, bottom)] for top, bottom in ends]


def _line(rng: np.random.Generator, image: Image.Image, paper: canvas.Style, plan: Plan, area: Area) -> list[Zone]:
    draw, em, face = ImageDraw.Draw(image), area.em, canvas.font(paper.font, area.em)
    inner, middles = _standing(draw, paper, plan, area)
    heights = [inner.bottom - (inner.bottom - inner.top) * value / TOP for value in plan.values]
    # A thin line needs more contrast than a bar, which has an outline of ink.
    faint = canvas.contrast(plan.colors[0], paper.background) < 2
    color = paper.ink if faint else plan.colors[0]
    draw.line(list(zip(middles, heights, strict=True)), fill=color, width=max(2, round(0.16 * em)), joint="curve")
    radius = em * rng.uniform(0.2, 0.3)
    for x, y, value in zip(middles, heights, plan.values, strict=True):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=color, outline=paper.ink, width=_thin(em))
        if not plan.step:
            # The outline of paper keeps a steep line from running through the number.
            rim = {"stroke_width": max(1, round(0.12 * em)), "stroke_fill": paper.background}
            draw.text((x, y - 0.75 * em), str(value), fill=paper.ink, font=face, anchor="mm", **rim)
    return _columns(image, inner, len(middles))


def _columns(image: Image.Image, inner: Area, count: int) -> list[Zone]:
    """Standing marks share the plot's width evenly; to each belongs what is above and below it."""
    cell = (inner.right - inner.left) / count
    ends = [(inner.left + cell * i, inner.left + cell * (i + 1)) for i in range(count)]
    return [[(left, 0), (right, 0), (right, image.height), (left, image.height)] for left, right in ends]


def _pie(rng: np.random.Generator, image: Image.Image, paper: canvas.Style, plan: Plan, area: Area) -> list[Zone]:
    draw, em, face = ImageDraw.Draw(image), area.em, canvas.font(paper.font, area.em)
    wide = 0.0 if plan.by_color else max(canvas.width_em(label, paper.font) for label in plan.labels) + 0.3
    high = 0.0 if plan.by_color else 1.2
    x, y = (area.left + area.right) / 2, (area.top + area.bottom) / 2
    radius = min((area.right - area.left) / 2 - wide * em, (area.bottom - area.top) / 2 - high * em)
    angle, zones = float(rng.uniform(0, 360)), []
    for label, value, color in zip(plan.labels, plan.values, plan.colors, strict=True):
        sweep = 360 * value / sum(plan.values)
        box = (x - radius, y - radius, x + radius, y + radius)
        draw.pieslice(box, angle, angle + sweep, fill=color, outline=paper.ink, width=_thin(em))
        c, s = math.cos(math.radians(angle + sweep / 2)), math.sin(math.radians(angle + sweep / 2))
        inside = (x + 0.68 * radius * c, y + 0.68 * radius * s)
        draw.text(inside, str(value), fill=canvas.best_ink(color), font=face, anchor="mm")
        if not plan.by_color:
            outside = (x + (radius + (wide / 2 + 0.1) * em) * c, y + (radius + 0.7 * em) * s)
            draw.text(outside, label, fill=paper.ink, font=face, anchor="mm")
        zones.append(_sector(x, y, radius + (wide + 0.5) * em, angle, sweep))
        angle += sweep
    return zones


def _sector(x: float, y: float, radius: float, angle: float, sweep: float) -> Zone:
    """A sector about (x, y), angles in degrees, its arc in steps of at most ten."""
    turns = np.radians(np.linspace(angle, angle + sweep, 2 + int(sweep // 10)))
    return [(x, y), *((x + radius * math.cos(t), y + radius * math.sin(t)) for t in turns.tolist())]


def _thin(em: float) -> int:
    return max(1, round(0.06 * em))


def _blend(a: canvas.Color, b: canvas.Color, share: float) -> canvas.Color:
    return tuple(round(p * (1 - share) + q * share) for p, q in zip(a, b, strict=True))
