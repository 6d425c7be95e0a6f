"""How probable given continuations are: exactly in AR mode, by the published bound in block mode.

AR mode reads a continuation once, as clean rows: log p(x_i | prompt, x_<i), the model's own distribution, of which
nothing is suppressed.

Block mode sums, over the blocks of the continuation, the NELBO of masked diffusion given everything before the block
(BD3-LM, arXiv 2503.09573), a lower bound of the log-probability:

    log p(x_b | x_<b)  >=  E_{t ~ U(0,1)} [ 1/t * sum over masked i of log p(x_i | x_b with each token masked w.p. t) ]

In expectation that is the sum over k = 1..n of 1/k times the loss of k random masks. So what is drawn is k, stratified
over the samples, then a set of k tokens, with weight n/k: the same expectation, less variance (LLaDA, arXiv
2502.09992). A block of one token has none, and its bound is exact.

The last block is as long as any other. Slots behind the continuation stay masked and count for nothing, as in decoding
before they are filled. Under prediction shift 1 the first slot of a block is an AR prediction and counts as such.

A prompt is read once, media included, for all of its continuations; clean rows of the continuation follow in one pass,
then its noisy views, many blocks and masks to a pass, each set of masks once however often it was drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence

from vlm.cache import BlockCache
from vlm.composite_rows import Stream, beside_prompts, read_prompt
from vlm.generation.config import BlockGenerationConfig
from vlm.generation.feed import pack
from vlm.generation.likelihood_items import Item, Prefix, canvas_of, item_of, noisy_columns
from vlm.generation.request import Request
from vlm.generation.scoring import CHUNK
from vlm.generation.strategy import build_strategy
from vlm.layout import clean_blocks

ROWS = 256  # noisy rows of one continuation in a pass: more of them would mostly look at rows they may not see


@dataclass(frozen=True)
class Likelihood:
    """Log-probability of one continuation given its prompt, natural logarithm.

    Attributes:
        logprob: exact in AR mode; in block mode an unbiased estimate of the bound.
        tokens: length of the continuation.
        per_token: the terms of ``logprob``; in block mode what each token contributed to the estimate.
        samples: masks drawn for every block; None in AR mode.
        stderr: standard error of ``logprob``, as of independent samples, so never too small on average; None in AR
            mode and for a single sample.
    """

    logprob: float
    tokens: int
    per_token: list[float]
    samples: int | None = None
    stderr: float | None = None


@torch.no_grad()
def score_continuations(
    model,
    requests: list[Request],
    continuations: list[list[int]],
    mode: str = "ar",
    samples: int = 32,
    block_size: int | None = None,
    seed: int = 0,
    batch_size: int = 8,
) -> list[Likelihood]:
    """Log-probabilities of ``continuations[i]`` behind the prompt ``requests[i]``, in order.

    Requests of the same content share their prompt's pass. Continuations of one prompt are masked alike, so their
    differences vary less than they do; a result depends on its own request, continuation and the settings only.

    Args:
        model: a `vlm.VLMForBlockDiffusion`.
        mode: ``ar`` or ``block``.
        samples: masks drawn for every block, in block mode.
        block_size: None means the checkpoint's default.
        batch_size: continuations scored together.

    Raises:
        ValueError: for settings that the checkpoint does not allow, an empty prompt or continuation, tokens that no
            text has, or a continuation that ends behind the position limit.
    """
    size = _size(model, mode, block_size)
    _check(model, requests, continuations, samples, batch_size, size)
    keys = [_key(request) for request in requests]
    first = {key: i for i, key in reversed(list(enumerate(keys)))}
    order = sorted(range(len(keys)), key=lambda i: (first[keys[i]], i))  # the same prompt side by side
    found: list[Likelihood | None] = [None] * len(keys)
    prefixes: dict[bytes, Prefix] = {}
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        new = {keys[i]: requests[i] for i in batch if keys[i] not in prefixes}
        if new:
            prefixes |= {prefix.key: prefix for prefix in _read_prompts(model, new, size)}
        prefixes = {keys[i]: prefixes[keys[i]] for i in batch}
        items = [item_of(model, prefixes[keys[i]], continuations[i], size, samples, seed) for i in batch]
        _score(model, items, size)
        for i, item in zip(batch, items):
            found[i] = _result(item, None if size is None else samples)
    return found


def _size(model, mode: str, block_size: int | None) -> int | None:
    """Block size, or None for AR mode; refuses what decoding refuses."""
    if mode not in ("ar", "block"):
        raise ValueError(f"mode {mode!r} is not one of ar, block")
    size = build_strategy(model, BlockGenerationConfig(mode=mode, block_size=block_size)).spans.size
    return None if mode == "ar" else size


def _check(model, requests, continuations, samples: int, batch_size: int, size: int | None) -> None:
    config = model.config
    if len(requests) != len(continuations):
        raise ValueError(f"{len(requests)} requests but {len(continuations)} continuations")
    for name, value in (("samples", samples), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{name} {value} must be at least 1")
    limit, vocab_size = config.text_config.max_position_embeddings, config.text_config.vocab_size
    reserved = {config.traits.mask_token_id, config.image_token_id, config.video_token_id}
    for i, (request, tokens) in enumerate(zip(requests, continuations)):
        if len(request.input_ids) == 0:
            raise ValueError(f"the prompt of continuation {i} is empty")
        if not len(tokens):
            raise ValueError(f"continuation {i} is empty")
        strange = next((token for token in tokens if not 0 <= token < vocab_size or token in reserved), None)
        if strange is not None:
            raise ValueError(f"continuation {i} holds {strange}, which is not a token of text")
        length, end = len(request.input_ids), len(request.input_ids) + len(tokens)
        if size is not None:
            origin = _first_block(length, size, config.traits)
            end = origin + -(-(end - origin) // size) * size
        if end > limit:
            raise ValueError(f"continuation {i} ends at position {end}; the position limit is {limit}")


def _key(request: Request) -> bytes:
    """Content of a prompt: its tokens, the grid of earlier answers, its pictures."""
    content = repr((request.input_ids.tolist(), request.answer_spans, request.digests))
    return blake2b(content.encode(), digest_size=16).digest()


def _first_block(prompt_length: int, size: int | None, traits) -> int:
    """Where the first scored block starts: behind the prompt, or inside it on the ``sequence`` grid."""
    if size is None or traits.block_origin == "response":
        return prompt_length
    return prompt_length // size * size


def _read_prompts(model, requests: dict[bytes, Request], size: int | None) -> list[Prefix]:
    """The prefixes of new prompts, read in one pass."""
    traits = model.config.traits
    embeds, streams = zip(*(_embed(model, request) for request in requests.values()))  # [P, D] each
    lengths = [_first_block(len(embed), size, traits) for embed in embeds]
    columns = [
        _clean_columns(0, length, request.answer_spans, len(embed), size, traits)
        for request, embed, length in zip(requests.values(), embeds, lengths)
    ]
    cache = BlockCache(model.config.text_config, len(embeds), device=model.device)
    read = [embed[:length] for embed, length in zip(embeds, lengths)]
    hidden = _pass(model, read, columns, cache, streams)
    cache.commit(torch.tensor(lengths, dtype=torch.long, device=model.device))
    hidden = F.pad(hidden, (0, 0, 1, 0))  # [B, 1 + L, D], so that the row behind an empty prefix exists
    return [
        Prefix(key, request, n, cache.read(row, 0, n) if n else [], hidden[row, n], embeds[row][n:], streams[row])
        for row, ((key, request), n) in enumerate(zip(requests.items(), lengths))
    ]


def _embed(model, request: Request) -> tuple[torch.Tensor, Stream | None]:
    """Embeddings [P, D] of a prompt, and where its pictures stand if the decoder sees them itself."""
    if request.media is not None:
        return read_prompt(model, request.input_ids.to(model.device), request.media)
    pixels = (request.pixel_values, request.pixel_values_videos)
    moved = [None if p is None else p.to(model.device) for p in pixels]
    return model.embed(request.input_ids.to(model.device).unsqueeze(0), *moved)[0], None


def _score(model, items: list[Item], size: int | None) -> None:
    """Fill in what the model says of every item's tokens."""
    cache = BlockCache(model.config.text_config, len(items), device=model.device)
    for row, item in enumerate(items):
        if item.prefix.length:
            cache.load(row, item.prefix.layers)
    _score_clean(model, items, size, cache)
    _score_noisy(model, items, size, cache)


