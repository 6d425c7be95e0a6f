"""DiffuSpec: its path against every path, its lengths against their recursion, its answers against the AR mode's."""

import itertools
import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.vlm.generation.sharp import sharp_model
from tests.vlm.tiny import greedy, tiny_model
from vlm.cache import BlockCache
from vlm.generation.constraint import Grammar
from vlm.generation.diffuspec import AdaptiveLength, Drafting, PathSearch
from vlm.generation.generate import answer
from vlm.generation.ngrams import NGrams
from vlm.generation.request import Request

LIVELY = {"cps": {}, "adl": {"shortest": 1, "longest": 6, "growth": 3}}
END, VOCAB = 4, 5


def prompts(count: int, seed: int = 0) -> list[Request]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 12, (count,), generator=generator).tolist()
    return [Request(torch.randint(20, 250, (n,), generator=generator), seed=i) for i, n in enumerate(lengths)]


def random_draft(seed: int, slots: int):
    """Logits [S, V] of a draft and an n-gram model that has read something."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(slots, VOCAB, generator=generator, dtype=torch.float64)
    text = NGrams(3, VOCAB)
    text.add(torch.randint(0, VOCAB, (12,), generator=generator).tolist())
    return logits, text


def score(path: tuple[int, ...], log_p, text: NGrams, weight: float) -> float:
    """Of a whole block: tokens up to the end as the model and the n-grams have them, then the model's end tokens."""
    total, said = 0.0, list(text.tail)
    for slot, token in enumerate(path):
        total += weight * log_p[slot][token]
        if END in path[:slot]:
            continue
        total += (1 - weight) * text.log_probability(token, tuple(said[-2:]))
        said.append(token)
    return total


def every_path(log_p, text: NGrams, weight: float) -> dict[tuple[int, ...], float]:
    """All blocks of tokens in which only end tokens stand behind an end token, and their scores."""
    blocks = itertools.product(range(VOCAB), repeat=len(log_p))
    legal = [b for b in blocks if END not in b or set(b[b.index(END) :]) == {END}]
    return {block: score(block, log_p, text, weight) for block in legal}


def ended(path: tuple[int, ...]) -> tuple[int, ...]:
    return path[: path.index(END) + 1] if END in path else path


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**20), st.integers(1, 4), st.floats(0, 1))
def test_a_beam_that_drops_nothing_finds_the_best_of_all_paths(seed, slots, weight):
    logits, text = random_draft(seed, slots)
    log_p = logits.log_softmax(-1).tolist()
    search = PathSearch(mass=1.0, most=VOCAB, beam=VOCAB**slots, weight=weight)
    best = every_path(log_p, text, weight)
    first, second = sorted(best.values(), reverse=True)[:2]
    assume(first - second > 1e-9)
    found = search.path(search.slots(logits, frozenset([END])), text, frozenset([END]))
    assert tuple(found) == ended(max(best, key=best.get))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**20), st.integers(1, 5), st.integers(1, 4), st.floats(0.05, 1), st.integers(1, VOCAB))
def test_a_narrow_beam_is_the_plain_one_written_out(seed, slots, beam, mass, most):
    logits, text = random_draft(seed, slots)
    log_p = logits.log_softmax(-1).tolist()
    paths: list[tuple[int, ...]] = [()]
    for slot in log_p:
        order = sorted(range(VOCAB), key=lambda token: -slot[token])
        need = next((n for n in range(1, VOCAB) if sum(math.exp(slot[t]) for t in order[:n]) >= mass), VOCAB)
        tokens = {*order[: min(need, most)], END}
        grown = [(*path, token) for path in paths for token in (tokens if END not in path else [END])]
        paths = sorted(grown, key=lambda path: -score(path, log_p, text, 0.5))[:beam]
    search = PathSearch(mass=mass, most=most, beam=beam)
    found = search.path(search.slots(logits, frozenset([END])), text, frozenset([END]))
    assert tuple(found) == ended(paths[0])


