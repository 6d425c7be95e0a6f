"""Token edit: against a restatement of the published loop without a cache, and by what it must never do."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.vlm.generation.sharp import sharp_model
from vlm.answering import settings as settings_of
from vlm.attention import Rows
from vlm.generation.constraint import Grammar
from vlm.generation.generate import answer
from vlm.generation.request import Request
from vlm.generation.strategy import build_strategy
from vlm.generation.trace import Trace
from vlm.layout import clean_blocks

CHECKPOINTS = {
    "causal": {"off_grid_ok": True},
    "shift 1": {"prediction_shift": 1},
    "sequence": {"context_attention": "block_causal", "block_origin": "sequence"},
    "full": {"context_attention": "full"},
}
MODELS = {name: sharp_model(noise="mixed", **traits)[0] for name, traits in CHECKPOINTS.items()}
SIZE, NEW = 8, 13


def config_of(model, edit=None, end=None, **more):
    slots = {} if edit is None else {"slots": {"token_edit": edit}}
    given = {"policy": "threshold", "threshold": 0.35, "block_size": SIZE, "max_new_tokens": NEW, **slots, **more}
    config = settings_of(model, **given)
    config.eos_token_id = end
    return config


def prompts(count: int = 2) -> list[Request]:
    generator = torch.Generator().manual_seed(4)
    return [Request(torch.randint(20, 250, (3 + 6 * k,), generator=generator), seed=k) for k in range(count)]


@torch.no_grad()
def restated(model, request: Request, mask_tau: float, tau: float, passes: int, end: int | None, size=SIZE, back=0):
    """Greedy joint-threshold decoding of one request, everything recomputed: answer, passes, and what was edited.

    The last ``back`` finished blocks stay in the open one's window. Of an edit the position is told, counted from its
    block's start: less than 0 in a block that was finished.
    """
    traits, length = model.config.traits, len(request.input_ids)
    full, mask, shift = traits.context_attention == "full", traits.mask_token_id, traits.prediction_shift
    suppressed = [mask, *model.generation_config.suppress_tokens]
    tokens, steps, edits, held = request.input_ids.tolist(), 0, [], []
    while True:
        start = len(tokens) // size * size if traits.block_origin == "sequence" else len(tokens)
        known, spent = len(tokens) - start, 0
        canvas = tokens[start:] + held
        canvas += [mask] * (size - len(canvas) % size)
        tokens, wide = tokens[:start], len(canvas)
        while True:
            behind = [mask] * (-(-NEW // size) * size + length - start - wide) if full else []
            logits = model.head(_hidden(model, tokens + canvas + behind, len(tokens), start, length, size))
            logits[:, suppressed] = -torch.inf
            sure, best = logits.softmax(-1).max(-1)  # of row i; slot s is read from row start + s - shift
            opened, before, changed = [s for s in range(wide) if canvas[s] == mask], list(canvas), False
            complete = not opened or _answered(tokens, canvas, mask, length, end)
            if shift and opened[:1] == [0]:
                opened = [0]
            else:
                for s in range(max(known, shift), wide):
                    at = start + s - shift
                    if before[s] != mask and sure[at] >= tau and int(best[at]) != before[s]:
                        canvas[s], changed = int(best[at]), True
                        edits.append(s - (wide - size))
            for s in opened:
                at = start + s - shift
                if sure[at] >= mask_tau or s == max(opened, key=lambda o: sure[start + o - shift]):
                    canvas[s] = int(best[at])
            steps += 1
            if mask in canvas and not _answered(tokens, canvas, mask, length, end):
                continue
            if (changed or not complete) and spent < passes:
                spent += 1
                continue
            break
        if _answered(tokens, canvas, mask, length, end):
            return _answered(tokens, canvas, mask, length, end), steps, edits
        closed = max(known, wide - back * size)
        tokens, held = tokens + canvas[:closed], canvas[closed:]


def _answered(tokens, canvas, mask, length, end) -> list[int] | None:
    """The answer, if the open block completes it."""
    found = (tokens + canvas[: [*canvas, mask].index(mask)])[length:][:NEW]
    if end in found:
        return found[: found.index(end) + 1]
    return found if len(found) == NEW else None


def _hidden(model, tokens, clean, start, length, size):
    """Hidden states [L, D] of ``clean`` final tokens and the open block behind; under full attention all are alike."""
    traits, count = model.config.traits, len(tokens)
    if traits.context_attention == "full":
        zeros = torch.zeros(1, count, dtype=torch.long)
        rows = Rows(torch.arange(count)[None], zeros, zeros, zeros, zeros)
    else:
        borders = clean_blocks(clean, [(length, clean)] if length < clean else [], size, traits.block_origin).tolist()
        noisy = count - clean
        rows = Rows(
            torch.arange(count)[None],
            torch.zeros(1, count, dtype=torch.long),
            torch.tensor([[0] * clean + [1] * noisy]),
            torch.tensor([[b[0] for b in borders] + [start] * noisy]),
            torch.tensor([[b[1] for b in borders] + [count] * noisy]),
        )
    return model.decode(model.embed(torch.tensor([tokens])), rows)[0]


@pytest.mark.parametrize("name", CHECKPOINTS)
@pytest.mark.parametrize("tau, passes", [(0.0, 3), (0.3, 5), (0.3, 0)])
def test_it_is_the_published_loop(name, tau, passes):
    model, edited = MODELS[name], 0
    for end in (None, 77):
        config = config_of(model, {"tau": tau, "passes": passes}, end)
        together = answer(model, prompts(), config)
        for request, state in zip(prompts(), together):
            (alone,) = answer(model, [request], config)
            generated, steps, edits = restated(model, request, 0.35, tau, passes, end)
            assert state.generated == alone.generated == generated
            assert state.forwards == alone.forwards == steps
            edited += len(edits)
    assert edited > 0, "nothing was ever edited: the test shows nothing"


TWICE = {"trained_block_sizes": (4, 8, 12), "off_grid_ok": True}
HOLDING = {
    "causal": TWICE,
    "block-causal": {"context_attention": "block_causal", **TWICE},
    "sequence": {"context_attention": "block_causal", "block_origin": "sequence", **TWICE},
    "full": {"context_attention": "full"},
}
HELD = {name: sharp_model(noise="mixed", **traits)[0] for name, traits in HOLDING.items()}


def holding(model, back: int, edit: dict, end=None, **more):
    slots = {"token_edit": edit, "multi_block": {"back": back}}
    return config_of(model, None, end, slots=slots, block_size=4, **more)


@pytest.mark.parametrize("name", HOLDING)
@pytest.mark.parametrize("back", [1, 2])
def test_blocks_that_are_held_are_edited_by_what_newer_ones_hold(name, back):
    model, edited = HELD[name], []
    for end, tau in ((None, 0.0), (77, 0.3), (None, 0.3)):
        config = holding(model, back, {"tau": tau, "passes": 3}, end)
        together = answer(model, prompts(), config, max_batch=1 + (end is None))
        for request, state in zip(prompts(), together):
            (alone,) = answer(model, [request], config)
            generated, steps, edits = restated(model, request, 0.35, tau, 3, end, size=4, back=back)
            assert state.generated == alone.generated == generated
            assert state.forwards == alone.forwards == steps
            edited += edits
    assert min(edited) < -4 * (back - 1), "no block held longest was ever edited: the test shows nothing"


def test_held_blocks_that_nothing_edits_are_plain_ones_under_full_attention():
    model = HELD["full"]
    plain = answer(model, prompts(), config_of(model, block_size=4))
    held = answer(model, prompts(), holding(model, 2, {"tau": 1.5}))
    assert [(s.tokens, s.logprobs, s.forwards) for s in plain] == [(s.tokens, s.logprobs, s.forwards) for s in held]


@pytest.mark.parametrize("name", HOLDING)
def test_what_is_told_of_held_blocks_is_what_becomes_of_them(name):
    """Closed tokens never change, and a replay of the trace ends as the answer."""
    model, closed = HELD[name], []
    trace = Trace(model.config.traits.mask_token_id, str)

    def on_step(states):
        assert states[0].tokens[: len(closed)] == closed
        closed[:] = states[0].tokens
        trace(states)

    (state,) = answer(model, prompts(1), holding(model, 1, {"tau": 0.0, "passes": 2}), on_step=on_step)
    seen = {i: text for step in trace.record()["steps"] for i, text, _ in step["written"]}
    assert [seen[i] for i in range(NEW)] == [str(token) for token in state.generated]


def test_steps_of_a_held_block_are_counted_over_its_own_slots():
    """A quota of two slots a step fills four in two steps, whatever is held beside them."""
    model = HELD["full"]
    given = {"policy": "static", "denoising_steps": 2, "threshold": None, "max_new_tokens": 12}
    (state,) = answer(model, prompts(1), holding(model, 1, {"tau": 1.5}, **given))
    assert state.forwards == 6


@pytest.mark.parametrize("name", CHECKPOINTS)
@pytest.mark.parametrize("edit", [{"tau": 1.5}, {"tau": 1.0, "strict": True}, {"tau": float("inf"), "passes": 0}])
def test_a_threshold_out_of_reach_is_decoding_without_edits(name, edit):
    model = MODELS[name]
    plain, never = (answer(model, prompts(), config_of(model, e, 77)) for e in (None, edit))
    found = [[(s.tokens, s.logprobs, s.forwards) for s in states] for states in (never, plain)]
    assert found[0] == found[1], "no token is changed, and no pass is spent on it"


@pytest.mark.parametrize("name", ["causal", "full"])
@pytest.mark.parametrize(
    "slots", [{"dkv": {}}, {"sub_blocks": {"size": 3}}, {"phase_kv": {"active": 2}}, {"eotp": {}}], ids=str
)
def test_it_goes_with_kept_kv_and_with_other_rules(name, slots):
    model = MODELS[name]
    config = config_of(model, **{"slots": {"token_edit": {"passes": 2}, **slots}})
    for request, state in zip(prompts(), answer(model, prompts(), config)):
        (alone,) = answer(model, [request], config)
        assert (state.tokens, state.forwards) == (alone.tokens, alone.forwards)
        assert len(state.generated) == NEW and model.config.traits.mask_token_id not in state.generated


@settings(max_examples=10, deadline=None)
@given(
    st.sampled_from(sorted(CHECKPOINTS)), st.integers(0, 2**20), st.sampled_from([0.0, 0.05, 0.5]), st.integers(0, 4)
)
def test_whatever_the_model_says_it_ends_and_leaves_alone_what_is_not_its_own(name, seed, tau, passes):
    """Logits drawn anew at every pass never settle: a block takes its masks' passes and the ones allowed, no more."""
    model, generator = MODELS[name], torch.Generator().manual_seed(seed)
    mask, closed = model.config.traits.mask_token_id, {}

    def noise(_, logits):
        drawn = torch.randn(logits.shape, generator=generator, dtype=logits.dtype) * 10 ** (seed % 4 - 1)
        return drawn.masked_fill(logits == -torch.inf, -torch.inf)

    def on_step(states):
        for state in states:
            before = closed.setdefault(id(state), [])
            assert state.tokens[: len(before)] == before, "what was final has changed"
            closed[id(state)] = list(state.tokens)

    requests = prompts(2)
    requests[1].canvas = [mask, 60, mask, mask, 61, 62] + [mask] * 5
    config = config_of(model, {"tau": tau, "passes": passes}, 77)
    states = answer(model, requests, config, on_step=on_step, processors=noise)
    for request, state in zip(requests, states):
        assert state.tokens[: len(request.input_ids)] == request.input_ids.tolist()
        assert mask not in state.generated and 1 <= len(state.generated) <= NEW
        assert state.forwards <= 3 * (SIZE + passes)
        assert (state.finish_reason == "stop") == (state.generated[-1] == 77)
    given_ = {1: 60, 4: 61, 5: 62}
    assert all(states[1].generated[i] == t for i, t in given_.items() if i < len(states[1].generated))


