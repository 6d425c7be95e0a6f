"""A trace tells of every token once it is decided, in the pass that decided it."""

import math

import pytest
import torch

from tests.vlm.generation.sharp import sharp_model
from tests.vlm.tiny import greedy, tiny_model
from vlm.generation.generate import answer
from vlm.generation.request import Request
from vlm.generation.strategy import build_strategy
from vlm.generation.trace import Trace


@pytest.mark.parametrize("settings", [{"threshold": 0.35}, {"mode": "ar"}, {"mode": "speculative"}])
@pytest.mark.parametrize("traits", [{}, {"block_origin": "sequence"}])
def test_replaying_the_steps_gives_the_answer(settings, traits):
    model, _ = sharp_model(**traits)
    trace = Trace(model.config.traits.mask_token_id, str)
    requests = [Request(torch.arange(40, 47)), Request(torch.arange(50, 53))]
    state = answer(model, requests, greedy(max_new_tokens=13, **settings), on_step=trace)[0]
    record, seen = trace.record(), {}
    for step in record["steps"]:
        for position, text, confidence in step["written"]:
            assert position not in seen or settings.get("mode") == "block"
            seen[position] = (text, confidence)
        assert not set(step["open"]) & set(seen)
    assert [seen[i][0] for i in range(13)] == record["tokens"] == [str(t) for t in state.generated]
    assert record["confidence"] == [seen[i][1] for i in range(13)]
    assert record["confidence"] == pytest.approx([math.exp(p) for p in state.logprobs], abs=1e-4)
    assert [step["forward"] for step in record["steps"]] == list(range(1, state.forwards + 1))


def test_what_goes_on_behind_the_traced_request_is_not_told():
    model, _ = tiny_model(scale=4.0)
    trace = Trace(model.config.traits.mask_token_id, str)
    requests = [Request(torch.arange(40, 47), strategy=build_strategy(model, greedy(max_new_tokens=4)))]
    requests.append(Request(torch.arange(50, 57)))
    first, second = answer(model, requests, greedy(max_new_tokens=12), on_step=trace)
    assert len(trace.steps) == first.forwards < second.forwards
