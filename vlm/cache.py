"""A preallocated key/value cache with per-row lengths, written in place.

A forward pass writes its new rows right behind each batch row's committed ones; `commit` then says how many of them
become permanent. Rows that are not committed (a denoising step's noisy rows, padding) are simply overwritten by the
next pass: that is a *peek*, and it costs nothing. Slot s of a batch row therefore holds the clean token at position s,
and the attention rule reads the slots' `Rows` like those of any other key.
"""

import torch
from transformers import Cache, PreTrainedConfig
from transformers.cache_utils import CacheLayerMixin

from vlm.attention import PADDING, Rows


class _BlockLayer(CacheLayerMixin):
    """One layer's keys and values [B, H, capacity, d]; the parent cache says where new rows go."""

    def __init__(self, parent: "BlockCache"):
        super().__init__()
        self.parent = parent

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        batch, heads, _, _ = key_states.shape
        capacity = self.parent.capacity
        self.keys = key_states.new_zeros(batch, heads, capacity, key_states.shape[-1])
        self.values = value_states.new_zeros(batch, heads, capacity, value_states.shape[-1])
        self.is_initialized = True

    def grow(self, capacity: int) -> None:
        if not self.is_initialized:
            return
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = old.new_zeros(*old.shape[:2], capacity, old.shape[-1])
            new[:, :, : old.shape[2]] = old
            setattr(self, name, new)

    def select(self, index: torch.Tensor) -> None:
        if self.is_initialized:
            self.keys, self.values = self.keys[index], self.values[index]

    def extend(self, count: int) -> None:
        if self.is_initialized:
            self.keys, self.values = (
                torch.cat([t, t.new_zeros(count, *t.shape[1:])]) for t in (self.keys, self.values)
            )

    def load(self, row: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        if not self.is_initialized:
            shape = (len(self.parent.lengths), keys.shape[0], 0, keys.shape[2])
            self.lazy_initialization(keys.new_empty(shape), values.new_empty(*shape[:3], values.shape[2]))
        self.keys[row, :, : keys.shape[1]] = keys
        self.values[row, :, : values.shape[1]] = values

    def update(self, key_states, value_states, *args, **kwargs) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        batch, slots, width = self.parent.batch_index, self.parent.slots, self.parent.width
        self.keys[batch, :, slots] = key_states.transpose(1, 2)  # indexed as [B, L, H, d]
        self.values[batch, :, slots] = value_states.transpose(1, 2)
        return self.keys[:, :, :width], self.values[:, :, :width]

    def get_seq_length(self) -> int:
        return int(self.parent.lengths.max())

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.parent.width, 0

    def get_max_length(self) -> int:
        return -1


class BlockCache(Cache):
    """Exact KV of closed blocks for a batch of requests.

    Args:
        config: the language model's config (its layer count).
        batch_size: number of batch rows B.
        capacity: tokens to allocate per row at first; grows geometrically.
        device: the model's.

    Attributes:
        lengths: committed tokens per batch row, int64 [B].
        rows: what every slot holds, fields [B, capacity].
    """

    def __init__(
        self, config: PreTrainedConfig, batch_size: int, capacity: int = 256, device: torch.device | str = "cpu"
    ):
        self.capacity = capacity
        self.lengths = torch.zeros(batch_size, dtype=torch.long, device=device)
        empty = torch.zeros(batch_size, capacity, dtype=torch.long, device=device)
        self.rows = Rows(empty.clone(), torch.full_like(empty, PADDING), empty.clone(), empty.clone(), empty.clone())
        self.width = 0
        super().__init__(layers=[_BlockLayer(self) for _ in range(config.num_hidden_layers)])

    def place(self, rows: Rows, slots: torch.Tensor | None = None) -> Rows:
        """Reserve slots for the rows of the coming forward pass; returns the `Rows` of every key it will see.

        Args:
            rows: fields [B, L]; rows to commit stand first, padding last.
            slots: of the rows, int64 [B, L], where committed ones are written over; None: behind the committed ones.
        """
        batch, length = rows.shape
        if slots is None:
            slots = self.lengths.unsqueeze(1) + torch.arange(length, device=self.lengths.device)
            self.width = int(self.lengths.max()) + length
        else:
            self.width = max(int(self.lengths.max()), int(slots.max()) + 1)
        if self.width > self.capacity:
            self._grow(max(self.width, 2 * self.capacity))
        self.batch_index = torch.arange(batch, device=self.lengths.device).unsqueeze(1)  # [B, 1]
        self.slots = slots
        # Slots beyond the committed ones may hold rows of an earlier pass: they must not be seen.
        stale = torch.arange(self.capacity, device=self.lengths.device) >= self.lengths.unsqueeze(1)
        self.rows.segment.masked_fill_(stale, PADDING)
        for name, column in vars(rows).items():
            getattr(self.rows, name)[self.batch_index, self.slots] = column
        return self.rows.map(lambda t: t[:, : self.width])

    def commit(self, counts: torch.Tensor) -> None:
        """Make the first ``counts`` [B] rows of the last pass permanent."""
        self.lengths += counts

    def select(self, index: torch.Tensor) -> None:
        """Keep the batch rows ``index``, in that order: finished requests leave."""
        self.lengths = self.lengths[index]
        self.rows = self.rows.map(lambda t: t[index])
        for layer in self.layers:
            layer.select(index)

    def extend(self, count: int) -> None:
        """Add ``count`` empty batch rows: new requests join."""
        self.lengths = torch.cat([self.lengths, self.lengths.new_zeros(count)])
        self.rows = self.rows.map(lambda t: torch.cat([t, t.new_zeros(count, t.shape[1])]))
        for layer in self.layers:
            layer.extend(count)

    def read(self, row: int, start: int, stop: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Copies of the keys and values [H, stop - start, d] of committed tokens of one batch row, layer by layer."""
        return [
            (layer.keys[row, :, start:stop].clone(), layer.values[row, :, start:stop].clone()) for layer in self.layers
        ]

    def load(self, row: int, layers: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Fill an empty batch row with the keys and values [H, n, d] of a prefix that starts at position 0.

        The blocks that these tokens stood in are not told: no query asks for the block of a clean key.
        """
        count = layers[0][0].shape[1]
        if count > self.capacity:
            self._grow(max(count, 2 * self.capacity))
        for layer, (keys, values) in zip(self.layers, layers, strict=True):
            layer.load(row, keys, values)
        self.lengths[row] = count
        self.rows.position[row, :count] = torch.arange(count, device=self.lengths.device)
        self.rows.segment[row, :count] = 0
        self.rows.view[row, :count] = 0

    def crop(self, lengths: torch.Tensor) -> None:
        """Forget tokens behind ``lengths`` [B] (a rollback)."""
        self.lengths = torch.minimum(self.lengths, lengths)

    def _grow(self, capacity: int) -> None:
        def padded(tensor: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.pad(tensor, (0, capacity - tensor.shape[1]))

        self.rows = self.rows.map(padded)
        for layer in self.layers:
            layer.grow(capacity)
        self.capacity = capacity
