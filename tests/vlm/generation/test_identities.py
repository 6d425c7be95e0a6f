"""Every strategy with what makes it special turned off is another one, end to end: the same tokens in as many passes.

The same identities between commit policies, one pass at a time, stand in `test_commit`; that decoding through the
exact cache is decoding without one in `test_loop`, and that keeping nothing is that too in `test_kept` and
`test_whole`, to 1e-9; that a batch is its singles in `test_presets`.
"""

import pytest
import torch

from tests.vlm.generation.sharp import sharp_model
from vlm.answering import settings as settings_of
from vlm.generation.commit import POLICIES
from vlm.generation.generate import answer
from vlm.generation.request import Request

END, NEVER = 40, float("inf")
CHECKPOINTS = {
    "causal": {"off_grid_ok": True},
    "shift 1": {"prediction_shift": 1},
    "full": {"context_attention": "full"},
}
MODELS = {name: sharp_model(**traits) for name, traits in CHECKPOINTS.items()}
STATIC, SURE = {"policy": "static"}, {"policy": "threshold", "threshold": 0.35}
EIGHT = {"block_size": 8}
DRAFTED = {"mode": "speculative", **EIGHT}


def policy(name: str, **fields) -> dict:
    return {"policy": name, "policy_args": fields}


def slot(name: str, **fields) -> dict:
    return {"slots": {name: fields}}


# By name: the strategy with its special part off, what it then is, and the checkpoint if it takes a certain one.
IDENTITIES = {
    "threshold above 1 is the best slot": (policy("threshold", tau=NEVER), STATIC),
    "factor 0 is the best slot": (policy("factor", factor=0.0), STATIC),
    "bacd with equal bounds is a threshold": (policy("bacd", low=0.35, high=0.35), SURE),
    "localleap with equal thresholds is one": (policy("localleap", tau=0.35, relaxed=0.35), SURE),
    "localleap of radius 0 is a threshold": (policy("localleap", tau=0.35, relaxed=0.1, radius=0), SURE),
    "cad without bounds and gate is a threshold": (
        {**policy("cad", tau=0.35, least=1, most=8), **slot("eos_gate", share=0.0), **EIGHT}, {**SURE, **EIGHT}),
    "prophet of infinite gaps is off": ({**STATIC, **slot("prophet", first=NEVER, middle=NEVER, last=NEVER)}, STATIC),
    "stable that is never confident is off": ({**STATIC, **slot("stable", entropy=0.0)}, STATIC),
    "learn2pd that accepts nothing is static": (
        {**policy("learn2pd", accept=1.0), "denoising_steps": 2}, {**STATIC, "denoising_steps": 2}),
    "eoser that lowers nothing is off": ({**STATIC, **slot("eoser", lowest=1.0)}, STATIC),
    "eoser with ass that lowers nothing is off": (
        {"policy": "doubling", **slot("eoser", lowest=1.0, doubling=True)}, {"policy": "doubling"}),
    "an end gate of share 0 is off": ({**STATIC, **slot("eos_gate", share=0.0)}, STATIC),
    "an end that waits is off from left to right": (
        {"policy": "sequential", **slot("end_last")}, {"policy": "sequential"}),
    "credit of weight 0 is off": ({**STATIC, **slot("credit", alpha=0.0)}, STATIC),
    "wedlm without penalty and bound is the least entropy": (
        policy("wedlm", tau=-NEVER, penalty=0.0), policy("entropy", gamma=0.0)),
    "wedlm with a steep penalty is sequential": (policy("wedlm", tau=0.0, penalty=1e6), {"policy": "sequential"}),
    "dcd with a window of the block is a fixed block": (
        {**STATIC, **EIGHT, **slot("dcd", window=8, reach=8)}, {**STATIC, **EIGHT}),
    "dcd with a window of one slot is sequential": (
        {**STATIC, **EIGHT, **slot("dcd", window=1)}, {"policy": "sequential", **EIGHT}),
    "adablock that never sees a delimiter is a fixed block": (
        {**STATIC, **EIGHT, **slot("adablock", delimiters="aeiost.", tau=NEVER)}, {**STATIC, **EIGHT}),
    "tccf of equal sizes is one stage": (
        {**STATIC, "block_size": 4, **slot("tccf", marker=60, small=4)}, {**STATIC, "block_size": 4}),
    "streaming of one slot is blocks of one": (
        {**STATIC, "block_size": 1, **slot("streaming")}, {**STATIC, "block_size": 1}),
    "window diffusion that refreshes all is none": (
        {**SURE, **EIGHT, **slot("phase_kv", refresh=1, window=99, active=99)}, {**SURE, **EIGHT}, "full"),
    "dkv that refreshes every pass is no cache": (
        {**SURE, **EIGHT, **slot("dkv", refresh=1)}, {**SURE, **EIGHT}, "full"),
    "dual that refreshes every pass is no cache": (
        {**SURE, **EIGHT, **slot("dual_kv", refresh=1)}, {**SURE, **EIGHT}, "full"),
    "prefix that refreshes every pass is no cache": (
        {**SURE, **EIGHT, **slot("prefix_kv", refresh=1)}, {**SURE, **EIGHT}, "full"),
    "flashblock that works all out is dense attention": ({**SURE, **slot("flashblock", tau=1)}, SURE),
    "ete of budget 0 is a threshold": (policy("explore", tau=0.35, least=0), SURE),
    "adl of one length is fixed drafts": ({**DRAFTED, **slot("adl", shortest=7, longest=7)}, DRAFTED),
    "cps of one path without n-grams is the best tokens": ({**DRAFTED, **slot("cps", beam=1, weight=1.0)}, DRAFTED),
    "a repetition that never comes is off": ({**STATIC, **slot("repetition", times=99)}, STATIC),
}  # fmt: skip


