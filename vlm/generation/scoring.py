"""What each open slot would become, and how sure the model is: a proposal and a higher-is-better score.

The score is the probability of the proposed token under the model's own distribution, before temperature, top-k or
top-p, so that a threshold means the same at every temperature.
"""

from dataclasses import dataclass

import torch


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

    def propose(self, logits: torch.Tensor, generators: list[torch.Generator]) -> tuple[torch.Tensor, torch.Tensor]:
        """Proposals and scores, both [S], for logits [S, V]; slot s draws from ``generators[s]``."""
        log_z = logits.logsumexp(-1)
        if self.temperature == 0:
            best, tokens = logits.max(-1)
            return tokens, (best - log_z).exp()
        probabilities = self._filter(logits / self.temperature).softmax(-1)  # [S, V]
        draws = [torch.multinomial(row, 1, generator=g) for row, g in zip(probabilities, generators)]
        tokens = torch.cat(draws)
        return tokens, (logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) - log_z).exp()

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
