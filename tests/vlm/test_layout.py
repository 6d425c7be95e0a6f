"""Layouts by their invariants, over random conversations."""

from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm.attention import Rows, dense_mask
from vlm.config import DiffusionTraits
from vlm.layout import answer_spans, build_layout, clean_blocks, doubled_layout, pack

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


@pytest.mark.parametrize("behind", [0, 1, 3])
def test_what_the_template_writes_behind_the_last_answer_is_not_shown(behind):
    """It would tell where the answer ends; decoding has masks there, and the fill is learnt whatever stands behind."""
    ids, is_answer = np.arange(100, 109 + behind), np.zeros(9 + behind, bool)
    is_answer[6:9] = True  # ends inside the block 8 to 12
    layout = build_layout(
        ids, is_answer, block_size=4, traits=DiffusionTraits(block_origin="sequence"), end_token_id=2
    )
    noisy = layout.view == 1
    assert layout.ids[noisy].tolist() == [104, 105, 106, 107, 108, 2, 2, 2]
    assert layout.maskable[noisy].tolist() == [False, False, *[True] * 6]
    assert layout.ids[~noisy].tolist() == ids.tolist()


@settings(max_examples=40, deadline=None)
@given(pieces, st.integers(1, 7), st.sampled_from(["response", "sequence"]), st.integers(1, 3))
def test_truncated_blocks_are_the_filled_ones_without_their_fill(conversation_pieces, block_size, origin, views):
    ids, is_answer = conversation(conversation_pieces)
    common = {"block_size": block_size, "traits": DiffusionTraits(block_origin=origin), "end_token_id": END}
    filled = build_layout(ids, is_answer, views=views, **common)
    short = build_layout(ids, is_answer, views=views, last_block="truncate", **common)
    kept = (filled.view == 0) | (filled.source >= 0)
    for name in ("ids", "source", "position", "view", "block_start", "block", "noise_view", "maskable"):
        assert np.array_equal(getattr(short, name), getattr(filled, name)[kept]), name
    if origin == "response":  # ceil(n / B) blocks, the last one short
        expected = sum(-(-(end - start) // block_size) for start, end in answer_spans(is_answer))
        assert short.n_blocks == views * expected
        ends = [end for _, end in answer_spans(is_answer)]
        assert all(any(a < e <= z for e in ends) == (z in ends) for a, z in zip(short.block_start, short.block_end))


@pytest.mark.parametrize("origin", ["response", "sequence"])
def test_full_attention_noises_answers_in_place_and_copies_everything_per_view(origin):
    ids, is_answer = conversation([(3, 5), (2, 4)])
    traits = DiffusionTraits(context_attention="full", block_origin=origin)
    layout = build_layout(ids, is_answer, block_size=4, traits=traits, end_token_id=END, views=2)
    length, fill = len(ids), {"response": 0, "sequence": 2}[origin]  # the last answer is at 10 to 13
    filled = np.concatenate([ids, np.full(fill, END)])
    assert np.array_equal(layout.ids, np.tile(filled, 2))
    assert np.array_equal(layout.position, np.tile(range(length + fill), 2))
    source = np.where(layout.position < length, layout.position, -1)
    assert np.array_equal(layout.source, source)  # media features stand in the first copy
    assert np.array_equal(layout.maskable, np.tile(np.append(is_answer, np.ones(fill, bool)), 2))
    assert not layout.next_supervised.any()
    assert np.array_equal(layout.segment, np.repeat([0, 1], length + fill))
    rows = Rows(*(torch.tensor(vars(layout)[f.name])[None] for f in fields(Rows)[:-1]))  # no mask yet
    seen = dense_mask(rows, rows, "full")[0, 0].numpy()
    assert np.array_equal(seen, layout.segment[:, None] == layout.segment[None])  # each copy sees itself, whole
    half = layout.n_blocks // 2
    for view in (1, 2):
        mine = layout.noise_view == view
        assert mine[layout.maskable & (layout.segment == view - 1)].all()
        assert set(layout.block[mine]) == set(range((view - 1) * half, view * half))


@settings(max_examples=60, deadline=None)
@given(pieces, st.integers(0, 5), st.integers(1, 7), st.sampled_from(["response", "sequence"]), st.integers(1, 3))
def test_under_full_attention_the_last_answer_is_filled_and_sees_nothing_behind(
    conversation_pieces, behind, block_size, origin, views
):
    """Hidden whole, the rows of every copy are what decoding starts from: all before the answer, masks to a border."""
    ids, is_answer = conversation(conversation_pieces)
    first, stop = answer_spans(is_answer)[-1]
    ids, is_answer = np.append(ids, np.arange(behind)), np.append(is_answer, np.zeros(behind, bool))
    common = {"block_size": block_size, "end_token_id": END, "views": views}
    traits = DiffusionTraits(block_origin=origin, context_attention="full")
    layout = build_layout(ids, is_answer, traits=traits, **common)
    grid = first if origin == "response" else 0
    end = grid + -(-(stop - grid) // block_size) * block_size
    for copy in range(views):
        mine = layout.segment == copy
        seen = {
            int(p): (int(t), bool(m))
            for p, t, m in zip(*(getattr(layout, n)[mine] for n in ("position", "ids", "maskable")))
        }
        assert len(seen) == mine.sum() and sorted(seen) == list(range(end))
        assert all(seen[p] == (ids[p], is_answer[p]) for p in range(stop))
        assert all(seen[p] == (END, True) for p in range(stop, end))
        grid_block = (np.array([p for p in sorted(seen) if p >= first]) - grid) // block_size
        assert np.array_equal(np.diff(layout.block[mine & (layout.position >= first)]), np.diff(grid_block))
    tail = layout.segment >= views
    assert np.array_equal(layout.ids[tail], np.tile(ids[stop:], views)) and not layout.maskable[tail].any()
    rows = Rows(*(torch.tensor(vars(layout)[f.name])[None] for f in fields(Rows)[:-1]))  # no mask yet
    seen = dense_mask(rows, rows, "full")[0, 0].numpy()
    assert np.array_equal(seen, layout.segment[:, None] == layout.segment[None])
    short = build_layout(ids, is_answer, traits=traits, last_block="truncate", **common)
    kept = layout.source >= 0
    for name in ("ids", "source", "position", "segment", "view", "block", "noise_view", "maskable"):
        assert np.array_equal(getattr(short, name), getattr(layout, name)[kept]), name


@settings(max_examples=40, deadline=None)
@given(pieces, st.integers(1, 7), st.sampled_from(["response", "sequence"]), st.sampled_from([0, 1]))
def test_the_doubled_layout_repeats_everything_and_noises_the_same_rows(
    conversation_pieces, block_size, origin, shift
):
    ids, is_answer = conversation(conversation_pieces)
    traits = DiffusionTraits(block_origin=origin, prediction_shift=shift)
    once = build_layout(ids, is_answer, block_size=block_size, traits=traits, end_token_id=END)
    twice = doubled_layout(ids, is_answer, block_size=block_size, traits=traits, end_token_id=END)
    for name in ("ids", "position", "block_start", "block_end", "block", "maskable"):
        noised = (getattr(layout, name)[layout.noise_view == 1] for layout in (once, twice))
        assert np.array_equal(*noised), name
    real = (twice.view == 1) & (twice.source >= 0)
    assert np.array_equal(twice.position[real], np.arange(len(ids)))
    assert np.array_equal(twice.ids[real], ids) and np.array_equal(twice.ids[twice.view == 0], ids)
    repeats = twice.source >= 0
    assert np.array_equal(twice.ids[twice.source[repeats]], twice.ids[repeats])
    assert (twice.view[twice.source[repeats]] == 0).all()


def test_the_doubled_layout_has_no_form_for_full_attention():
    ids, is_answer = conversation([(3, 5)])
    with pytest.raises(ValueError, match="clean stream"):
        traits = DiffusionTraits(context_attention="full")
        doubled_layout(ids, is_answer, block_size=4, traits=traits, end_token_id=END)


@settings(max_examples=40, deadline=None)
@given(st.lists(pieces, min_size=1, max_size=4), st.sampled_from(["causal", "full"]), st.integers(1, 3))
def test_packed_samples_keep_their_rows_and_share_no_segment(conversations, context, views):
    traits = DiffusionTraits(context_attention=context)
    layouts = [
        build_layout(*conversation(c), block_size=3, traits=traits, end_token_id=END, views=views)
        for c in conversations
    ]
    packed = pack(layouts)
    starts = np.cumsum([0] + [len(layout.ids) for layout in layouts])
    owners = [set(packed.segment[a:b]) for a, b in zip(starts, starts[1:])]
    assert sum(map(len, owners)) == len(set().union(*owners))
    assert packed.n_blocks == sum(layout.n_blocks for layout in layouts)
    for layout, start in zip(layouts, starts):
        rows = slice(start, start + len(layout.ids))
        for name in ("ids", "position", "view", "block_start", "block_end", "noise_view", "maskable"):
            assert np.array_equal(getattr(packed, name)[rows], getattr(layout, name)), name
        source = packed.source[rows]
        assert np.array_equal(np.where(source >= 0, source - start, -1), layout.source)


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
    with pytest.raises(ValueError, match="0 noisy views"):
        build_layout(np.arange(3), np.ones(3, bool), block_size=1, traits=DiffusionTraits(), end_token_id=END, views=0)
