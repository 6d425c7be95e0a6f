"""Layouts by their invariants, over random conversations."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm.config import DiffusionTraits
from vlm.layout import answer_spans, build_layout, clean_blocks

END = 99


def conversation(pieces: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Prompt and answer lengths to (ids, is_answer); ids are distinct, answers end with END."""
    is_answer = np.concatenate([np.repeat([False, True], piece) for piece in pieces]).astype(bool)
    ids = np.arange(len(is_answer)) + 100
    for _, end in answer_spans(is_answer):
        ids[end - 1] = END
    return ids, is_answer


pieces = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 11)), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(pieces, st.integers(1, 7), st.sampled_from(["response", "sequence"]), st.integers(1, 3))
def test_every_view_holds_every_answer_token_once(conversation_pieces, block_size, origin, views):
    ids, is_answer = conversation(conversation_pieces)
    traits = DiffusionTraits(block_origin=origin, context_attention="block_causal")
    layout = build_layout(ids, is_answer, block_size=block_size, traits=traits, end_token_id=END, views=views)
    assert np.array_equal(layout.ids[layout.view == 0], ids)
    for view in range(1, views + 1):
        mine = (layout.view == view) & layout.maskable & (layout.source >= 0)
        assert sorted(layout.source[mine]) == list(np.flatnonzero(is_answer))
        assert np.array_equal(layout.ids[mine], ids[layout.source[mine]])
    noisy = layout.view > 0
    fill = noisy & (layout.source == -1)
    assert (layout.ids[fill & layout.maskable] == END).all()
    sizes = np.bincount(layout.block[noisy])
    assert (sizes == block_size).all()
    inside = (layout.block_start <= layout.position) & (layout.position < layout.block_end)
    assert inside.all()


def test_response_origin_fills_the_last_block_of_every_answer():
    ids, is_answer = conversation([(3, 5), (2, 4)])
    layout = build_layout(ids, is_answer, block_size=4, traits=DiffusionTraits(), end_token_id=END)
    noisy = layout.view == 1
    assert layout.position[noisy].tolist() == [3, 4, 5, 6, 7, 8, 9, 10, 10, 11, 12, 13]
    assert layout.source[noisy].tolist() == [3, 4, 5, 6, 7, -1, -1, -1, 10, 11, 12, 13]
    assert layout.block_start[noisy].tolist() == [3] * 4 + [7] * 4 + [10] * 4
    assert layout.maskable[noisy].all()


def test_sequence_origin_repeats_the_prompt_rows_of_a_straddling_block():
    ids, is_answer = conversation([(6, 3)])
    traits = DiffusionTraits(block_origin="sequence")
    layout = build_layout(ids, is_answer, block_size=4, traits=traits, end_token_id=END)
    noisy = layout.view == 1
    assert layout.position[noisy].tolist() == [4, 5, 6, 7, 8, 9, 10, 11]
    assert layout.maskable[noisy].tolist() == [False, False, True, True, True, True, True, True]


def test_shift_leaves_the_first_slot_of_a_block_to_the_clean_stream():
    ids, is_answer = conversation([(3, 8)])
    traits = DiffusionTraits(prediction_shift=1)
    layout = build_layout(ids, is_answer, block_size=4, traits=traits, end_token_id=END)
    assert layout.maskable[layout.view == 1].tolist() == [False, True, True, True] * 2


def test_clean_stream_predicts_answers_only():
    ids, is_answer = conversation([(3, 2), (2, 2)])
    layout = build_layout(ids, is_answer, block_size=4, traits=DiffusionTraits(), end_token_id=END)
    assert np.flatnonzero(layout.next_supervised).tolist() == [2, 3, 6, 7]


def test_response_blocks_do_not_cross_turns():
    assert clean_blocks(9, [(3, 8)], 4, "response").tolist() == [
        [0, 3], [0, 3], [0, 3], [3, 7], [3, 7], [3, 7], [3, 7], [7, 8], [8, 9]
    ]  # fmt: skip


def test_impossible_layouts_are_refused():
    with pytest.raises(ValueError, match="no answer token"):
        build_layout(np.arange(3), np.zeros(3, bool), block_size=4, traits=DiffusionTraits(), end_token_id=END)
    with pytest.raises(ValueError, match="block size 0"):
        build_layout(np.arange(3), np.ones(3, bool), block_size=0, traits=DiffusionTraits(), end_token_id=END)
