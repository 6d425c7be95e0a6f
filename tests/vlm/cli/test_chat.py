"""A scripted chat: every answer is the answer to the whole conversation so far, and a slip costs nothing."""

import io

import numpy as np
import pytest
from PIL import Image

from data_pipelines.record import image_part, text_part
from tests.vlm.cli.lively import lively_model
from vlm.answering import answer_batch, build_request, settings
from vlm.cli.chat import chat

MODEL, PROCESSOR = lively_model()
CONFIG = settings(MODEL, max_new_tokens=8)


def image(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 60, 3)).astype(np.uint8))


def user(text: str, *kinds: str) -> dict:
    return {"role": "user", "content": [*({"type": kind, kind: None} for kind in kinds), text_part(text)]}


def reply(text: str) -> dict:
    return {"role": "assistant", "content": text}


def answer(messages: list[dict], media: list = ()) -> str:
    return answer_batch(MODEL, PROCESSOR, [build_request(PROCESSOR, messages, list(media))], CONFIG)[0].answer


@pytest.fixture
def talk(tmp_path, monkeypatch, capsys):
    """Type lines into a chat; returns the lines of stdout and what stderr says after the help."""
    monkeypatch.chdir(tmp_path)
    for k in range(3):
        image(k).save(f"{k}.png")
    pictures = [image(k).quantize(64) for k in range(3)]
    pictures[0].save("a.gif", save_all=True, append_images=pictures[1:])

    def run(*lines: str, system: str | None = None, first: list = ()) -> tuple[list[str], list[str]]:
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(line + "\n" for line in lines)))
        chat(MODEL, PROCESSOR, CONFIG, 4, system, list(first))
        out, err = capsys.readouterr()
        return out.splitlines(), err.splitlines()[1:]

    return run


def test_a_turn_sees_all_turns_before_it(talk):
    one, two, three = "How many circles?", "What color is it?", "A small star is at the top."
    first = answer([user(one)])
    second = answer([user(one), reply(first), user(two)])
    third = answer([user(one), reply(first), user(two), reply(second), user(three)])
    assert talk(one, two, three) == ([first, second, third], [])
    assert second != answer([user(two)]) and third != answer([user(one), reply(first), user(three)])


def test_attachments_belong_to_the_next_message(talk):
    first = answer([user("red", "image", "image")], [image(0), image(1)])
    conversation = [user("red", "image", "image"), reply(first), user("blue")]
    second = answer(conversation, [image(0), image(1)])
    out, err = talk("/image 0.png", "/image 1.png", "red", "blue")
    assert out == [first, second] and err == ["attached 0.png", "attached 1.png"]


def test_a_video_and_a_first_image(talk):
    frames = [image(k).quantize(64).convert("RGB") for k in range(3)]
    expected = answer([user("red", "image", "video")], [image(0), frames])
    assert talk("/video a.gif", "red", first=[image_part("0.png")]) == ([expected], ["attached a.gif"])


def test_reset_forgets_everything_but_the_system_message(talk):
    system = {"role": "system", "content": "small"}
    first, fresh = answer([system, user("red")]), answer([system, user("blue")])
    assert first != answer([user("red")])
    out, _ = talk("red", "/image 0.png", "/reset", "blue", system="small")
    assert out == [first, fresh]


def test_slips_cost_nothing(talk):
    first = answer([user("red", "image")], [image(0)])
    second = answer([user("red", "image"), reply(first), user("blue")], [image(0)])
    out, err = talk(
        "/image no.png", "/image 0.png", "/picture 1.png", "red <|end|>", "", "red", "/video no.mp4", "blue"
    )
    assert out == [first, second]
    says = ["error: no.png", "attached 0.png", "unknown command /picture", "error: the text contains", "error: no.mp4"]
    assert len(err) == len(says) and all(line.startswith(start) for line, start in zip(err, says))


def test_a_command_without_its_file_says_so(talk):
    out, err = talk("/image", "/video  ")
    assert out == [] and err == ["error: /image needs a file", "error: /video needs a file"]


def test_quit_leaves_the_rest_unread(talk):
    assert talk("red", "/quit", "blue")[0] == [answer([user("red")])]


def test_a_chat_of_nothing(talk):
    assert talk() == ([], [])
