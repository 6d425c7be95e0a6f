"""When a block is done, when a request is done, and what of the canvas counts."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from vlm.generation.request import State


@dataclass(frozen=True)
class Finish:
    """What ends an answer.

    Attributes:
        end_token_ids: an end token ends it and counts as its last token.
        stop_strings: any of these in the text ends it with the token that completes it.
        decode: token ids to text; needed for stop strings.
    """

    end_token_ids: frozenset[int]
    stop_strings: tuple[str, ...] = ()
    decode: Callable[[list[int]], str] | None = None

    def cut(self, generated: list[int], new: list[int]) -> int | None:
        """How many of ``new`` tokens count if one of them ends the answer; None if none does."""
        for count in range(1, len(new) + 1):
            if new[count - 1] in self.end_token_ids:
                return count
            if self.stop_strings and self._stops(generated + new[:count]):
                return count
        return None

    def _stops(self, generated: list[int]) -> bool:
        text = self.decode(generated)
        return any(string in text for string in self.stop_strings)


def settle(state: State, mask_token_id: int) -> None:
    """Move the canvas's final tokens to ``state.tokens`` once the block, or the request, is finished.

    A request stops as soon as every slot before what ends it is final: slots behind can no longer change the answer.
    It also stops when as many tokens as it may generate are final.
    """
    canvas = state.canvas
    first_mask = canvas.index(mask_token_id) if mask_token_id in canvas else len(canvas)
    known = len(state.tokens) - state.block_start  # final before the block opened
    new = canvas[known:first_mask]
    room = state.end - len(state.tokens)
    ends = state.strategy.finish.cut(state.generated, new[:room])
    if ends is not None or len(new) >= room or first_mask == len(canvas):
        extend(state, new, [log(p) for p in state.confidence[known:first_mask]], ends)
        state.canvas = None


def extend(state: State, new: list[int], logprobs: list[float], ends: int | None) -> None:
    """Append final tokens, no more than there is room for or than ``ends`` the answer."""
    room = state.end - len(state.tokens)
    if ends is not None and ends <= room:
        new, state.finish_reason = new[:ends], "stop"
    elif len(new) >= room:
        new, state.finish_reason = new[:room], "length"
    state.tokens = state.tokens + new
    state.logprobs = state.logprobs + logprobs[: len(new)]


def log(probability: float) -> float:
    """Its natural logarithm; -inf at 0."""
    return math.log(probability) if probability > 0 else -math.inf
