"""What a bare forward pass costs behind a cached context, and how fast decoding could be at that cost.

A pass of more rows takes longer; by how much is a matter of machine, weights and precision, so it is measured.
Decoding cannot be faster than its tokens per pass divided by that cost: these are the ceilings.
"""

import torch

from benchmarks.measure import now, settled
from eval.suites import playground
from vlm.answering import build_request
from vlm.attention import Rows
from vlm.cache import BlockCache
from vlm.model import clean_rows


@torch.no_grad()
def row_cost(model, processor, block_size: int, family: str, seed: int, repeats: int = 40) -> dict:
    """Seconds of passes of one row, of a block and of two blocks behind the same prompt, and the ceilings they set.

    Ceilings are in times the speed of one token a pass. ``block``: every pass gives a block. ``block_closing``: and
    carries the rows of the block that it closes, as all but an answer's last block must. ``speculative``: two passes
    give a block and one token more, since the pass that drafts also decides a token as AR does.
    """
    cache, context = _prompted(model, processor, family, seed)
    kinds = {"one_row": (1, 1), "block": (block_size, block_size), "closing": (2 * block_size, block_size)}
    seconds = {kind: [] for kind in kinds}
    for _ in range(repeats):
        for kind, (rows, read) in kinds.items():
            seconds[kind].append(timed_pass(model, cache, context, rows, read))
    took = {kind: settled(values) for kind, values in seconds.items()}
    block, closing = (took[kind] / took["one_row"] for kind in ("block", "closing"))
    ceilings = {
        "block": block_size / block,
        "block_closing": block_size / closing,
        "speculative": (block_size + 1) / 2 / block,
    }
    return {
        "block_size": block_size,
        "seconds": {kind: round(value, 6) for kind, value in took.items()},
        "row_cost": round(block, 3),
        "row_cost_closing": round(closing, 3),
        "ceilings": {name: round(value, 3) for name, value in ceilings.items()},
    }


def _prompted(model, processor, family: str, seed: int) -> tuple[BlockCache, int]:
    """A cache that holds the first item's prompt, and how many tokens those are."""
    asked = playground.question(family, seed, 0)
    request = build_request(processor, asked.messages, asked.media)
    ids = request.input_ids.unsqueeze(0).to(model.device)  # [1, P]
    cache = BlockCache(model.config.text_config, 1, device=model.device)
    media = (p if p is None else p.to(model.device) for p in (request.pixel_values, request.pixel_values_videos))
    model.decode(model.embed(ids, *media), clean_rows(torch.ones_like(ids), model.config.traits), cache)
    cache.commit(torch.tensor([ids.shape[1]], device=model.device))
    return cache, ids.shape[1]


def timed_pass(model, cache, context: int, rows: int, read: int) -> float:
    """Seconds of one pass over ``rows`` mask rows, with the logits of the last ``read``.

    Nothing is committed, so that the next pass finds the same cache.
    """
    begin = now(model.device)
    peek(model, cache, context, rows, read)
    return now(model.device) - begin


def peek(model, cache, context: int, rows: int, read: int) -> torch.Tensor:
    """Logits [1, read, V] of the last of ``rows`` mask rows behind ``context`` cached tokens of one batch row."""
    position = torch.arange(context, context + rows, device=model.device).unsqueeze(0)  # [1, rows]
    start = torch.full_like(position, context)
    placed = Rows(position, torch.zeros_like(start), torch.ones_like(start), start, start + rows)
    ids = torch.full_like(position, model.config.traits.mask_token_id)
    hidden = model.decode(model.get_input_embeddings()(ids), placed, cache)  # [1, rows, D]
    return model.head(hidden[:, -read:])
