"""The scoring slot: what the slots of a block are ranked by, and end tokens held back.

A rank decides which slots are the best. Thresholds keep reading the model's own probability, with one exception that
its source asks for: `Credit` changes the logits themselves.
"""

from dataclasses import dataclass

import torch

from vlm.generation.blocks import Blocks, Rule
from vlm.generation.ranking import require


@dataclass(frozen=True)
class Margin(Rule):
    """Rank by the probability of the best token less that of the second (top-k margin, arXiv 2502.06768)."""

    def rescore(self, blocks: Blocks, rank: torch.Tensor) -> torch.Tensor:
        return blocks.scores.margin


@dataclass(frozen=True)
class Gap(Rule):
    """Rank by the logit of the best token less that of the second (the measure of Prophet, arXiv 2508.19982)."""

    def rescore(self, blocks: Blocks, rank: torch.Tensor) -> torch.Tensor:
        return blocks.scores.gap


@dataclass(frozen=True)
class Entropy(Rule):
    """Rank by negative entropy (the ``entropy`` order of Dream's generation code)."""

    def rescore(self, blocks: Blocks, rank: torch.Tensor) -> torch.Tensor:
        return -blocks.scores.entropy


@dataclass(frozen=True)
class EOSER(Rule):
    """Rank slots that propose an end token lower while the block is young (arXiv 2509.23924).

    Their rank is multiplied by a factor that rises from ``lowest`` to 1; the token itself does not change. In the
    paper it rises over the whole answer. Here it rises over the block: later blocks do not exist yet. The released
    code counts steps per block against the answer's total, so with several blocks the factor never gets to 1.

    Attributes:
        lowest: in [0, 1]; 1 is off. The paper has 0.4 alone and 0.01 with `Doubling`.
        doubling: rise with 2 to the step, as `Doubling` commits, instead of evenly over one step a slot.
    """

    lowest: float = 0.4
    doubling: bool = False

    def __post_init__(self):
        require(0 <= self.lowest <= 1, "lowest", self.lowest, "lie in [0, 1]")

    def rescore(self, blocks: Blocks, rank: torch.Tensor) -> torch.Tensor:
        if self.doubling:
            steps = torch.log2(blocks.size + 1.0).ceil()  # T of a block of that size
            risen = (2.0 ** (blocks.step + 1) - 1) / 2.0**steps
        else:
            risen = blocks.step / (blocks.size - 1).clamp(min=1)
        factor = self.lowest + (1 - self.lowest) * risen.clamp(max=1).to(rank.dtype)  # [B]
        return torch.where(blocks.is_end, rank * factor.unsqueeze(-1), rank)


@dataclass(frozen=True)
class EosGate(Rule):
    """No end token before a share of the answer stands, as long as any other slot is open (CAD, arXiv 2601.02236).

    Where every open slot proposes an end token one is committed all the same, as in the released code.

    Attributes:
        share: of the tokens that may be generated, in [0, 1]; 0 is off. The evaluation scripts have 0.3, the
            function's default is 0.5.
    """

    share: float = 0.3

    def __post_init__(self):
        require(0 <= self.share <= 1, "share", self.share, "lie in [0, 1]")

    def keep(self, blocks: Blocks) -> torch.Tensor:
        early = (blocks.progress < self.share).unsqueeze(-1)
        return blocks.is_open & ~(blocks.is_end & early)


@dataclass(frozen=True)
class Credit:
    """Tokens that were the best of their slot before get credit, added to their logits (CreditDecoding, 2510.06133).

    At every pass a slot's credits decay and its best token gains its probability to the power ``gamma``; then
    ``alpha`` log(1 + credit) is added. So probabilities, and what thresholds read, are of the changed distribution, as
    in dInfer's code, whose values these are. Credits live as long as their block is open.

    Attributes:
        alpha: at least 0; 0 is off.
        gamma: at least 0.
        decay: in [0, 1].
    """

    alpha: float = 0.7
    gamma: float = 0.2
    decay: float = 0.8

    def __post_init__(self):
        require(self.alpha >= 0, "alpha", self.alpha, "be at least 0")
        require(self.gamma >= 0, "gamma", self.gamma, "be at least 0")
        require(0 <= self.decay <= 1, "decay", self.decay, "lie in [0, 1]")

    def fuse(self, logits: torch.Tensor, credit: dict[int, float]) -> None:
        """Update a slot's ``credit`` by token and add it to its ``logits`` [V], both in place."""
        for token in credit:
            credit[token] *= self.decay
        probability, best = logits.softmax(-1).max(-1)
        credit[best.item()] = credit.get(best.item(), 0.0) + probability.item() ** self.gamma
        index = torch.tensor(list(credit), device=logits.device)
        values = torch.tensor(list(credit.values()), device=logits.device, dtype=logits.dtype)
        logits[index] += self.alpha * torch.log1p(values)
