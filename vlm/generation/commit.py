"""Which open slots become tokens: one frozen dataclass per published rule.

A policy sees the scores of a batch of open blocks and returns a boolean mask; it holds no state, and rows do not see
each other. Three things hold for all of them. At least one slot of every block that has an open one is committed, and
never a slot that is not open. What the scores say of slots that are not open does not matter. A NaN counts as the
worst finite score, so that a model that returns NaN still comes to an end. Ties go to the leftmost slot.

Confidence is `Scores.probability`; thresholds read it, and are inclusive unless a rule says otherwise. Which slots are
the best goes by `Scores.rank`, which is the confidence unless the scoring slot says otherwise (`rescore`). Policies
that go by an order of their own also say ``ahead`` of a pass which open slots it will commit.
"""

from dataclasses import dataclass
from typing import Protocol

import torch

from vlm.generation.commit_order import RandomOrder
from vlm.generation.commit_paced import CAD, Doubling
from vlm.generation.commit_probe import Explore, Hierarchical
from vlm.generation.learn2pd import Learn2PD
from vlm.generation.ranking import rank, require, require_number, usable
from vlm.generation.scoring import Scores


class CommitPolicy(Protocol):
    def select(
        self,
        scores: Scores,
        is_open: torch.Tensor,
        step: torch.Tensor,
        size: torch.Tensor,
        committed: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Slots to commit, a boolean mask [B, W] within ``is_open``.

        Args:
            scores: of the open slots; fields are [B, W].
            is_open: slots still masked, bool [B, W].
            step: denoising steps each block has had [B].
            size: slots each block had to fill when it opened [B].
            committed: confidence at which each slot was committed since its block opened [B, W], NaN at every other
                slot. Only `BACD` reads it.
        """


@dataclass(frozen=True)
class Sequential:
    """The leftmost open slots (SDAR's sequential rule, arXiv 2510.06303).

    Attributes:
        count: slots per step, at least 1.
    """

    count: int = 1

    def __post_init__(self):
        require(self.count >= 1, "count", self.count, "be at least 1")

    def ahead(self, slots: list[int]) -> list[int]:
        """Which of these open slots the next step commits, whatever it says of them."""
        return slots[: self.count]

    def select(self, scores, is_open, step, size, committed=None):
        return is_open & (is_open.cumsum(-1) <= self.count)


@dataclass(frozen=True)
class Static:
    """An even quota per step, most confident slots first (SDAR's static rule, arXiv 2510.06303).

    D slots in S steps: D // S a step, one more in the first D % S steps.

    Attributes:
        steps: S, at least 1; None, or more than D, means one slot a step.
    """

    steps: int | None = None

    def __post_init__(self):
        require(self.steps is None or self.steps >= 1, "steps", self.steps, "be at least 1")

    def select(self, scores, is_open, step, size, committed=None):
        slots = size.clamp(min=1)  # rows without an open block have size 0
        steps = slots if self.steps is None else slots.clamp(max=self.steps)
        quota = slots // steps + (step < slots % steps)  # [B]
        return is_open & (rank(usable(scores.rank, is_open)) < quota.unsqueeze(-1))


@dataclass(frozen=True)
class Threshold:
    """Every slot whose confidence reaches ``tau``, and always the best one (Fast-dLLM, arXiv 2505.22618).

    With denoising steps = block size it is SDAR's dynamic rule too (arXiv 2510.06303), whose code compares with >.

    Attributes:
        tau: any number; infinity commits the best slot only.
        strict: compare with > instead of >=.
    """

    tau: float = 0.9
    strict: bool = False

    def __post_init__(self):
        require_number("tau", self.tau)

    def select(self, scores, is_open, step, size, committed=None):
        confidence = usable(scores.probability, is_open)
        sure = confidence > self.tau if self.strict else confidence >= self.tau
        return is_open & (sure | (rank(usable(scores.rank, is_open)) == 0))


@dataclass(frozen=True)
class Factor:
    """The largest n with (n + 1)(1 - c_n) < f, c_n being the n-th best confidence, and at least the best slot.

    Fast-dLLM, arXiv 2505.22618. At f = 1 the paper proves that n slots committed together are those that greedy
    decoding would commit one by one. This is the published formula: the released code also commits the last candidate
    if it is the only one that fails.

    Attributes:
        factor: f, at least 0; 0 commits the best slot only. The paper gives no value of its own: 1 is the code's.
    """

    factor: float = 1.0

    def __post_init__(self):
        require(self.factor >= 0, "factor", self.factor, "be at least 0")

    def select(self, scores, is_open, step, size, committed=None):
        confidence = usable(scores.probability, is_open)
        place = rank(confidence)  # n - 1
        doubt = (1 - confidence).clamp(min=0)  # rounding can make a confidence exceed 1
        return is_open & (
            ((place + 2) * doubt < self.factor) | (place == 0)
        )  # monotone in place: a prefix of the ranking


@dataclass(frozen=True)
class EntropyBounded:
    """The most certain slots while their entropies sum to less than ``gamma``, and at least the most certain one.

    JetEngine's form and value, used with SDAR (arXiv 2510.06303). The EB-Sampler that it follows (arXiv 2505.24857)
    leaves the largest entropy out of the sum.

    Attributes:
        gamma: nats, at least 0; 0 commits the most certain slot only.
    """

    gamma: float = 0.35

    def __post_init__(self):
        require(self.gamma >= 0, "gamma", self.gamma, "be at least 0")

    def select(self, scores, is_open, step, size, committed=None):
        certainty, order = usable(-scores.entropy, is_open).sort(dim=-1, descending=True, stable=True)
        within = (-certainty).cumsum(-1) < self.gamma  # [B, W], in that order
        within[..., 0] = True
        return is_open & torch.zeros_like(is_open).scatter(-1, order, within)


@dataclass(frozen=True)
class BACD:
    """A threshold that follows the block (bounded adaptive confidence decoding of TDAR, arXiv 2602.09555).

    The threshold is the mean confidence of what the block has committed so far, or the best confidence on offer while
    it has committed nothing, held within [low, high]. The best slot is always committed, and counts even below low.

    Attributes:
        low, high: any numbers with low <= high.
    """

    low: float = 0.6
    high: float = 0.9

    def __post_init__(self):
        require_number("high", self.high)
        require(self.low <= self.high, "low", self.low, f"be a number no greater than high {self.high}")

    def select(self, scores, is_open, step, size, committed=None):
        if committed is None:
            raise ValueError("BACD needs the confidences at which the block's slots were committed")
        confidence = usable(scores.probability, is_open)
        mean = committed.nanmean(-1)  # [B], NaN where nothing was committed
        tau = torch.where(mean.isnan(), confidence.amax(-1), mean).clamp(self.low, self.high)
        return is_open & ((confidence >= tau.unsqueeze(-1)) | (rank(usable(scores.rank, is_open)) == 0))


@dataclass(frozen=True)
class LocalLeap:
    """A lower threshold beside confident slots (arXiv 2510.07081).

    Open slots that reach ``tau`` are anchors; slots at most ``radius`` from one need only ``relaxed``. The best slot
    is always committed. Tokens committed in earlier steps are no anchors.

    Attributes:
        tau: any number.
        relaxed: no greater than ``tau``.
        radius: slots, at least 0.
    """

    tau: float = 0.9
    relaxed: float = 0.75
    radius: int = 4

    def __post_init__(self):
        require_number("tau", self.tau)
        require(self.relaxed <= self.tau, "relaxed", self.relaxed, f"be a number no greater than tau {self.tau}")
        require(self.radius >= 0, "radius", self.radius, "be at least 0")

    def select(self, scores, is_open, step, size, committed=None):
        confidence = usable(scores.probability, is_open)
        anchor = confidence >= self.tau
        slot = torch.arange(is_open.shape[-1], device=is_open.device)
        near = (slot.unsqueeze(-1) - slot).abs() <= self.radius  # [W, W]
        beside = (anchor.unsqueeze(-2) & near).any(-1)  # [B, W]; an anchor is beside itself
        return is_open & ((beside & (confidence >= self.relaxed)) | (rank(usable(scores.rank, is_open)) == 0))


@dataclass(frozen=True)
class WeDLM:
    """Slots whose entropy, made dearer by their distance from the first open slot, lies below ``tau``.

    The selector of WeDLM's streaming decoding (arXiv 2512.22737); its window is `windows.Streaming`. The slot with the
    lowest penalised entropy is always committed. Defaults are the released engine's; the paper recommends tau between
    0.3 and 0.6 and, one token a step, a penalty of 0.1.

    Attributes:
        tau: nats, any number, compared with <; 0 or less commits one slot a step.
        penalty: nats per slot of distance, finite, at least 0.
    """

    tau: float = 0.4
    penalty: float = 0.02

    def __post_init__(self):
        require_number("tau", self.tau)
        require(0 <= self.penalty < float("inf"), "penalty", self.penalty, "be a finite number of at least 0")

    def select(self, scores, is_open, step, size, committed=None):
        width = is_open.shape[-1]
        slot = torch.arange(width, device=is_open.device)
        first = torch.where(is_open, slot, width).amin(-1, keepdim=True)  # [B, 1]
        entropy = scores.entropy + self.penalty * (slot - first).to(scores.entropy.dtype)
        certainty = usable(-entropy, is_open)
        return is_open & ((-certainty < self.tau) | (rank(certainty) == 0))


POLICIES: dict[str, type] = {
    "sequential": Sequential,
    "static": Static,
    "threshold": Threshold,
    "factor": Factor,
    "entropy": EntropyBounded,
    "bacd": BACD,
    "localleap": LocalLeap,
    "wedlm": WeDLM,
    "cad": CAD,
    "doubling": Doubling,
    "explore": Explore,
    "hierarchical": Hierarchical,
    "learn2pd": Learn2PD,
    "random": RandomOrder,
}
THRESHOLDED = ("threshold", "localleap", "cad", "explore", "hierarchical")  # their tau is the setting ``threshold``
STEPPED = ("static", "learn2pd")  # their steps are the setting ``denoising_steps``
