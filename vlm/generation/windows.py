"""Blocks with a window that moves through them: DCD's, and one that slides on as soon as its front is filled."""

from dataclasses import dataclass
from typing import ClassVar

from vlm.config import DiffusionTraits
from vlm.generation.ranking import require
from vlm.generation.request import State
from vlm.generation.spans import begin, open_block, trained_size


@dataclass(frozen=True)
class DeferredWindow:
    """Blocks in which only the first open slots may commit: unsure ones are deferred as the window moves on.

    Deferred commitment decoding (DCD, arXiv 2601.02076) in its block-causal form: the window holds the first
    ``window`` open slots, reaches at most ``reach`` slots, and stops at an end token. Optionally the block grows: if
    it touches its end and a token that would be committed is less sure than ``doubt``, the pass commits nothing and
    ``by`` masks are added, ``growth`` at most (off in the released code). It has window 8 in blocks of 32 for
    Fast-dLLM v2, 16 and reach 128 for full attention, as the paper. Its row with most open slots moves the window of
    a whole batch; here every request has its own.
    """

    size: int
    origin: str
    window: int = 8
    reach: int = 128
    growth: int = 0
    by: int = 4
    doubt: float = 0.3
    mode: ClassVar[str] = "block"
    slides: ClassVar[bool] = False
    holds: ClassVar[int] = 0

    @property
    def varies(self) -> bool:
        return self.growth > 0

    @classmethod
    def for_checkpoint(cls, traits: DiffusionTraits, size: int | None, **fields) -> "DeferredWindow":
        """As `FixedBlocks.for_checkpoint`; growth needs every size on its way trained, and blocks off the grid."""
        made = cls(trained_size(traits, size), traits.block_origin, **fields)
        for name in ("window", "reach", "by"):
            require(getattr(made, name) >= 1, name, getattr(made, name), "be at least 1")
        require(made.growth >= 0, "growth", made.growth, "be at least 0")
        sizes = {made.size + grown for grown in range(made.by, made.growth + 1, made.by)}
        if sizes and not (traits.off_grid_ok and sizes <= {*traits.trained_block_sizes}):
            raise ValueError(
                f"dcd growth {made.growth} needs block sizes {', '.join(map(str, sorted(sizes)))} trained and blocks "
                f"off the grid; this checkpoint has trained_block_sizes={traits.trained_block_sizes}, "
                f"off_grid_ok={traits.off_grid_ok}"
            )
        return made

    def open(self, state: State, mask_token_id: int) -> None:
        open_block(state, mask_token_id, self.size, self.origin)

    def fence(self, state: State, slots: list[int], tokens: list[int], probabilities: list[float]) -> int:
        last = slots[min(self.window, len(slots)) - 1]
        fence = min(last + 1, slots[0] + self.reach)
        known, ends = len(state.tokens) - state.block_start, state.strategy.finish.end_token_ids
        return next((i for i in range(known, fence) if state.canvas[i] in ends), fence)

    def grow(self, state: State, slots: list[int], sure: list[float], takes: list[bool], mask_token_id: int) -> bool:
        """Add masks instead of committing, if that is called for."""
        at_end = self.window >= len(slots) and slots[-1] < slots[0] + self.reach
        unsure = any(take and p < self.doubt for take, p in zip(takes, sure))
        if not (at_end and unsure) or len(state.canvas) + self.by > self.size + self.growth:
            return False
        state.canvas = state.canvas + [mask_token_id] * self.by
        state.confidence = state.confidence + [float("nan")] * self.by
        state.step += 1
        return True


@dataclass(frozen=True)
class Streaming:
    """A window of open slots that gives up its filled front at once and takes on as many masks (WeDLM's streaming).

    WeDLM (arXiv 2512.22737) runs it on models of causal block attention: filled slots see no mask, so that the KV of
    the front is final in the pass after it was filled. Here the pass that opens the window behind the front reads it
    as clean rows, which is the same. Under causal *context* it runs, with exact KV, also where slots of a block see
    each other both ways. The window begins anywhere, which a checkpoint must bear.
    """

    size: int
    mode: ClassVar[str] = "block"
    slides: ClassVar[bool] = True
    holds: ClassVar[int] = 0
    varies: ClassVar[bool] = False

    @classmethod
    def for_checkpoint(cls, traits: DiffusionTraits, size: int | None) -> "Streaming":
        """Windows of ``size`` slots; ValueError unless blocks may begin anywhere in a causal context."""
        if traits.context_attention != "causal" or traits.prediction_shift != 0 or not traits.off_grid_ok:
            names = ("context_attention", "prediction_shift", "off_grid_ok")
            has = ", ".join(f"{name}={getattr(traits, name)!r}" for name in names)
            raise ValueError(
                f"streaming needs causal context, shift 0 and blocks off the grid; this checkpoint has {has}"
            )
        return cls(trained_size(traits, size))

    def open(self, state: State, mask_token_id: int) -> None:
        rest, state.rest = state.rest, []
        given = state.request.canvas or []
        done = len(state.tokens) - state.prompt_length + len(rest)
        fresh = range(done, done + self.size - len(rest))
        tokens = [token for token, _ in rest] + [given[i] if i < len(given) else mask_token_id for i in fresh]
        begin(state, len(state.tokens), tokens, mask_token_id)
        state.confidence[: len(rest)] = [confidence for _, confidence in rest]

    def fence(self, state: State, slots: list[int], tokens: list[int], probabilities: list[float]) -> int:
        return len(state.canvas)
