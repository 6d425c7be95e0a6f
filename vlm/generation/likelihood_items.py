"""What `likelihood` scores: continuations of prompts, cut into blocks, and the sets of masks drawn for each.

Sets are drawn by the seed, the block and the content of the prompt alone, so that all continuations of a prompt are
masked alike and a result does not depend on its batch.
"""

from dataclasses import dataclass, field

import numpy as np
import torch

from vlm.composite_rows import Stream
from vlm.generation.request import Request


@dataclass
class Prefix:
    """What all continuations of a prompt share: its first ``length`` tokens as KV, the others as embeddings.

    Attributes:
        layers: keys and values [H, length, d] of every layer.
        last: hidden state [D] of the last of them.
        rest: [P - length, D], prompt tokens inside the first scored block (``sequence`` origin).
        stream: where the prompt's pictures stand, if the decoder sees them itself.
    """

    key: bytes
    request: Request
    length: int
    layers: list[tuple[torch.Tensor, torch.Tensor]]
    last: torch.Tensor
    rest: torch.Tensor
    stream: Stream | None


@dataclass
class Block:
    """One block of a continuation: which of its positions are estimated, under which sets of masks.

    Attributes:
        start: its first position.
        slots: positions [n] that may be masked.
        masks: the distinct sets drawn, bool [U, n]; ``counts`` [U] says how often.
        logprobs: [U, n], to be filled in where ``masks``.
    """

    start: int
    slots: np.ndarray
    masks: np.ndarray
    counts: np.ndarray
    logprobs: np.ndarray


@dataclass
class Item:
    """One continuation on its way: ``exact`` are the positions read from clean rows, ``per_token`` [L] the result."""

    prefix: Prefix
    tokens: list[int]
    exact: list[int]
    blocks: list[Block]
    table: torch.Tensor  # [R, D] embeddings of positions from prefix.length on; the last row is the mask's
    per_token: np.ndarray = field(init=False)

    def __post_init__(self):
        self.per_token = np.zeros(len(self.tokens))

    @property
    def prompt_length(self) -> int:
        return len(self.prefix.request.input_ids)

    @property
    def end(self) -> int:
        return self.prompt_length + len(self.tokens)

    def token_at(self, position: int) -> int:
        return self.tokens[position - self.prompt_length]


def item_of(model, prefix: Prefix, tokens: list[int], size: int | None, samples: int, seed: int) -> Item:
    """A continuation with its masks drawn."""
    traits = model.config.traits
    length = len(prefix.request.input_ids)
    ids = torch.tensor([*tokens, traits.mask_token_id], device=model.device)
    table = torch.cat([prefix.rest, model.get_input_embeddings()(ids)])
    end = length + len(tokens)
    if size is None:
        return Item(prefix, tokens, list(range(length, end)), [], table)
    exact, blocks = [], []
    for number, start in enumerate(range(prefix.length, end, size)):
        slots = np.arange(max(start, length), min(start + size, end))
        if traits.prediction_shift == 1 and slots[0] == start:
            exact.append(start)
            slots = slots[1:]
        if len(slots):
            rng = np.random.default_rng([seed, number, int.from_bytes(prefix.key[:8], "big")])
            masks, counts = np.unique(draw_masks(rng, samples, len(slots)), axis=0, return_counts=True)
            blocks.append(Block(start, slots, masks, counts, np.zeros(masks.shape)))
    return Item(prefix, tokens, exact, blocks, table)


def draw_masks(rng: np.random.Generator, samples: int, n: int) -> np.ndarray:
    """Sets of masks, bool [samples, n]: their sizes uniform on 1..n, one in each stratum, their members any."""
    u = (rng.permutation(samples) + rng.random(samples)) / samples
    size = np.minimum((u * n).astype(np.int64), n - 1) + 1  # [samples]
    rank = rng.random((samples, n)).argsort(1).argsort(1)
    return rank < size[:, None]


def canvas_of(item: Item, block: Block, u: int, size: int) -> list[int]:
    """Rows of the item's table that a view consists of: tokens, and masks (-1) where hidden or not yet written."""
    hidden = set(block.slots[block.masks[u]].tolist())
    positions = range(block.start, block.start + size)
    return [-1 if p in hidden or p >= item.end else p - item.prefix.length for p in positions]


def noisy_columns(views: list[tuple[Block, int]], size: int) -> list[list[int]]:
    """The `Rows` columns of one continuation's views."""
    rows = [
        (position, 0, view, block.start, block.start + size, int(position in hidden or position > block.slots[-1]))
        for view, (block, u) in enumerate(views, 1)
        for hidden in [{*block.slots[block.masks[u]].tolist()}]
        for position in range(block.start, block.start + size)
    ]
    return [[row[i] for row in rows] for i in range(6)]
