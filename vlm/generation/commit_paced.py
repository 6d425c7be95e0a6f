"""Policies that bound how many slots a step commits: CAD between two counts, ASS by powers of two."""

from dataclasses import dataclass

import torch

from vlm.generation.ranking import rank, require, require_number, usable
from vlm.generation.scoring import Scores


@dataclass(frozen=True)
class CAD:
    """As many slots as are sure, but no fewer than ``least`` and no more than ``most`` (CD4LM, arXiv 2601.02236).

    The best n slots, n being the number of confidences that reach ``tau``, clipped. The paper's gate on end tokens is
    the scoring slot's `EosGate`. The released code also commits a block whole after as many steps as it has slots:
    with ``least`` at 1 or more that never comes to pass. Defaults are its evaluation scripts'; its demo caps n at 4.

    Attributes:
        tau: any number.
        least: slots per step, at least 1.
        most: slots per step, at least ``least``.
    """

    tau: float = 0.95
    least: int = 1
    most: int = 32

    def __post_init__(self):
        require_number("tau", self.tau)
        require(self.least >= 1, "least", self.least, "be at least 1")
        require(self.most >= self.least, "most", self.most, f"be at least {self.least}, as many as least")

    def select(self, scores: Scores, is_open, step, size, committed=None) -> torch.Tensor:
        sure = (usable(scores.probability, is_open) >= self.tau).sum(-1, keepdim=True)  # [B, 1]
        return is_open & (rank(usable(scores.rank, is_open)) < sure.clamp(self.least, self.most))


@dataclass(frozen=True)
class Doubling:
    """1, 2, 4, ... slots, the best first, and in the last step what is left (ASS, arXiv 2509.23924).

    A block of B slots takes ceil(log2(B + 1)) steps. The paper doubles over the whole answer, and its blocked form
    gives the small powers to the first block only; here every block starts again at 1.
    """

    def select(self, scores: Scores, is_open, step, size, committed=None) -> torch.Tensor:
        quota = 2 ** step.clamp(max=30)  # [B]; no block is wider
        return is_open & (rank(usable(scores.rank, is_open)) < quota.unsqueeze(-1))
