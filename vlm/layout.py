"""Training rows: the clean stream of everything once, then noisy views of the answer blocks only.

    [ clean: prompt, vision, answers ... | view 1: answer blocks | ... | view V: answer blocks ]

Vision and prompt tokens stand once, so a view costs the answers' length and not the prompt's. Positions repeat; the
attention rule (`vlm.attention`) does the rest. Which tokens become masks is decided later (`vlm.noise`): a layout is
a pure function of the tokens, the answer spans and the block size.

Two other layouts serve other models and comparisons. Under ``full`` attention (LLaDA-V) there is no clean stream:
answers are noised in place, and a further view is a further copy of everything in a segment of its own. There only the
last answer has room for fill, and nothing sees what the template writes behind it: decoding begins with the prompt
and masks to the end of a block, and that is what its rows are when all of them are hidden. Earlier answers end where
they end, as they do in a prompt.
`doubled_layout` repeats the whole sequence as the published block-diffusion trainers do, at twice the cost.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from vlm.config import DiffusionTraits

LastBlock = Literal["fill", "truncate"]


@dataclass
class Layout:
    """The rows of one sample, or of several packed ones, as NumPy arrays of one length R.

    Attributes:
        ids: token ids before noising.
        source: index of the clean row each row repeats (its own index for clean rows, -1 for fill).
        position, segment, view, block_start, block_end: see `vlm.attention.Rows`.
        block: running index of the supervised block a row belongs to, across all views; -1 for rows without noise.
        noise_view: which view's noise a row takes, 1..V; 0 for rows without noise.
        maskable: rows that noise may hide and the diffusion loss may supervise.
        next_supervised: clean rows whose next token is supervised by the autoregressive loss.
    """

    ids: np.ndarray
    source: np.ndarray
    position: np.ndarray
    segment: np.ndarray
    view: np.ndarray
    block_start: np.ndarray
    block_end: np.ndarray
    block: np.ndarray
    noise_view: np.ndarray
    maskable: np.ndarray
    next_supervised: np.ndarray

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
    last_block: LastBlock = "fill",
) -> Layout:
    """Lay one sample out for training.

    Args:
        ids: token ids of the conversation [L], media placeholders expanded.
        is_answer: True at answer tokens, the end-of-turn token included [L].
        block_size: block size of this sample.
        end_token_id: fills the last block of an answer; the fill is supervised, and stands in noisy views only.
        views: number of noisy views.
        last_block: ``fill``, or ``truncate``: the last block ends with the answer (Fast-dVLM). Of answers noised in
            place (``full`` attention) only the last one is filled.

    Raises:
        ValueError: without any answer token, or if the block size or the number of views is not positive.
    """
    spans = _spans_to_learn(is_answer, block_size)
    if views < 1:
        raise ValueError(f"{views} noisy views: at least 1 is needed")
    blocks = _noisy_blocks(spans, block_size, traits.block_origin, last_block)
    if traits.context_attention == "full":
        fill = blocks[-1][1] - spans[-1][1] if last_block == "fill" else 0
        copy = _in_place(ids, is_answer, blocks, fill, end_token_id)
        return _join([_further(copy, view, views, len(blocks)) for view in range(views)])
    columns = [_clean_columns(ids, is_answer, clean_blocks(len(ids), spans, block_size, traits.block_origin))]
    for view in range(1, views + 1):
        for number, block in enumerate(blocks):
            index = (view - 1) * len(blocks) + number
            columns.append(_noisy_columns(ids, is_answer, block, index, view, end_token_id, traits.prediction_shift))
    return _join(columns)


def doubled_layout(
    ids: np.ndarray, is_answer: np.ndarray, *, block_size: int, traits: DiffusionTraits, end_token_id: int
) -> Layout:
    """The published layout [x_t ; x_0], for comparison only: a noisy copy of the whole stream, then the clean one.

    Rows that take noise come in the same order as in `build_layout` with one view, so both draw the same noise.

    Raises:
        ValueError: as `build_layout`, and for ``full`` attention, which has one stream.
    """
    if traits.context_attention == "full":
        raise ValueError("the doubled layout needs a clean stream, which 'full' context attention does not have")
    spans = _spans_to_learn(is_answer, block_size)
    clean = clean_blocks(len(ids), spans, block_size, traits.block_origin)
    supervised = _noisy_blocks(spans, block_size, traits.block_origin, "fill")
    index = {block[0]: number for number, block in enumerate(supervised)}
    every = {int(start): (int(start), int(end), min(int(end), len(ids))) for start, end in clean}
    every.update({block[0]: block for block in supervised})
    noisy = _join([
        _noisy_columns(ids, is_answer, block, index.get(start, -1), 1, end_token_id, traits.prediction_shift)
        for start, block in sorted(every.items())
    ])  # fmt: skip
    whole = _join([vars(noisy), _clean_columns(ids, is_answer, clean)])
    whole.source = np.where(whole.source >= 0, whole.source + len(noisy.ids), -1)
    return whole


def pack(layouts: list[Layout]) -> Layout:
    """Several samples in one row, each in segments of its own, so that none sees another; positions start over."""
    columns, rows, segments, blocks = [], 0, 0, 0
    for layout in layouts:
        moved = {
            "source": np.where(layout.source >= 0, layout.source + rows, -1),
            "segment": layout.segment + segments,
            "block": np.where(layout.block >= 0, layout.block + blocks, -1),
        }
        columns.append({**vars(layout), **moved})
        rows, blocks = rows + len(layout.ids), blocks + layout.n_blocks
        segments += int(layout.segment.max()) + 1
    return _join(columns)


def _spans_to_learn(is_answer: np.ndarray, block_size: int) -> list[tuple[int, int]]:
    if block_size < 1:
        raise ValueError(f"block size {block_size} must be at least 1")
    spans = answer_spans(is_answer)
    if not spans:
        raise ValueError("the sample has no answer token to learn from")
    return spans


def _join(columns: list[dict[str, np.ndarray]]) -> Layout:
    return Layout(**{name: np.concatenate([c[name] for c in columns]) for name in columns[0]})


def _noisy_blocks(spans: list, block_size: int, origin: str, last_block: LastBlock) -> list[tuple]:
    """(start, end, real end) of every supervised block; between the last two lies the fill."""
    blocks = supervised_blocks(spans, block_size, origin)
    real_ends = _real_ends(spans, blocks, origin)
    return [
        (start, end if last_block == "fill" else real_end, real_end)
        for (start, end), real_end in zip(blocks, real_ends)
    ]


def _real_ends(spans: list, blocks: list, origin: str) -> list[int]:
    """Where real tokens stop in each block: the answer's end, under ``sequence`` the last one's."""
    if origin == "sequence":
        return [min(end, spans[-1][1]) for _, end in blocks]
    starts, ends = np.array(spans).T
    return [min(end, int(ends[np.searchsorted(starts, start, side="right") - 1])) for start, end in blocks]


def _clean_columns(ids: np.ndarray, is_answer: np.ndarray, blocks: np.ndarray) -> dict[str, np.ndarray]:
    length = len(ids)
    index = np.arange(length)
    return {
        "ids": ids.astype(np.int64),
        "source": index,
        "position": index,
        "segment": np.zeros(length, np.int64),
        "view": np.zeros(length, np.int64),
        "block_start": blocks[:, 0],
        "block_end": blocks[:, 1],
        "block": np.full(length, -1),
        "noise_view": np.zeros(length, np.int64),
        "maskable": np.zeros(length, bool),
        "next_supervised": np.append(is_answer[1:], False).astype(bool),
    }


def _noisy_columns(ids, is_answer, block, index, view, end_token_id, shift) -> dict[str, np.ndarray]:
    """One block of one view: its real tokens, then fill up to the block's end. ``index`` -1: it takes no noise."""
    start, end, real_end = block
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
        "segment": np.zeros(size, np.int64),
        "view": np.full(size, view),
        "block_start": np.full(size, start),
        "block_end": np.full(size, end),
        "block": np.full(size, index),
        "noise_view": np.full(size, view if index >= 0 else 0),
        "maskable": maskable,
        "next_supervised": np.zeros(size, bool),
    }