def prompts(count: int = 2) -> list[Request]:
    generator = torch.Generator().manual_seed(5)
    return [Request(torch.randint(20, 250, (3 + 6 * k,), generator=generator), seed=k) for k in range(count)]


def decoded(name: str, given: dict, longest: int = 17, end: int | None = END):
    model, processor = MODELS[name]
    config = settings_of(model, tokenizer=processor.tokenizer, max_new_tokens=longest, **given)
    config.eos_token_id = end
    return answer(model, prompts(), config, tokenizer=processor.tokenizer)


@pytest.mark.parametrize("kind", IDENTITIES)
def test_what_makes_a_strategy_special_turned_off_is_the_plain_one(kind):
    special, plain, name = (*IDENTITIES[kind], "causal")[:3]
    one, two = decoded(name, special), decoded(name, plain)
    assert [(s.tokens, s.forwards) for s in one] == [(s.tokens, s.forwards) for s in two]
    assert all(a == pytest.approx(b, abs=1e-9) for a, b in zip((s.logprobs for s in one), (s.logprobs for s in two)))


def single(name: str) -> dict:
    return {**policy(name, **({"accept": 1.0} if name == "learn2pd" else {})), "block_size": 1}


@pytest.mark.parametrize("name", POLICIES)
def test_blocks_of_one_slot_are_the_ar_mode_under_shift_1_and_sequential_decoding_under_shift_0(name):
    for checkpoint, plain in (("shift 1", {"mode": "ar"}), ("causal", single("sequential"))):
        one, two = decoded(checkpoint, single(name), 11), decoded(checkpoint, plain, 11)
        assert [(s.tokens, s.forwards) for s in one] == [(s.tokens, s.forwards) for s in two]


@pytest.mark.parametrize("name", ["causal", "shift 1"])
def test_greedy_verified_output_is_the_ar_modes(name):
    ar, drafted = decoded(name, {"mode": "ar"}), decoded(name, {"mode": "speculative"})
    assert [s.tokens for s in ar] == [s.tokens for s in drafted]


def test_ass_fills_a_block_by_the_powers_of_two():
    (state, _) = decoded("causal", {"policy": "doubling", **EIGHT}, 16, None)
    assert len(state.generated) == 16 and state.forwards == 2 * 4, "1 + 2 + 4 + 1 slots, twice"


@pytest.mark.parametrize("name", MODELS)
def test_rates_are_of_all_passes(name):
    for state in decoded(name, SURE):
        assert state.tokens_per_forward == len(state.generated) / state.forwards
