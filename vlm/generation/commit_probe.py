"""Policies that commit a slot on purpose before it is sure, for what it tells the others."""

from dataclasses import dataclass

import torch

from vlm.generation.ranking import rank, require, require_number, usable
from vlm.generation.scoring import Scores


@dataclass(frozen=True)
class Explore:
    """Threshold decoding that probes: explore-then-exploit, reconstructed from an abstract (ETE, arXiv 2511.21103).

    The paper's claim: sure slots carry few bits, so a step in which only few are sure should also commit an uncertain
    one, whose token makes others sure. Not the paper's algorithm, of which no code and no thresholds are public: here
    a step commits every slot that reaches ``tau`` and the best one; if these are fewer than ``least``, also the slot
    of highest entropy among the ``reach`` leftmost others. One candidate, no branches; commits stay within the block.

    Attributes:
        tau: any number.
        least: slots per step below which it probes; 0 or 1 never probes.
        reach: slots, at least 1.
    """

    tau: float = 0.9
    least: int = 2
    reach: int = 4

    def __post_init__(self):
        require_number("tau", self.tau)
        require(self.least >= 0, "least", self.least, "be at least 0")
        require(self.reach >= 1, "reach", self.reach, "be at least 1")

    def select(self, scores: Scores, is_open, step, size, committed=None) -> torch.Tensor:
        sure = usable(scores.probability, is_open) >= self.tau
        chosen = is_open & (sure | (rank(usable(scores.rank, is_open)) == 0))
        others = is_open & ~chosen
        near = others & (others.cumsum(-1) <= self.reach)
        few = chosen.sum(-1, keepdim=True) < self.least  # [B, 1]
        return chosen | (near & few & (rank(usable(scores.entropy, near)) == 0))


@dataclass(frozen=True)
class Hierarchical:
    """Sure slots, and the best slot of every run of open ones if it is not hopeless (dInfer, arXiv 2510.08666).

    Divide and conquer: a token in the middle of a run of masks splits it. dInfer's code compares with >.

    Attributes:
        tau: any number: a slot that reaches it is committed.
        low: no greater than ``tau``: so is the best slot of a run that reaches this.
        strict: compare with > instead of >=.
    """

    tau: float = 0.9
    low: float = 0.4
    strict: bool = False

    def __post_init__(self):
        require_number("tau", self.tau)
        require(self.low <= self.tau, "low", self.low, f"be a number no greater than tau {self.tau}")

    def select(self, scores: Scores, is_open, step, size, committed=None) -> torch.Tensor:
        confidence, best = usable(scores.probability, is_open), usable(scores.rank, is_open)
        run = (~is_open).cumsum(-1)  # [B, W]: open slots of one run share a number
        same = (run.unsqueeze(-1) == run.unsqueeze(-2)) & is_open.unsqueeze(-2)  # [B, W, W]
        place = rank(best)
        leads = place == torch.where(same, place.unsqueeze(-2), is_open.shape[-1]).amin(-1)  # [B, W]
        sure, fair = ((confidence > x) if self.strict else (confidence >= x) for x in (self.tau, self.low))
        return is_open & (sure | (leads & fair) | (place == 0))
