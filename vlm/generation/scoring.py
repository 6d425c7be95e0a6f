"""What each open slot would become, and how sure the model is.

Probability, entropy and margin are of the model's own distribution, before temperature, top-k or top-p, so that a
threshold means the same at every temperature. Logits are made in chunks of rows and reduced at once: a batch of
blocks over a large vocabulary never stands in memory as one tensor.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch

CHUNK = 2**22  # logits made at a time: 16 MB in float32


@dataclass
class Scores:
    """What a forward pass says of the slots it may decide. Fields are [S], or [B, W] on the grid of open blocks.

    Attributes:
        token: int64, the token each slot would become.
        probability: of that token under the model's own distribution, in [0, 1].
        entropy: of the model's own distribution, nats.
        margin: probability of the most probable token less that of the second, in [0, 1].
        gap: logit of the most probable token less that of the second, at least 0; infinite where there is no second.
        rank: higher is better: what decides which slots are the best. The probability, unless `rescore` changes it.
    """

    token: torch.Tensor
    probability: torch.Tensor
    entropy: torch.Tensor
    margin: torch.Tensor
    gap: torch.Tensor
    rank: torch.Tensor

    def map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> "Scores":
        """New scores with ``function`` applied to every field."""
        return Scores(**{f.name: function(getattr(self, f.name)) for f in fields(self)})

    @staticmethod
    def cat(parts: list["Scores"]) -> "Scores":
        return Scores(**{f.name: torch.cat([getattr(p, f.name) for p in parts]) for f in fields(Scores)})


@dataclass(frozen=True)
class Sampler:
    """Greedy at temperature 0, otherwise a draw from the tempered and filtered distribution.

    Attributes:
        temperature: divides the logits; 0 is greedy.
        top_k: keep the k most probable tokens; 0 keeps all.
        top_p: keep the smallest set of tokens whose probability reaches p.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0

    def propose(self, logits: torch.Tensor, generators: list[torch.Generator]) -> Scores:
        """Proposals for logits [S, V]; slot s draws from ``generators[s]``."""
        log_p = logits.log_softmax(-1)  # [S, V]
        p = log_p.exp()
        top = p.topk(min(2, p.shape[-1]), dim=-1)
        entropy = -torch.where(p > 0, p * log_p, 0.0).sum(-1)
        margin = top.values[:, 0] - top.values[:, -1] if p.shape[-1] > 1 else torch.ones_like(entropy)
        first, second = log_p.gather(-1, top.indices[:, :1]), log_p.gather(-1, top.indices[:, -1:])
        gap = (first - second).squeeze(-1) if p.shape[-1] > 1 else torch.full_like(entropy, torch.inf)
        if self.temperature == 0:
            tokens = logits.argmax(-1)
        else:
            # From the largest down: whatever the temperature, it stays finite and the others at worst become -inf.
            below = logits - logits.amax(-1, keepdim=True)
            tempered = self._filter(below / max(self.temperature, torch.finfo(logits.dtype).tiny)).softmax(-1)
            tokens = torch.cat([torch.multinomial(row, 1, generator=g) for row, g in zip(tempered, generators)])
        probability = p.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
        return Scores(tokens, probability, entropy, margin, gap, probability)

    def _filter(self, logits: torch.Tensor) -> torch.Tensor:
        if 0 < self.top_k < logits.shape[-1]:
            kth = logits.topk(self.top_k).values[..., -1:]
            logits = logits.masked_fill(logits < kth, -torch.inf)
        if self.top_p < 1:
            ordered, index = logits.sort(descending=True)
            before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)  # mass of everything more probable
            dropped = torch.zeros_like(before, dtype=torch.bool).scatter(-1, index, before >= self.top_p)
            logits = logits.masked_fill(dropped, -torch.inf)
        return logits


def score(
    head: Callable[[torch.Tensor], torch.Tensor],
    hidden: torch.Tensor,
    samplers: list[Sampler],
    generators: list[torch.Generator],
    edit: Callable[[torch.Tensor, int], None],
    vocab_size: int,
) -> Scores:
    """Scores [S] of hidden states [S, D], a chunk of rows at a time.

    Args:
        head: hidden states to logits.
        samplers, generators: of every row.
        edit: changes a chunk of logits [C, V] in place; its second argument is the chunk's first row.
        vocab_size: V, from which the chunk's rows are worked out.

    Raises:
        ValueError: the logits are not numbers.
    """
    rows, parts = max(1, CHUNK // vocab_size), []
    for start in range(0, len(hidden), rows):
        logits = head(hidden[start : start + rows])
        logits = logits.float() if logits.element_size() < 4 else logits
        edit(logits, start)
        parts.append(_propose(logits, samplers[start : start + rows], generators[start : start + rows]))
    scores = Scores.cat(parts)
    if scores.probability.isnan().any() and not all(head(part).isfinite().all() for part in hidden.split(rows)):
        raise ValueError("the model computes NaN: its weights or its adapter's are damaged, or overflow in this dtype")
    return scores


def _propose(logits: torch.Tensor, samplers: list[Sampler], generators: list[torch.Generator]) -> Scores:
    """Proposals of rows that may be sampled differently, each kind at once."""
    kinds = list(dict.fromkeys(samplers))
    if len(kinds) == 1:
        return kinds[0].propose(logits, generators)
    groups = [[i for i, sampler in enumerate(samplers) if sampler == kind] for kind in kinds]
    parts = [kind.propose(logits[g], [generators[i] for i in g]) for kind, g in zip(kinds, groups)]
    order = torch.tensor([i for group in groups for i in group], device=logits.device).argsort()
    return Scores.cat(parts).map(lambda t: t[order])
