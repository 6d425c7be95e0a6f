"""Bare passes: what is timed, what it leaves behind, and the ceilings worked out from it."""

import pytest
import torch

from benchmarks import passes
from benchmarks.passes import peek, row_cost, timed_pass
from tests.vlm.tiny import tiny_model
from vlm.answering import settings
from vlm.generation.loop import Loop
from vlm.generation.request import Request
from vlm.generation.strategy import build_strategy


def test_ceilings_follow_from_the_passes(monkeypatch):
    model, processor = tiny_model()
    took = {(1, 1): 2.0, (8, 8): 3.0, (16, 8): 4.0}
    monkeypatch.setattr(passes, "timed_pass", lambda model, cache, context, rows, read: took[rows, read])
    found = row_cost(model, processor, 8, "json", 1)
    assert found["seconds"] == {"one_row": 2.0, "block": 3.0, "closing": 4.0}
    assert (found["row_cost"], found["row_cost_closing"]) == (1.5, 2.0)
    assert found["ceilings"] == {"block": round(8 / 1.5, 3), "block_closing": 4.0, "speculative": 3.0}


def test_speculation_reaches_its_ceiling_of_a_block_and_a_token_in_two_passes_and_not_more(monkeypatch):
    """A model that always says the same agrees with every draft of its own."""
    model, processor = tiny_model()
    width, vocab = model.config.text_config.hidden_size, model.config.text_config.vocab_size
    monkeypatch.setattr(model, "head", lambda hidden: torch.eye(1, vocab).double().expand(len(hidden), vocab) * 9.0)
    config = settings(model, mode="speculative", block_size=8, max_new_tokens=9 * 5)
    config.suppress_tokens = config.eos_token_id = None
    assert width == 32
    state = Loop(model, [Request(torch.tensor([5, 6, 7]))], build_strategy(model, config)).run()[0]
    assert len(state.generated) / state.forwards == (8 + 1) / 2


def test_a_timed_pass_leaves_the_cache_as_it_was(monkeypatch):
    model, processor = tiny_model()
    seen = []

    def timed(model, cache, context, rows, read):
        before = peek(model, cache, context, rows, read)
        assert timed_pass(model, cache, context, rows, read) > 0
        assert torch.equal(peek(model, cache, context, rows, read), before)
        seen.append((context, cache.lengths.tolist(), before.shape[1]))
        return 1.0

    monkeypatch.setattr(passes, "timed_pass", timed)
    row_cost(model, processor, 4, "json", 1, repeats=3)
    contexts, lengths, read = zip(*seen)
    assert len(set(contexts)) == 1 and all(length == [contexts[0]] for length in lengths)
    assert read == (1, 4, 4) * 3


@pytest.mark.parametrize("n", [1, 4])
def test_a_peek_sees_the_context(n):
    """Behind another prompt the logits are others."""
    model, processor = tiny_model()
    found = []
    with torch.no_grad():
        for seed in (1, 2):
            cache, context = passes._prompted(model, processor, "json", seed)
            found.append(peek(model, cache, 200, n, n))
    assert found[0].shape == (1, n, model.config.text_config.vocab_size)
    assert not torch.allclose(*found)
