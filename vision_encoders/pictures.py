"""Pictures that differ in size, as one value that is moved, cut and counted like a batch of pixels.

The deciding choice: where all pictures are one square, a batch is a plain tensor [N, 3, S, S]; where they are not,
nothing is padded to the largest: a batch is this list, and the encoder runs once for all views of one size.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vision_encoders.resolution import Plan


class Picture(NamedTuple):
    """One picture's views [V, 3, h, w], an array or a tensor, and its plan."""

    views: np.ndarray | Tensor
    plan: Plan


class Pictures:
    """N pictures with plans of their own.

    Args:
        items: their views are tensors.
    """

    def __init__(self, items: Sequence[Picture]):
        self.items = list(items)

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Picture]:
        return iter(self.items)

    def __getitem__(self, numbers: Sequence[int]) -> "Pictures":
        return Pictures([self.items[number] for number in numbers])

    @property
    def counts(self) -> list[int]:
        """Tokens of every picture."""
        return [item.plan.tokens for item in self.items]

    def to(self, *args, **kwargs) -> "Pictures":
        """As ``torch.Tensor.to``: another device or dtype."""
        return Pictures([Picture(views.to(*args, **kwargs), plan) for views, plan in self.items])

    def pin_memory(self) -> "Pictures":
        """As ``torch.Tensor.pin_memory``: in memory that a GPU reads by itself."""
        return Pictures([Picture(views.pin_memory(), plan) for views, plan in self.items])

    def is_pinned(self) -> bool:
        return all(views.is_pinned() for views, _ in self.items)

    def split(self, numbers: Sequence[int]) -> "list[Pictures]":
        """The first ``numbers[0]`` pictures, the next ``numbers[1]``, ..."""
        ends = np.cumsum(numbers).tolist()
        return [Pictures(self.items[end - number : end]) for number, end in zip(numbers, ends)]

    def shared_out(self, tokens: Sequence[int]) -> list[int]:
        """How many pictures, in order, have so many tokens together, time and again.

        Raises:
            ValueError: if they do not come out even.
        """
        ends = np.cumsum([0, *self.counts])
        at = np.searchsorted(ends, np.cumsum(tokens))
        if not np.array_equal(ends[np.minimum(at, len(self))], np.cumsum(tokens)) or at[-1] != len(self):
            raise ValueError(f"placeholders for {list(tokens)} tokens, but the pictures have {self.counts}")
        return np.diff(at, prepend=0).tolist()


def joined(parts: Sequence[np.ndarray | Sequence[Picture]]) -> Tensor | Pictures | None:
    """What several conversations show, in order, as one batch for the model; None of nothing.

    Args:
        parts: of each, either its pixels [N, 3, S, S] or a list of pictures, as the processor made them.
    """
    items = [item for part in parts for item in part]
    if not items:
        return None
    if isinstance(items[0], Picture):
        return Pictures([Picture(torch.from_numpy(views), plan) for views, plan in items])
    return torch.from_numpy(np.concatenate([part for part in parts if len(part)]))
