"""A second model reads the drafts: whatever the drafter says, answers are the verifier's own."""

import pytest
import torch

from tests.vlm.generation.sharp import prompts as pictured
from tests.vlm.generation.sharp import sharp_model
from tests.vlm.tiny import greedy
from vlm.answering import settings as settings_of
from vlm.cache import BlockCache
from vlm.generation import verifier as module
from vlm.generation.constraint import Grammar
from vlm.generation.generate import answer
from vlm.generation.prefix import PrefixStore
from vlm.generation.request import Request
from vlm.generation.verifier import Verifier, fitted
from vlm.training.build import train_tokenizer

DRAFTERS = {
    "shift 0": {},
    "shift 1": {"prediction_shift": 1},
    "no AR mode": {"ar_mode": False},
    "no AR mode, shift 1": {"ar_mode": False, "prediction_shift": 1},
}
MODELS = {name: sharp_model(**traits)[0] for name, traits in DRAFTERS.items()}
READER, PROCESSOR = sharp_model(seed=7, backbone="llama")
TOKENIZER = PROCESSOR.tokenizer
LIVELY = {"cps": {}, "adl": {"shortest": 1, "longest": 6, "growth": 3}}


@pytest.fixture(autouse=True)
def one_verifier(monkeypatch):
    """Whatever directory is named, it is this one."""
    monkeypatch.setattr(module, "opened", lambda *_: (READER, TOKENIZER))


def prompts(count: int, seed: int = 0) -> list[Request]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 12, (count,), generator=generator).tolist()
    return [Request(torch.randint(20, 250, (n,), generator=generator), seed=i) for i, n in enumerate(lengths)]


def drafted(model, requests, slots=None, on_step=None, store=None, max_batch=None, **given):
    slots = {"verifier": {"model": "reader"}, **(slots or {})}
    config = greedy(**{"mode": "speculative", "block_size": 8, "slots": slots, "max_new_tokens": 19, **given})
    return answer(model, requests, config, None, on_step, store, max_batch, tokenizer=TOKENIZER)


def alone(requests, **given):
    """What the verifier says itself."""
    given = {"max_new_tokens": 19, "suppress_tokens": READER.generation_config.suppress_tokens, **given}
    return answer(READER, requests, greedy(mode="ar", **given))


def ends() -> list[int]:
    said = alone(prompts(1))[0].generated
    return [max(said, key=said.count), 77, 123]


@pytest.mark.parametrize("name", DRAFTERS)
@pytest.mark.parametrize("slots", [None, LIVELY], ids=["plain", "diffuspec"])
def test_answers_are_the_verifiers_ar_answers_token_for_token(name, slots):
    plain, end = alone(prompts(8), eos_token_id=ends()), ends()
    for one, two in zip(plain, drafted(MODELS[name], prompts(8), slots, eos_token_id=end)):
        assert one.tokens == two.tokens and one.finish_reason == two.finish_reason
        assert two.logprobs == pytest.approx(one.logprobs, abs=1e-9)
        assert two.verified is None, "a finished request keeps no KV"
    assert {state.finish_reason for state in plain} == {"stop", "length"}


