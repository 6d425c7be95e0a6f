"""From hidden states to tokens: what the open slots would become, which of them do, and how far a draft is kept."""

from collections.abc import Callable

import torch

from vlm.generation.blocks import chosen_rows
from vlm.generation.drafts import Drafts
from vlm.generation.feed import Feed
from vlm.generation.finish import extend, log, ready, settle
from vlm.generation.request import State
from vlm.generation.scoring import score
from vlm.generation.verify import agreed


def decide(
    head: Callable[[torch.Tensor], torch.Tensor],
    vocab_size: int,
    traits,
    states: list[State],
    feeds: list[Feed],
    hidden: torch.Tensor,
) -> list[int]:
    """Write what a pass decides into the states; returns how many of each request's rows the cache may keep.

    Args:
        head: hidden states to logits, of ``vocab_size`` tokens.
        traits: of the model that has made the pass.
        hidden: [B, L, D] of the rows fed.
    """
    owners = [(b, number) for b, feed in enumerate(feeds) for number in range(len(feed.reads))]
    if not owners:
        return [feed.n_clean for feed in feeds]
    index = torch.tensor([(b, feeds[b].reads[n]) for b, n in owners], device=hidden.device)  # [S, 2]
    scores = score(
        head,
        hidden[index[:, 0], index[:, 1]],
        [states[b].strategy.sampler for b, _ in owners],
        [states[b].generator for b, _ in owners],
        _edit(states, feeds, owners),
        vocab_size,
    )
    counts, start = [], 0
    chosen = chosen_rows(states, feeds, scores)
    for state, feed in zip(states, feeds):
        own = slice(start, start + len(feed.reads))
        start = own.stop
        decided = (scores.token[own].tolist(), scores.probability[own].tolist(), chosen[own])
        counts.append(_conclude(state, feed, *decided, traits) if feed.reads else feed.n_clean)
    return counts


def force(state: State, mask_token_id: int) -> None:
    """Fill the slots, from the first open one, in which the grammar leaves no choice."""
    if state.matcher is None or mask_token_id not in state.canvas:
        return
    first = state.canvas.index(mask_token_id)
    room = min(len(state.canvas), state.end - state.block_start) - first
    tokens = forced(state)[: max(0, room)]
    state.canvas[first : first + len(tokens)] = tokens
    state.confidence[first : first + len(tokens)] = [1.0] * len(tokens)
    state.matcher.accept(tokens)


def forced(state: State) -> list[int]:
    """The tokens that the grammar leaves no choice about, the end token included."""
    tokens, ends = state.matcher.forced(), state.strategy.finish.end_token_ids
    must_end = state.matcher.finished and not state.matcher.ended
    return [min(ends)] if not tokens and must_end and ends else tokens


def _edit(
    states: list[State], feeds: list[Feed], owners: list[tuple[int, int]]
) -> Callable[[torch.Tensor, int], None]:
    """What changes logits before they are scored: suppressed tokens, a request's processors, its grammar, credit."""
    allowed = {
        b: _allowed(state, feed) for b, (state, feed) in enumerate(zip(states, feeds)) if state.matcher and feed.reads
    }

    def edit(logits: torch.Tensor, start: int) -> None:
        for i, (b, number) in enumerate(owners[start : start + len(logits)]):
            strategy = states[b].strategy
            logits[i, list(strategy.suppress_tokens)] = -torch.inf
            if strategy.processors:
                before = states[b].tokens + (states[b].draft or [])[:number]
                context = torch.tensor([before], device=logits.device)
                logits[i] = strategy.processors(context, logits[i : i + 1])[0]
            if b in allowed and number < len(allowed[b]):
                logits[i].masked_fill_(~allowed[b][number].to(logits.device), -torch.inf)
            if strategy.credit is not None and number < len(feeds[b].slots):
                strategy.credit.fuse(logits[i], states[b].credit.setdefault(feeds[b].slots[number], {}))
        _note(states, feeds, owners[start : start + len(logits)], logits)

    return edit


def _note(states: list[State], feeds: list[Feed], owners: list[tuple[int, int]], logits: torch.Tensor) -> None:
    """Show requests that search a path through their draft the logits [S, V] of its slots."""
    for b in dict.fromkeys(b for b, _ in owners):
        spans = states[b].strategy.spans
        if isinstance(spans, Drafts) and spans.search is not None and not feeds[b].verifies:
            spans.note(states[b], logits[[i for i, (owner, _) in enumerate(owners) if owner == b]])


