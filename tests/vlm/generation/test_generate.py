"""What `generate` takes beside a prompt: a starting canvas, stop strings, logits processors, drafts to a streamer."""

import pytest
import torch
from transformers import LogitsProcessor, LogitsProcessorList

from tests.vlm.generation.sharp import sharp_model
from tests.vlm.tiny import greedy, tiny_model
from vlm.cache import BlockCache
from vlm.generation.constraint import Grammar
from vlm.generation.generate import answer
from vlm.generation.request import Request
from vlm.generation.strategy import build_strategy

IDS = torch.tensor([[40, 41, 42, 43, 44]])


@pytest.mark.parametrize("mode", ["block", "ar"])
@pytest.mark.parametrize("traits", [{}, {"prediction_shift": 1}, {"block_origin": "sequence"}])
def test_infilling_keeps_what_is_given_and_fills_the_rest(mode, traits):
    model, _ = sharp_model(**traits)
    mask = model.config.traits.mask_token_id
    canvas = torch.tensor([[mask, 60, 61, mask, mask, 62, 63, 64, 65, 66, 67, mask, 68]])
    given = canvas != mask
    out = model.generate(IDS, canvas=canvas, mode=mode, max_new_tokens=50)
    made = out.sequences[:, IDS.shape[1] :]
    assert made.shape == canvas.shape
    assert torch.equal(made[given], canvas[given]) and not (made == mask).any()
    if mode == "ar":
        plain = model.generate(torch.cat([IDS, made[:, :3]], 1), mode="ar", max_new_tokens=1)
        assert plain.sequences[0, -1] == made[0, 3]  # what is given is context like any other


def test_a_canvas_without_masks_needs_no_pass():
    model, _ = tiny_model()
    state = answer(model, [Request(IDS[0], canvas=[50] * 9)], greedy())[0]
    assert state.generated == [50] * 9 and state.forwards == 0 and state.finish_reason == "length"


def test_an_answer_that_needs_no_pass_has_a_rate():
    model, processor = tiny_model()
    tokenizer = processor.tokenizer
    extra = {"grammar": Grammar.choices(["red"]), "tokenizer": tokenizer, "eos_token_id": tokenizer.eos_token_id}
    out = model.generate(IDS, mode="ar", **extra)
    assert out.states[0].forwards == 0 and out.tokens_per_forward.tolist() == [len(out.states[0].generated)]


def test_a_cache_of_other_rows_is_refused():
    model, _ = tiny_model()
    with pytest.raises(ValueError, match="2 prompts but a cache of 1 rows"):
        model.generate(IDS.repeat(2, 1), past_key_values=BlockCache(model.config.text_config, 1))


def test_a_batch_of_nothing_is_refused():
    model, _ = tiny_model()
    with pytest.raises(ValueError, match="max_batch 0 must be at least 1"):
        answer(model, [Request(IDS[0])], greedy(), max_batch=0)


def test_a_canvas_is_refused_where_it_cannot_be_kept():
    model, _ = tiny_model()
    with pytest.raises(ValueError, match="a starting canvas needs mode 'block' or 'ar'"):
        model.generate(IDS, canvas=torch.tensor([[1, 2]]), mode="speculative")


@pytest.mark.parametrize("mode", ["block", "ar", "speculative"])
def test_a_stop_string_ends_the_answer_with_the_token_that_completes_it(mode):
    model, processor = tiny_model(scale=8.0)
    tokenizer = processor.tokenizer
    full = model.generate(IDS, mode=mode, max_new_tokens=24).sequences[0, 5:].tolist()
    text = tokenizer.decode(full)
    stop = text[len(text) // 2 : len(text) // 2 + 2]
    cut = model.generate(IDS, mode=mode, max_new_tokens=24, stop_strings=[stop, "never seen"], tokenizer=tokenizer)
    found = cut.sequences[0, 5:].tolist()
    shortest = next(n for n in range(1, 25) if stop in tokenizer.decode(full[:n]))
    assert found == full[:shortest] and cut.states[0].finish_reason == "stop"


def test_stop_strings_need_a_tokenizer():
    model, _ = tiny_model()
    with pytest.raises(ValueError, match="need a tokenizer"):
        model.generate(IDS, stop_strings=["a"])


class Ban(LogitsProcessor):
    """Bans what has been generated already: no token may come twice."""

    def __call__(self, input_ids, scores):
        for row, ids in enumerate(input_ids):
            scores[row, ids] = -torch.inf
        return scores


@pytest.mark.parametrize("mode", ["ar", "speculative"])
def test_logits_processors_see_the_tokens_before(mode):
    model, _ = tiny_model(scale=8.0)
    made = model.generate(IDS, mode=mode, max_new_tokens=20, logits_processor=LogitsProcessorList([Ban()]))
    assert len(set(made.sequences[0].tolist())) == 25


def test_the_repetition_penalty_is_transformers_own():
    model, _ = tiny_model(scale=4.0)
    from transformers import RepetitionPenaltyLogitsProcessor

    given = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(50.0)])
    one = model.generate(IDS, mode="ar", repetition_penalty=50.0).sequences
    assert torch.equal(one, model.generate(IDS, mode="ar", logits_processor=given).sequences)
    assert not torch.equal(one, model.generate(IDS, mode="ar").sequences)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"policy": "magic"}, "policy 'magic' is not one of sequential, static, threshold"),
        ({"policy": "wedlm", "policy_args": {"taw": 1}}, "policy 'wedlm' has no 'taw'; it has tau, penalty"),
        ({"policy": "bacd", "policy_args": {"low": 2.0}}, "low 2.0"),
        ({"policy_args": {"tau": "high"}}, "tau high must be a number"),
        ({"repetition_penalty": 0.0}, "repetition_penalty 0.0"),
        ({"max_new_tokens": 3.5}, "max_new_tokens 3.5 must be a whole number"),
        ({"block_size": 4.0}, "block_size 4.0 must be a whole number"),
        ({"top_k": 2.5}, "top_k 2.5 must be a whole number"),
        ({"stop_strings": [5]}, r"stop_strings \[5\] must be texts"),
    ],
)
def test_impossible_settings_are_refused_by_name(settings, message):
    model, _ = tiny_model()
    with pytest.raises(ValueError, match=message):
        build_strategy(model, greedy(**settings))


class Listener:
    def __init__(self):
        self.closed, self.drafts = [], []

    def put(self, value):
        self.closed += value.tolist()

    def put_draft(self, value):
        self.drafts.append(value.tolist())

    def end(self):
        self.ended = True


@pytest.mark.parametrize("mode", ["block", "ar", "speculative"])
def test_a_streamer_hears_every_token_once(mode):
    model, _ = sharp_model()
    listener = Listener()
    out = model.generate(IDS, mode=mode, max_new_tokens=13, threshold=0.35, streamer=listener)
    assert listener.closed == out.sequences[0].tolist() and listener.ended
    assert (len(listener.drafts) > 0) == (mode != "ar")
