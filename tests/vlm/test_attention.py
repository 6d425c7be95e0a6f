"""The one predicate against the published two-view table, entry by entry, and its two renderings."""

import numpy as np
import pytest
import torch

from vlm.attention import PADDING, Rows, block_mask, dense_mask, masks_for


def two_view_rows(length: int, block: int) -> Rows:
    """[x0 ; xt] over the whole sequence, as the published trainers lay it out (the order of halves is free)."""
    position = torch.arange(length).repeat(2)
    view = torch.arange(2).repeat_interleave(length)
    start = position // block * block
    return Rows(*(t.unsqueeze(0) for t in (position, torch.zeros_like(position), view, start, start + block)))


@pytest.mark.parametrize("context", ["causal", "block_causal"])
@pytest.mark.parametrize("length, block", [(8, 4), (7, 3), (5, 1), (3, 4)])
def test_matches_the_published_table(context, length, block):
    rows = two_view_rows(length, block)
    mask = dense_mask(rows, rows, context)[0, 0].numpy()
    for query in range(2 * length):
        for key in range(2 * length):
            i, j = query % length, key % length
            noisy_query, noisy_key = query >= length, key >= length
            if noisy_query and noisy_key:
                expected = i // block == j // block
            elif noisy_query:
                expected = j // block < i // block
            elif noisy_key:
                expected = False
            else:
                expected = j <= i if context == "causal" else j // block <= i // block
            assert mask[query, key] == expected, (query, key)


def test_block_of_one_token_is_teacher_forcing():
    """With D = 1 a noisy row sees exactly the strict past, and itself."""
    rows = two_view_rows(6, 1)
    mask = dense_mask(rows, rows, "causal")[0, 0]
    assert torch.equal(mask[6:, :6], torch.ones(6, 6).tril(-1).bool())
    assert torch.equal(mask[6:, 6:], torch.eye(6).bool())


def test_one_block_is_full_bidirectional_without_context():
    rows = two_view_rows(5, 8)
    mask = dense_mask(rows, rows, "causal")[0, 0]
    assert mask[5:, 5:].all() and not mask[5:, :5].any()


@pytest.mark.parametrize("context", ["causal", "block_causal", "full"])
def test_segments_and_padding_never_meet(context):
    rng = np.random.default_rng(0)
    rows = Rows(*(torch.tensor(rng.integers(0, 6, (2, 12))) for _ in range(5)))
    rows.segment = torch.tensor([[0] * 5 + [1] * 4 + [PADDING] * 3] * 2)
    mask = dense_mask(rows, rows, context)[:, 0]
    different = rows.segment.unsqueeze(2) != rows.segment.unsqueeze(1)
    assert not mask[different].any()


def test_sliding_window_only_on_sliding_layers():
    rows = two_view_rows(8, 4)
    masks = masks_for(["full_attention", "sliding_attention"], rows, rows, "causal", window=3)
    far = rows.position.unsqueeze(2) - rows.position.unsqueeze(1) >= 3
    full, sliding = masks["full_attention"][:, 0], masks["sliding_attention"][:, 0]
    assert torch.equal(sliding, full & ~far)
    assert (full & far).any()


def test_unknown_layer_types_are_refused_by_name():
    rows = two_view_rows(4, 2)
    with pytest.raises(ValueError, match="linear_attention"):
        masks_for(["linear_attention"], rows, rows, "causal", None)


@pytest.mark.parametrize("length, block", [(8, 4), (7, 3), (5, 1), (6, 9)])
@pytest.mark.parametrize("seed", range(4))
def test_causal_blocks_are_plain_causal_attention_over_reordered_rows(length, block, seed):
    """WeDLM's two streams: rows of a noisy block stand in their order, then a row sees itself and those before it."""
    rows = two_view_rows(length, block)
    drawn = np.random.default_rng(seed).random(length) < 0.5
    rows.masked = torch.tensor(np.append(np.zeros(length, int), drawn))[None]
    mask = dense_mask(rows, rows, "causal", block="causal")[0, 0].numpy()
    place = {
        position: at for at, position in enumerate(sorted(range(length), key=lambda p: (p // block, drawn[p], p)))
    }
    both_ways = dense_mask(rows, rows, "causal")[0, 0].numpy()
    assert np.array_equal(mask[:length], both_ways[:length]), "clean rows are as ever"
    for i in range(length):
        for j in range(length):
            assert mask[length + i, length + j] == (i // block == j // block and place[j] <= place[i])
            assert mask[length + i, j] == (j // block < i // block)


def test_rows_that_do_not_say_what_they_are_stand_in_the_order_of_the_text():
    rows = two_view_rows(6, 3)
    rows.masked = torch.ones_like(rows.position)
    assert torch.equal(*(dense_mask(r, r, "causal", block="causal") for r in (rows, two_view_rows(6, 3))))


@pytest.mark.parametrize("context, block", [("causal", "bidirectional"), ("block_causal", "bidirectional"),
                                            ("causal", "causal")])  # fmt: skip
def test_block_mask_is_the_same_predicate(context, block):
    """FlexAttention's mask_mod, materialised on CPU, equals the dense mask."""
    rows = two_view_rows(9, 4)
    rows.masked = (rows.position * 5 % 7 < 3).long()
    flex = block_mask(rows, rows, context, block)
    index = torch.arange(18)
    q, k = torch.meshgrid(index, index, indexing="ij")
    zero = torch.zeros_like(q)
    assert torch.equal(flex.mask_mod(zero, zero, q, k), dense_mask(rows, rows, context, block=block)[0, 0])
