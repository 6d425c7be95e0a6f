"""Which waiting requests join the batch, and what of their prompts is known already."""

from vlm.generation.drafts import Drafts
from vlm.generation.prefix import common_prefix
from vlm.generation.request import Request, State

WORTH_WAITING = 32  # shared tokens for which a request waits one pass, so that they are read once


def check(model, request: Request, strategy, offset: int) -> int:
    """How many tokens a request may generate behind ``offset`` cached ones.

    Raises:
        ValueError: for an empty prompt, one that leaves no room for a block within the position range, one that a
            verifier cannot read, or a canvas that the mode or a grammar cannot keep.
    """
    length, size = len(request.input_ids), strategy.spans.size
    limit = model.config.text_config.max_position_embeddings
    if length == 0:
        raise ValueError("the prompt is empty")
    verifier = strategy.spans.verifier if isinstance(strategy.spans, Drafts) else None
    if verifier is not None:
        verifier.check(request, offset)
        limit = min(limit, verifier.limit)
    if offset and model.config.traits.positions == "mrope":
        raise ValueError("a cache cannot be continued under positions 'mrope': it does not say where its text ends")
    blocks = (limit - offset - length) // size
    if blocks < 1:
        before = f" behind {offset} cached ones" if offset else ""
        raise ValueError(f"the prompt has {length} tokens{before}; the position limit is {limit}")
    if request.canvas is not None and (isinstance(strategy.spans, Drafts) or strategy.new_matcher is not None):
        raise ValueError("a starting canvas needs mode 'block' or 'ar', and no grammar")
    given = strategy.max_new_tokens if request.canvas is None else len(request.canvas)
    return min(strategy.max_new_tokens, blocks * size, given)


def admit(loop) -> list[State]:
    """Take requests from ``loop.waiting`` into free rows; with a store, those that would read the same prefix wait."""
    free, joining, later = loop.max_batch - len(loop.batch), [], []
    reading = []  # symbols of what the coming pass will read
    while loop.waiting and len(joining) < free:
        state = loop.waiting.popleft()
        if loop.store is not None:
            symbols, borders = loop.symbols(state), loop.borders(state)
            # The last token is always read: the first one generated may be decided from its row.
            known, entry = loop.store.longest(symbols[:-1], borders[:-1])
            shared = max((common_prefix(symbols, other) for other in reading), default=0)
            if shared >= known + WORTH_WAITING:
                later.append(state)
                continue
            reading.append(symbols)
            _count(loop.store, known)
            state.cached = state.reused = known
            joining.append((state, entry))
        else:
            joining.append((state, None))
    loop.waiting.extendleft(reversed(later))
    if joining:
        loop.cache.extend(len(joining))
    for row, (state, entry) in enumerate(joining, len(loop.batch)):
        if state.reused:
            loop.cache.load(row, [(k[:, : state.reused], v[:, : state.reused]) for k, v in entry.layers])
    return [state for state, _ in joining]


def _count(store, known: int) -> None:
    store.hits += known > 0
    store.misses += known == 0
    store.reused_tokens += known
