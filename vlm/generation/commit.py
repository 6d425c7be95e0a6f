"""Which open slots become tokens. Every policy commits at least one slot of a block that has any.

Policies are frozen and hold no state: they see the scores of a batch of open blocks and return a boolean mask.
"""

from dataclasses import dataclass
from typing import Protocol

import torch


class CommitPolicy(Protocol):
    def select(
        self, score: torch.Tensor, is_open: torch.Tensor, step: torch.Tensor, size: torch.Tensor
    ) -> torch.Tensor:
        """Slots to commit, a boolean mask [B, W] within ``is_open``.

        Args:
            score: higher is better [B, W]; -inf at slots that are not open.
            is_open: slots still masked [B, W].
            step: denoising steps each block has had [B].
            size: slots each block had to fill when it opened [B].
        """


@dataclass(frozen=True)
class Threshold:
    """Every slot whose score reaches ``tau``, and always the best one (Fast-dLLM arXiv 2505.22618; SDAR's dynamic
    rule arXiv 2510.06303 with a floor of one). ``strict`` compares with > as SDAR's code does; tau = inf is top-1."""

    tau: float = 0.9
    strict: bool = False

    def select(self, score, is_open, step, size):
        sure = score > self.tau if self.strict else score >= self.tau
        best = torch.zeros_like(is_open).scatter(-1, score.argmax(-1, keepdim=True), True)
        return is_open & (sure | best)


@dataclass(frozen=True)
class Static:
    """An even quota per step: D // steps slots, one more in the first D % steps steps (SDAR's static rule)."""

    steps: int | None = None

    def select(self, score, is_open, step, size):
        steps = torch.full_like(size, self.steps) if self.steps is not None else size
        steps = steps.clamp(min=1).minimum(size.clamp(min=1))
        quota = size // steps + (step < size % steps)  # [B]
        rank = score.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)  # [B, W]
        return is_open & (rank < quota.clamp(min=1).unsqueeze(-1))
