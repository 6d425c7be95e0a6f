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
        size = traits.block_size if size is None else size
        if size not in traits.trained_block_sizes:
            allowed = ", ".join(map(str, traits.trained_block_sizes))
            raise ValueError(f"block_size {size} was not trained; this checkpoint allows {allowed}")
        return cls(size, traits.block_origin)

    def open(self, state: State, mask_token_id: int) -> None:
        """Give ``state`` a new canvas behind its final tokens."""
        length = len(state.tokens)
        state.block_start = length // self.size * self.size if self.origin == "sequence" else length
        known = state.tokens[state.block_start :]
        state.canvas = known + [mask_token_id] * (self.size - len(known))
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
        if traits.context_attention != "causal" or not traits.ar_mode:
            has = f"context_attention={traits.context_attention!r}, ar_mode={traits.ar_mode}"
            raise ValueError(f"mode 'ar' needs causal context and a trained AR mode; this checkpoint has {has}")
        return cls()

    def open(self, state: State, mask_token_id: int) -> None:
        state.block_start, state.canvas, state.step = len(state.tokens), [mask_token_id], 0
