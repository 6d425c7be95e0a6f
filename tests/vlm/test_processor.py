"""The processor: placeholders, answer marks, reserved tokens."""

import numpy as np
import pytest
from PIL import Image

from data_pipelines.video import Clip
from tests.vlm.tiny import tiny_model

PICTURE = Image.new("RGB", (40, 30), "red")


def chat(*turns, media=()):
    parts = [{"type": kind} for kind in media]
    messages = [{"role": "user", "content": [*parts, {"type": "text", "text": turns[0]}]}]
    for k, text in enumerate(turns[1:]):
        role = "assistant" if k % 2 == 0 else "user"
        messages.append({"role": role, "content": [{"type": "text", "text": text}]})
    return messages


def test_placeholders_expand_to_the_models_features():
    model, processor = tiny_model()
    encoded = processor.encode(chat("red?", media=["image", "video"]), [PICTURE, [PICTURE] * 3])
    assert (encoded.input_ids == model.config.image_token_id).sum() == model.vision_tower.num_tokens == 4
    assert (encoded.input_ids == model.config.video_token_id).sum() == 3 * 1
    assert encoded.images.shape == (1, 3, 32, 32) and encoded.frames.shape == (3, 3, 32, 32)


def test_answers_are_marked_with_their_end_of_turn():
    _, processor = tiny_model()
    encoded = processor.encode(chat("How many?", "3", "red?", "green", media=["image"]), [PICTURE])
    answers = np.split(encoded.input_ids, np.flatnonzero(np.diff(encoded.is_answer)) + 1)
    marked = [
        a for a, m in zip(answers, np.split(encoded.is_answer, np.flatnonzero(np.diff(encoded.is_answer)) + 1)) if m[0]
    ]
    end = processor.tokenizer.eos_token_id
    assert [processor.decode(a) for a in marked] == ["3", "green"]
    assert all(a[-1] == end and end not in a[:-1] for a in marked)


def test_the_generation_prompt_is_what_precedes_an_answer():
    """A prompt ready to be answered is exactly the training stream up to the answer."""
    _, processor = tiny_model()
    whole = processor.encode(chat("How many?", "3"), [])
    prompt = processor.encode(chat("How many?"), [], add_generation_prompt=True)
    start = int(np.argmax(whole.is_answer))
    assert np.array_equal(prompt.input_ids, whole.input_ids[:start]) and not prompt.is_answer.any()


def test_media_and_placeholders_must_agree():
    _, processor = tiny_model()
    with pytest.raises(ValueError, match="1 media placeholders in the chat but 2 media given"):
        processor.encode(chat("red?", media=["image"]), [PICTURE, PICTURE])


@pytest.mark.parametrize("token", ["<|image|>", "<|mask|>", "<|end|>"])
def test_reserved_tokens_in_a_text_are_refused(token):
    _, processor = tiny_model()
    with pytest.raises(ValueError, match="reserved token"):
        processor.encode(chat(f"red {token}?"), [])


def test_any_text_survives_the_tokenizer():
    _, processor = tiny_model()
    for text in ("Grüße, 東京! 🙂", "a  b\n\nc", '{"x": [1, 23]}'):
        assert processor.decode(processor.tokenizer(text)["input_ids"]) == text


def test_transformers_own_chat_call_gives_the_same_tokens_and_pixels():
    """`apply_chat_template(tokenize=True)`, as transformers' users write it, against `encode`."""
    _, processor = tiny_model()
    content = [{"type": "image", "image": PICTURE}, {"type": "text", "text": "red?"}]
    messages = [{"role": "user", "content": content}]
    batch = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    expected = processor.encode(messages, [PICTURE], add_generation_prompt=True)
    assert batch["input_ids"].tolist() == [expected.input_ids.tolist()]
    assert np.array_equal(batch["pixel_values"].numpy(), expected.images)


def test_rendered_chats_are_padded_on_the_left():
    model, processor = tiny_model()
    texts = ["<|begin|><|user|>red<|end|>", "<|begin|><|user|><|image|>red green blue<|end|>", "<|video|>"]
    batch = processor(text=texts, images=[[], [PICTURE]], videos=[[PICTURE] * 3], return_tensors="pt")
    assert batch["attention_mask"][:, -1].all() and batch["attention_mask"].sum(1).tolist()[2] == 3
    assert (batch["input_ids"] == model.config.image_token_id).sum(1).tolist() == [0, 4, 0]
    with pytest.raises(ValueError, match="more placeholders than media: 0 images"):
        processor(text=texts[1])
    with pytest.raises(ValueError, match="fewer placeholders than media: 1 images"):
        processor(text=texts[0], images=[PICTURE])


def test_a_timed_video_has_each_frames_time_before_it():
    """The same tokens as the frames one by one between texts, written out by hand."""
    model, processor = tiny_model()
    clip = Clip([PICTURE] * 3, [0.0, 1.0, 62.0])
    video = {"type": "video", "video": clip}
    texts = ["0:00 ", "0:01 ", "1:02 "]
    spelled = [part for text in texts for part in ({"type": "text", "text": text}, {"type": "video"})]
    asked, end = [{"type": "text", "text": "red?"}], {"role": "assistant", "content": "red"}
    timed = processor.encode([{"role": "user", "content": [{**video, "timed": True}, *asked]}, end], [clip])
    by_hand = processor.encode([{"role": "user", "content": [*spelled, *asked]}, end], [[PICTURE]] * 3)
    plain = processor.encode([{"role": "user", "content": [video, *asked]}, end], [clip])
    assert np.array_equal(timed.input_ids, by_hand.input_ids) and np.array_equal(timed.is_answer, by_hand.is_answer)
    assert np.array_equal(timed.frames, plain.frames) and len(timed.frames) == 3
    assert len(plain.input_ids) < len(timed.input_ids)
    with pytest.raises(ValueError, match="1 media placeholders in the chat but 2 media given"):
        processor.encode([{"role": "user", "content": [{**video, "timed": True}, *asked]}], [clip, clip])
    with pytest.raises(ValueError, match="known with its frames only"):
        processor.tokens([{"role": "user", "content": [{**video, "timed": True}, *asked]}], [3])
