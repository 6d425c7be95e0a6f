"""What stands on the screen at the end is the answer and nothing else, whatever was drafted on the way.

The oracle is a small terminal, `Screen`, on which the final text is printed at once.
"""

import io
import os
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import TextDiffusionStreamer

from tests.vlm.cli.screen import Screen, printed
from tests.vlm.tiny import greedy, tiny_model
from vlm.cli import stream
from vlm.cli.stream import TerminalStreamer

MODEL, PROCESSOR = tiny_model()
MASK = PROCESSOR.tokenizer.mask_token_id
PROMPT = torch.tensor([1, 2, 3])


def tokens_of(text: str) -> list[int]:
    return PROCESSOR.tokenizer(text, add_special_tokens=False)["input_ids"]


texts = st.text("ab cé漢🙂\n", min_size=0, max_size=60)
drafts = st.lists(st.sampled_from([MASK, *tokens_of("ab cé漢\n")]), max_size=20)  # single bytes of characters too


@settings(deadline=None, max_examples=300)
@given(texts, st.integers(4, 17), st.lists(st.tuples(st.integers(1, 9), st.lists(drafts, max_size=3)), max_size=8))
def test_drafts_leave_nothing_behind(text, width, blocks):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream.shutil, "get_terminal_size", lambda: os.terminal_size((width, 1000)))
        screen, tokens = Screen(width), tokens_of(text)
        streamer = TerminalStreamer(PROCESSOR, screen)
        streamer.put(PROMPT)
        for size, shown in [*blocks, (len(tokens), [])]:  # closes at any token, inside a character too
            for draft in shown:
                streamer.put_draft(torch.tensor(draft, dtype=torch.long))
            closed, tokens = tokens[:size], tokens[size:]
            if closed:
                streamer.put(torch.tensor(closed))
        streamer.end()
    assert PROCESSOR.decode(tokens_of(text)) == text
    assert screen.shown() == printed(text, width)


@settings(deadline=None, max_examples=50)
@given(st.text("abc漢", max_size=30), st.integers(4, 9), st.integers(2, 5), st.integers(0, 80))
def test_a_draft_higher_than_the_screen_is_cut_not_left(text, width, height, masks):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream.shutil, "get_terminal_size", lambda: os.terminal_size((width, height)))
        screen = Screen(width, height)
        streamer = TerminalStreamer(PROCESSOR, screen)
        streamer.put(PROMPT)
        streamer.put(torch.tensor(tokens_of(text), dtype=torch.long))
        for _ in range(3):
            streamer.put_draft(torch.full((masks,), MASK))
        streamer.end()
    assert screen.shown() == printed(text, width)


def test_the_draft_is_on_the_screen_while_it_is_a_draft(monkeypatch):
    monkeypatch.setattr(stream.shutil, "get_terminal_size", lambda: os.terminal_size((5, 24)))
    screen = Screen(5)
    streamer = TerminalStreamer(PROCESSOR, screen)
    streamer.put(PROMPT)
    streamer.put(torch.tensor(tokens_of("red")))
    streamer.put_draft(torch.tensor([*tokens_of("é漢"), MASK, *tokens_of("b")]))
    assert screen.shown() == ({(0, k): c for k, c in enumerate("redé")} | {(1, 0): "漢", (1, 2): "░", (1, 3): "b"}, 1)
    streamer.put_draft(torch.tensor([MASK]))
    assert screen.shown()[0] == printed("red░", 5)[0]


def test_control_characters_do_not_reach_the_terminal():
    out = io.StringIO()
    streamer = TerminalStreamer(PROCESSOR, out)
    streamer.put(PROMPT)
    streamer.put(torch.tensor(tokens_of("a\x1b[2Jb\rc")))
    streamer.end()
    assert "a [2Jb c" in out.getvalue()


@pytest.mark.parametrize("mode", ["block", "ar"])
def test_generate_streams_its_answer(monkeypatch, mode):
    monkeypatch.setattr(stream.shutil, "get_terminal_size", lambda: os.terminal_size((20, 24)))
    screen = Screen(20)
    config = greedy(mode=mode, eos_token_id=2, max_new_tokens=24)
    ids = torch.tensor([tokens_of("What color is it?")])
    output = MODEL.generate(ids, generation_config=config, streamer=TerminalStreamer(PROCESSOR, screen))
    text = PROCESSOR.decode(output.states[0].generated)
    assert screen.shown() == printed(stream._visible(text), 20)


def test_the_streamer_of_transformers_works_too(capsys):
    """It marks where a draft begins (ESC 7) and returns there (ESC 8) to erase it: what is left is the answer."""
    ids = torch.tensor([tokens_of("How many circles?")])
    streamer = TextDiffusionStreamer(PROCESSOR.tokenizer, skip_prompt=True, skip_special_tokens=True)
    output = MODEL.generate(ids, generation_config=greedy(max_new_tokens=12), streamer=streamer)
    written = capsys.readouterr().out
    assert written.count("\0337") == written.count("\0338") > 2
    left = re.sub(r"\x1b7.*?\x1b8\x1b\[J", "", written, flags=re.DOTALL)
    assert left == PROCESSOR.decode(output.states[0].generated) + "\n"
