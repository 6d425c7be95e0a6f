"""Which slots exist: the block grid, and when a block opens and closes.

What every kind of spans has: ``mode``, ``size`` (the largest block it opens), ``open``, and for those whose blocks are
denoised ``fence``, the slot of an open block from which slots have to wait. ``slides`` spans give up the filled slots
at a block's front without waiting for the others; those with ``holds`` keep as many filled slots back, open, when they
go on; ``varies`` spans open blocks of several sizes. Blocks that follow the answer as it is written are in `windows`,
`sizes` and `held`.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

from vlm.config import DiffusionTraits
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
    holds: ClassVar[int] = 0
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
    holds: ClassVar[int] = 0
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


def default_size(traits: DiffusionTraits, mode: str) -> int:
    """Tokens per block where nobody asks for a size: the checkpoint's default, of drafts the largest trained one.

    A draft is kept as far as it agrees, however long it is: a longer one costs rows, never a token.
    """
    return max(traits.trained_block_sizes) if mode == "speculative" else traits.block_size


def trained_size(traits: DiffusionTraits, size: int | None, mode: str = "block") -> int:
    """``size``, or the default of ``mode``; ValueError for one that the checkpoint was not trained with."""
    size = default_size(traits, mode) if size is None else size
    if size not in traits.trained_block_sizes:
        allowed = ", ".join(map(str, traits.trained_block_sizes))
        raise ValueError(f"block_size {size} was not trained; this checkpoint allows {allowed}")
    return size


def require_ar(traits: DiffusionTraits, mode: str) -> None:
    """ValueError unless the checkpoint's clean rows predict the next token without seeing it."""
    if traits.context_attention != "causal" or not traits.ar_mode:
        has = f"context_attention={traits.context_attention!r}, ar_mode={traits.ar_mode}"
        raise ValueError(f"mode {mode!r} needs causal context and a trained AR mode; this checkpoint has {has}")


def require_causal(traits: DiffusionTraits) -> None:
    """ValueError unless KV before a draft is exact behind any token, wherever a second model has cut the last one."""
    if traits.context_attention != "causal":
        raise ValueError(
            "a verifier needs drafts of a model with causal context, whose KV is exact behind any token; this "
            f"checkpoint has context_attention={traits.context_attention!r}"
        )