def _in_place(ids, is_answer, blocks: list[tuple], fill: int, end_token_id: int) -> dict[str, np.ndarray]:
    """The whole stream for ``full`` attention, its answers noised where they stand, then ``fill`` end tokens.

    The fill's positions follow the last answer's. What else stands behind that is in segment 1, where it sees itself
    only: its rows are kept for the media that they may show.
    """
    length, stop = len(ids), int(np.flatnonzero(is_answer)[-1]) + 1
    ids, learnt = np.append(ids, np.full(fill, end_token_id)), np.append(is_answer, np.ones(fill, bool)).astype(bool)
    # One block of everything: to the attention rule a further copy is a view of one block.
    columns = _clean_columns(ids, learnt, np.tile([0, length + fill], (length + fill, 1)))
    for number, (start, _, real_end) in enumerate(blocks):
        columns["block"][start : min(real_end, stop)] = number
    columns["block"][length:] = len(blocks) - 1
    columns["position"] = np.append(np.arange(length), np.arange(stop, stop + fill))
    columns["source"][length:] = -1
    columns["segment"][stop:length] = 1
    columns["maskable"] = learnt
    columns["next_supervised"][:] = False  # every row sees the token that it would predict
    return columns


def _further(columns: dict[str, np.ndarray], copy: int, copies: int, n_blocks: int) -> dict[str, np.ndarray]:
    """Copy number ``copy`` of what `_in_place` gave, in segments of its own, so that each row sees its copy only.

    Only the first copy is view 0, where the model puts media features; the others repeat them by ``source``.
    """
    noised = columns["block"] >= 0
    return {
        **columns,
        "segment": columns["segment"] * copies + copy,
        "view": columns["view"] + copy,
        "block": np.where(noised, columns["block"] + copy * n_blocks, -1),
        "noise_view": np.where(noised, copy + 1, 0),
    }
