"""Which slots exist: the block grid, and when a block opens and closes."""

from dataclasses import dataclass

from vlm.config import DiffusionTraits
from vlm.generation.request import State


@dataclass(frozen=True)
class FixedBlocks:
    """Blocks of one size, on the checkpoint's grid.

    Under ``sequence`` origin the first block may begin inside the prompt: its first slots then hold prompt tokens.
    """

    size: int
    origin: str

    @classmethod
    def for_checkpoint(cls, traits: DiffusionTraits, size: int | None) -> "FixedBlocks":
        """Blocks of ``size`` tokens, or of the checkpoint's default.

        Raises:
            ValueError: for a block size that the checkpoint was not trained with.
        """
        return cls(trained_size(traits, size), traits.block_origin)

    def open(self, state: State, mask_token_id: int) -> None:
        """Give ``state`` a new canvas behind its final tokens: what is known there, and masks."""
        length = len(state.tokens)
        state.block_start = length // self.size * self.size if self.origin == "sequence" else length
        known = state.tokens[state.block_start :]
        given = state.request.canvas or []
        slots = range(length - state.prompt_length, length - state.prompt_length + self.size - len(known))
        state.canvas = known + [given[i] if i < len(given) else mask_token_id for i in slots]
        state.step = 0


@dataclass(frozen=True)
class SingleTokens:
    """Autoregressive decoding: blocks of one slot, read from the clean row before it."""

    size: int = 1

    @classmethod
    def for_checkpoint(cls, traits: DiffusionTraits) -> "SingleTokens":
        """Single tokens, where the checkpoint has an AR mode.

        Raises:
            ValueError: if its clean rows were not trained to predict the next token.
        """
        require_ar(traits, "ar")
        return cls()

    def open(self, state: State, mask_token_id: int) -> None:
        given, index = state.request.canvas or [], len(state.tokens) - state.prompt_length
        state.block_start, state.step = len(state.tokens), 0
        state.canvas = [given[index] if index < len(given) else mask_token_id]


@dataclass(frozen=True)
class Drafts:
    """Self-speculation: a block is drafted in parallel, then read autoregressively and kept as far as it agrees.

    Under shift 1 the draft's first slot holds the last final token, whose noisy row predicts the slot behind it.
    """

    size: int
    shift: int

    @classmethod
    def for_checkpoint(cls, traits: DiffusionTraits, size: int | None) -> "Drafts":
        """Drafts of the size of a trained block.

        Raises:
            ValueError: for a size that was not trained, or a checkpoint without an AR mode to verify with.
        """
        require_ar(traits, "speculative")
        return cls(trained_size(traits, size), traits.prediction_shift)

    def open(self, state: State, mask_token_id: int) -> None:
        known = state.tokens[-1:] if self.shift == 1 and len(state.tokens) > state.prompt_length else []
        state.block_start, state.step = len(state.tokens) - len(known), 0
        state.canvas = known + [mask_token_id] * (self.size - len(known))


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
