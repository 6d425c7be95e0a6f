"""VQA accuracy: right as far as people agree (Antol et al., 2015; Goyal et al., 2017).

An answer that three of the others gave is fully right: min(n / 3, 1), averaged over leaving each of the ten people out
once. Of ten people one makes 0.3, two 0.6, three 0.9, four 1.

Answers are put into one spelling first, as the official script does, with one simplification: it has a table that puts
apostrophes into contractions written without them; here apostrophes are taken out of all words.
"""

import re
from collections.abc import Sequence

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
WORDS = {"none": "0", **{word: str(n) for n, word in enumerate(NUMBERS)}}
ARTICLES = ("a", "an", "the")
FEWEST = 4  # people; with fewer, leaving one out could never leave three who agree


def vqa_accuracy(answer: str, references: Sequence[str]) -> float:
    """Accuracy in [0, 1]; with fewer than four references, whether the answer is one of them."""
    said, heard = processed(answer), [processed(reference) for reference in references]
    if len(heard) < FEWEST:
        return float(said in heard)
    agree = heard.count(said)
    return sum(min(1.0, (agree - (other == said)) / 3) for other in heard) / len(heard)


def processed(text: str) -> str:
    """Lower case, digits for number words, no articles, punctuation or apostrophes."""
    bare = _without_punctuation(" ".join(text.split()))
    words = [WORDS.get(word, word) for word in bare.lower().replace("'", "").split()]
    return " ".join(word for word in words if word not in ARTICLES)


def _without_punctuation(text: str) -> str:
    """A mark beside a space goes, one between letters becomes a space; points stay before digits only.

    A comma between digits (1,000) makes all marks go without a space: the official script's rule.
    """
    grouped = re.search(r"\d,\d", text) is not None
    out = text
    for mark in PUNCTUATION:
        beside_space = mark + " " in text or " " + mark in text
        out = out.replace(mark, "" if beside_space or grouped else " ")
    return re.sub(r"\.(?!\d)", "", out)
