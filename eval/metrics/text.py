"""Short answers against their references: equal, nearly equal as numbers, nearly equal as spellings.

The deciding choice: ``relaxed_accuracy`` and ``anls`` do what the public scoring scripts of ChartQA and DocVQA do, to
the quirks, so that figures can be laid beside published ones. Only ``exact_match`` is our own.
"""

import math
import re
from collections.abc import Sequence


def normalise(text: str) -> str:
    """Lower case, single spaces, no full stop at the end: what two equal short answers may differ in."""
    return re.sub(r"\s+", " ", text).rstrip(" .").strip().casefold()


def exact_match(answer: str, expected: str) -> float:
    return float(normalise(answer) == normalise(expected))


def relaxed_accuracy(answer: str, expected: str, tolerance: float = 0.05) -> float:
    """ChartQA's measure (Masry et al., 2022, after PlotQA): a number may be 5 % off, other text must be equal.

    As its script has it: ``5%`` is 0.05, case does not matter, and an expected zero is compared as text, because
    nothing but zero is within 5 % of it.
    """
    said, truth = answer.strip(), expected.strip()
    a, b = _number(said), _number(truth)
    if a is not None and b:
        return float(abs(a - b) / abs(b) <= tolerance)
    return float(said.lower() == truth.lower())


def anls(answer: str, references: Sequence[str], threshold: float = 0.5) -> float:
    """Normalised Levenshtein similarity to the nearest reference (Biten et al., 2019); 0 if it is below ``threshold``.

    Case and the number of spaces do not matter. A similarity of exactly one half counts, as in the scripts of the
    challenge; the paper's formula would drop it.
    """
    said = _spaced(answer)
    best = max(_similarity(said, _spaced(reference)) for reference in references)
    return best if best >= threshold else 0.0


def edit_distance(a: str, b: str) -> int:
    """Fewest insertions, deletions and substitutions of one character that turn ``a`` into ``b``."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        corner, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            corner, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, corner + (x != y))
    return row[-1]


def _similarity(a: str, b: str) -> float:
    longest = max(len(a), len(b))
    return 1 - edit_distance(a, b) / longest if longest else 1.0


def _spaced(text: str) -> str:
    return " ".join(text.lower().split())


def _number(text: str) -> float | None:
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
