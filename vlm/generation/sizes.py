"""Blocks whose size follows the answer: AdaBlock's end on a delimiter, TCCF's are small behind the thoughts.

A block is never of a size that was not trained. Unless the checkpoint bears blocks off the grid, one of s tokens also
begins at a multiple of s, counted from where the grid starts.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

from vlm.config import DiffusionTraits
from vlm.generation.ranking import require, require_number
from vlm.generation.request import State
from vlm.generation.spans import open_block, trained_size


@dataclass(frozen=True)
class DelimitedBlocks:
    """Blocks that end on a delimiter where one is in sight (AdaBlock, arXiv 2509.26432).

    A block's first pass proposes tokens for all of it. Of the slots in the first ``share`` of the answer's room that
    propose a delimiter the surest one, if it reaches ``tau``, ends the block: the block shrinks to the smallest size
    that holds it, and slots behind it wait until those up to it are filled. Where no smaller size is legal, as under
    sequence origin, that fence is all there is. The paper's size is any number, up to ``size``.

    Attributes:
        sizes: legal sizes, ascending, ``size`` the last.
        delimiters: token ids.
        tau: 0.3 in the released code for LLaDA, 0.5 for Dream; infinity never.
        share: of the tokens that may be generated.
        anywhere: a block of any size may begin anywhere.
    """

    size: int
    origin: str
    sizes: tuple[int, ...]
    delimiters: frozenset[int]
    tau: float = 0.3
    share: float = 0.25
    anywhere: bool = False
    mode: ClassVar[str] = "block"
    slides: ClassVar[bool] = False
    holds: ClassVar[int] = 0
    varies: ClassVar[bool] = True

    @classmethod
    def for_checkpoint(cls, traits: DiffusionTraits, size: int | None, token_ids, delimiters: str = "\n", **fields):
        """Blocks of at most ``size`` tokens that end on one of the characters ``delimiters``.

        Args:
            token_ids: gives the tokens that are a text, spaces aside; None without a tokenizer.

        Raises:
            ValueError: for a size that was not trained, no tokenizer, or one without such a token.
        """
        if token_ids is None:
            raise ValueError("adablock needs a tokenizer to find its delimiters")
        found = frozenset(token for text in delimiters for token in token_ids(text))
        if not found:
            raise ValueError(f"adablock needs a delimiter of {delimiters!r}; this tokenizer has no such token")
        size = trained_size(traits, size)
        sizes = tuple(sorted(s for s in traits.trained_block_sizes if s <= size))
        sizes = sizes if traits.block_origin == "response" else (size,)
        made = cls(size, traits.block_origin, sizes, found, **fields, anywhere=traits.off_grid_ok)
        require_number("tau", made.tau)
        require(0 < made.share <= 1, "share", made.share, "lie in (0, 1]")
        return made

    def open(self, state: State, mask_token_id: int) -> None:
        open_block(state, mask_token_id, max(self._legal(state, len(state.tokens))), self.origin)

    def fence(self, state: State, slots: list[int], tokens: list[int], probabilities: list[float]) -> int:
        if state.fence is None and len(slots) == sum(math.isnan(c) for c in state.confidence):
            state.fence = self._end(state, slots, tokens, probabilities)
            size = min(s for s in self._legal(state, state.block_start) if s >= state.fence)
            del state.canvas[size:], state.confidence[size:], state.proposed[size:]
        return len(state.canvas) if state.fence is None else state.fence

    def grow(self, state: State, *_) -> bool:
        return False

    def _legal(self, state: State, start: int) -> list[int]:
        """Sizes that a block from ``start`` may have."""
        into = start - state.prompt_length
        most = len(state.canvas) if state.canvas is not None else self.size
        fits = [s for s in self.sizes if s <= most and (self.anywhere or into % s == 0)]
        return fits or [most]

    def _end(self, state: State, slots: list[int], tokens: list[int], probabilities: list[float]) -> int:
        """One past the slot that the block ends on."""
        ahead = max(1, int(self.share * state.room))
        near = [i for i in slots if i - slots[0] < ahead and tokens[i] in self.delimiters]
        best = max(near, key=lambda i: probabilities[i], default=None)
        return len(state.canvas) if best is None or probabilities[best] < self.tau else best + 1


@dataclass(frozen=True)
class TwoStages:
    """Large blocks up to a marker, small ones behind it (think coarse, critic fine: TCCF of TDAR, arXiv 2602.09555).

    The paper has blocks of 16 up to ``</think>`` and then of 1, by two runs of its engine: what stands behind the
    marker is thrown away and the second run starts there. Here the block that holds the marker is finished, and the
    next one is small: no block leaves the grid, and nothing is read again.

    Attributes:
        small: block size behind the marker.
        marker: token id.
    """

    size: int
    origin: str
    small: int
    marker: int
    mode: ClassVar[str] = "block"
    slides: ClassVar[bool] = False
    holds: ClassVar[int] = 0
    varies: ClassVar[bool] = True

    @classmethod
    def for_checkpoint(
        cls, traits: DiffusionTraits, size: int | None, token_ids, small: int = 1, marker: int | str = "</think>"
    ) -> "TwoStages":
        """Blocks of ``size`` tokens and then of ``small``, behind a token id or a text that is one token.

        Raises:
            ValueError: for sizes that were not trained or do not share a grid, or a marker that is no token.
        """
        if isinstance(marker, str):
            found = token_ids(marker) if token_ids is not None else []
            if not found:
                raise ValueError(f"tccf needs a token {marker!r} at which to switch; this tokenizer has none")
            marker = found[0]
        large = trained_size(traits, size)
        if not traits.off_grid_ok and large % trained_size(traits, small):
            raise ValueError(f"tccf small {small} needs a grid shared with block_size {large}, or blocks off the grid")
        return cls(large, traits.block_origin, trained_size(traits, small), marker)

    def open(self, state: State, mask_token_id: int) -> None:
        size = self.small if self.marker in state.generated else self.size
        open_block(state, mask_token_id, size, self.origin)

    def fence(self, state: State, slots: list[int], tokens: list[int], probabilities: list[float]) -> int:
        return len(state.canvas)

    def grow(self, state: State, *_) -> bool:
        return False