def test_the_preset_reads_a_full_block_again_until_nothing_changes():
    model = MODELS["causal"]
    config = settings_of(model, decoder="llada2.1", max_new_tokens=NEW)
    strategy = build_strategy(model, config)
    assert (strategy.edit.tau, strategy.edit.passes, strategy.edit.strict) == (0.0, 16, True)
    assert (strategy.commit.tau, strategy.commit.strict, strategy.spans.size) == (0.5, True, 8)


PLAIN, _ = sharp_model()
UNIFORM, _ = sharp_model(noise="uniform")
ILLEGAL = [
    (PLAIN, {"decoder": "llada2.1"}, "token_edit needs a checkpoint trained with noise 'mixed'; this one has 'mask'"),
    (
        UNIFORM,
        {"decoder": "llada2.1"},
        "noise 'uniform': decoding begins with masks, which such a checkpoint has never",
    ),
    (MODELS["causal"], {"slots": {"token_edit": {"tau": "high"}}}, "tau high must be a number"),
    (MODELS["causal"], {"slots": {"token_edit": {"passes": -1}}}, "passes -1 must be a whole number of at least 0"),
    (
        MODELS["causal"],
        {"slots": {"token_edit": {}, "streaming": {}}},
        "token_edit changes .* streaming gives them up",
    ),
    (
        MODELS["causal"],
        {"decoder": "llada2.1-blocks"},
        r"multi_block back 1 needs windows of 16 tokens .* full attention: .* has trained_block_sizes=\(1, 4, 8\)",
    ),
    (
        MODELS["shift 1"],
        {"decoder": "llada2.1-blocks", "block_size": 4},
        "multi_block back 1 needs windows of 8 tokens trained, off the grid, shift 0, or .* prediction_shift=1",
    ),
    (MODELS["full"], {"slots": {"token_edit": {}, "multi_block": {"back": 0}}}, "back 0 must be a whole number of"),
    (MODELS["full"], {"slots": {"multi_block": {}}}, "multi_block holds .* which token_edit does: give both"),
    (MODELS["causal"], {"slots": {"token_edit": {}}, "mode": "ar"}, "'token_edit' works on open blocks, .* mode 'ar'"),
]


@pytest.mark.parametrize("model, given, message", ILLEGAL, ids=range(len(ILLEGAL)))
def test_what_cannot_be_is_refused_with_both_reasons(model, given, message):
    with pytest.raises(ValueError, match=message):
        settings_of(model, **given)


def test_a_grammar_cannot_follow_tokens_that_change():
    model, processor = sharp_model(noise="mixed")
    grammar = Grammar("", "any")
    with pytest.raises(ValueError, match="token_edit changes committed tokens, but a grammar has followed them"):
        build_strategy(model, config_of(model, {}), grammar, processor.tokenizer)
