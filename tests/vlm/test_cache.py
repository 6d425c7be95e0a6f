"""The cache by what it promises: a peek leaves no trace, growth and selection lose nothing, rows stay apart."""

import torch

from tests.vlm.tiny import tiny_model
from vlm.attention import PADDING, Rows
from vlm.cache import BlockCache


def clean(start: int, length: int, pad: int = 0) -> Rows:
    position = torch.arange(start, start + length)
    zeros = torch.zeros(length + pad, dtype=torch.long)
    segment = torch.cat([torch.zeros(length, dtype=torch.long), torch.full((pad,), PADDING)])
    position = torch.cat([position, torch.zeros(pad, dtype=torch.long)])
    return Rows(*(t.unsqueeze(0) for t in (position, segment, zeros, zeros, zeros)))


def stacked(*rows: Rows) -> Rows:
    return Rows(*(torch.cat([getattr(r, name) for r in rows]) for name in vars(rows[0])))


def new_cache(model, batch: int = 1, capacity: int = 4) -> BlockCache:
    return BlockCache(model.config.text_config, batch, capacity)


def test_pieces_equal_the_whole_and_growth_loses_nothing():
    model, _ = tiny_model()
    embeds = torch.randn(1, 23, 32, dtype=torch.float64)
    whole = model.decode(embeds, clean(0, 23))
    cache = new_cache(model, capacity=2)
    pieces, start = [], 0
    for length in (5, 1, 9, 8):
        pieces.append(model.decode(embeds[:, start : start + length], clean(start, length), cache))
        cache.commit(torch.tensor([length]))
        start += length
    assert torch.allclose(torch.cat(pieces, 1), whole, atol=1e-9)
    assert cache.lengths.tolist() == [23] and cache.capacity >= 23


def test_a_peek_leaves_no_trace():
    model, _ = tiny_model()
    embeds = torch.randn(1, 10, 32, dtype=torch.float64)
    cache = new_cache(model)
    model.decode(embeds[:, :6], clean(0, 6), cache)
    cache.commit(torch.tensor([6]))
    first = model.decode(embeds[:, 6:], clean(6, 4), cache)
    model.decode(torch.randn(1, 9, 32, dtype=torch.float64), clean(6, 9), cache)
    assert torch.equal(model.decode(embeds[:, 6:], clean(6, 4), cache), first)


def test_rows_of_different_lengths_do_not_touch():
    model, _ = tiny_model()
    embeds = torch.randn(2, 7, 32, dtype=torch.float64)
    cache = new_cache(model, 2)
    model.decode(embeds[:, :5], stacked(clean(0, 5), clean(0, 2, pad=3)), cache)
    cache.commit(torch.tensor([5, 2]))
    together = model.decode(embeds[:, 5:], stacked(clean(5, 2), clean(2, 2)), cache)
    for row, length in ((0, 5), (1, 2)):
        alone = new_cache(model)
        model.decode(embeds[row : row + 1, :length], clean(0, length), alone)
        alone.commit(torch.tensor([length]))
        expected = model.decode(embeds[row : row + 1, 5:], clean(length, 2), alone)
        assert torch.allclose(together[row], expected[0], atol=1e-9)


def test_selection_keeps_the_chosen_rows_in_order():
    model, _ = tiny_model()
    embeds = torch.randn(3, 6, 32, dtype=torch.float64)
    cache = new_cache(model, 3)
    rows = stacked(clean(0, 4), clean(0, 3, pad=1), clean(0, 2, pad=2))
    model.decode(embeds[:, :4], rows, cache)
    cache.commit(torch.tensor([4, 3, 2]))
    before = model.decode(embeds[:, 4:], stacked(clean(4, 2), clean(3, 2), clean(2, 2)), cache)
    cache.select(torch.tensor([2, 0]))
    after = model.decode(embeds[[2, 0], 4:], stacked(clean(2, 2), clean(4, 2)), cache)
    assert cache.lengths.tolist() == [2, 4]
    assert torch.allclose(after, before[[2, 0]], atol=1e-9)


def test_crop_forgets_the_tail():
    model, _ = tiny_model()
    embeds = torch.randn(1, 8, 32, dtype=torch.float64)
    cache = new_cache(model)
    model.decode(embeds[:, :6], clean(0, 6), cache)
    cache.commit(torch.tensor([6]))
    cache.crop(torch.tensor([4]))
    after = model.decode(embeds[:, 4:], clean(4, 4), cache)
    assert torch.allclose(after, model.decode(embeds, clean(0, 8))[:, 4:], atol=1e-9)
