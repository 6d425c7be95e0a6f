"""Modes against each other: speculation gives the AR mode's tokens, and requests of any mode share a batch."""

import pytest
import torch
from transformers import LogitsProcessorList

from tests.vlm.generation.sharp import sharp_model
from tests.vlm.tiny import greedy, tiny_model
from vlm.cache import BlockCache
from vlm.generation.constraint import Grammar
from vlm.generation.generate import answer
from vlm.generation.request import Request
from vlm.generation.strategy import build_strategy
from vlm.generation.verify import agreed


def prompts(count: int, seed: int = 0) -> list[Request]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 12, (count,), generator=generator).tolist()
    return [Request(torch.randint(20, 250, (n,), generator=generator), seed=i) for i, n in enumerate(lengths)]


@pytest.mark.parametrize("traits", [{}, {"prediction_shift": 1}], ids=["shift 0", "shift 1"])
@pytest.mark.parametrize("size", [4, 8])
def test_speculation_is_the_ar_mode_token_for_token(traits, size):
    """Over 520 prompts in all; end tokens come early, late and never."""
    model, _ = sharp_model(**traits)
    requests, saved = prompts(130, seed=size), 0
    end = int(torch.mode(torch.tensor(answer(model, requests[:1], greedy(mode="ar"))[0].generated)).values)
    settings = {"max_new_tokens": 19, "eos_token_id": [end, 77, 123]}
    plain = answer(model, requests, greedy(mode="ar", **settings))
    fast = answer(model, requests, greedy(mode="speculative", block_size=size, **settings))
    for one, two in zip(plain, fast):
        assert one.tokens == two.tokens and one.finish_reason == two.finish_reason
        assert two.logprobs == pytest.approx(one.logprobs, abs=1e-9)
        saved += one.forwards - two.forwards
    assert {state.finish_reason for state in plain} == {"stop", "length"}