@pytest.mark.parametrize("name", DRAFTERS)
@pytest.mark.parametrize("size", [1, 8])
def test_batches_are_singles_and_the_passes_of_both_models_are_counted(name, size, monkeypatch):
    model, passes, inner = MODELS[name], [], type(READER).decode

    def counting(self, *args):
        passes.append(self is READER)
        return inner(self, *args)

    requests, common = prompts(5, seed=3), {"temperature": 0.7, "block_size": size, "slots": LIVELY}
    together = drafted(model, requests, max_batch=3, **common)
    monkeypatch.setattr(type(READER), "decode", counting)
    for request, state in zip(requests, together):
        passes.clear()
        (alone,) = drafted(model, [request], **common)
        assert (alone.tokens, alone.forwards) == (state.tokens, state.forwards) and alone.forwards == len(passes)
        assert passes == [False, True] * (len(passes) // 2), "one model drafts, the other one reads"
        assert alone.tokens[: len(request.input_ids)] == request.input_ids.tolist() and len(alone.generated) == 19
        assert model.config.traits.mask_token_id not in alone.generated


def test_a_drafter_that_the_verifier_agrees_with_saves_passes():
    """Where both say one token whatever they see, every draft is kept, and the token behind it."""

    def one_token(_, scores):
        return torch.full_like(scores, -9.0).index_fill(1, torch.tensor(60), 0.0)

    given = {"slots": {"verifier": {"model": "reader"}}, "tokenizer": TOKENIZER, "logits_processor": one_token}
    ids = prompts(1)[0].input_ids[None]
    out = MODELS["shift 0"].generate(ids, mode="speculative", block_size=8, max_new_tokens=27, **given)
    assert set(out.states[0].generated) == {60} and out.states[0].forwards == 2 * 3, "9 tokens in two passes"


def test_it_sees_the_same_pictures_or_refuses_them():
    plain = alone(pictured(READER, 4), max_new_tokens=16)
    assert [s.tokens for s in plain] == [
        s.tokens for s in drafted(MODELS["shift 0"], pictured(READER, 4), max_new_tokens=16)
    ]
    blind = Verifier(READER, 300, False, "reader")
    with pytest.raises(
        ValueError, match="the request has pictures, but verifier reader does not see them as the model"
    ):
        blind.check(pictured(READER, 2)[1], 0)
    READER.config.frame_pool += 1
    try:
        assert not fitted(MODELS["shift 0"], TOKENIZER, READER, TOKENIZER, "reader").sees
    finally:
        READER.config.frame_pool -= 1


def test_under_a_grammar_and_with_a_store_it_is_the_verifier_under_it():
    extra = {"grammar": Grammar.regex(r"[a-f]{3,9}( [0-9]{1,4})?"), "tokenizer": TOKENIZER}
    common = {"max_new_tokens": 24, "eos_token_id": TOKENIZER.eos_token_id}
    common["suppress_tokens"] = READER.generation_config.suppress_tokens
    slots, requests = {"verifier": {"model": "reader"}}, prompts(8, seed=4)
    plain = answer(READER, requests, greedy(mode="ar", **common), **extra)
    fast = answer(MODELS["shift 0"], requests, greedy(mode="speculative", slots=slots, **common), **extra)
    assert [s.generated for s in plain] == [s.generated for s in fast]
    store = PrefixStore()
    long = [Request(torch.arange(20, 90), seed=i) for i in range(2)]
    found = [drafted(MODELS["shift 0"], long, store=store) for _ in range(2)]
    assert [s.tokens for s in found[0]] == [s.tokens for s in found[1]] and found[1][0].reused > 0


def test_tokens_that_it_does_not_have_are_never_read_and_those_it_never_says_never_said():
    wide = Verifier(READER, 320, True, "reader")
    logits = wide.head(torch.randn(3, 32, dtype=torch.float64))
    never = [*range(300, 320), *READER.generation_config.suppress_tokens]
    assert logits.shape == (3, 320) and logits.isfinite().all() and (logits.softmax(-1)[:, never] == 0).all()
    with pytest.raises(ValueError, match="the prompt has token 300; verifier reader has 300"):
        wide.check(Request(torch.tensor([5, 300])), 0)


def test_what_cannot_be_is_refused_with_both_sides():
    block = sharp_model(context_attention="block_causal")[0]
    given = {"mode": "speculative", "slots": {"verifier": {"model": "reader"}}}
    with pytest.raises(ValueError, match="a verifier needs drafts of a model with causal context.*'block_causal'"):
        settings_of(block, tokenizer=TOKENIZER, **given)
    with pytest.raises(
        ValueError, match="mode 'speculative' needs causal context and a trained AR mode.*ar_mode=False"
    ):
        settings_of(MODELS["no AR mode"], tokenizer=TOKENIZER, mode="speculative")
    with pytest.raises(ValueError, match="a verifier needs the tokenizer"):
        settings_of(MODELS["shift 0"], **given)
    with pytest.raises(ValueError, match="'verifier' cannot be built from {}: .*'model'"):
        settings_of(MODELS["shift 0"], tokenizer=TOKENIZER, mode="speculative", slots={"verifier": {}})
    with pytest.raises(ValueError, match="'verifier' works on drafts that are verified, which mode 'block' does not"):
        settings_of(MODELS["shift 0"], tokenizer=TOKENIZER, slots=given["slots"])
    with pytest.raises(ValueError, match="needs causal context, a trained AR mode .*; reader has .*'block_causal'"):
        fitted(MODELS["shift 0"], TOKENIZER, block, TOKENIZER, "reader")
    other = train_tokenizer(["Entirely different words; many of them, too."], 280)
    sizes = f"the model has {len(TOKENIZER)} tokens, verifier reader {len(other)}, and .* is .* in the one and"
    with pytest.raises(ValueError, match=f"a verifier needs the model's vocabulary: {sizes}"):
        fitted(MODELS["shift 0"], TOKENIZER, READER, other, "reader")


def test_a_cache_is_begun_with_a_verifier_but_not_continued():
    model, cache = MODELS["shift 0"], BlockCache(READER.config.text_config, 1)
    given = {"mode": "speculative", "slots": {"verifier": {"model": "reader"}}, "tokenizer": TOKENIZER}
    ids = prompts(1)[0].input_ids[None]
    out = model.generate(ids, past_key_values=cache, max_new_tokens=9, **given)
    assert cache.lengths.tolist() == [out.sequences.shape[1]]
    assert torch.equal(out.sequences, READER.generate(ids, mode="ar", max_new_tokens=9).sequences)
    with pytest.raises(ValueError, match="a cache cannot be continued with verifier reader: it has not read"):
        model.generate(ids, past_key_values=cache, max_new_tokens=9, **given)
