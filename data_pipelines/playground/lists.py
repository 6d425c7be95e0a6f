"""Lists: ten edits of a list of words, Latin squares and 4 x 4 sudokus, shown as text or as a picture.

The deciding choice: what is shown is a table of cells, and text and picture show the same one after the same question,
so that the two forms of an item differ in nothing but how it reaches the model. Where several answers are right, the
given one is drawn from all of them.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from data_pipelines.playground.base import Item, Split, Turn, phrase, pick
from data_pipelines.playground.cells import Cells, as_picture, as_text
from data_pipelines.playground.edits import EDITS, LENGTHS, PLACES, different_words, edited
from data_pipelines.playground.squares import MOST_BLANKS, SIDE, Square, latin_square, rows_of, sudoku, symbols
from data_pipelines.playground.words import Fact, ask

FAMILY = "lists"
TASKS = (*EDITS, "latin_square", "sudoku")
BLANKS = 4  # empty cells of a held-out sudoku: twelve are given

PHRASINGS = {
    "copy": (
        "Copy the given list.",
        "Repeat the given list as it is.",
        "Write the given list out once more, unchanged.",
        "Say the given list again in the same order.",
        "Give back the given list without any change.",
        "Which words does the given list hold, from first to last?",
    ),
    "reverse": (
        "Reverse the given list.",
        "Turn the order of the given list around.",
        "Write the given list backwards, the last word first.",
        "Say the given list in reverse order.",
        "Read the given list from the end to the start.",
        "What is the given list the other way round?",
    ),
    "sort": (
        "Sort the given list by alphabet.",
        "Put the given list in alphabetical order.",
        "Arrange the words of the given list from A to Z.",
        "Order the given words alphabetically.",
        "Say the given words sorted from A to Z.",
        "What is the given list in the order of a dictionary?",
    ),
    "shuffle": (
        "Shuffle the given list.",
        "Put the given list in another order, whichever you like.",
        "Mix up the words of the given list so that their order changes.",
        "Say the given words in a different order.",
        "Bring the given list into a new random order.",
        "Rearrange the given list in any way that is not its own order.",
    ),
    "insert_index": (
        'Insert "{new}" so that it is the {place} word of the given list.',
        'Add "{new}" to the given list as its {place} word.',
        'Put "{new}" into the given list in {place} place.',
        'Say the given list with "{new}" inserted as the {place} word.',
        'Let "{new}" join the given list as the {place} word.',
        'What is the given list once "{new}" has joined it in {place} place?',
    ),
    "insert_random": (
        'Insert "{new}" anywhere in the given list.',
        'Add "{new}" to the given list at a place you choose.',
        'Put "{new}" somewhere into the given list, the place is up to you.',
        'Say the given list with "{new}" inserted at any place.',
        'Let "{new}" join the given list wherever you like.',
        'What may the given list be once "{new}" has joined it at some place?',
    ),
    "remove_index": (
        "Remove the {place} word from the given list.",
        "Take the {place} word out of the given list.",
        "Drop the {place} word of the given list and keep the others.",
        "Say the given list without its {place} word.",
        "Delete the {place} word of the given list.",
        "What is left of the given list without the {place} word?",
    ),
    "remove_random": (
        "Remove any one word from the given list.",
        "Take one word of your choice out of the given list.",
        "Drop a single word of the given list, no matter which, and keep the others.",
        "Say the given list without one of its words.",
        "Delete one word of the given list, whichever you like.",
        "What may be left of the given list when one word goes?",
    ),
    "replace_index": (
        'Replace the {place} word of the given list by "{new}".',
        'Put "{new}" in place of the {place} word of the given list.',
        'Exchange the {place} word of the given list for "{new}".',
        'Say the given list with "{new}" instead of its {place} word.',
        'Change the {place} word of the given list to "{new}".',
        'What is the given list once "{new}" stands for its {place} word?',
    ),
    "replace_random": (
        'Replace any one word of the given list by "{new}".',
        'Put "{new}" in place of one word of the given list, you choose which.',
        'Exchange a single word of the given list, no matter which, for "{new}".',
        'Say the given list with "{new}" instead of one of its words.',
        'Change one word of your choice in the given list to "{new}".',
        'What may the given list be once "{new}" stands for one of its words?',
    ),
    "latin_square": (
        "Fill a 4 x 4 square with the given symbols: each once in every row and every column.",
        "Make a Latin square of the four given symbols.",
        "Arrange the four given symbols in a Latin square, where no row and no column repeats one.",
        "Write a 4 x 4 square whose rows and columns each hold all given symbols.",
        "Give a Latin square of order four made of the given symbols.",
        "What is a 4 x 4 square in which each given symbol is once in each row and column?",
    ),
    "sudoku": (
        "Solve the 4 x 4 sudoku.",
        "Fill the empty cells: rows, columns and 2 x 2 boxes each hold 1 to 4.",
        "Complete the sudoku, where 1 to 4 are in every row, column and 2 x 2 box.",
        "Give the solution of this 4 x 4 sudoku.",
        "Solve this sudoku of the digits 1 to 4.",
        "What is the finished 4 x 4 sudoku?",
    ),
    "row": (
        "What is the {place} row of the solution?",
        "Which digits fill the {place} row?",
        "How does the {place} row read once it is solved?",
        "Give the {place} row of the finished sudoku.",
        "Solve the {place} row.",
        "What stands in the {place} row when all is filled in?",
    ),
}
LIST_HINTS = (
    "Answer with the words only, separated by commas.",
    "Say just the words, with commas between them.",
    "Reply with nothing but the words and commas between them.",
)
SQUARE_HINTS = (
    "Answer with four lines of four, separated by spaces.",
    "Write four rows, a line each, with spaces between the cells.",
    "Reply with nothing but four lines, their cells separated by spaces.",
)


def make(rng: np.random.Generator, split: Split, n_turns: int, max_side: int) -> Item:
    """A list, a Latin square or a sudoku, as text or drawn, and ``n_turns`` tasks; every other one is a list's."""
    task = pick(rng, EDITS) if rng.random() < 0.5 else pick(rng, TASKS[len(EDITS) :])
    return posed(rng, split, task, rng.random() < 0.5, n_turns, max_side)


