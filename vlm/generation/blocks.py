"""The open blocks of a batch as the strategies see them, and which of their slots become tokens.

    fence (spans) -> keep (scoring, finish) -> rescore (scoring) -> select (commit) | also (finish) -> wait (finish)

What the commit policy sees as open are the slots that may be committed now: those before the spans' fence that every
rule keeps. If none is left, all open slots are: a pass always commits something. Where all that was picked has to wait
for slots that were not, the policy selects once more, among the slots that have nothing to wait for.
"""

import math
from dataclasses import dataclass, fields, replace

import torch

from vlm.generation.feed import Feed
from vlm.generation.request import State
from vlm.generation.scoring import Scores


@dataclass
class Blocks:
    """Open blocks on a common grid; a row of a request without open slots is all closed.

    Attributes:
        scores: of the open slots; fields [B, W].
        is_open: slots still masked and in front of the spans' fence, bool [B, W].
        step: denoising steps each block has had [B].
        size: slots each block had to fill when it opened [B].
        committed: confidence at which each slot was committed since its block opened, NaN at every other slot [B, W].
        is_end: slots whose proposal is an end token, bool [B, W].
        first_end: the first slot that holds an end token, W if there is none [B].
        progress: tokens written so far, those of the open block included, over tokens that may be written [B].
        stable: how many passes in a row have proposed what this one proposes, less one [B].
    """

    scores: Scores
    is_open: torch.Tensor
    step: torch.Tensor
    size: torch.Tensor
    committed: torch.Tensor
    is_end: torch.Tensor
    first_end: torch.Tensor
    progress: torch.Tensor
    stable: torch.Tensor

    def rows(self, index: torch.Tensor) -> "Blocks":
        """The blocks at ``index``."""
        parts = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "scores"}
        return Blocks(self.scores.map(lambda t: t[index]), **{name: part[index] for name, part in parts.items()})


@dataclass(frozen=True)
class Rule:
    """What a scoring or finishing strategy may change about a choice; the defaults change nothing."""

    def keep(self, blocks: Blocks) -> torch.Tensor:
        """Open slots that may be committed now, bool [B, W]."""
        return blocks.is_open

    def rescore(self, blocks: Blocks, rank: torch.Tensor) -> torch.Tensor:
        """A new rank [B, W] of the slots; thresholds do not read it."""
        return rank

    def also(self, blocks: Blocks) -> torch.Tensor:
        """Slots to commit beside those that the policy selects, bool [B, W]."""
        return torch.zeros_like(blocks.is_open)

    def wait(self, blocks: Blocks, picked: torch.Tensor) -> torch.Tensor:
        """Slots that must not be committed unless more than ``picked`` is, bool [B, W]; never the first open one."""
        return torch.zeros_like(blocks.is_open)


def chosen_rows(states: list[State], feeds: list[Feed], scores: Scores) -> list[bool]:
    """Which of the rows read become tokens under the strategies of their request; all that verify or edit may."""
    read = [(b, slot) for b, feed in enumerate(feeds) for slot in feed.slots + feed.edits]
    is_open = [not feed.verifies and number < len(feed.slots) for feed in feeds for number in range(len(feed.reads))]
    kept = [i for i, denoised in enumerate(is_open) if denoised]
    chosen = torch.ones(len(read), dtype=torch.bool)
    if not kept:
        return chosen.tolist()
    rows, slots = torch.tensor([read[i] for i in kept]).T.to(scores.token.device)
    blocks = _gather(states, feeds, scores, kept, rows, slots)
    picked = torch.zeros_like(blocks.is_open)
    ways = [(state.strategy.commit, state.strategy.rules) for state in states]
    for way in dict.fromkeys(ways):
        own = torch.tensor([b for b, other in enumerate(ways) if other == way], device=rows.device)
        picked[own] = _select(*way, blocks.rows(own))
    chosen[kept] = picked[rows, slots].cpu()
    return chosen.tolist()


def _select(commit, rules: tuple[Rule, ...], blocks: Blocks) -> torch.Tensor:
    """Slots to commit [B, W], at least one of every block that has an open one."""
    kept, rank = blocks.is_open, blocks.scores.rank
    for rule in rules:
        kept = kept & rule.keep(blocks)
        rank = rule.rescore(blocks, rank)
    may = torch.where(kept.any(-1, keepdim=True), kept, blocks.is_open)
    scores = replace(blocks.scores, rank=rank)
    picked = commit.select(scores, may, blocks.step, blocks.size, blocks.committed)
    for rule in rules:
        picked = picked | (rule.also(blocks) & may)
    waiting = _waiting(rules, blocks, picked)
    if not (picked & waiting).any():
        return picked
    settled = picked & ~waiting
    free = may & ~_waiting(rules, blocks, torch.zeros_like(picked))
    free = torch.where(free.any(-1, keepdim=True), free, may)
    again = commit.select(scores, free, blocks.step, blocks.size, blocks.committed)
    return torch.where(settled.any(-1, keepdim=True), settled, again)


