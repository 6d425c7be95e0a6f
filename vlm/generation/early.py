"""The finish slot inside a block: when the rest of it is committed at once, and what an end token makes needless."""

from dataclasses import dataclass

import torch

from vlm.generation.blocks import Blocks, Rule
from vlm.generation.ranking import require, require_number


@dataclass(frozen=True)
class Prophet(Rule):
    """Commit all open slots once the mean gap of their logits is wide enough for the block's age (arXiv 2508.19982).

    The paper reads the gap at answer slots behind a forced suffix and fills later blocks too; here it is the mean over
    the block's open slots, and the block alone is filled. Age is the share of the block's steps that have passed, one
    step a slot. Gaps are in the model's own logits, so the paper's values suit LLaDA and are to be set anew elsewhere.

    Attributes:
        first, middle, last: gaps asked for in the first third of the block, to two thirds, and after; infinity never.
    """

    first: float = 7.5
    middle: float = 5.0
    last: float = 2.5

    def __post_init__(self):
        for name in ("first", "middle", "last"):
            require_number(name, getattr(self, name))

    def also(self, blocks: Blocks) -> torch.Tensor:
        gap = blocks.scores.gap.masked_fill(~blocks.is_open, 0.0).nan_to_num(nan=0.0, posinf=torch.inf)
        mean = gap.sum(-1) / blocks.is_open.sum(-1).clamp(min=1)  # [B]
        age = blocks.step / blocks.size.clamp(min=1)
        asked = torch.where(age < 0.33, self.first, torch.where(age < 0.67, self.middle, self.last))
        return blocks.is_open & ((mean >= asked) & (mean >= 0) & (asked < torch.inf)).unsqueeze(-1)


@dataclass(frozen=True)
class Stable(Rule):
    """Commit all open slots once what the block proposes is stable and confident (DiffusionGemma, transformers).

    Stable: no proposal of the block has changed for ``steps`` passes. Confident: the mean entropy of the open slots is
    below ``entropy``. The source takes the mean over all slots, as there every slot is drawn anew at every pass; it
    has no default values, these are ours.

    Attributes:
        steps: passes, at least 0.
        entropy: nats, any number; 0 or less is off.
    """

    steps: int = 1
    entropy: float = 0.1

    def __post_init__(self):
        require(self.steps >= 0, "steps", self.steps, "be at least 0")
        require_number("entropy", self.entropy)

    def also(self, blocks: Blocks) -> torch.Tensor:
        entropy = blocks.scores.entropy.masked_fill(~blocks.is_open, 0.0)
        mean = entropy.sum(-1) / blocks.is_open.sum(-1).clamp(min=1)  # [B]; NaN compares as not confident
        return blocks.is_open & ((blocks.stable >= self.steps) & (mean < self.entropy)).unsqueeze(-1)


@dataclass(frozen=True)
class EoTP(Rule):
    """Spend nothing on slots behind an end token (end-of-text prediction of Learn2PD, arXiv 2509.25188).

    Once an end token is committed, the slots behind it are not: they no longer count. Their rows stay in the block,
    which keeps its trained size; the paper cuts them off.

    Attributes:
        eager: also commit the surest proposal of an end token at once, whatever it is worth, as the released code does
            when its filter accepts none; that shortens answers.
    """

    eager: bool = False

    def keep(self, blocks: Blocks) -> torch.Tensor:
        slot = torch.arange(blocks.is_open.shape[-1], device=blocks.is_open.device)
        return blocks.is_open & (slot < blocks.first_end.unsqueeze(-1))

    def also(self, blocks: Blocks) -> torch.Tensor:
        surest = blocks.scores.probability.masked_fill(~blocks.is_end, -1.0)  # [B, W]
        at = torch.zeros_like(blocks.is_open).scatter(-1, surest.argmax(-1, keepdim=True), True)
        none_yet = (blocks.first_end == blocks.is_open.shape[-1]).unsqueeze(-1)
        return at & blocks.is_end & none_yet & self.eager


@dataclass(frozen=True)
class EndLast(Rule):
    """No end token before every slot in front of it is decided; committing both in one pass will do.

    An end token is the easiest of all tokens to be sure of. One that is committed before the letters in front of it
    shortens what is still to be said: "frog" becomes "fr". Ours: there is no published rule.
    """

    def wait(self, blocks: Blocks, picked: torch.Tensor) -> torch.Tensor:
        left = (blocks.is_open & ~picked).long()  # slots that stay open
        return blocks.is_end & (left.cumsum(-1) > left)
