"""The decoding loop.

    admit -> spans.open -> plan the rows -> forward -> constraint -> scoring -> choice | verify -> settle

The choice of slots that become tokens is `blocks`': spans fence slots off, scoring ranks them, the commit policy
selects, and finish rules commit the rest of a block early.

A forward feeds, for every request, its final tokens that have no KV yet (the prompt, or the block just finished) and
then the open block. So prefill and the first denoising step are one pass, and so are closing a block and opening the
next: exact, because noisy rows see only clean rows of earlier blocks, and those stand in the same pass. KV becomes
permanent only from clean rows; under full attention, where a pass feeds everything, nothing does. What strategies
keep for a few passes although it is not exact stands behind it in the cache: see `planning`.

Autoregressive decoding is the same loop with blocks of one slot that is read from the clean row before it. Under
prediction shift 1 the first slot of every block is read that way too. Speculative decoding drafts a block in one pass
and reads it, as clean rows, in the next, which may be a pass of a second model (`verifier`). Requests of all modes
share a batch; they join and leave between passes.
"""

import time
from collections import deque
from collections.abc import Callable

import numpy as np
import torch

from vlm.cache import BlockCache
from vlm.composite_rows import beside_prompts, known_prompt, picture_borders, read_prompt
from vlm.generation.admission import admit, check
from vlm.generation.decide import decide, force, forced
from vlm.generation.drafts import Drafts
from vlm.generation.feed import Feed, clean_grid, closing, pack, rows_of
from vlm.generation.finish import extend, settle
from vlm.generation.planning import places, planned
from vlm.generation.prefix import PrefixStore, symbols_of
from vlm.generation.request import Request, State
from vlm.generation.reuse import parts_of
from vlm.generation.strategy import Strategy
from vlm.generation.verifier import reads_apart


