"""Reading: a word, a number, a short line or two lines, in any case, size, place and font of the split.

The answer repeats the case as drawn: what counts is what the picture says, not what the dictionary does.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from data_pipelines.playground import canvas
from data_pipelines.playground.base import Item, Split, pick
from data_pipelines.playground.words import Fact, ask, word

FAMILY = "reading"
WIDEST = 10.5  # em: a longer line would not leave the canvas both legible and free to vary
LEADING = 1.3  # line height in em

PHRASINGS = {
    "text": (
        "What is written here?",
        "What does the text say?",
        "What is written in the picture?",
        "Read the text.",
        "What text do you see?",
        "Please read the text in the image.",
        "What does it say?",
        "Read what is written.",
        "Which text is shown?",
    ),
    "word": (
        "What word is written here?",
        "Which word is shown?",
        "What word do you see?",
        "Read the word.",
        "What is the word in the picture?",
        "Which word does the image show?",
        "What word is this?",
        "Read the word in the image.",
        "Which word is written?",
    ),
    "number": (
        "What number is written here?",
        "Which number is shown?",
        "What number do you see?",
        "Read the number.",
        "What is the number in the picture?",
        "Which number does the image show?",
        "What number is this?",
        "Read the number in the image.",
        "Which number is written?",
    ),
    "first_word": (
        "What is the first word?",
        "Which word comes first?",
        "What word does the text begin with?",
        "Read the first word.",
        "Which word is first in the text?",
        "What is the first word of the text?",
    ),
    "last_word": (
        "What is the last word?",
        "Which word comes last?",
        "What word does the text end with?",
        "Read the last word.",
        "Which word is last in the text?",
        "What is the last word of the text?",
    ),
    "first_line": (
        "What does the first line say?",
        "Read the first line.",
        "What is written in the first line?",
        "What does the top line say?",
        "Read the top line.",
        "What is written on the upper line?",
    ),
    "second_line": (
        "What does the second line say?",
        "Read the second line.",
        "What is written in the second line?",
        "What does the bottom line say?",
        "Read the bottom line.",
        "What is written on the lower line?",
    ),
    "first_letter": (
        "What is the first letter?",
        "Which letter does the word begin with?",
        "What letter comes first?",
        "Which is the first letter of the word?",
        "What letter does it start with?",
        "Which letter is at the start of the word?",
    ),
    "last_letter": (
        "What is the last letter?",
        "Which letter does the word end with?",
        "What letter comes last?",
        "Which is the last letter of the word?",
        "What letter does it end with?",
        "Which letter is at the end of the word?",
    ),
    "spell": (
        "Spell the word.",
        "How is the word spelled?",
        "Spell out the word in the picture.",
        "Read the word letter by letter.",
        "Which letters is the word made of?",
        "Name the letters of the word in order.",
    ),
    "first_digit": (
        "What is the first digit?",
        "Which digit comes first?",
        "What digit does the number begin with?",
        "Which is the first digit of the number?",
        "What digit does it start with?",
        "Which digit is at the start of the number?",
    ),
    "last_digit": (
        "What is the last digit?",
        "Which digit comes last?",
        "What digit does the number end with?",
        "Which is the last digit of the number?",
        "What digit does it end with?",
        "Which digit is at the end of the number?",
    ),
    "digits": (
        "How many digits are there?",
        "How many digits does the number have?",
        "Count the digits of the number.",
        "How many digits do you see?",
        "What is the number of digits?",
        "How many digits long is the number?",
    ),
    "words": (
        "How many words are there?",
        "How many words does the text have?",
        "Count the words.",
        "How many words do you see?",
        "What is the number of words?",
        "How many words long is the text?",
    ),
}
TRAINING_ONLY = {
    "text": (
        "What is written in this image?",
        "Which text is written here?",
        "What does the picture say?",
        "Please read what the picture says.",
        "Tell me the text.",
        "Which text do you see?",
    ),
    "word": (
        "Which word do you see?",
        "What word is shown?",
        "Tell me the word.",
        "What word does the picture show?",
        "Please read the word.",
    ),
    "number": (
        "Which number do you see?",
        "What number is shown?",
        "Tell me the number.",
        "What number does the picture show?",
        "Please read the number.",
    ),
}
CASES = (str.lower, str.title, str.upper)


def make(rng: np.random.Generator, split: Split, n_turns: int, max_side: int) -> Item:
    """One picture of text and ``n_turns`` questions about it; the first asks for all of the text."""
    paper = canvas.style(rng, split)
    content, lines = _content(rng, split, paper.font)
    facts = _facts(rng, content, lines)
    turns, asked = ask(rng, split, FAMILY, PHRASINGS, facts, n_turns, training_only=TRAINING_ONLY)
    widest = max(canvas.width_em(line, paper.font) for line in lines)
    width, height, em = canvas.frame(rng, widest + 0.6, LEADING * len(lines) + 0.3, max_side)
    image = canvas.blank(width, height, paper)
    boxes = _write(rng, image, paper, lines, widest, em)
    meta: dict[str, Any] = {"content": content, "lines": lines, "boxes": boxes, "em": em, "asked": asked}
    meta |= {"font": paper.font, "ink": paper.ink, "papers": [paper.background, paper.shade]}
    return Item([canvas.finish(rng, image)], "image", turns, meta)


def _content(rng: np.random.Generator, split: Split, font: str) -> tuple[str, list[str]]:
    """What kind of text, and its lines as drawn: words of one case, short enough to be legible in ``font``."""
    content = pick(rng, ("word", "word", "number", "line", "lines"))
    if content == "number":
        digits = int(rng.integers(1, 6))
        return content, [str(int(rng.integers(10 ** (digits - 1) if digits > 1 else 0, 10**digits)))]
    case = pick(rng, CASES)
    counts = {"word": [1], "line": [int(rng.integers(2, 4))], "lines": rng.integers(1, 3, 2).tolist()}[content]
    return content, [_line(rng, split, case, count, font) for count in counts]


def _line(rng: np.random.Generator, split: Split, case: Callable[[str], str], count: int, font: str) -> str:
    while True:
        line = case(" ".join(word(rng, split) for _ in range(count)))
        if canvas.width_em(line, font) <= WIDEST:
            return line


def _facts(rng: np.random.Generator, content: str, lines: list[str]) -> list[Fact]:
    text = " ".join(lines)
    if content == "number":
        parts = [Fact("first_digit", text[0]), Fact("last_digit", text[-1]), Fact("digits", str(len(text)))]
        return [Fact(pick(rng, ("number", "text")), text), *parts]
    if content == "word":
        letters = [Fact("first_letter", text[0]), Fact("last_letter", text[-1]), Fact("spell", " ".join(text))]
        return [Fact(pick(rng, ("word", "text")), text), *letters]
    words = text.split()
    facts = [Fact("text", text), Fact("first_word", words[0]), Fact("last_word", words[-1])]
    if content == "lines":
        facts += [Fact("first_line", lines[0]), Fact("second_line", lines[1])]
    return [*facts, Fact("words", str(len(words)))]


def _write(
    rng: np.random.Generator, image: Image.Image, paper: canvas.Style, lines: list[str], widest: float, em: float
) -> list[list[int]]:
    """Draw the lines, aligned left or centred, anywhere they fit; returns the box of each in pixels."""
    draw = ImageDraw.Draw(image)
    face = canvas.font(paper.font, em)
    left = rng.uniform(0.3 * em, max(0.3 * em, image.width - (widest + 0.3) * em))
    top = rng.uniform(0.15 * em, max(0.15 * em, image.height - (LEADING * len(lines) + 0.15) * em))
    anchor, x = ("lm", left) if rng.random() < 0.5 else ("mm", left + widest * em / 2)
    boxes = []
    for i, line in enumerate(lines):
        y = top + (i + 0.5) * LEADING * em
        boxes.append(canvas.write(draw, (x, y), line, paper.ink, face, anchor))
    if rng.random() < 0.15:
        # A border, thin enough to stay out of the text's margins.
        corners = (0, 0, image.width - 1, image.height - 1)
        draw.rectangle(corners, outline=paper.accent, width=max(1, round(em * 0.06)))
    return boxes
