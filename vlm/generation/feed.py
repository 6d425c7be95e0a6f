"""Which rows a request has in the coming forward pass, and from which of them its slots are read."""

from dataclasses import dataclass, field

import numpy as np
import torch

from vlm.attention import PADDING, Rows
from vlm.generation.drafts import Drafts
from vlm.generation.request import State
from vlm.generation.spans import SingleTokens
from vlm.layout import clean_blocks


@dataclass
class Feed:
    """The rows of one request in one forward pass; none for a request that waits.

    Attributes:
        ids: clean tokens to cache, then the open block's canvas (absent if its slot is read from a clean row).
        n_clean: how many of them are clean; they come first, and the cache keeps them.
        slots: open canvas slots this pass may decide; for a draft that is verified, the number of each token read.
        reads: the row each of those slots is read from, and behind these the row of each of ``edits``.
        edits: filled canvas slots that this pass may change.
        verifies: the clean rows end in a draft that is kept as far as reading it agrees.
        positions: of all rows, where they do not follow from the rest: under full attention, and where KV is kept.
        kept: position and token of the rows whose KV is kept although it is not exact, see `kept`.
        n_kept: how many of them the cache does not hold yet; they stand first behind the clean ones.
    """

    ids: list[int] = field(default_factory=list)
    n_clean: int = 0
    slots: list[int] = field(default_factory=list)
    reads: list[int] = field(default_factory=list)
    edits: list[int] = field(default_factory=list)
    verifies: bool = False
    positions: list[int] | None = None
    kept: dict[int, int] = field(default_factory=dict)
    n_kept: int = 0


def plan(state: State, traits) -> Feed:
    """The rows that take a running request one step on."""
    if state.draft is not None:
        return reading(state.tokens[state.cached :], state.draft)
    shift = traits.prediction_shift
    clean = state.tokens[state.cached : state.block_start]
    open_slots = [i for i, token in enumerate(state.canvas) if token == traits.mask_token_id]
    drafts = isinstance(state.strategy.spans, Drafts)
    if isinstance(state.strategy.spans, SingleTokens) or (shift == 1 and open_slots[:1] == [0]):
        return Feed(clean, len(clean), [0], [len(clean) - 1])
    reads = [len(clean) + i - shift for i in open_slots]
    if drafts and shift == 0 and state.strategy.spans.says_first:
        reads[0] = len(clean) - 1  # as the AR mode reads a draft's first token, so it needs no verifying
    return Feed(clean + state.canvas, len(clean), open_slots, reads)


def reading(pending: list[int], draft: list[int]) -> Feed:
    """The pass that verifies: final tokens without KV, then the draft, all clean."""
    reads = list(range(len(pending) - 1, len(pending) + len(draft)))
    ids = pending + draft
    return Feed(ids, len(ids), list(range(len(reads))), reads, verifies=True)


def closing(state: State) -> Feed:
    """The pass that caches a finished request's last block."""
    clean = state.tokens[state.cached :]
    state.block_start, state.canvas, state.draft = len(state.tokens), None, None
    return Feed(clean, len(clean))


def rows_of(state: State, feed: Feed, traits) -> list[list[int]]:
    """The `Rows` columns of one request; positions count from the start of the cache that was handed in."""
    if traits.context_attention == "full":
        alike = [0] * len(feed.ids)  # one segment, one view; no rule of full attention reads the blocks
        return [feed.positions or [], alike, alike, alike, alike, alike]
    offset, n_noisy = state.offset, len(feed.ids) - feed.n_clean
    clean = range(state.cached + offset, state.cached + feed.n_clean + offset)
    start = state.block_start + offset
    end = start + len(state.canvas or [])
    noisy = range(start, start + n_noisy)
    if feed.positions is not None:
        noisy = [position + offset for position in feed.positions[feed.n_clean :]]
    borders = _clean_borders(state, feed, traits)
    return [
        [*clean, *noisy],
        [0] * len(feed.ids),
        [0] * feed.n_clean + [1] * n_noisy,
        [b[0] + offset for b in borders] + [start] * n_noisy,
        [b[1] + offset for b in borders] + [end] * n_noisy,
        [0] * feed.n_clean + [int(token == traits.mask_token_id) for token in feed.ids[feed.n_clean :]],
    ]


def _clean_borders(state: State, feed: Feed, traits) -> list:
    """(start, end) of the block of every clean row fed: the prompt's grid, then the answer's.

    Under causal context no rule reads them, and they are not worked out.
    """
    if traits.context_attention == "causal":
        return [(0, 0)] * feed.n_clean
    return clean_grid(state, traits)[state.cached : state.cached + feed.n_clean].tolist()


def clean_grid(state: State, traits) -> np.ndarray:
    """(start, end) of the block of every final token, int64 [n, 2]."""
    spans = [*state.request.answer_spans, (state.prompt_length, len(state.tokens))]
    spans = [span for span in spans if span[0] < span[1]]
    grid = clean_blocks(len(state.tokens), spans, state.strategy.spans.size, traits.block_origin)
    for start, end in state.blocks:
        grid[start:end] = start, end if traits.block_origin == "sequence" else min(end, len(state.tokens))
    return grid


def pack(columns: list[list[list[int]]], length: int, device) -> Rows:
    """Right-pad the columns of B requests to `Rows` of fields [B, length]."""
    fills = (0, PADDING, 0, 0, 0, 0)
    padded = [[c + [fill] * (length - len(c)) for c, fill in zip(request, fills)] for request in columns]
    return Rows(*torch.tensor(padded, device=device).unbind(1))
