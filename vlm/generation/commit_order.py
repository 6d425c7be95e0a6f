"""A commit rule that knows its slots before the model says anything of them."""

from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b

import torch

from vlm.generation.ranking import rank, require, usable


@dataclass(frozen=True)
class RandomOrder:
    """Slots in an order drawn before (LLaDA's ``random`` remasking, arXiv 2502.09992).

    A slot's place follows from ``seed`` and its number alone, so that it is the same in any batch and for blocks of
    any size; the released code draws an order anew for every block.

    Attributes:
        count: slots per step, at least 1.
        seed: of the order.
    """

    count: int = 1
    seed: int = 0

    def __post_init__(self):
        require(self.count >= 1, "count", self.count, "be at least 1")

    def ahead(self, slots: list[int]) -> list[int]:
        """Which of these open slots the next step commits, whatever it says of them; from the left."""
        return sorted(sorted(slots, key=lambda slot: draw(self.seed, slot))[: self.count])

    def select(self, scores, is_open, step, size, committed=None):
        drawn = [draw(self.seed, slot) for slot in range(is_open.shape[-1])]
        early = -torch.tensor(drawn, dtype=torch.float64, device=is_open.device).expand(is_open.shape)
        return is_open & (rank(usable(early, is_open)) < self.count)


@lru_cache(maxsize=4096)
def draw(seed: int, slot: int) -> float:
    """A number in [0, 1) for every slot."""
    return int.from_bytes(blake2b(f"{seed} {slot}".encode(), digest_size=6).digest()) / 2**48
