"""Training rows: the clean stream of everything once, then noisy views of the answer blocks only.

    [ clean: prompt, vision, answers ... | view 1: answer blocks | ... | view V: answer blocks ]

Vision and prompt tokens stand once, so a view costs the answers' length and not the prompt's. Positions repeat; the
attention rule (`vlm.attention`) does the rest. Which tokens become masks is decided later (`vlm.noise`): a layout is
a pure function of the tokens, the answer spans and the block size.
"""

from dataclasses import dataclass

import numpy as np

from vlm.config import DiffusionTraits


@dataclass
class Layout:
    """The rows of one sample, as NumPy arrays of one length R (clean rows first).

    Attributes:
        ids: token ids before noising.
        source: index of the clean row each row repeats (its own index for clean rows, -1 for fill).
        position, view, block_start, block_end: see `vlm.attention.Rows`.
        block: running index of the noisy row's block across all views, -1 for clean rows.
        maskable: noisy rows that noise may mask and the diffusion loss may supervise.
        next_supervised: clean rows whose next token is supervised by the autoregressive loss.
    """

    ids: np.ndarray
    source: np.ndarray
    position: np.ndarray
    view: np.ndarray
    block_start: np.ndarray
    block_end: np.ndarray
    block: np.ndarray
    maskable: np.ndarray
    next_supervised: np.ndarray

    @property
    def n_clean(self) -> int:
        return int((self.view == 0).sum())

    @property
    def n_blocks(self) -> int:
        return int(self.block.max(initial=-1)) + 1


def answer_spans(is_answer: np.ndarray) -> list[tuple[int, int]]:
    """Half-open runs of True in ``is_answer`` [L]."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], is_answer.astype(np.int8), [0]])))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2])]


def clean_blocks(length: int, spans: list[tuple[int, int]], block_size: int, origin: str) -> np.ndarray:
    """Block borders of the clean stream: ``[length, 2]`` (start, end) of every position's block.

    ``sequence`` puts one grid over the whole stream. ``response`` restarts the grid at every answer and after it, so
    that no block crosses a turn; text between answers forms its own blocks, the last one short.
    """
    if origin == "sequence":
        pieces = [(0, -(-length // block_size) * block_size)]
    else:
        borders = sorted({0, length, *(border for span in spans for border in span)})
        pieces = list(zip(borders[:-1], borders[1:]))
    blocks = np.empty((length, 2), dtype=np.int64)
    for start, end in pieces:
        for block_start in range(start, end, block_size):
            block_end = min(block_start + block_size, end)
            blocks[block_start:block_end] = block_start, block_end
    return blocks


def supervised_blocks(spans: list[tuple[int, int]], block_size: int, origin: str) -> list[tuple[int, int]]:
    """(start, end) of every block that holds an answer token; ``end`` may lie past the answer (the fill)."""
    if origin == "sequence":
        indices = sorted({position // block_size for start, end in spans for position in range(start, end)})
        return [(index * block_size, (index + 1) * block_size) for index in indices]
    return [(start, start + block_size) for a, b in spans for start in range(a, b, block_size)]


def build_layout(
    ids: np.ndarray,
    is_answer: np.ndarray,
    *,
    block_size: int,
    traits: DiffusionTraits,
    end_token_id: int,
    views: int = 1,
) -> Layout:
    """Lay one sample out for training.

    Args:
        ids: token ids of the conversation [L], media placeholders expanded.
        is_answer: True at answer tokens, the end-of-turn token included [L].
        block_size: block size of this sample.
        end_token_id: fills the last block of an answer; the fill is supervised, and stands in noisy views only.
        views: number of noisy views.

    Raises:
        ValueError: without any answer token, or if the block size is not positive.
    """
    if block_size < 1:
        raise ValueError(f"block size {block_size} must be at least 1")
    spans = answer_spans(is_answer)
    if not spans:
        raise ValueError("the sample has no answer token to learn from")
    length = len(ids)
    clean = clean_blocks(length, spans, block_size, traits.block_origin)
    columns = [_clean_columns(ids, is_answer, clean)]
    blocks = supervised_blocks(spans, block_size, traits.block_origin)
    real_ends = _real_ends(spans, blocks, length, traits.block_origin)
    for view in range(1, views + 1):
        for number, ((start, end), real_end) in enumerate(zip(blocks, real_ends)):
            index = (view - 1) * len(blocks) + number
            columns.append(
                _noisy_columns(
                    ids, is_answer, start, end, real_end, index, view, end_token_id, traits.prediction_shift
                )
            )
    return Layout(**{name: np.concatenate([c[name] for c in columns]) for name in columns[0]})


def _real_ends(spans: list, blocks: list, length: int, origin: str) -> list[int]:
    """Where real tokens stop in each block: the answer's end (``response``) or the stream's end (``sequence``)."""
    if origin == "sequence":
        return [min(end, length) for _, end in blocks]
    ends = np.array([b for _, b in spans])
    starts = np.array([a for a, _ in spans])
    return [min(end, int(ends[np.searchsorted(starts, start, side="right") - 1])) for start, end in blocks]


def _clean_columns(ids: np.ndarray, is_answer: np.ndarray, blocks: np.ndarray) -> dict[str, np.ndarray]:
    length = len(ids)
    index = np.arange(length)
    return {
        "ids": ids.astype(np.int64),
        "source": index,
        "position": index,
        "view": np.zeros(length, np.int64),
        "block_start": blocks[:, 0],
        "block_end": blocks[:, 1],
        "block": np.full(length, -1),
        "maskable": np.zeros(length, bool),
        "next_supervised": np.append(is_answer[1:], False).astype(bool),
    }


def _noisy_columns(ids, is_answer, start, end, real_end, index, view, end_token_id, shift) -> dict[str, np.ndarray]:
    """One block of one view: its real tokens, then fill up to the block's end."""
    size, real = end - start, real_end - start
    position = np.arange(start, end)
    is_fill = np.arange(size) >= real
    block_ids = np.where(is_fill, end_token_id, ids[np.minimum(position, len(ids) - 1)])
    # Fill teaches where an answer ends, so it is supervised only behind an answer.
    maskable = np.where(is_fill, is_answer[real_end - 1], is_answer[np.minimum(position, len(ids) - 1)])
    maskable[:shift] = False  # under shift 1 the first slot is the clean stream's next-token prediction
    return {
        "ids": block_ids.astype(np.int64),
        "source": np.where(is_fill, -1, position),
        "position": position,
        "view": np.full(size, view),
        "block_start": np.full(size, start),
        "block_end": np.full(size, end),
        "block": np.full(size, index),
        "maskable": maskable,
        "next_supervised": np.zeros(size, bool),
    }