class Loop:
    """Decodes requests to their ends.

    Args:
        model: a `vlm.VLMForBlockDiffusion`.
        requests: prompts, of any lengths.
        strategy: how to decode those that do not say it themselves.
        cache: what stands before these prompts, one batch row a request; afterwards it holds every final token too.
            None starts from nothing and lets finished requests leave the batch.
        on_step: called after every forward pass with the states that had rows in it.
        store: prefixes to reuse and to add to.
        max_batch: requests decoded together; the others wait for one to finish. None means all.

    Raises:
        ValueError: for a request that cannot be decoded, see `admission.check`, or a cache or ``max_batch`` that
            does not fit them.
    """

    def __init__(
        self,
        model,
        requests: list[Request],
        strategy: Strategy,
        cache: BlockCache | None = None,
        on_step: Callable[[list[State]], None] | None = None,
        store: PrefixStore | None = None,
        max_batch: int | None = None,
    ):
        self.model, self.strategy, self.on_step = model, strategy, on_step
        self.traits = model.config.traits
        self.keeps_rows = cache is not None
        if self.keeps_rows and self.traits.block_origin == "sequence" and cache.lengths.any():
            raise ValueError("a cache cannot be continued under block_origin 'sequence': its grid would start anew")
        if self.keeps_rows and len(cache.lengths) != len(requests):
            raise ValueError(f"{len(requests)} prompts but a cache of {len(cache.lengths)} rows")
        self.whole = self.traits.context_attention == "full"
        if self.keeps_rows and self.whole:
            raise ValueError("a cache cannot be continued under context_attention 'full': its KV would not be exact")
        if max_batch is not None and max_batch < 1:
            raise ValueError(f"max_batch {max_batch} must be at least 1")
        # What a handed-in cache holds has no symbols; under full attention no prefix stays as it is.
        self.store = None if self.keeps_rows or self.whole else store
        if self.store is not None:
            self.store.watch(model)
        rows = len(requests) if self.keeps_rows else 0
        self.cache = cache if cache is not None else BlockCache(model.config.text_config, rows, device=model.device)
        offsets = self.cache.lengths.tolist() if self.keeps_rows else [0] * len(requests)
        self.states = [self._state(request, offset) for request, offset in zip(requests, offsets)]
        self.max_batch = len(requests) if self.keeps_rows or max_batch is None else max_batch
        self.waiting = deque([] if self.keeps_rows else self.states)
        self.batch: list[State] = list(self.states) if self.keeps_rows else []

    def _state(self, request: Request, offset: int) -> State:
        strategy = request.strategy or self.strategy
        room = check(self.model, request, strategy, offset)
        generator = torch.Generator(device=self.model.device).manual_seed(request.seed)
        state = State(request, strategy, len(request.input_ids), request.input_ids.tolist(), room, offset)
        state.generator = generator
        state.matcher = None if strategy.new_matcher is None else strategy.new_matcher()
        return state

    @torch.no_grad()
    def run(self) -> list[State]:
        """Final states, in the order of the requests."""
        while self.waiting or any(state.finish_reason is None for state in self.batch):
            self.step()
        if self.keeps_rows:
            self._pass(self.batch, [closing(state) for state in self.batch])
        return self.states

    def add(self, request: Request) -> State:
        """Let another request join at the next step; its state.

        Raises:
            ValueError: if it cannot be decoded, or the batch's rows are those of a cache that was handed in.
        """
        if self.keeps_rows:
            raise ValueError("no request can join a batch whose cache was handed in")
        state = self._state(request, 0)
        self.states.append(state)
        self.waiting.append(state)
        self.max_batch = max(self.max_batch, 1)
        return state

    @torch.no_grad()
    def step(self) -> None:
        """One forward pass of every unfinished request, and what follows from it."""
        if not self.keeps_rows:
            self.batch += admit(self)
        running = [state for state in self.batch if state.finish_reason is None]
        for state in running:
            self._open(state)
        apart = [state for state in running if reads_apart(state)]
        for state in apart:
            state.strategy.spans.verifier.read(state)
        going = [state.finish_reason is None and state not in apart for state in self.batch]
        feeds = [planned(state, self.traits) if goes else Feed() for state, goes in zip(self.batch, going)]
        if any(feed.ids for feed in feeds):
            self._pass(self.batch, feeds)
        if self.on_step is not None:
            self.on_step(running)
        self._leave()

    def _open(self, state: State) -> None:
        """Open blocks until one has a slot to decide: what a canvas gives or a grammar forces takes no pass."""
        mask_id = self.traits.mask_token_id
        while state.canvas is None and state.draft is None and state.finish_reason is None:
            if isinstance(state.strategy.spans, Drafts) and state.matcher is not None:
                tokens = forced(state)
                state.matcher.accept(tokens)
                extend(state, tokens, [0.0] * len(tokens), state.strategy.finish.cut(state.generated, tokens))
                if state.finish_reason is not None:
                    return
            state.strategy.spans.open(state, mask_id)
            if not isinstance(state.strategy.spans, Drafts):
                force(state, mask_id)
            settle(state, mask_id)

    def _leave(self) -> None:
        """Finished requests give their rows up, and their KV to the store."""
        going = [k for k, state in enumerate(self.batch) if state.finish_reason is None]
        if self.keeps_rows or len(going) == len(self.batch):
            return
        if self.store is not None:
            for row, state in enumerate(self.batch):
                if state.finish_reason is not None:
                    self._remember(row, state)
        self.cache.select(torch.tensor(going, dtype=torch.long, device=self.model.device))
        self.batch = [self.batch[k] for k in going]

    def _remember(self, row: int, state: State) -> None:
        """Put a state's closed tokens into the store, unless they are there."""
        symbols, borders = self.symbols(state)[: state.cached], self.borders(state)[: state.cached]
        if state.cached and not self.store.holds(symbols, borders):
            self.store.put(symbols, borders, self.cache.read(row, 0, state.cached))

    def symbols(self, state: State):
        config = self.model.config
        return symbols_of(state.request, state.tokens, config.image_token_id, config.video_token_id)

    def borders(self, state: State):
        """One past the last position each token's KV has seen: its own, or its block's under block-causal context."""
        if self.traits.context_attention == "causal":
            borders = np.arange(1, len(state.tokens) + 1)
        else:
            borders = clean_grid(state, self.traits)[:, 1]
        return picture_borders(self.model.config, state.tokens, borders)

    def _pass(self, states: list[State], feeds: list[Feed]) -> None:
        """One forward pass, counted and timed for the requests that have rows in it."""
        started = time.perf_counter()
        held = [state.offset + state.cached + len(state.kept) for state in states]  # less, if a block was closed
        self.cache.crop(torch.tensor(held, device=self.model.device))
        hidden = self._forward(states, feeds)
        vocab_size = self.model.get_output_embeddings().weight.shape[0]
        counts = decide(self.model.head, vocab_size, self.traits, states, feeds, hidden)
        stay = [count + feed.n_kept for feed, count in zip(feeds, counts)]
        self.cache.commit(torch.tensor(stay, device=self.model.device))
        for row, (state, feed, count) in enumerate(zip(states, feeds, counts)):
            state.kept.update(feed.kept)
            was_prefill = state.cached < state.prompt_length
            state.cached += count
            if self.whole and state.finish_reason is not None:
                state.prompt_embeds = None
            if state.finish_reason is not None:
                state.kept = {}
            if state.cached >= state.prompt_length:
                state.prompt_embeds = None
                if was_prefill and self.store is not None:
                    self._remember(row, state)
        elapsed = time.perf_counter() - started
        for state, feed in zip(states, feeds):
            if not feed.ids:
                continue
            if state.forwards == 0:
                state.prefill_s = elapsed
            else:
                state.decode_s += elapsed
            state.forwards += 1

    def _forward(self, states: list[State], feeds: list[Feed]) -> torch.Tensor:
        """Hidden states [B, L, D] of every row fed."""
        device = self.model.device
        length = max(len(feed.ids) for feed in feeds)
        columns = [rows_of(state, feed, self.traits) for state, feed in zip(states, feeds)]
        ids = torch.tensor([feed.ids + [0] * (length - len(feed.ids)) for feed in feeds], device=device)  # [B, L]
        embeds = self.model.get_input_embeddings()(ids)  # [B, L, D]
        for embed, state, feed in zip(embeds, states, feeds):
            if feed.ids and state.request.has_media and state.cached < state.prompt_length:
                prompt = self._prompt_rows(state)
                start = state.cached
                positions = range(start, start + len(feed.ids)) if feed.positions is None else feed.positions
                rows = [row for row, position in enumerate(positions) if position - start < len(prompt)]
                embed[rows] = prompt[[positions[row] - start for row in rows]]
        rows = pack(columns, length, device)
        beside = beside_prompts(self.model, [(state.stream, state.offset) for state in states], rows)
        slots = places(states, feeds, length, device)
        return self.model.decode(embeds, rows, self.cache, parts_of(states, feeds), beside, slots)

    def _prompt_rows(self, state: State) -> torch.Tensor:
        """Embeddings of the prompt's rows that have no KV yet: under sequence origin some stand in the first block."""
        if state.prompt_embeds is None:
            state.prompt_embeds = self._embed_prompt(state)  # [P, D]
        return state.prompt_embeds[state.cached :]

    def _embed_prompt(self, state: State) -> torch.Tensor:
        request, config = state.request, self.model.config
        ids = request.input_ids.to(self.model.device).unsqueeze(0)
        unread = request.input_ids[state.cached :]
        if not any((unread == token).any() for token in (config.image_token_id, config.video_token_id)):
            if request.media is not None:
                state.stream = known_prompt(self.model, ids[0], request.media)
            return self.model.get_input_embeddings()(ids)[0]  # every picture's KV came from the store
        if request.media is not None:
            embeds, state.stream = read_prompt(self.model, ids[0], request.media)
            return embeds
        if self.store is None:
            return self.model.embed(ids, request.pixel_values, request.pixel_values_videos)[0]
        kinds = [kind for kind, found in request.digests.items() if found]
        return self.model.place(ids, {kind: self.store.features(self.model, request, kind) for kind in kinds})[0]
