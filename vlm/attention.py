"""The attention rule of block diffusion, stated once.

Every row of a forward pass carries six integers (`Rows`); `may_attend` says whether a query row may see a key row.
Training and inference use the same predicate and differ only in which rows they feed. The predicate is elementwise,
so the same lines build a dense boolean mask (`dense_mask`, for SDPA) and a FlexAttention `mask_mod` (`block_mask`).

Clean rows are what has been written; noisy rows are a view of one block in which some tokens are masks.
Source: BD3-LM (arXiv 2503.09573) for block-causal context, NBDiff (arXiv 2512.06776) for causal context, WeDLM
(arXiv 2512.22737) for causal blocks.
"""

from dataclasses import dataclass, fields
from typing import Literal

import torch

ContextAttention = Literal["causal", "block_causal", "full"]
BlockAttention = Literal["bidirectional", "causal"]
PADDING = -1  # the segment of rows and cache slots that hold nothing


@dataclass
class Rows:
    """Where each row of a forward pass stands. All fields are int64 tensors of one shape, usually [B, L].

    Attributes:
        position: index in the clean stream of its segment (also the rotary position).
        segment: which packed sample the row belongs to; `PADDING` marks a row that holds nothing.
        view: 0 for the clean stream, 1..V for a noisy view.
        block_start: first position of the row's block.
        block_end: one past the last position of the row's block.
        masked: 1 where a noisy row is a mask, 0 where its token is known; read under causal block attention only.
            Left out it is 0, which is right for blocks that are all known or all masks.
    """

    position: torch.Tensor
    segment: torch.Tensor
    view: torch.Tensor
    block_start: torch.Tensor
    block_end: torch.Tensor
    masked: torch.Tensor | None = None

    def __post_init__(self):
        if self.masked is None:
            self.masked = torch.zeros_like(self.position)

    def map(self, function) -> "Rows":
        """A new `Rows` with ``function`` applied to every field."""
        return Rows(**{f.name: function(getattr(self, f.name)) for f in fields(self)})

    @property
    def shape(self) -> torch.Size:
        return self.position.shape


def may_attend(
    query: Rows, key: Rows, context: ContextAttention, block: BlockAttention = "bidirectional"
) -> torch.Tensor:
    """Whether each query row may see each key row; the two broadcast against each other. Returns a boolean tensor.

    clean -> clean: ``causal`` sees positions up to its own, ``block_causal`` up to the end of its block, ``full`` all.
    noisy -> clean: strictly earlier blocks. noisy -> noisy: the same block of the same view, ``bidirectional`` all of
    it, ``causal`` in an order of its own: what is known first, then the masks, each by position.
    clean -> noisy: never. Always within one segment. A padding row sees itself and other padding.
    """
    clean_query, clean_key = query.view == 0, key.view == 0
    if context == "causal":
        within_context = key.position <= query.position
    elif context == "block_causal":
        # A row sees itself: no news, except for padding rows, whose block is empty.
        within_context = (key.position < query.block_end) | (key.position == query.position)
    else:
        within_context = key.position == key.position
    clean_to_clean = clean_query & clean_key & within_context
    noisy_to_clean = ~clean_query & clean_key & (key.position < query.block_start)
    noisy_to_noisy = (query.view == key.view) & ~clean_key & (query.block_start == key.block_start)
    if block == "causal":
        up_to_itself = (key.masked == query.masked) & (key.position <= query.position)
        noisy_to_noisy = noisy_to_noisy & ((key.masked < query.masked) | up_to_itself)
    return (query.segment == key.segment) & (clean_to_clean | noisy_to_clean | noisy_to_noisy)


def dense_mask(
    query: Rows,
    key: Rows,
    context: ContextAttention,
    window: int | None = None,
    block: BlockAttention = "bidirectional",
) -> torch.Tensor:
    """The predicate as a boolean mask [B, 1, Lq, Lk] for SDPA; True may attend.

    Args:
        window: sliding-window layers also require ``query.position - key.position < window``.
    """
    query, key = query.map(lambda t: t.unsqueeze(-1)), key.map(lambda t: t.unsqueeze(-2))
    mask = may_attend(query, key, context, block)  # [B, Lq, Lk]
    if window is not None:
        mask = mask & (query.position - key.position < window)
    return mask.unsqueeze(1)


def masks_for(
    layer_types: list[str],
    query: Rows,
    key: Rows,
    context: ContextAttention,
    window: int | None,
    block: BlockAttention = "bidirectional",
) -> dict:
    """One dense mask per layer type of the backbone, as transformers' own mask mappings are keyed.

    Raises:
        ValueError: for a layer type that is not attention over all keys or over a sliding window.
    """
    masks = {}
    for layer_type in sorted(set(layer_types)):
        if layer_type not in ("full_attention", "sliding_attention"):
            raise ValueError(f"block diffusion needs attention layers, the backbone has layers of type {layer_type!r}")
        reach = window if layer_type == "sliding_attention" else None
        masks[layer_type] = dense_mask(query, key, context, reach, block)
    return masks


def block_mask(query: Rows, key: Rows, context: ContextAttention, block: BlockAttention = "bidirectional"):
    """The predicate as a FlexAttention `BlockMask` (CUDA; its backward pass does not exist on CPU)."""
    from torch.nn.attention.flex_attention import create_block_mask

    def mask_mod(batch, head, q, k):
        return may_attend(query.map(lambda t: t[batch, q]), key.map(lambda t: t[batch, k]), context, block)

    (batch, q_length), k_length = query.shape, key.shape[1]
    return create_block_mask(mask_mod, batch, None, q_length, k_length, device=query.position.device)
