"""KV of what has been read before, reused by whatever begins the same way: chat turns, batches, evaluation.

A stored prefix is keyed by its symbols: a token stands for itself, a media placeholder for the content of its picture.
The longest stored prefix that a prompt shares is copied into its cache row, so the answer is what it would have been.
Under causal context any number of tokens may be shared; under block-causal context whole blocks only, because a
token's KV has seen its whole block. Everything is dropped when the model's weights change.
"""

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import torch

from vision_encoders import Pictures
from vlm.generation.request import Request


@dataclass
class Entry:
    """Keys and values [H, n, d] of a prefix of n symbols, layer by layer; ``borders`` as in `longest`."""

    symbols: np.ndarray
    borders: np.ndarray
    layers: list[tuple[torch.Tensor, torch.Tensor]]

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for pair in self.layers for t in pair)


class PrefixStore:
    """Least recently used prefixes and vision features, within a byte budget.

    Args:
        max_bytes: of keys, values and features together.

    Attributes:
        hits, misses: requests that found something, or nothing, to reuse.
        reused_tokens: tokens that were not read again.
        encoded: pictures that went through the vision tower.
    """

    def __init__(self, max_bytes: int = 512 * 2**20):
        self.max_bytes, self.nbytes = max_bytes, 0
        self.hits = self.misses = self.reused_tokens = self.encoded = 0
        self._entries: OrderedDict[bytes, Entry] = OrderedDict()
        self._features: OrderedDict[bytes, torch.Tensor] = OrderedDict()
        self._weights: tuple | None = None

    def watch(self, model) -> None:
        """Forget everything if ``model`` or its weights are not those of the last call."""
        weights = (id(model), *((p.data_ptr(), p._version, p.dtype) for p in model.parameters()))
        if weights != self._weights:
            self.clear()
            self._weights = weights

    def clear(self) -> None:
        self._entries.clear()
        self._features.clear()
        self.nbytes = 0

    def longest(self, symbols: np.ndarray, borders: np.ndarray) -> tuple[int, Entry | None]:
        """The stored prefix of which most can be reused, and how many tokens; it becomes the newest.

        Args:
            symbols: int64 [n].
            borders: int64 [n], one past the last position of the block that each token's KV has seen.
        """
        best, key = 0, None
        for name, entry in self._entries.items():
            shared = min(common_prefix(symbols, entry.symbols), common_prefix(borders, entry.borders))
            shared = whole_blocks(borders[:shared])
            if shared > best:
                best, key = shared, name
        if key is None:
            return 0, None
        self._entries.move_to_end(key)
        return best, self._entries[key]

    def put(self, symbols: np.ndarray, borders: np.ndarray, layers: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        """Store a prefix; entries that it continues are dropped."""
        entry = Entry(symbols.copy(), borders.copy(), layers)
        for name in [name for name, other in self._entries.items() if _continues(entry, other)]:
            self.nbytes -= self._entries.pop(name).nbytes
        self._entries[symbols.tobytes() + borders.tobytes()] = entry
        self.nbytes += entry.nbytes
        self._trim()

    def holds(self, symbols: np.ndarray, borders: np.ndarray) -> bool:
        """Whether all of ``symbols`` is the beginning of something stored."""
        return self.longest(symbols, borders)[0] == len(symbols)

    def features(self, model, request: Request, kind: str) -> list[torch.Tensor]:
        """Embeddings, N times [T, D], of a request's ``image`` or ``video`` pictures; unknown ones are encoded."""
        pixels = request.pixel_values if kind == "image" else request.pixel_values_videos
        digests = request.digests[kind]
        known = {digest: self._features[digest] for digest in digests if digest in self._features}
        new = {
            digest: i for i, digest in enumerate(digests) if digest not in known
        }  # a picture given twice counts once
        if new:
            fresh = model.encode_media(pixels[list(new.values())], model.pool(kind))
            self.encoded += len(new)
            for digest, feature in zip(new, fresh):
                known[digest] = self._features[digest] = feature.clone()
                self.nbytes += feature.nbytes
        for digest in known:
            self._features.move_to_end(digest)
        self._trim()
        return [known[digest] for digest in digests]

    def _trim(self) -> None:
        while self.nbytes > self.max_bytes and (self._entries or self._features):
            # Features are cheap to make again compared with what they take, so they go first.
            oldest = self._features if self._features else self._entries
            self.nbytes -= oldest.popitem(last=False)[1].nbytes


def symbols_of(request: Request, tokens: list[int], image_token_id: int, video_token_id: int) -> np.ndarray:
    """int64 [n]: a token's id, or for a media placeholder a negative number that stands for its picture's content."""
    symbols = np.asarray(tokens, np.int64).copy()
    for kind, token_id in (("image", image_token_id), ("video", video_token_id)):
        at = np.flatnonzero(symbols == token_id)
        digests = request.digests[kind]
        if len(at) == 0 or not digests:
            continue
        ids = np.array([-1 - (int.from_bytes(d[:8], "big") >> 1) for d in digests], np.int64)
        pixels = request.pixel_values if kind == "image" else request.pixel_values_videos
        symbols[at] = np.repeat(ids, pixels.counts if isinstance(pixels, Pictures) else len(at) // len(digests))
    return symbols


def common_prefix(a: np.ndarray, b: np.ndarray) -> int:
    """How many symbols two sequences begin with alike."""
    length = min(len(a), len(b))
    different = np.flatnonzero(a[:length] != b[:length])
    return int(different[0]) if len(different) else length


def whole_blocks(borders: np.ndarray) -> int:
    """How many tokens the whole blocks among the first ones hold."""
    closed = np.flatnonzero(borders == np.arange(1, len(borders) + 1))
    return int(closed[-1]) + 1 if len(closed) else 0


def _continues(longer: Entry, shorter: Entry) -> bool:
    pairs = ((longer.symbols, shorter.symbols), (longer.borders, shorter.borders))
    return all(common_prefix(a, b) == len(b) for a, b in pairs)
