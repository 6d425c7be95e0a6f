"""What a decoding run wrote at which forward pass, with its confidence: the record behind `--trace`.

A step callback for `Loop` that follows one request. Confidence is the probability at which a token was committed.
"""

import math
from collections.abc import Callable

from vlm.generation.request import State

VERSION = 1


class Trace:
    """Follows the first state it is shown.

    Args:
        mask_token_id: what open slots hold.
        text_of: token id to text.

    Attributes:
        steps: one entry per forward pass: ``forward`` (its number from 1), ``written`` (``[position, text,
            confidence]`` of every token that became final or was committed, positions counted from the answer's
            start), ``open`` (positions still to be filled in the open block) and ``draft`` (``[position, text]`` of
            tokens that wait to be verified).
    """

    def __init__(self, mask_token_id: int, text_of: Callable[[int], str]):
        self.mask_token_id, self.text_of = mask_token_id, text_of
        self.steps: list[dict] = []
        self._state: State | None = None
        self._known: dict[int, int] = {}

    def __call__(self, states: list[State]) -> None:
        state = self._state = self._state or states[0]
        if state not in states:
            return
        now = self._tokens(state)
        fresh = {i: pair for i, pair in now.items() if self._known.get(i) != pair[0]}
        self._known = {i: token for i, (token, _) in now.items()}
        start = state.block_start - state.prompt_length
        canvas = state.canvas or []
        self.steps.append(
            {
                "forward": state.forwards,
                "written": [[i, self.text_of(t), round(p, 4)] for i, (t, p) in sorted(fresh.items())],
                "open": [start + i for i, token in enumerate(canvas) if token == self.mask_token_id],
                "draft": [[len(state.generated) + i, self.text_of(t)] for i, t in enumerate(state.draft or [])],
            }
        )

    def _tokens(self, state: State) -> dict[int, tuple[int, float]]:
        """Every token of the answer that is decided, by position, with its confidence."""
        found = {i: (t, math.exp(p)) for i, (t, p) in enumerate(zip(state.generated, state.logprobs, strict=True))}
        slots, start = [*zip(state.canvas or [], state.confidence)], state.block_start - state.prompt_length
        if state.canvas is None and state.finish_reason is None:  # what the next block takes along
            slots, start = state.rest, len(state.generated)
        for i, (token, confidence) in enumerate(slots, start):
            if i >= 0 and token != self.mask_token_id:
                found[i] = (token, confidence)
        return found

    def record(self) -> dict:
        """The whole run as JSON-able data."""
        state = self._state
        return {
            "version": VERSION,
            "mode": state.strategy.mode,
            "tokens": [self.text_of(token) for token in state.generated],
            "confidence": [round(math.exp(p), 4) for p in state.logprobs],
            "forwards": state.forwards,
            "finish_reason": state.finish_reason,
            "steps": self.steps,
        }
