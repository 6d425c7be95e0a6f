"""When a block is done, when a request is done, and what of the canvas counts."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from vlm.generation.ranking import require
from vlm.generation.request import State


class Cut(NamedTuple):
    """How many of some new tokens count, and why the answer ends behind them."""

    count: int
    reason: str


@dataclass(frozen=True)
class Repetition:
    """Ends an answer that goes round in circles: the same run of tokens ``times`` times in a row, no published rule.

    Attributes:
        times: at least 2.
        longest: tokens in the longest run looked for, at least 1.
        tokens: what repeats must fill at least as many, so that "0000" may stand.
    """

    times: int = 4
    longest: int = 16
    tokens: int = 16

    def __post_init__(self):
        require(self.times >= 2, "times", self.times, "be at least 2")
        require(self.longest >= 1, "longest", self.longest, "be at least 1")
        require(self.tokens >= 1, "tokens", self.tokens, "be at least 1")

    def ends(self, generated: list[int]) -> bool:
        """Whether the last tokens are one run, repeated."""
        for period in range(1, self.longest + 1):
            length = max(self.times, -(-self.tokens // period)) * period
            tail = generated[-length:]
            if len(tail) == length and tail[period:] == tail[:-period]:
                return True
        return False


@dataclass(frozen=True)
class Finish:
    """What ends an answer.

    Attributes:
        end_token_ids: an end token ends it and counts as its last token.
        stop_strings: any of these in the text ends it with the token that completes it.
        decode: token ids to text; needed for stop strings.
        repetition: ends an answer that repeats itself.
    """

    end_token_ids: frozenset[int]
    stop_strings: tuple[str, ...] = ()
    decode: Callable[[list[int]], str] | None = None
    repetition: Repetition | None = None

    def cut(self, generated: list[int], new: list[int]) -> Cut | None:
        """How many of ``new`` tokens count if one of them ends the answer; None if none does."""
        for count in range(1, len(new) + 1):
            if new[count - 1] in self.end_token_ids:
                return Cut(count, "stop")
            if self.stop_strings and self._stops(generated + new[:count]):
                return Cut(count, "stop")
            if self.repetition is not None and self.repetition.ends(generated + new[:count]):
                return Cut(count, "repetition")
        return None

    def _stops(self, generated: list[int]) -> bool:
        text = self.decode(generated)
        return any(string in text for string in self.stop_strings)


def settle(state: State, mask_token_id: int) -> None:
    """Move the canvas's final tokens to ``state.tokens`` once the block, or the request, is finished.

    A request stops as soon as every slot before what ends it is final: slots behind can no longer change the answer.
    It also stops when as many tokens as it may generate are final. Sliding spans move what is final at once, and keep
    the filled slots behind it for the window's next place; spans that hold keep the last filled slots back for it.
    """
    canvas, spans = state.canvas, state.strategy.spans
    known, first_mask = _filled(state, mask_token_id)
    new, ends = canvas[known:first_mask], _ends(state, mask_token_id)
    if _enough(state, mask_token_id, ends) or (spans.slides and new):
        over = ends is not None or len(new) >= state.end - len(state.tokens)
        stop = first_mask if over else max(known, first_mask - spans.holds)
        extend(state, canvas[known:stop], [log(p) for p in state.confidence[known:stop]], ends)
        if spans.slides or spans.holds:
            state.rest = list(zip(canvas[stop:], state.confidence[stop:]))
        if spans.varies:
            state.blocks.append((state.block_start, state.block_start + len(canvas)))
        state.canvas = state.external = None


def ready(state: State, mask_token_id: int) -> bool:
    """Whether the open block holds all that it has to: it is full, or what it holds from its beginning on suffices."""
    return _enough(state, mask_token_id, _ends(state, mask_token_id))


def _enough(state: State, mask_token_id: int, ends: Cut | None) -> bool:
    known, first_mask = _filled(state, mask_token_id)
    room = state.end - len(state.tokens)
    return ends is not None or first_mask - known >= room or first_mask == len(state.canvas)


def _filled(state: State, mask_token_id: int) -> tuple[int, int]:
    """Slots from which on and up to which the open block holds new tokens without a gap."""
    canvas = state.canvas
    first_mask = canvas.index(mask_token_id) if mask_token_id in canvas else len(canvas)
    return len(state.tokens) - state.block_start, first_mask


def _ends(state: State, mask_token_id: int) -> Cut | None:
    """What among those tokens ends the answer."""
    known, first_mask = _filled(state, mask_token_id)
    room = state.end - len(state.tokens)
    return state.strategy.finish.cut(state.generated, state.canvas[known:first_mask][:room])


def extend(state: State, new: list[int], logprobs: list[float], ends: Cut | None) -> None:
    """Append final tokens, no more than there is room for or than what ``ends`` the answer lets count."""
    room = state.end - len(state.tokens)
    if ends is not None and ends.count <= room:
        new, state.finish_reason = new[: ends.count], ends.reason
    elif len(new) >= room:
        new, state.finish_reason = new[:room], "length"
    state.tokens = state.tokens + new
    state.logprobs = state.logprobs + logprobs[: len(new)]
    if state.finish_reason is not None:
        state.drafting = None


def log(probability: float) -> float:
    """Its natural logarithm; -inf at 0."""
    return math.log(probability) if probability > 0 else -math.inf