def _score_clean(model, items: list[Item], size: int | None, cache: BlockCache) -> None:
    """The continuations as clean rows, as far as anything is read from them or sees them."""
    starts = [item.prefix.length for item in items]
    counts = [item.end - 1 - start for item, start in zip(items, starts)]
    counts = counts if size is None else [count // size * size for count in counts]
    columns = []
    for item, start, count in zip(items, starts, counts):
        spans = [*item.prefix.request.answer_spans, (item.prompt_length, item.end)]
        columns.append(_clean_columns(start, start + count, spans, item.end, size, model.config.traits))
    read = [item.table[:count] for item, count in zip(items, counts)]
    hidden = _pass(model, read, columns, cache, [item.prefix.stream for item in items])
    cache.commit(torch.tensor(counts, device=model.device))
    last = torch.stack([item.prefix.last for item in items])
    hidden = torch.cat([last.unsqueeze(1), hidden], 1)  # [B, 1 + L, D]; row r predicts the token r behind the prefix
    owners = [(row, item, position) for row, item in enumerate(items) for position in item.exact]
    at = [(row, position - item.prefix.length) for row, item, position in owners]
    found = _logprobs(model, hidden, at, [item.token_at(position) for _, item, position in owners])
    for (_, item, position), logprob in zip(owners, found):
        item.per_token[position - item.prompt_length] = logprob


def _score_noisy(model, items: list[Item], size: int | None, cache: BlockCache) -> None:
    """Views of the continuations' blocks, as many to a pass as there is room for; nothing of them stays."""
    waiting = [[(block, u) for block in item.blocks for u in range(len(block.masks))] for item in items]
    shift = model.config.traits.prediction_shift
    while any(waiting):
        room = max(1, ROWS // size)
        views, waiting = [w[:room] for w in waiting], [w[room:] for w in waiting]
        index = [[i for block, u in own for i in canvas_of(item, block, u, size)] for item, own in zip(items, views)]
        rows = [item.table[torch.tensor(i, dtype=torch.long, device=model.device)] for item, i in zip(items, index)]
        streams = [item.prefix.stream for item in items]
        hidden = _pass(model, rows, [noisy_columns(own, size) for own in views], cache, streams)  # [B, L, D]
        owners = [
            (row, number, block, u, j)
            for row, own in enumerate(views)
            for number, (block, u) in enumerate(own)
            for j in np.flatnonzero(block.masks[u])
        ]
        at = [(row, number * size + block.slots[j] - block.start - shift) for row, number, block, _, j in owners]
        found = _logprobs(model, hidden, at, [items[row].token_at(block.slots[j]) for row, _, block, _, j in owners])
        for (_, _, block, u, j), logprob in zip(owners, found):
            block.logprobs[u, j] = logprob


def _result(item: Item, samples: int | None) -> Likelihood:
    variance = 0.0
    for block in item.blocks:
        n, k = len(block.slots), block.masks.sum(1, keepdims=True)
        terms = block.logprobs * n / k  # [U, n]
        item.per_token[block.slots - item.prompt_length] = block.counts @ terms / samples
        total = terms.sum(1)
        mean = block.counts @ total / samples
        if samples > 1:
            variance += block.counts @ (total - mean) ** 2 / (samples - 1) / samples
    stderr = None if samples in (None, 1) else float(np.sqrt(variance))
    return Likelihood(float(item.per_token.sum()), len(item.tokens), item.per_token.tolist(), samples, stderr)


def _clean_columns(start: int, stop: int, spans: list, length: int, size: int | None, traits) -> list[list[int]]:
    """The `Rows` columns of clean positions start..stop of a stream of ``length``."""
    # Under causal context, which AR mode needs, no rule reads the borders.
    borders = clean_blocks(length, spans, size or traits.block_size, traits.block_origin)[start:stop]
    count = stop - start
    none = [0] * count
    return [list(range(start, stop)), none, none, borders[:, 0].tolist(), borders[:, 1].tolist(), none]


def _pass(
    model, embeds: list[torch.Tensor], columns: list, cache: BlockCache, streams: Sequence[Stream | None]
) -> torch.Tensor:
    """Hidden states [B, L, D] of ragged rows of prompts with ``streams``; there may be none."""
    padded = pad_sequence(embeds, batch_first=True)
    length = padded.shape[1]
    if not length:
        return padded
    rows = pack(columns, length, model.device)
    beside = beside_prompts(model, [(stream, 0) for stream in streams], rows)
    return model.decode(padded, rows, cache, beside=beside)


def _logprobs(model, hidden: torch.Tensor, at: list[tuple[int, int]], targets: list[int]) -> list[float]:
    """Log-probability of ``targets`` [S] read at (row, column) of hidden states [B, L, D], in chunks of logits."""
    chunk, found = max(1, CHUNK // model.config.text_config.vocab_size), []
    for start in range(0, len(at), chunk):
        rows, columns = torch.tensor(at[start : start + chunk], device=hidden.device).T
        logits = model.head(hidden[rows, columns])  # [C, V]
        wanted = torch.tensor(targets[start : start + chunk], device=hidden.device)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        found += (-F.cross_entropy(logits, wanted, reduction="none")).tolist()
    return found