def test_one_path_by_the_draft_alone_is_its_best_tokens_up_to_the_end():
    for seed in range(30):
        logits, text = random_draft(seed, 6)
        search = PathSearch(beam=1, weight=1.0)
        found = search.path(search.slots(logits, frozenset([END])), text, frozenset([END]))
        assert tuple(found) == ended(tuple(logits.argmax(-1).tolist()))


def test_fluency_decides_between_tokens_that_the_draft_cannot_tell_apart():
    """Two orders of two words are as probable slot by slot; one of them has been said before."""
    logits = torch.full((2, VOCAB), -9.0)
    logits[0, [1, 2]] = torch.tensor([2.1, 2.0])
    logits[1, [2, 1]] = torch.tensor([2.0, 2.1])
    text = NGrams(3, VOCAB)
    text.add([0, 2, 1, 0, 2, 1, 0])
    search = PathSearch()
    slots = search.slots(logits, frozenset([END]))
    assert search.path(slots, text, frozenset([END])) == [2, 1]
    assert PathSearch(weight=1.0).path(slots, text, frozenset([END])) == [1, 1]


def test_what_cannot_be_is_no_candidate_and_an_end_is_one_only_where_it_can_be():
    logits = torch.tensor([[0.0, 1.0, -torch.inf, -torch.inf, -torch.inf], [0.0, 5.0, 0.0, 0.0, -3.0]])
    first, second = PathSearch().slots(logits, frozenset([END]))
    assert [token for token, _ in first.candidates] == [1, 0] and math.isfinite(first.end)
    assert [token for token, _ in second.candidates] == [1, END]
    assert second.end == pytest.approx(second.candidates[-1][1])


@settings(deadline=None)
@given(
    st.integers(1, 20), st.integers(0, 12), st.integers(0, 9), st.sampled_from([0.25, 0.5, 1.0]),
    st.lists(st.tuples(st.integers(0, 32), st.integers(0, 32)), max_size=12),
)  # fmt: skip
def test_lengths_follow_the_recursion(shortest, wider, growth, rate, rounds):
    """An average that begins at 0 is a sum with falling weights."""
    pace = AdaptiveLength(shortest, shortest + wider, growth, rate)
    kept = Drafting(pace.longest)
    for n, (proposed, accepted) in enumerate(rounds, 1):
        kept.proposed = proposed
        pace.learn(kept, accepted)
        weights = [rate * (1 - rate) ** (n - 1 - i) for i in range(n)]
        meant, held = (sum(w * r[k] for w, r in zip(weights, rounds)) for k in (0, 1))
        length = math.floor(meant) + (growth if held >= meant else 0)
        assert kept.length == sorted([shortest, length, shortest + wider])[1]


def test_the_second_draft_is_short_whatever_the_first_was_with_the_papers_numbers():
    for accepted in range(31):
        kept = Drafting(30, proposed=30)
        AdaptiveLength().learn(kept, accepted)
        assert kept.length == (25 if accepted == 30 else 20)


MODELS = {"tiny": lambda **t: tiny_model(scale=4.0, **t)[0], "sharp": lambda **t: sharp_model(**t)[0]}
SLOTS = [LIVELY, {"cps": {"beam": 1, "weight": 0.2}}, {"adl": {"shortest": 3, "longest": 9}}]


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("slots", SLOTS, ids=["both", "path", "length"])
def test_answers_are_the_ar_modes_token_for_token(kind, shift, slots):
    model = MODELS[kind](prediction_shift=shift)
    requests = prompts(14, seed=shift)
    end = int(torch.mode(torch.tensor(answer(model, requests[:1], greedy(mode="ar"))[0].generated)).values)
    common = {"max_new_tokens": 19, "eos_token_id": [end, 77, 123]}
    plain = answer(model, requests, greedy(mode="ar", **common))
    fast = answer(model, requests, greedy(mode="speculative", block_size=8, slots=slots, **common))
    for one, two in zip(plain, fast):
        assert one.tokens == two.tokens and one.finish_reason == two.finish_reason
        assert two.logprobs == pytest.approx(one.logprobs, abs=1e-9)
        assert two.drafting is None, "a finished request keeps no n-grams"
    assert {state.finish_reason for state in plain} >= {"length"} and len({tuple(s.generated) for s in plain}) > 7


