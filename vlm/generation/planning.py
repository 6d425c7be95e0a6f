"""The rows of the coming pass: what `feed.plan` says, less the rows whose KV is kept, plus the slots read again.

Three kinds of rows go through the cache. Clean rows stay for good. Rows of a strategy of `kept` stay as long as it
says: they stand behind the clean ones in the order in which they were first kept, and are written over in place.
All others are written behind these and forgotten.
"""

from itertools import count

import torch

from vlm.generation.feed import Feed, plan
from vlm.generation.kept import NOTHING, KeptRows, Stretch
from vlm.generation.request import State
from vlm.generation.whole import everything


def planned(state: State, traits) -> Feed:
    """The rows that take a running request one step on; forgets what was kept of a block that is closed."""
    mask, caching = traits.mask_token_id, state.strategy.caching
    keeps = caching if isinstance(caching, KeptRows) else NOTHING
    if traits.context_attention == "full":
        return thinned(everything(state, mask), keeps, _edited(state, traits), 0)
    feed = plan(state, traits)
    if feed.n_clean:
        state.kept = {}
    if state.canvas is None or len(feed.ids) == feed.n_clean:
        return feed
    edits = _edited(state, traits)
    if keeps is NOTHING:
        feed.reads += [feed.n_clean + slot - traits.prediction_shift for slot in edits]
        feed.edits = edits
        return feed
    block = Stretch(state, state.block_start, state.canvas, mask)
    return _behind(feed, thinned(block, keeps, edits, traits.prediction_shift), state.cached)


def thinned(rows: Stretch, caching: KeptRows, edits: list[int], shift: int) -> Feed:
    """Those of ``rows`` that have to be fed, the ones newly kept first.

    Args:
        edits: filled slots to be read as well.
        shift: from slots to the rows that they are read from.
    """
    kept, again = rows.state.kept, caching.again(rows)
    slots = caching.decides(rows)
    read = [rows.block.start + slot - shift for slot in slots + edits]
    needed = {*read}
    fed = [at for at in caching.sees(rows) if kept.get(at) != rows.token(at) or at in needed or at in again]
    keeps = [at for at in fed if caching.keeps(rows, at)]
    new = [at for at in keeps if at not in kept]
    known = {*new}
    positions = new + [at for at in fed if at not in known]
    row_of = {at: row for row, at in enumerate(positions)}
    return Feed(
        [rows.token(at) for at in positions],
        slots=slots,
        reads=[row_of[at] for at in read],
        edits=edits,
        positions=positions,
        n_kept=len(new),
        kept={at: rows.token(at) for at in new + keeps},
    )


def places(states: list[State], feeds: list[Feed], length: int, device) -> torch.Tensor | None:
    """The cache slot [B, length] of every row and of the padding; None if no row stands in the cache already."""
    if not any(at in state.kept for state, feed in zip(states, feeds) for at in feed.positions or []):
        return None
    found = []
    for state, feed in zip(states, feeds):
        start = state.offset + state.cached
        slot_of = {at: start + index for index, at in enumerate(state.kept)}
        free = count(start + len(state.kept))
        positions = feed.positions if feed.positions is not None else [None] * len(feed.ids)
        own = [slot_of[at] if at in slot_of else next(free) for at in positions]
        found.append(own + [next(free) for _ in range(length - len(own))])
    return torch.tensor(found, device=device)


def _behind(feed: Feed, block: Feed, cached: int) -> Feed:
    """The clean rows of ``feed``, and the open block's behind them."""
    n_clean = feed.n_clean
    block.ids, block.n_clean = feed.ids[:n_clean] + block.ids, n_clean
    block.reads = [n_clean + row for row in block.reads]
    block.positions = [*range(cached, cached + n_clean), *block.positions]
    return block


def _edited(state: State, traits) -> list[int]:
    """Filled slots that the coming pass may change."""
    edit = state.strategy.edit
    return [] if edit is None else edit.slots(state, traits.mask_token_id, traits.prediction_shift)
