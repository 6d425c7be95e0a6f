"""DiffuSpec (arXiv 2510.02358): which path of a draft to read, and how long the next draft is.

Both strategies work on the drafts of the speculative mode, `drafts.Drafts`, together or alone. The AR mode reads every
draft, so greedy output is the AR mode's token for token, whatever they choose; what they change is how many tokens of
a draft are kept, and at what cost.

The paper drafts with one model and verifies with another, which here is the slot ``verifier``: answers are then that
model's own. Without one the drafter's own weights verify, in their AR mode, and a draft's first token is AR's already
where the pass that drafts can read it. No code of the authors is public: figures are the paper's, roundings a
reproduction's.
"""

from dataclasses import dataclass, field
from heapq import nlargest
from typing import NamedTuple

import torch

from vlm.generation.ngrams import NGrams
from vlm.generation.ranking import require, require_number

NEVER = -1e6  # stands for the logarithm of 0: times a weight of 0 it is 0


class Slot(NamedTuple):
    """What one slot of a draft could become.

    Attributes:
        candidates: tokens and their log-probability under the draft's pass.
        end: log-probability that the slot holds an end token, finite.
    """

    candidates: list[tuple[int, float]]
    end: float


class Path(NamedTuple):
    """A path as far as it is searched; ``history`` is what the n-gram model reads of it."""

    score: float
    tokens: tuple[int, ...]
    history: tuple[int, ...]
    ended: bool


@dataclass
class Drafting:
    """What a request keeps from one draft to the next.

    Attributes:
        length: tokens to draft, where that follows the drafts before.
        generated, accepted: moving averages of tokens drafted before an end token, and of those kept.
        proposed: tokens before an end token in the draft that waits to be verified.
        slots: of the pass that drafts, one for every row read.
        text: the n-gram model of the request's text.
        read: how many of the request's tokens it has seen.
    """

    length: int = 0
    generated: float = 0.0
    accepted: float = 0.0
    proposed: int = 0
    slots: list[Slot] = field(default_factory=list)
    text: NGrams | None = None
    read: int = 0


@dataclass(frozen=True)
class PathSearch:
    """Causal-consistency path search: a draft that reads well from left to right, not the best token of every slot.

    A slot's candidates are its most probable tokens up to a mass, and the end tokens. A beam search from the left
    keeps the paths with the highest sum of ``weight`` times the draft's log-probability and 1 - ``weight`` times the
    log-probability of an n-gram model; behind an end token a path goes on no more.

    Where ours differs: the paper's n-gram model is a KenLM fitted on each data set's training split; ours is counted
    on the way from the prompt and the answer so far (`ngrams`), without tokens that are never generated, such as
    placeholders of pictures. And a sum prefers the path with the fewest terms, so that an improbable end would beat
    every long path: here a path that has ended is charged, in every slot behind, the draft's log-probability of an
    end token there, which is what blocks behind an answer's end are trained to hold.

    Attributes:
        mass: candidates are the fewest most probable tokens that reach it, in (0, 1].
        most: but no more than these, end tokens aside.
        beam: paths kept from slot to slot.
        weight: of the draft's log-probability, in [0, 1]; 1 leaves the n-gram model out.
        order: tokens in its n-grams.
    """

    mass: float = 0.8
    most: int = 15
    beam: int = 3
    weight: float = 0.5
    order: int = 3

    def __post_init__(self):
        for name in ("mass", "weight"):
            require_number(name, getattr(self, name))
        require(0 < self.mass <= 1, "mass", self.mass, "lie in (0, 1]")
        require(0 <= self.weight <= 1, "weight", self.weight, "lie in [0, 1]")
        for name in ("most", "beam", "order"):
            require_whole(name, getattr(self, name))

    def note(self, kept: Drafting, logits: torch.Tensor, ends: frozenset[int]) -> None:
        """Keep what the slots with these logits [S, V] could become."""
        kept.slots += self.slots(logits, ends)
        kept.text = kept.text or NGrams(self.order, logits.shape[-1])

    def read(self, kept: Drafting, tokens: list[int], never: tuple[int, ...]) -> None:
        """Have the n-gram model count what is new among a request's final tokens, without those never generated."""
        kept.text.add(token for token in tokens[kept.read :] if token not in never)
        kept.read = len(tokens)

    def slots(self, logits: torch.Tensor, ends: frozenset[int]) -> list[Slot]:
        """What slots with these logits [S, V] could become."""
        log_p = logits.log_softmax(-1)  # [S, V]
        top = log_p.topk(min(self.most, log_p.shape[-1]), dim=-1)  # [S, M]
        before = top.values.exp().cumsum(-1) - top.values.exp()  # mass of everything more probable
        counts = (before < self.mass).sum(-1).clamp(min=1).tolist()
        end_ids = sorted(ends)
        end_log_p = log_p[:, end_ids]  # [S, E]
        held = end_log_p.logsumexp(-1).clamp(min=NEVER).tolist() if end_ids else [NEVER] * len(log_p)
        columns = zip(top.indices.tolist(), top.values.tolist(), counts, end_log_p.tolist(), held)
        return [Slot(_candidates(t, p, n, zip(end_ids, e)), end) for t, p, n, e, end in columns]

    def path(self, slots: list[Slot], text: NGrams, ends: frozenset[int]) -> list[int]:
        """Tokens of the best path found, as many as there are slots or up to its end token."""
        paths = [Path(0.0, (), text.tail, False)]
        for slot in slots:
            if not slot.candidates:
                break
            grown = [path for old in paths for path in self._grown(old, slot, text, ends)]
            paths = nlargest(self.beam, grown, key=lambda path: path.score)
            if all(path.ended for path in paths):  # what follows is charged to all of them alike
                break
        return list(paths[0].tokens)

    def _grown(self, path: Path, slot: Slot, text: NGrams, ends: frozenset[int]) -> list[Path]:
        """The path with every candidate of the next slot."""
        if path.ended:
            return [path._replace(score=path.score + self.weight * slot.end)]
        found = []
        for token, log_p in slot.candidates:
            fluent = text.log_probability(token, path.history) if self.weight < 1 else 0.0
            score = path.score + self.weight * log_p + (1 - self.weight) * fluent
            found.append(Path(score, (*path.tokens, token), text.extended(path.history, token), token in ends))
        return found