def posed(
    rng: np.random.Generator, split: Split, task: str, rendered: bool, n_turns: int = 1, max_side: int = 640
) -> Item:
    """One item of one of `TASKS`. The same stream makes the same puzzle and question, whether ``rendered`` or not.

    ``meta`` holds ``task``, ``cells``, ``given`` (the words, symbols or 16 digits shown) and ``asked`` for every turn.
    """
    puzzle = _PUZZLES.get(task, _list)
    given, cells, facts = puzzle(rng, split, task)
    hint = phrase(rng, LIST_HINTS if task in EDITS else SQUARE_HINTS, split)
    turns, asked = ask(rng, split, FAMILY, PHRASINGS, facts, n_turns)
    turns = [replace(turns[0], question=f"{turns[0].question} {hint}"), *turns[1:]]
    meta = {"task": task, "given": given, "cells": cells, "asked": asked}
    return shown(rng, split, turns, cells, meta, rendered, max_side, ruled=task == "sudoku")


def shown(
    rng: np.random.Generator,
    split: Split,
    turns: list[Turn],
    cells: Cells,
    meta: dict[str, Any],
    rendered: bool,
    max_side: int = 640,
    ruled: bool = False,
) -> Item:
    """An item whose cells stand below the first question, or in a picture."""
    if not rendered:
        first = replace(turns[0], question=f"{turns[0].question}\n{as_text(cells)}")
        return Item([], "image", [first, *turns[1:]], meta)
    picture, drawn = as_picture(rng, split, cells, max_side, ruled)
    return Item([picture], "image", turns, {**meta, **drawn})


def _list(rng: np.random.Generator, split: Split, task: str) -> tuple[list[str], Cells, list[Fact]]:
    """The words, and every edit of them, the task's own first."""
    *given, new = different_words(rng, split, int(rng.integers(LENGTHS[0], LENGTHS[1] + 1)) + 1)
    facts = []
    for kind in (task, *(other for other in EDITS if other != task)):
        result, slots = edited(rng, kind, given, new)
        facts.append(Fact(kind, ", ".join(result), slots))
    return given, [[text] for text in given], facts


def _latin(rng: np.random.Generator, split: Split, task: str) -> tuple[list[str], Cells, list[Fact]]:
    given = symbols(rng, split)
    squares = [latin_square(rng) for _ in range(SIDE)]
    return given, [given], [Fact(task, _lines([given[digit - 1] for digit in square])) for square in squares]


def _sudoku(rng: np.random.Generator, split: Split, task: str) -> tuple[Square, Cells, list[Fact]]:
    blanks = BLANKS if split == "heldout" else int(rng.integers(1, MOST_BLANKS + 1))
    given, solution = sudoku(rng, split, blanks)
    cells = [[str(digit or "") for digit in row] for row in rows_of(given)]
    rows = [Fact("row", " ".join(map(str, row)), {"place": place}) for place, row in zip(PLACES, rows_of(solution))]
    return given, cells, [Fact(task, _lines(solution)), *rows]


_PUZZLES = {"latin_square": _latin, "sudoku": _sudoku}


def _lines(square: Any) -> str:
    return as_text([[str(cell) for cell in row] for row in rows_of(square)])
