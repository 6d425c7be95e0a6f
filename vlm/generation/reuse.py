"""The caching slot: what of earlier passes an open block takes instead of working it out again.

KV of closed blocks is exact and always kept (`vlm.cache`); what stands here is approximate, and off by default.
"""

from dataclasses import dataclass, field

import torch

from vlm.flash import Part
from vlm.generation.feed import Feed
from vlm.generation.ranking import require, require_number
from vlm.generation.request import State


@dataclass
class External:
    """What an open block keeps of its attention over everything before it.

    Attributes:
        start: the block's first position.
        canvas: the block as the last pass was fed it.
        layers: see `vlm.flash.Part.kept`.
    """

    start: int
    canvas: list[int] = field(default_factory=list)
    layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)


@dataclass(frozen=True)
class FlashBlock:
    """Keeps a block's attention over what stands before it, as long as few of its slots change (arXiv 2602.05305).

    The part over the block itself is always fresh; the two are merged by their log-sum-exps. A pass works the kept
    part out again if, since the last pass, ``tau`` slots or more have become tokens; so at 1 every pass does, and
    nothing is approximate. A block's first pass always does.

    Attributes:
        tau: the paper's threshold, from a reproduction's note (no official code is public), which asks for at least
            2, the value that reuses most carefully; infinity works the part out once a block.
    """

    tau: float = 2

    @classmethod
    def for_checkpoint(cls, model, commit=None, **fields) -> "FlashBlock":
        """Raises ValueError unless the model has exact KV before a block and attends by SDPA."""
        made = cls(**fields)
        require_number("tau", made.tau)
        require(made.tau >= 1, "tau", made.tau, "be at least 1")
        context = model.config.traits.context_attention
        if context == "full":
            raise ValueError(
                f"flashblock needs KV before a block that stays as it is; context_attention {context!r} has none"
            )
        attention = model.language_model.get_decoder().config._attn_implementation
        if attention != "sdpa":
            raise ValueError(f"flashblock needs attn_implementation 'sdpa'; this model has {attention!r}")
        return made

    def part(self, state: State, feed: Feed) -> Part | None:
        """How the open block of one request attends in the coming pass; None if the pass feeds none."""
        n_open = len(feed.ids) - feed.n_clean
        if not n_open:
            return None
        if feed.n_clean or not self._reuses(state):
            state.external = External(state.block_start)
        state.external.canvas = list(state.canvas)
        return Part(state.cached + state.offset, feed.n_clean, n_open, state.external.layers)

    def _reuses(self, state: State) -> bool:
        kept = state.external
        if kept is None or (kept.start, len(kept.canvas)) != (state.block_start, len(state.canvas)):
            return False
        return sum(before != now for before, now in zip(kept.canvas, state.canvas)) < self.tau


def parts_of(states: list[State], feeds: list[Feed]) -> list[Part | None] | None:
    """How the batch rows of the coming pass attend, see `vlm.flash.attending`."""
    parts = [
        state.strategy.caching.part(state, feed) if isinstance(state.strategy.caching, FlashBlock) else None
        for state, feed in zip(states, feeds)
    ]
    return parts if any(part is not None for part in parts) else None
