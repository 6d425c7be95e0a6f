"""The decoding loop.

    finish? -> spans.open -> plan the rows -> forward -> scoring -> commit.select -> write -> settle

A forward feeds, for every request, its final tokens that have no KV yet (the prompt, or the block just finished) and
then the open block. So prefill and the first denoising step are one pass, and so are closing a block and opening the
next: exact, because noisy rows see only clean rows of earlier blocks, and those stand in the same pass. KV becomes
permanent only from clean rows.

Autoregressive decoding is the same loop with blocks of one slot that is read from the clean row before it. Under
prediction shift 1 the first slot of every block is read that way too.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from vlm.attention import PADDING, Rows
from vlm.cache import BlockCache
from vlm.generation.commit import CommitPolicy
from vlm.generation.finish import settle
from vlm.generation.request import Request, State
from vlm.generation.scoring import Sampler
from vlm.generation.spans import FixedBlocks, SingleTokens
from vlm.layout import clean_blocks


@dataclass(frozen=True)
class Strategy:
    """The slots of the loop, filled for one run."""

    spans: FixedBlocks | SingleTokens
    commit: CommitPolicy
    sampler: Sampler
    end_token_ids: frozenset[int]
    suppress_tokens: tuple[int, ...]
    max_new_tokens: int


@dataclass
class Feed:
    """The rows of one request in one forward pass.

    Attributes:
        ids: clean tokens to cache, then the open block's canvas (absent if its slot is read from a clean row).
        n_clean: how many of them are clean.
        slots: open canvas slots this pass may decide.
        reads: the row each of those slots is read from.
    """

    ids: list[int]
    n_clean: int
    slots: list[int]
    reads: list[int]


class Loop:
    """Decodes a batch of requests to their ends.

    Args:
        model: a `vlm.VLMForBlockDiffusion`.
        requests: prompts, of any lengths.
        strategy: how to decode.
        cache: what stands before these prompts, one batch row a request; afterwards it holds every final token too.
            None starts from nothing and lets finished requests leave the batch.
        on_step: called after every forward pass with the running states.
    """

    def __init__(
        self,
        model,
        requests: list[Request],
        strategy: Strategy,
        cache: BlockCache | None = None,
        on_step: Callable[[list[State]], None] | None = None,
    ):
        self.model, self.strategy, self.on_step = model, strategy, on_step
        self.traits = model.config.traits
        self.keeps_rows = cache is not None
        if self.keeps_rows and self.traits.block_origin == "sequence" and cache.lengths.any():
            raise ValueError("a cache cannot be continued under block_origin 'sequence': its grid would start anew")
        self.cache = cache or BlockCache(model.config.text_config, len(requests), device=model.device)
        offsets = self.cache.lengths.tolist()
        self.states = [self._state(request, offset) for request, offset in zip(requests, offsets)]

    def _state(self, request: Request, offset: int) -> State:
        """The start of a request behind ``offset`` cached tokens.

        Raises:
            ValueError: for an empty prompt, or one that leaves no room for a block within the position range.
        """
        length, size = len(request.input_ids), self.strategy.spans.size
        limit = self.model.config.text_config.max_position_embeddings
        if length == 0:
            raise ValueError("the prompt is empty")
        blocks = (limit - offset - length) // size
        if blocks < 1:
            before = f" behind {offset} cached ones" if offset else ""
            raise ValueError(f"the prompt has {length} tokens{before}; the position limit is {limit}")
        room = min(self.strategy.max_new_tokens, blocks * size)
        generator = torch.Generator(device=self.model.device).manual_seed(request.seed)
        return State(request, length, request.input_ids.tolist(), room, offset, generator=generator)

    @torch.no_grad()
    def run(self) -> list[State]:
        """Final states, in the order of the requests."""
        batch = list(self.states)
        while any(state.finish_reason is None for state in batch):
            self._step(batch)
            going = [k for k, state in enumerate(batch) if state.finish_reason is None]
            if not self.keeps_rows and len(going) < len(batch):
                self.cache.select(torch.tensor(going, dtype=torch.long, device=self.model.device))
                batch = [batch[k] for k in going]
        if self.keeps_rows:
            self._pass(batch, [_closing(state) for state in batch])
        return self.states

    def _step(self, states: list[State]) -> None:
        """One forward pass of every unfinished request, and what follows from it."""
        mask_id = self.traits.mask_token_id
        running = [state for state in states if state.finish_reason is None]
        for state in running:
            if state.canvas is None:
                self.strategy.spans.open(state, mask_id)
        self._pass(states, [self._plan(s) if s.finish_reason is None else Feed([], 0, [], []) for s in states])
        for state in running:
            settle(state, mask_id, self.strategy.end_token_ids)
        if self.on_step is not None:
            self.on_step(running)

    def _pass(self, states: list[State], feeds: list[Feed]) -> None:
        """One forward pass, counted and timed for the requests that have rows in it."""
        started = time.perf_counter()
        logits = self._forward(states, feeds)
        if len(logits):
            self._write(states, feeds, logits)
        elapsed = time.perf_counter() - started
        for state, feed in zip(states, feeds):
            if not feed.ids:
                continue
            if state.forwards == 0:
                state.prefill_s = elapsed
            else:
                state.decode_s += elapsed
            state.forwards += 1

    def _plan(self, state: State) -> Feed:
        clean = state.tokens[state.cached : state.block_start]
        open_slots = [i for i, token in enumerate(state.canvas) if token == self.traits.mask_token_id]
        reads_clean_row = isinstance(self.strategy.spans, SingleTokens) or (
            self.traits.prediction_shift == 1 and open_slots[0] == 0
        )
        if reads_clean_row:
            return Feed(clean, len(clean), [0], [len(clean) - 1])
        shift = self.traits.prediction_shift
        return Feed(clean + state.canvas, len(clean), open_slots, [len(clean) + i - shift for i in open_slots])

    def _forward(self, states: list[State], feeds: list[Feed]) -> torch.Tensor:
        device = self.model.device
        length = max(len(feed.ids) for feed in feeds)
        rows = _pack([self._rows(state, feed) for state, feed in zip(states, feeds)], length, device)
        ids = torch.tensor([feed.ids + [0] * (length - len(feed.ids)) for feed in feeds], device=device)  # [B, L]
        embeds = self.model.get_input_embeddings()(ids)  # [B, L, D]
        for embed, state, feed in zip(embeds, states, feeds):
            if feed.ids and state.request.has_media and state.cached < state.prompt_length:
                prompt = self._prompt_rows(state)
                embed[: len(prompt)] = prompt
        hidden = self.model.decode(embeds, rows, self.cache)  # [B, L, D]
        self.cache.commit(torch.tensor([feed.n_clean for feed in feeds], device=device))
        for state, feed in zip(states, feeds):
            state.cached += feed.n_clean
            if state.cached >= state.prompt_length:
                state.prompt_embeds = None
        reads = [(b, row) for b, feed in enumerate(feeds) for row in feed.reads]
        batch_index, row_index = torch.tensor(reads, dtype=torch.long, device=device).view(-1, 2).T
        logits = self.model.head(hidden[batch_index, row_index]).float()
        logits[:, list(self.strategy.suppress_tokens)] = -torch.inf
        return logits

    def _prompt_rows(self, state: State) -> torch.Tensor:
        """Embeddings of the prompt's rows that have no KV yet: under sequence origin some stand in the first block."""
        if state.prompt_embeds is None:
            request = state.request
            ids = request.input_ids.to(self.model.device).unsqueeze(0)
            state.prompt_embeds = self.model.embed(ids, request.pixel_values, request.pixel_values_videos)[0]  # [P, D]
        return state.prompt_embeds[state.cached :]

    def _rows(self, state: State, feed: Feed) -> list[list[int]]:
        """The `Rows` columns of one request; positions count from the start of the cache that was handed in."""
        offset, n_noisy = state.offset, len(feed.ids) - feed.n_clean
        clean = range(state.cached + offset, state.cached + feed.n_clean + offset)
        start = state.block_start + offset
        end = start + self.strategy.spans.size
        borders = self._clean_borders(state, feed)
        return [
            [*clean, *range(start, start + n_noisy)],
            [0] * len(feed.ids),
            [0] * feed.n_clean + [1] * n_noisy,
            [b[0] + offset for b in borders] + [start] * n_noisy,
            [b[1] + offset for b in borders] + [end] * n_noisy,
        ]

    def _clean_borders(self, state: State, feed: Feed) -> list:
        """(start, end) of the block of every clean row fed: the prompt's grid, then the answer's.

        Under causal context no rule reads them, and they are not worked out.
        """
        if self.traits.context_attention == "causal":
            return [(0, 0)] * feed.n_clean
        spans = [*state.request.answer_spans, (state.prompt_length, len(state.tokens))]
        spans = [span for span in spans if span[0] < span[1]]
        blocks = clean_blocks(len(state.tokens), spans, self.strategy.spans.size, self.traits.block_origin)
        return blocks[state.cached : state.cached + feed.n_clean].tolist()

    def _write(self, states: list[State], feeds: list[Feed], logits: torch.Tensor) -> None:
        generators = [state.generator for state, feed in zip(states, feeds) for _ in feed.slots]
        tokens, scores = self.strategy.sampler.propose(logits, generators)
        width = max(len(state.canvas) for state in states if state.canvas is not None)
        grid = scores.new_full((len(states), width), -torch.inf)
        slots = torch.tensor([(b, slot) for b, feed in enumerate(feeds) for slot in feed.slots], device=logits.device)
        grid[slots[:, 0], slots[:, 1]] = scores
        is_open = torch.zeros_like(grid, dtype=torch.bool)  # not read off the scores: with a NaN no step would commit
        is_open[slots[:, 0], slots[:, 1]] = True
        step = torch.tensor([state.step for state in states], device=logits.device)
        size = torch.tensor([_slots_at_open(state) for state in states], device=logits.device)
        chosen = self.strategy.commit.select(grid, is_open, step, size)[slots[:, 0], slots[:, 1]]
        for (b, slot), token, take in zip(slots.tolist(), tokens.tolist(), chosen.tolist()):
            if take:
                states[b].canvas[slot] = token
        for state in states:
            state.step += state.canvas is not None


def _closing(state: State) -> Feed:
    """The pass that caches a finished request's last block."""
    clean = state.tokens[state.cached :]
    state.block_start = len(state.tokens)
    return Feed(clean, len(clean), [], [])


def _slots_at_open(state: State) -> int:
    """How many slots the open block had to fill: its size less the known tokens it began with."""
    if state.canvas is None:
        return 0
    return len(state.canvas) - (len(state.tokens) - state.block_start)


def _pack(columns: list[list[list[int]]], length: int, device) -> Rows:
    """Right-pad the columns of B requests to `Rows` of fields [B, length]."""
    fills = (0, PADDING, 0, 0, 0)
    padded = [[c + [fill] * (length - len(c)) for c, fill in zip(request, fills)] for request in columns]
    return Rows(*torch.tensor(padded, device=device).unbind(1))
