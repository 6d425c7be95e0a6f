"""Edits of lists: which results are right, and how a list is read from an answer.

The deciding choices: an edit that leaves a place or an order open is judged by its rule, never by one stored result.
A list is read in two ways. Strictly, the answer is the list and nothing else, in the form asked for. Loosely, it is
the last list in the answer, whatever brackets, quotes, numbers, line breaks or capitals it is written with.
"""

import re
from collections.abc import Sequence

_ITEM = re.compile(r"\w+(?:['’-]\w+)*")
_BRACKETED = re.compile(r"\[([^\[\]]*)\]")
_DECORATION = re.compile(r"^(?:\d+[.)]|[-*•])\s+|^and\s+", re.IGNORECASE)


def legal_edit(task: str, said: Sequence[str], given: Sequence[str], expected: Sequence[str], new: str = "") -> bool:
    """Whether ``said`` is a right result of an edit of ``given``.

    Args:
        task: one of `data_pipelines.playground.edits.EDITS`.
        expected: the result, for edits that have only one.
        new: the word to insert, or to put in place of another; it is not among the given ones.
    """
    said, given = list(said), list(given)
    if task == "shuffle":
        return sorted(said) == sorted(given) and said != given
    if task == "insert_random":
        return said.count(new) == 1 and [word for word in said if word != new] == given
    if task == "remove_random":
        return said in [_without(given, at) for at in range(len(given))]
    if task == "replace_random":
        differ = [at for at, (a, b) in enumerate(zip(said, given)) if a != b]
        return len(said) == len(given) and [said[at] for at in differ] == [new]
    return said == list(expected)


def list_in(answer: str) -> list[str] | None:
    """The items of an answer that is a list in the form asked for: ``one, two, three``; None if it is not."""
    items = answer.strip().split(", ")
    return items if all(_ITEM.fullmatch(item) for item in items) else None


def loose_list_in(answer: str) -> list[str]:
    """The items, in lower case, of the last list in an answer; empty if there is none.

    That is what the last square brackets hold, or what follows the last colon, or everything. Items are separated by
    commas, semicolons and line ends; by spaces if there are none of these.
    """
    text = found[-1] if (found := _BRACKETED.findall(answer)) else answer.rpartition(":")[2]
    text = text.strip().rstrip(".")
    pieces = re.split(r"[,;\n]+", text) if re.search(r"[,;\n]", text) else text.split()
    items = (_DECORATION.sub("", piece.strip()).strip(" \t\"'`*.“”‘’").casefold() for piece in pieces)
    return [item for item in items if item]


def _without(given: list[str], at: int) -> list[str]:
    return [*given[:at], *given[at + 1 :]]
