"""Which letter a free answer to a multiple-choice question chooses.

Rules in order, the first that finds something decides: the answer is one letter; a letter behind "answer is", "option"
or the like; the last letter in brackets; the last capital that stands alone; the one choice whose text is repeated.
Letters are those of the choices. ``A`` and ``I`` before a lower-case word are an article and a pronoun, no letters.
Nothing is guessed: an answer that chooses nothing is wrong.
"""

import re
from collections.abc import Collection, Mapping

from eval.metrics.text import exact_match, normalise

LETTERS = "ABCDEFGHIJ"  # where the choices are not listed apart from the question
_LETTER = r"(?<![\w'’-])((?![AI] +[a-z])[A-Z])(?![\w'’-])"
_ONLY = re.compile(r"[\s(\[*\"']*([A-Za-z])[\s)\].:*\"',]*")
_CUED = re.compile(rf"(?i:\b(?:answer|option|choice)(?:\s+is)?)\s*:?[\s(\[*\"']*{_LETTER}")
_BRACKETED = re.compile(r"[(\[]([A-Z])[)\]]")
_STANDING = re.compile(_LETTER)


def multiple_choice(answer: str, expected: str, choices: Mapping[str, str]) -> float:
    """Whether ``answer`` chooses what is expected, a letter or the text of a choice.

    Args:
        choices: text by letter; empty if they are not known apart from the question.
    """
    letter = _letter_of(expected, choices)
    if letter is None:
        return exact_match(answer, expected)
    return float(chosen_letter(answer, choices) == letter)


def chosen_letter(answer: str, choices: Mapping[str, str]) -> str | None:
    """The letter that an answer chooses, or None."""
    letters = set(choices or LETTERS)
    if (only := _ONLY.fullmatch(answer)) and only[1].upper() in letters:
        return only[1].upper()
    for pattern in (_CUED, _BRACKETED, _STANDING):
        if found := [letter for letter in pattern.findall(answer) if letter in letters]:
            return found[-1]
    return _by_text(normalise(answer), {letter: normalise(text) for letter, text in choices.items()})


def _by_text(answer: str, texts: Mapping[str, str]) -> str | None:
    """The choice that the answer repeats; of several, the one that contains the others ("dark red" and "red")."""
    said = {letter: text for letter, text in texts.items() if text and _holds(answer, text)}
    whole = [letter for letter, text in said.items() if all(_holds(text, other) for other in said.values())]
    return whole[0] if len(whole) == 1 else None


def _holds(text: str, part: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(part)}(?!\w)", text) is not None


def _letter_of(expected: str, choices: Mapping[str, str]) -> str | None:
    letters: Collection[str] = choices or LETTERS
    if (only := _ONLY.fullmatch(expected)) and only[1].upper() in letters:
        return only[1].upper()
    same = [letter for letter, text in choices.items() if normalise(text) == normalise(expected)]
    return same[0] if len(same) == 1 else None
