"""Answers and their counts against the tokens themselves; settings are legal or refused before anything is decoded."""

import pytest

from data_pipelines.readers.messages import user_sample
from tests.vlm.tiny import tiny_model
from vlm import BlockGenerationConfig
from vlm.answering import answer_batch, build_request, settings

MODEL, PROCESSOR = tiny_model()


def request(text: str = "red", **kwargs):
    return build_request(PROCESSOR, user_sample(text).messages, [], **kwargs)


def test_overrides_win_and_none_does_not(monkeypatch):
    monkeypatch.setattr(MODEL.generation_config, "threshold", 0.7)
    config = settings(MODEL, threshold=None, max_new_tokens=5, mode="ar")
    assert (config.threshold, config.max_new_tokens, config.mode) == (0.7, 5, "ar")
    assert MODEL.generation_config.max_new_tokens == 256  # the checkpoint's own settings stay
    assert config.suppress_tokens == MODEL.generation_config.suppress_tokens


def test_steps_ask_for_the_static_policy():
    assert settings(MODEL).policy == "threshold" and settings(MODEL, denoising_steps=2).policy == "static"


@pytest.mark.parametrize(
    "override, says",
    [
        ({"max_new_tokens": 0}, "max_new_tokens 0 must be at least 1"),
        ({"block_size": 5}, "block_size 5 was not trained; this checkpoint allows 1, 4, 8"),
        ({"threshold": 2.0}, r"threshold 2.0 must lie in \(0, 1\]"),
        ({"threshold": 0.0}, r"threshold 0.0 must lie in \(0, 1\]"),
        ({"temperature": float("inf")}, "temperature inf"),
        ({"seed": -1}, "seed -1"),
        ({"seed": 2**63}, f"seed {2**63}"),
        ({"mode": "both"}, "'both' is not one of block, ar"),
    ],
)
def test_illegal_settings_say_what_is_allowed(override, says):
    with pytest.raises(ValueError, match=says):
        settings(MODEL, **override)


def test_ar_mode_needs_a_checkpoint_trained_for_it():
    model, _ = tiny_model(ar_mode=False)
    with pytest.raises(ValueError, match="mode 'ar' needs"):
        settings(model, mode="ar")
    assert settings(model).mode == "block"


@pytest.mark.parametrize("size, steps", [(4, 1), (4, 4), (8, 3)])
def test_counts_follow_from_blocks_and_steps(size, steps):
    config = settings(MODEL, block_size=size, denoising_steps=steps, max_new_tokens=16)
    config.eos_token_id = None
    answer = answer_batch(MODEL, PROCESSOR, [request()], config)[0]
    assert (answer.tokens, answer.forwards) == (16, 16 // size * steps)  # closing shares a pass with the next opening
    assert answer.tokens_per_forward == round(16 / answer.forwards, 3)
    assert (answer.finish_reason, answer.mode) == ("length", "block")


def test_the_end_token_counts_and_is_not_shown():
    """With every other token suppressed the first one is the end."""
    end = MODEL.generation_config.eos_token_id
    config = settings(MODEL, mode="ar")
    config.suppress_tokens = [t for t in range(len(PROCESSOR.tokenizer)) if t != end]
    answer = answer_batch(MODEL, PROCESSOR, [request()], config)[0]
    assert (answer.answer, answer.tokens, answer.forwards, answer.finish_reason) == ("", 1, 1, "stop")


def test_a_seed_decides_a_sample_wherever_it_stands_in_a_batch():
    config = settings(MODEL, temperature=1.0, max_new_tokens=12)
    asked = [("red", 1), ("blue green", 2), ("red", 1), ("red", 3)]
    together = answer_batch(MODEL, PROCESSOR, [request(text, seed=seed) for text, seed in asked], config)
    alone = [answer_batch(MODEL, PROCESSOR, [request(text, seed=seed)], config)[0] for text, seed in asked]
    assert [a.answer for a in together] == [a.answer for a in alone]
    assert together[0].answer == together[2].answer != together[3].answer


@pytest.mark.parametrize("text", ["", "   ", "\n"])
def test_an_empty_prompt_is_refused(text):
    with pytest.raises(ValueError, match="the prompt is empty"):
        request(text)
    with pytest.raises(ValueError, match="the prompt is empty"):
        build_request(PROCESSOR, [{"role": "user", "content": text}], [])


def test_the_last_word_is_the_users():
    talk = [{"role": "user", "content": "red"}, {"role": "assistant", "content": "blue"}]
    with pytest.raises(ValueError, match="must be the user's, not the assistant's"):
        build_request(PROCESSOR, talk, [])


def test_earlier_answers_keep_their_own_blocks():
    talk = [{"role": "user", "content": "red"}, {"role": "assistant", "content": "blue"},
            {"role": "user", "content": "green"}]  # fmt: skip
    built = build_request(PROCESSOR, talk, [])
    ((start, end),) = built.answer_spans
    assert PROCESSOR.tokenizer.decode(built.input_ids[start:end]) == "blue<|end|>"


@pytest.mark.parametrize(
    "token", ["<|begin|>", "<|end|>", "<|mask|>", "<|image|>", "<|video|>", "<|user|>", "<|system|>"]
)
def test_reserved_tokens_are_refused_by_name(token):
    """Roles among them: a text must not open a turn of its own."""
    with pytest.raises(ValueError, match=f"reserved token '{token}'".replace("|", r"\|")):
        request(f"say {token} now")


def test_the_saved_settings_come_back(tmp_path):
    config = settings(MODEL, threshold=0.3, block_size=8)
    config.save_pretrained(tmp_path)
    again = BlockGenerationConfig.from_pretrained(tmp_path)
    assert (again.threshold, again.block_size, again.max_new_tokens) == (0.3, 8, config.max_new_tokens)
