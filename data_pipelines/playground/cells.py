"""A table of short texts, to be shown as lines below a question or as a picture: the same cells either way."""

from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from data_pipelines.playground import canvas
from data_pipelines.playground.base import Split

Cells = list[list[str]]  # rows of equal length; an empty text is an empty cell

BLANK = "_"  # stands for an empty cell in text
LEADING = 1.3  # height of a row in em
PITCH = 1.6  # em: the narrowest column, and the height of a ruled row
MARGIN = 0.25  # em


def as_text(cells: Cells) -> str:
    """A line a row, its cells with a space between them."""
    return "\n".join(" ".join(cell or BLANK for cell in row) for row in cells)


def as_picture(
    rng: np.random.Generator, split: Split, cells: Cells, max_side: int, ruled: bool = False
) -> tuple[Image.Image, dict[str, Any]]:
    """The cells on paper of the split, somewhere on the page, and for ``meta`` where and how each text is drawn.

    Args:
        ruled: draw a sudoku's lines between and around the cells, every second one bold.
    """
    paper = canvas.style(rng, split)
    wide = max(canvas.width_em(text, paper.font) for row in cells for text in row) + 0.4
    pitch_x, pitch_y = max(wide, PITCH), PITCH if ruled else LEADING
    need_w, need_h = pitch_x * len(cells[0]) + 2 * MARGIN, pitch_y * len(cells) + 2 * MARGIN
    width, height, em = canvas.frame(rng, need_w, need_h, max_side)
    image = canvas.blank(width, height, paper)
    left, top = (
        MARGIN * em + rng.uniform(0, max(0.0, side - need * em)) for side, need in ((width, need_w), (height, need_h))
    )
    draw, pitches = ImageDraw.Draw(image), (pitch_x * em, pitch_y * em)
    if ruled:
        _rule(draw, paper, (left, top), pitches, cells, em)
    boxes = _write(rng, draw, paper, (left, top), pitches, cells, em)
    meta = {"boxes": boxes, "em": em, "font": paper.font, "ink": paper.ink, "papers": [paper.background, paper.shade]}
    return canvas.finish(rng, image), meta


def _write(
    rng: np.random.Generator,
    draw: ImageDraw.ImageDraw,
    paper: canvas.Style,
    corner: tuple[float, float],
    pitches: tuple[float, float],
    cells: Cells,
    em: float,
) -> list[list[int]]:
    """Every text in the middle of its cell, or a column of them flush left; the box of each, in reading order."""
    face, boxes = canvas.font(paper.font, em), []
    flush = len(cells[0]) == 1 and rng.random() < 0.5
    for i, row in enumerate(cells):
        for j, text in enumerate(row):
            x = corner[0] + (0.2 * em if flush else (j + 0.5) * pitches[0])
            y = corner[1] + (i + 0.5) * pitches[1]
            if text:
                boxes.append(canvas.write(draw, (x, y), text, paper.ink, face, "lm" if flush else "mm"))
    return boxes


def _rule(
    draw: ImageDraw.ImageDraw,
    paper: canvas.Style,
    corner: tuple[float, float],
    pitches: tuple[float, float],
    cells: Cells,
    em: float,
) -> None:
    (left, top), (step_x, step_y) = corner, pitches
    right, bottom = left + step_x * len(cells[0]), top + step_y * len(cells)
    for i in range(len(cells) + 1):
        y = top + i * step_y
        draw.line((left, y, right, y), fill=paper.accent, width=_thick(i, em))
    for j in range(len(cells[0]) + 1):
        x = left + j * step_x
        draw.line((x, top, x, bottom), fill=paper.accent, width=_thick(j, em))


def _thick(line: int, em: float) -> int:
    return max(1, round((0.03 if line % 2 else 0.1) * em))