@dataclass(frozen=True)
class AdaptiveLength:
    """Adaptive draft length: the next draft is as long as drafts have meant to be, and longer if they are kept.

    With G the tokens before the first end token that slots propose, and A those of the draft that were kept, both
    averaged over drafts by ``rate`` from 0 on: the next length is floor(G), plus ``growth`` if A is at least G, within
    ``shortest`` and ``longest``, with which a request begins. The rounding is a reproduction's. The averages begin at
    0 as in the paper, so the second draft is short whatever the first one was.

    A draft has room in a block beside one token that is known, so none is longer than a block less one slot: with
    blocks below 21 the paper's bounds leave nothing to adapt. The block opened is the smallest trained one that holds
    the draft.

    Attributes:
        shortest, longest: tokens in a draft.
        growth: tokens.
        rate: of the newest draft in the averages, in (0, 1].
    """

    shortest: int = 20
    longest: int = 30
    growth: int = 10
    rate: float = 0.5

    def __post_init__(self):
        for name in ("shortest", "longest", "growth"):
            require_whole(name, getattr(self, name), 0 if name == "growth" else 1)
        require(self.shortest <= self.longest, "shortest", self.shortest, f"be at most longest {self.longest}")
        require_number("rate", self.rate)
        require(0 < self.rate <= 1, "rate", self.rate, "lie in (0, 1]")

    def learn(self, kept: Drafting, accepted: int) -> None:
        """Take a verified draft into account, ``accepted`` tokens of which were kept."""
        kept.generated = (1 - self.rate) * kept.generated + self.rate * kept.proposed
        kept.accepted = (1 - self.rate) * kept.accepted + self.rate * accepted
        grown = int(kept.generated) + (self.growth if kept.accepted >= kept.generated else 0)
        kept.length = max(self.shortest, min(self.longest, grown))


def require_whole(name: str, value: int, least: int = 1) -> None:
    require(isinstance(value, int) and value >= least, name, value, f"be a whole number of at least {least}")


def _candidates(tokens: list[int], log_ps: list[float], count: int, ends) -> list[tuple[int, float]]:
    """The first ``count`` tokens and the end tokens that are not among them; none that cannot be."""
    found = dict(zip(tokens[:count], log_ps))
    found |= {token: log_p for token, log_p in ends if token not in found}
    return [(token, log_p) for token, log_p in found.items() if log_p > -torch.inf]
