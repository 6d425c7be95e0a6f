"""Decoding under full attention (LLaDA, LLaDA-V): the whole answer's length is there from the start, as masks.

Every row sees every other, so no KV is exact for longer than a pass. A pass feeds the prompt, what is written, the
open block and the masks behind it; that is the exact way. The strategies here keep some rows' KV for a few passes:
approximately right, and those rows need not be fed. What each keeps, and when it is worked out again, is all they say.
Rows whose KV is kept are fed first, so that the cache holds them in the order in which they were kept; positions
stand in the rows themselves.
"""

from dataclasses import dataclass

from vlm.generation.feed import Feed
from vlm.generation.ranking import require
from vlm.generation.request import State


@dataclass(frozen=True)
class PrefixKV:
    """Keeps what stands before the open block (Fast-dLLM's prefix cache, arXiv 2505.22618).

    The first pass of a block feeds everything and is its first denoising step.

    Attributes:
        refresh: work it out again after as many passes within a block; None, as published: at every block only.
    """

    refresh: int | None = None

    @classmethod
    def for_checkpoint(cls, model, **fields):
        """Raises ValueError unless the checkpoint has full attention."""
        made = cls(**fields)
        legal = made.refresh is None or (isinstance(made.refresh, int) and made.refresh >= 1)
        require(legal, "refresh", made.refresh, "be a whole number of at least 1")
        context = model.config.traits.context_attention
        if context != "full":
            raise ValueError(
                f"prefix_kv, dual_kv and dkv are for context_attention 'full'; this checkpoint has {context!r}, "
                "under which KV of closed blocks is exact and kept anyway"
            )
        return made

    def refreshes(self, state: State) -> bool:
        """Whether the coming pass of a block feeds everything."""
        return state.step == 0 or (self.refresh is not None and state.step % self.refresh == 0)

    def keeps(self, position: int, token: int, block: range, mask_token_id: int) -> bool:
        """Whether the KV of a row of the coming pass is kept for the next ones."""
        return position < block.start


@dataclass(frozen=True)
class DualKV(PrefixKV):
    """Keeps what stands before the open block and the masks behind it (Fast-dLLM's dual cache, arXiv 2505.22618)."""

    def keeps(self, position: int, token: int, block: range, mask_token_id: int) -> bool:
        return position not in block


@dataclass(frozen=True)
class DelayedKV(PrefixKV):
    """Keeps tokens from one pass after they were written (dKV-Cache-Decode, arXiv 2505.15781); masks are never kept.

    A token's KV jumps when it is written and then settles. Everything is fed in the first two passes of a block and
    in every pass whose number is a multiple of ``refresh``: 8 in the authors' example for LLaDA, 4 in their script.
    dKV-Cache-Greedy also keeps masks' KV, and has to know which slots come next: it is not here.
    """

    refresh: int | None = 8

    def refreshes(self, state: State) -> bool:
        return state.step < 2 or PrefixKV.refreshes(self, state)

    def keeps(self, position: int, token: int, block: range, mask_token_id: int) -> bool:
        return token != mask_token_id


def fill(state: State, traits) -> Feed:
    """The rows that take a running request one step on; forgets what of ``state.kept`` may not be used."""
    mask, caching = traits.mask_token_id, state.strategy.caching
    block = range(state.block_start, state.block_start + len(state.canvas))
    tokens = _stream(state, block, mask)
    open_slots = [i for i, token in enumerate(state.canvas) if token == mask]
    stale = any(tokens[at] != token for at, token in state.kept.items())
    wanted = any(state.block_start + slot in state.kept for slot in open_slots)
    if caching is None or stale or wanted or caching.refreshes(state):
        state.kept = {}
    fed = [at for at in range(len(tokens)) if at not in state.kept]
    keep = [caching is not None and caching.keeps(at, tokens[at], block, mask) for at in fed]
    positions = [at for at, kept in zip(fed, keep) if kept] + [at for at, kept in zip(fed, keep) if not kept]
    row_of = {at: row for row, at in enumerate(positions)}
    reads = [row_of[state.block_start + slot] for slot in open_slots]
    return Feed([tokens[at] for at in positions], sum(keep), open_slots, reads, positions=positions)


def _stream(state: State, block: range, mask_token_id: int) -> list[int]:
    """Every token from the prompt to the answer's last slot: what is not written or given yet is masks."""
    size, length = state.strategy.spans.size, state.prompt_length
    origin = length if state.strategy.spans.origin == "response" else 0
    end = origin + -(-(state.end - origin) // size) * size  # of the last block
    given = state.request.canvas or []
    behind = range(block.stop - length, end - length)
    return state.tokens[: block.start] + state.canvas + [given[i] if i < len(given) else mask_token_id for i in behind]
