"""Which slots exist: the block grid, and when a block opens and closes.

What every kind of spans has: ``mode``, ``size`` (the largest block it opens), ``open``, and for those whose blocks are
denoised ``fence``, the slot of an open block from which slots have to wait. ``slides`` spans give up the filled slots
at a block's front without waiting for the others; ``varies`` spans open blocks of several sizes. Blocks that follow
the answer as it is written are in `windows` and `sizes`.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from vlm.config import DiffusionTraits
from vlm.generation.diffuspec import AdaptiveLength, Drafting, PathSearch
from vlm.generation.request import State


@dataclass(frozen=True)
class FixedBlocks:
    """Blocks of one size, on the checkpoint's grid.

    Under ``sequence`` origin the first block may begin inside the prompt: its first slots then hold prompt tokens.
    """

    size: int
    origin: str
    mode: ClassVar[str] = "block"
    slides: ClassVar[bool] = False
    varies: ClassVar[bool] = False

    @classmethod
    def for_checkpoint(cls, traits: DiffusionTraits, size: int | None) -> "FixedBlocks":
        """Blocks of ``size`` tokens, or of the checkpoint's default.

        Raises:
            ValueError: for a block size that the checkpoint was not trained with.
        """
        return cls(trained_size(traits, size), traits.block_origin)

    def open(self, state: State, mask_token_id: int) -> None:
        """Give ``state`` a new canvas behind its final tokens: what is known there, and masks."""
        open_block(state, mask_token_id, self.size, self.origin)

    def fence(self, state: State, slots: list[int], tokens: list[int], probabilities: list[float]) -> int:
        """The slot from which slots wait for those before it.

        Args:
            slots: open slots that this pass decides, in order.
            tokens, probabilities: proposals, by slot.
        """
        return len(state.canvas)


@dataclass(frozen=True)
class SingleTokens:
    """Autoregressive decoding: blocks of one slot, read from the clean row before it."""

    size: int = 1
    mode: ClassVar[str] = "ar"
    slides: ClassVar[bool] = False
    varies: ClassVar[bool] = False

    @classmethod
    def for_checkpoint(cls, traits: DiffusionTraits) -> "SingleTokens":
        """Single tokens, where the checkpoint has an AR mode.

        Raises:
            ValueError: if its clean rows were not trained to predict the next token.
        """
        require_ar(traits, "ar")
        return cls()

    def open(self, state: State, mask_token_id: int) -> None:
        open_block(state, mask_token_id, 1, "response")

    def fence(self, state: State, slots: list[int], tokens: list[int], probabilities: list[float]) -> int:
        return 1


@dataclass(frozen=True)
class Drafts:
    """Self-speculation: a block is drafted in parallel, then read autoregressively and kept as far as it agrees.

    Under shift 1 the draft's first slot holds the last final token, whose noisy row predicts the slot behind it.

    Attributes:
        sizes: of blocks that a draft of another length may have, ascending, ``size`` the last.
        search: finds the draft to read among what the slots propose; None reads the best token of every slot.
        pace: how long drafts are; None fills the block.
    """

    size: int
    shift: int
    sizes: tuple[int, ...] = ()
    search: PathSearch | None = None
    pace: AdaptiveLength | None = None
    mode: ClassVar[str] = "speculative"
    slides: ClassVar[bool] = False
    varies: ClassVar[bool] = False

    @classmethod
    def for_checkpoint(
        cls,
        traits: DiffusionTraits,
        size: int | None,
        search: PathSearch | None = None,
        pace: AdaptiveLength | None = None,
    ) -> "Drafts":
        """Drafts of the size of a trained block, or as long as ``pace`` says in trained blocks up to that size.

        Raises:
            ValueError: for a size that was not trained, or a checkpoint without an AR mode to verify with.
        """
        require_ar(traits, "speculative")
        size = trained_size(traits, size)
        sizes = tuple(sorted(s for s in traits.trained_block_sizes if s <= size))
        return cls(size, traits.prediction_shift, sizes, search, pace)

    def open(self, state: State, mask_token_id: int) -> None:
        if self.search is not None or self.pace is not None:
            state.drafting = state.drafting or Drafting(0 if self.pace is None else self.pace.longest)
            state.drafting.slots = []
        size = self.size if self.pace is None else min(s for s in self.sizes if s > self._length(state))
        # In a block of one slot nothing is drafted: it is read from the clean row before it under either shift.
        known = state.tokens[-1:] if self.shift == 1 and size > 1 and len(state.tokens) > state.prompt_length else []
        begin(state, len(state.tokens) - len(known), known + [mask_token_id] * (size - len(known)), mask_token_id)

    def fence(self, state: State, slots: list[int], tokens: list[int], probabilities: list[float]) -> int:
        return self.size

    def note(self, state: State, logits: torch.Tensor) -> None:
        """Keep what the next slots of a draft, of these logits [S, V], could become, to search for a path."""
        self.search.note(state.drafting, logits, state.strategy.finish.end_token_ids)

    def draft(self, state: State, tokens: list[int]) -> list[int]:
        """The draft to read, where the last rows of a pass propose ``tokens`` behind the final ones."""
        kept, ends, slots = state.drafting, state.strategy.finish.end_token_ids, len(tokens)
        if self.pace is not None:
            tokens = tokens[: self._length(state)]
            kept.proposed = next((i for i, token in enumerate(tokens) if token in ends), len(tokens))
        if self.search is None:
            return tokens
        self.search.read(kept, state.tokens, state.strategy.suppress_tokens)
        return self.search.path(kept.slots[-slots:][: len(tokens)], kept.text, ends)

    def learn(self, state: State, accepted: int) -> None:
        """Take into account that ``accepted`` tokens of a draft were kept."""
        if self.pace is not None:
            self.pace.learn(state.drafting, accepted)

    def _length(self, state: State) -> int:
        """Tokens in the next draft: a block has room for one less than its slots, one of which is known by then."""
        return min(state.drafting.length, self.size - 1)


def open_block(state: State, mask_token_id: int, size: int, origin: str) -> None:
    """Give ``state`` a new canvas behind its final tokens: what is known there or given, and masks."""
    length = len(state.tokens)
    start = length // size * size if origin == "sequence" else length
    known = state.tokens[start:]
    given = state.request.canvas or []
    slots = range(length - state.prompt_length, length - state.prompt_length + size - len(known))
    begin(state, start, known + [given[i] if i < len(given) else mask_token_id for i in slots], mask_token_id)


def begin(state: State, start: int, canvas: list[int], mask_token_id: int) -> None:
    """A block's state at its beginning."""
    state.block_start, state.canvas, state.step = start, canvas, 0
    state.confidence = [math.nan if token == mask_token_id else 1.0 for token in canvas]
    state.fence, state.proposed, state.stable, state.credit, state.rereads = None, [], 0, {}, 0


def trained_size(traits: DiffusionTraits, size: int | None) -> int:
    """``size``, or the checkpoint's default; ValueError for one that it was not trained with."""
    size = traits.block_size if size is None else size
    if size not in traits.trained_block_sizes:
        allowed = ", ".join(map(str, traits.trained_block_sizes))
        raise ValueError(f"block_size {size} was not trained; this checkpoint allows {allowed}")
    return size


def require_ar(traits: DiffusionTraits, mode: str) -> None:
    """ValueError unless the checkpoint's clean rows predict the next token without seeing it."""
    if traits.context_attention != "causal" or not traits.ar_mode:
        has = f"context_attention={traits.context_attention!r}, ar_mode={traits.ar_mode}"
        raise ValueError(f"mode {mode!r} needs causal context and a trained AR mode; this checkpoint has {has}")