@pytest.mark.parametrize("shift", [0, 1])
def test_every_pass_is_counted_and_every_token_accounted_for(shift, monkeypatch):
    """A pass either drafts or verifies; what verifying keeps follows the recursion of the draft lengths."""
    model = MODELS["sharp"](prediction_shift=shift)
    passes, inner = [0], type(model).decode

    def counting(self, *args):
        passes[0] += 1
        return inner(self, *args)

    monkeypatch.setattr(type(model), "decode", counting)
    told = []

    def on_step(states):
        state = states[0]
        if state.draft is not None:
            told.append(["draft", len(state.tokens), len(state.draft), state.drafting.length])
        else:
            told.append(["read", len(state.tokens), 0, 0])

    request = prompts(1, seed=5)[0]
    config = greedy(mode="speculative", block_size=8, slots=LIVELY, max_new_tokens=40)
    state = answer(model, [request], config, on_step=on_step)[0]
    assert passes[0] == state.forwards == len(told)
    drafts = [t for t in told if t[0] == "draft"]
    assert len(drafts) > 3 and all(length <= asked for _, _, length, asked in drafts[:-1])
    before = len(request.input_ids)
    for (kind, total, *_), previous in zip(told, [["read"], *told]):
        if kind == "draft":
            assert previous[0] == "read" and total - before == 1 - shift
        elif previous[0] == "draft":
            assert 1 <= total - before <= previous[2] + 1
        before = total
    assert len({asked for *_, asked in drafts}) > 1, "lengths adapt"


def test_a_sampled_batch_is_its_singles():
    model = MODELS["sharp"]()
    common = {"mode": "speculative", "block_size": 8, "slots": LIVELY, "max_new_tokens": 14, "temperature": 0.7}
    requests = prompts(4, seed=3)
    for request, state in zip(requests, answer(model, requests, greedy(**common), max_batch=3)):
        alone = answer(model, [request], greedy(**common))[0]
        assert (alone.tokens, alone.forwards) == (state.tokens, state.forwards)
        assert alone.tokens[: len(request.input_ids)] == request.input_ids.tolist()
        assert model.config.traits.mask_token_id not in alone.generated


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("slots", [None, LIVELY], ids=["plain", "diffuspec"])
def test_blocks_of_one_slot_draft_nothing_and_end(shift, slots):
    model = MODELS["tiny"](prediction_shift=shift)
    config = {"block_size": 1, "max_new_tokens": 6, "slots": slots}
    found = answer(model, prompts(2), greedy(mode="speculative", **config))
    plain = answer(model, prompts(2), greedy(mode="ar", max_new_tokens=6))
    assert [s.tokens for s in found] == [s.tokens for s in plain]
    assert [s.forwards for s in found] == [6, 6]


def test_under_a_grammar_it_is_the_ar_mode_under_it():
    model, processor = tiny_model(scale=8.0)
    extra = {"grammar": Grammar.regex(r"[a-f]{3,9}( [0-9]{1,4})?"), "tokenizer": processor.tokenizer}
    common = {"max_new_tokens": 24, "eos_token_id": processor.tokenizer.eos_token_id}
    requests = prompts(12, seed=4)
    plain = answer(model, requests, greedy(mode="ar", **common), **extra)
    fast = answer(model, requests, greedy(mode="speculative", block_size=8, slots=LIVELY, **common), **extra)
    assert [s.generated for s in plain] == [s.generated for s in fast]


def test_a_conversation_goes_on_from_its_cache():
    model = MODELS["sharp"]()
    ids, cache = prompts(1, seed=6)[0].input_ids[None], BlockCache(model.config.text_config, 1)
    out = model.generate(ids, decoder="diffuspec", max_new_tokens=9, past_key_values=cache)
    assert cache.lengths.tolist() == [out.sequences.shape[1]]
    more = torch.tensor([[50, 60]])
    whole = model.generate(torch.cat([out.sequences, more], 1), mode="ar", max_new_tokens=9).sequences
    rest = model.generate(more, decoder="diffuspec", max_new_tokens=9, past_key_values=cache).sequences
    assert whole[0, out.sequences.shape[1] :].tolist() == rest[0].tolist()
