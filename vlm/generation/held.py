"""LLaDA2.1's multiple block editing (arXiv 2602.08676): finished blocks stay open for a while and may change."""

from dataclasses import dataclass
from typing import ClassVar

from vlm.config import DiffusionTraits
from vlm.generation.ranking import require
from vlm.generation.request import State
from vlm.generation.spans import begin, trained_size


@dataclass(frozen=True)
class HeldBlocks:
    """A block opens together with the ``back`` finished ones before it, whose tokens `reedit` may replace meanwhile.

    The paper says no more than that earlier blocks are revised by what newer ones hold, and gives no code. A block
    cannot be where its KV is permanent, nor by blocks that it does not see. So here the last ``back`` blocks are held:
    they and the open one are one block of the model's, whose rows see each other, and a held block closes, in the
    pass that opens the next window, when it is the oldest of too many. Everything permanent stays exact, then. What it
    asks for: windows of every size on the way were trained, and may begin at any block. Under full attention, where
    rows see each other anyway and nothing is permanent, it asks for nothing.

    An answer that ends closes all it holds. What is not closed yet is told to streamers as a draft.

    Attributes:
        size: of a block.
        back: blocks that are held, at least 1; the paper names no number.
    """

    size: int
    origin: str
    back: int = 1
    mode: ClassVar[str] = "block"
    slides: ClassVar[bool] = False
    varies: ClassVar[bool] = False

    @property
    def holds(self) -> int:
        return self.back * self.size

    @classmethod
    def for_checkpoint(cls, traits: DiffusionTraits, size: int | None, back: int = 1) -> "HeldBlocks":
        """Blocks of ``size`` tokens, ``back`` + 1 of them open; ValueError where a checkpoint cannot bear that."""
        require(isinstance(back, int) and back >= 1, "back", back, "be a whole number of at least 1")
        made = cls(trained_size(traits, size), traits.block_origin, back)
        windows = {made.size * count for count in range(2, back + 2)}
        trained = windows <= {*traits.trained_block_sizes} and traits.off_grid_ok and traits.prediction_shift == 0
        if traits.context_attention != "full" and not trained:
            names = ("trained_block_sizes", "off_grid_ok", "prediction_shift", "context_attention")
            raise ValueError(
                f"multi_block back {back} needs windows of {', '.join(map(str, sorted(windows)))} tokens trained, off "
                "the grid, shift 0, or full attention: a finished block sees nothing behind it; this checkpoint has "
                + ", ".join(f"{name}={getattr(traits, name)!r}" for name in names)
            )
        return made

    def open(self, state: State, mask_token_id: int) -> None:
        rest, state.rest = state.rest, []
        length, given = len(state.tokens), state.request.canvas or []
        start = length // self.size * self.size if self.origin == "sequence" else length
        known = state.tokens[start:]
        done = length - state.prompt_length + len(rest)
        fresh = range(done, done + self.size - (len(known) + len(rest)) % self.size)
        masks = [given[i] if i < len(given) else mask_token_id for i in fresh]
        begin(state, start, known + [token for token, _ in rest] + masks, mask_token_id)
        state.confidence[len(known) : len(known) + len(rest)] = [confidence for _, confidence in rest]

    def fence(self, state: State, slots: list[int], tokens: list[int], probabilities: list[float]) -> int:
        return len(state.canvas)