def _waiting(rules: tuple[Rule, ...], blocks: Blocks, picked: torch.Tensor) -> torch.Tensor:
    """Slots that some rule has wait [B, W]."""
    waiting = torch.zeros_like(picked)
    for rule in rules:
        waiting = waiting | rule.wait(blocks, picked)
    return waiting


def _gather(states: list[State], feeds: list[Feed], scores: Scores, kept: list[int], rows, slots) -> Blocks:
    """The blocks of all requests, from the rows read of them."""
    width = max((len(state.canvas) for state in states if state.canvas is not None), default=1)
    device = rows.device

    def grid(values: torch.Tensor) -> torch.Tensor:
        full = values.new_zeros(len(states), width)
        full[rows, slots] = values[kept]
        return full  # [B, W]

    def column(of) -> torch.Tensor:
        return torch.tensor([of(state) for state in states], device=device)  # [B]

    _propose(states, feeds, scores)
    token, probability = grid(scores.token), grid(scores.probability)
    fences = _fences(states, feeds, token.tolist(), probability.tolist())
    is_open = torch.zeros(len(states), width, dtype=torch.bool, device=device)
    is_open[rows, slots] = slots < torch.tensor(fences, device=device)[rows]
    ends = [sorted(state.strategy.finish.end_token_ids) for state in states]
    is_end = torch.stack([torch.isin(t, t.new_tensor(e)) for t, e in zip(token, ends)]) & is_open
    return Blocks(
        scores=scores.map(grid),
        is_open=is_open,
        step=column(lambda state: state.step),
        size=column(_slots_at_open),
        committed=column(lambda state: _committed(state, width)),
        is_end=is_end,
        first_end=column(lambda state: _first_end(state, width)),
        progress=column(lambda state: _written(state) / max(1, state.room)),
        stable=column(lambda state: state.stable),
    )


def _propose(states: list[State], feeds: list[Feed], scores: Scores) -> None:
    """Note in every state what this pass proposes for its block, and for how many passes it has been that."""
    tokens = iter(scores.token.tolist())
    for state, feed in zip(states, feeds):
        own = [next(tokens) for _ in feed.reads]
        if state.canvas is None or feed.verifies:
            continue
        proposed = list(state.canvas)
        for slot, token in zip(feed.slots, own):
            proposed[slot] = token
        state.stable = state.stable + 1 if proposed == state.proposed else 0
        state.proposed = proposed


def _fences(states: list[State], feeds: list[Feed], tokens: list[list[int]], sure: list[list[float]]) -> list[int]:
    """The slot of every block from which slots wait, as its spans say; no fence leaves no open slot in front of it."""
    fences = []
    for b, (state, feed) in enumerate(zip(states, feeds)):
        if state.canvas is None or feed.verifies or not feed.slots:
            fences.append(0)
            continue
        fence = state.strategy.spans.fence(state, feed.slots, tokens[b], sure[b])
        fences.append(fence if fence > feed.slots[0] else len(state.canvas))
    return fences


def _first_end(state: State, width: int) -> int:
    ends, known = state.strategy.finish.end_token_ids, len(state.tokens) - state.block_start
    return next((i for i, t in enumerate(state.canvas or []) if i >= known and t in ends), width)


def _written(state: State) -> int:
    return len(state.generated) + sum(not math.isnan(c) for c in _committed(state, 0))


def _committed(state: State, width: int) -> list[float]:
    """Confidence at which the open block's slots were filled, NaN at open ones and at tokens that stood before it."""
    known = 0 if state.canvas is None else len(state.tokens) - state.block_start
    found = [] if state.canvas is None else state.confidence[known:]
    return [math.nan] * known + found + [math.nan] * (width - known - len(found))


def _slots_at_open(state: State) -> int:
    """How many slots the open block had to fill: its size less the known tokens it began with, and blocks held."""
    if state.canvas is None:
        return 0
    slots, spans = len(state.canvas) - (len(state.tokens) - state.block_start), state.strategy.spans
    return min(slots, spans.size) if spans.holds else slots
