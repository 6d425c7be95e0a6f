"""A small n-gram model of a request's own text: how well a token follows the tokens before it.

It is counted while a request is decoded, from its prompt and from what it has written: nothing is trained, loaded or
shared between requests, and a batch stays its singles. What it knows is what repeats: the words of the question, the
keys of a list of objects. Probabilities are Witten and Bell's: a history that has been followed by many different
tokens leaves more to the shorter one, and the shortest leaves to all tokens alike, so that nothing has to be tuned
and nothing has probability 0.
"""

import math
from collections.abc import Iterable


class NGrams:
    """Counts of what follows each history of up to ``order`` - 1 tokens.

    Args:
        order: tokens in the longest n-gram, at least 1.
        vocab_size: tokens that there are, over which an unseen history spreads evenly.

    Attributes:
        tail: the last ``order`` - 1 tokens added, fewer at the beginning.
    """

    def __init__(self, order: int, vocab_size: int):
        self.order, self.vocab_size = order, vocab_size
        self.tail: tuple[int, ...] = ()
        self._followed: dict[tuple[int, ...], dict[int, int]] = {}
        self._total: dict[tuple[int, ...], int] = {}

    def add(self, tokens: Iterable[int]) -> None:
        """Count ``tokens`` behind those that were added before."""
        for token in tokens:
            for length in range(len(self.tail) + 1):
                history = self.tail[len(self.tail) - length :]
                found = self._followed.setdefault(history, {})
                found[token] = found.get(token, 0) + 1
                self._total[history] = self._total.get(history, 0) + 1
            self.tail = self.extended(self.tail, token)

    def extended(self, history: tuple[int, ...], token: int) -> tuple[int, ...]:
        """The history behind ``token``."""
        return (*history, token)[-(self.order - 1) :] if self.order > 1 else ()

    def log_probability(self, token: int, history: tuple[int, ...]) -> float:
        """Of ``token`` behind ``history``, at most ``order`` - 1 tokens; natural logarithm, finite."""
        p = 1 / self.vocab_size
        for length in range(len(history) + 1):
            seen = history[len(history) - length :]
            found = self._followed.get(seen)
            if found is None:  # nor has a longer one
                break
            kinds = len(found)
            p = (found.get(token, 0) + kinds * p) / (self._total[seen] + kinds)
        return math.log(p)