def _allowed(state: State, feed: Feed) -> list[torch.Tensor]:
    """Tokens [V] that the grammar allows at the first slots read: one, or along a draft as far as it is allowed."""
    masks = [state.matcher.allowed()]
    if feed.verifies:
        ahead = state.matcher.copy()
        for token in state.draft:
            if not masks[-1][token]:
                break
            ahead.accept([token])
            if ahead.ended:  # what is read behind an end counts for nothing
                break
            masks.append(ahead.allowed())
    return masks


def _conclude(
    state: State, feed: Feed, tokens: list[int], probabilities: list[float], chosen: list[bool], traits
) -> int:
    """Write one request's decisions; returns how many of its rows are final."""
    if feed.verifies:
        return _verify(state, feed, tokens, probabilities)
    if isinstance(state.strategy.spans, Drafts):
        _draft(state, feed, tokens, probabilities)
    else:
        _denoise(state, feed, tokens, probabilities, chosen, traits)
    return feed.n_clean


def _denoise(
    state: State, feed: Feed, tokens: list[int], probabilities: list[float], chosen: list[bool], traits
) -> None:
    """Fill slots of the open block, change filled ones, and close the block if nothing is left to decide."""
    mask_id, count, edit, spans = traits.mask_token_id, len(feed.slots), state.strategy.edit, state.strategy.spans
    takes = chosen[:count] if state.matcher is None else _valid(state, tokens, chosen)
    if spans.varies and spans.grow(state, feed.slots, probabilities[:count], takes, mask_id):
        return
    was_ready = edit is not None and ready(state, mask_id)
    for slot, token, probability, take in zip(feed.slots, tokens, probabilities, takes):
        if take:
            state.canvas[slot], state.confidence[slot] = token, probability
    if state.matcher is not None:
        state.matcher.accept([token for token, take in zip(tokens, takes) if take])
        force(state, mask_id)
    state.step += 1
    if edit is not None:
        edited = edit.write(state, feed.edits, tokens[count:], probabilities[count:])
        if edit.waits(state, edited or not was_ready, mask_id, traits.prediction_shift):
            return
    settle(state, mask_id)


def _valid(state: State, tokens: list[int], chosen: list[bool]) -> list[bool]:
    """Under a grammar only the valid run from the first open slot commits, at least its first token."""
    run = max(1, state.matcher.valid_run(tokens))
    wanted = next((i for i, take in enumerate(chosen) if not take), len(chosen))
    count = max(1, min(run, wanted))
    return [i < count for i in range(len(tokens))]


def _draft(state: State, feed: Feed, tokens: list[int], probabilities: list[float]) -> None:
    """Keep a draft to be read by the next pass. Its first token may be final already: it was read as AR reads it."""
    state.canvas, state.step = None, state.step + 1
    if feed.reads[0] < feed.n_clean and state.strategy.spans.says_first:
        _append(state, tokens[:1], probabilities[:1])
        tokens = tokens[1:]
    if state.finish_reason is None:
        # Under shift 1 the pass that found the first token drafts nothing: what it read stands alone.
        draft = state.strategy.spans.draft(state, tokens) if tokens else None
        state.draft = None if draft is None else draft[: max(0, state.end - len(state.tokens) - 1)]


def _verify(state: State, feed: Feed, tokens: list[int], probabilities: list[float]) -> int:
    """Keep the draft as far as it agrees, and the token behind it, unless the answer ends before."""
    first = len(state.tokens) + len(state.draft) - len(feed.ids)  # position of the first row fed
    count = agreed(state.draft, tokens)
    state.strategy.spans.learn(state, count)
    state.draft = None
    _append(state, tokens[: count + 1], probabilities[: count + 1])
    return len(state.tokens) - 1 - first  # the last of them is fed by the next pass


def _append(state: State, tokens: list[int], probabilities: list[float]) -> None:
    """Make tokens final that no block holds."""
    ends = state.strategy.finish.cut(state.generated, tokens)
    extend(state, tokens, [log(p) for p in probabilities], ends)
    if state.matcher is not None:
        state.matcher.accept(tokens if ends is None else tokens[: ends.count])