def test_a_perfect_draft_is_kept_whole():
    """Where noisy rows see and say what clean rows do, every draft agrees: B + 1 tokens in two passes."""
    model, _ = tiny_model(scale=4.0, prediction_shift=1)
    with torch.no_grad():  # a model that says the same token whatever it sees
        head = model.get_output_embeddings()
        head.weight.zero_()
        head.weight[40] = 1.0
        model.language_model.model.norm.weight.fill_(1.0)
        model.language_model.model.embed_tokens.weight.fill_(0.5)
    state = answer(model, prompts(1), greedy(mode="speculative", block_size=8, max_new_tokens=33))[0]
    assert len(set(state.generated)) == 1
    assert state.forwards <= 2 + 2 * -(-32 // 8)


def test_how_far_a_draft_agrees():
    assert agreed([1, 2, 3], [1, 2, 3, 4]) == 3
    assert agreed([1, 2, 3], [1, 5, 3, 4]) == 1
    assert agreed([], [7]) == 0


@pytest.mark.parametrize("mode", ["ar", "speculative"])
def test_modes_that_need_clean_predictions_are_refused_elsewhere(mode):
    model, _ = tiny_model(context_attention="block_causal")
    with pytest.raises(ValueError, match=f"mode '{mode}' needs causal context.*'block_causal'"):
        build_strategy(model, greedy(mode=mode))


def test_one_batch_of_many_modes_and_policies_equals_its_requests_alone():
    model, _ = sharp_model()
    settings = [
        {"mode": "ar"}, {"mode": "speculative"}, {"threshold": 0.35}, {"policy": "static", "denoising_steps": 2},
        {"policy": "sequential", "block_size": 8}, {"policy": "entropy"}, {"policy": "factor"}, {"policy": "bacd"},
        {"policy": "localleap"}, {"policy": "wedlm"}, {"temperature": 1.0}, {"mode": "ar", "temperature": 0.7},
    ]  # fmt: skip
    requests = prompts(2 * len(settings), seed=3)
    for i, request in enumerate(requests):
        request.seed = i
        request.strategy = build_strategy(model, greedy(max_new_tokens=11 + i % 5, **settings[i % len(settings)]))
    together = answer(model, requests, greedy(), max_batch=7)
    for request, state in zip(requests, together):
        alone = answer(model, [request], greedy())[0]
        assert alone.tokens == state.tokens and alone.forwards == state.forwards
        assert len(state.generated) == request.strategy.max_new_tokens


def test_requests_join_a_running_batch():
    from vlm.generation.loop import Loop

    model, _ = sharp_model()
    requests = prompts(6, seed=5)
    loop = Loop(model, requests[:2], build_strategy(model, greedy(max_new_tokens=12)), max_batch=4)
    for number, request in enumerate(requests[2:]):
        for _ in range(number):
            loop.step()
        loop.add(request)
    for request, state in zip(requests, loop.run(), strict=True):
        assert state.tokens == answer(model, [request], greedy(max_new_tokens=12))[0].tokens


@pytest.mark.parametrize("mode", ["block", "ar", "speculative"])
def test_a_grammar_holds_in_every_mode_whatever_the_weights(mode):
    model, processor = tiny_model(scale=8.0)
    tokenizer, found = processor.tokenizer, set()
    settings = {"mode": mode, "max_new_tokens": 24, "threshold": 0.05, "temperature": 2.0}
    settings["eos_token_id"] = tokenizer.eos_token_id
    words = ["star", "small", "circle", "red", "blue", "green"]
    extra = {"grammar": Grammar.choices(words), "tokenizer": tokenizer}
    for state in answer(model, prompts(24, seed=9), greedy(**settings), **extra):
        assert state.finish_reason == "stop"
        text = tokenizer.decode(state.generated, skip_special_tokens=True)
        found.add(text)
        assert text in words
    assert len(found) > 1


def test_speculation_under_a_grammar_is_the_ar_mode_under_it():
    model, processor = sharp_model()
    tokenizer = processor.tokenizer
    extra = {"grammar": Grammar.regex(r"[a-f]{3,9}( [0-9]{1,4})?"), "tokenizer": tokenizer}
    settings = {"max_new_tokens": 24, "eos_token_id": tokenizer.eos_token_id}
    plain, fast = (
        answer(model, prompts(30, seed=4), greedy(mode=mode, **settings), **extra) for mode in ("ar", "speculative")
    )
    assert [s.generated for s in plain] == [s.generated for s in fast]


@pytest.mark.parametrize("shift", [0, 1])
def test_a_draft_that_agrees_beyond_the_end_leaves_nothing_in_the_cache(shift):
    model, _ = tiny_model(prediction_shift=shift)
    ids, end = torch.tensor([[40, 41, 42]]), 50

    def ends_after_one(input_ids, scores):
        return torch.full_like(scores, -9.0).index_fill(1, torch.tensor(end if input_ids.shape[1] > 3 else 60), 0.0)

    cache = BlockCache(model.config.text_config, 1)
    extra = {"logits_processor": LogitsProcessorList([ends_after_one]), "past_key_values": cache}
    out = model.generate(ids, mode="speculative", eos_token_id=end, **extra)
    assert out.sequences.tolist() == [[40, 41, 42, 60, 50]]
    assert cache.lengths.tolist() == [5]


def test_under_a_grammar_a_sampled_draft_may_go_on_behind_the_end():
    model, processor = tiny_model()
    tokenizer, end = processor.tokenizer, processor.tokenizer.eos_token_id

    def wants_to_end(_, scores):
        return scores.index_fill(1, torch.tensor(end), 99.0)

    extra = {"grammar": Grammar.regex("[a-z]{1,9}"), "tokenizer": tokenizer}
    extra["processors"] = LogitsProcessorList([wants_to_end])
    state = answer(model, prompts(1), greedy(mode="speculative", temperature=1.0, eos_token_id=end), **extra)[0]
    assert state.generated[1:] == [end] and tokenizer.decode(state.generated[:1]).isalpha()


def test_nothing_is_forced_behind_the_end():
    """A drafted end token leaves masks behind it in its block: the grammar has no more to say about them."""
    from types import SimpleNamespace

    from vlm.generation.decide import forced
    from vlm.generation.finish import Finish

    model, processor = tiny_model()
    tokenizer, end = processor.tokenizer, processor.tokenizer.eos_token_id
    extra = {"grammar": Grammar.choices(["red"]), "tokenizer": tokenizer}
    matcher = build_strategy(model, greedy(eos_token_id=end), **extra).new_matcher()
    state = SimpleNamespace(matcher=matcher, strategy=SimpleNamespace(finish=Finish(frozenset([end]))))
    matcher.accept(tokenizer.encode("red", add_special_tokens=False))
    assert forced(state) == [end]
    matcher.accept([end])
    assert forced(state) == []
