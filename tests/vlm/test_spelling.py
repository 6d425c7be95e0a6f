"""Answers spelled a character a token: the same text, marks and rest of the conversation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.playground import reading
from data_pipelines.playground.base import stream
from data_pipelines.playground.conversation import chat
from tests.vlm.tiny import tiny_model
from vlm.layout import answer_spans
from vlm.spelling import spelled

PROCESSOR = tiny_model()[1]
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="<"), min_size=1, max_size=20)


def talk(*answers: str, **marks) -> list[dict]:
    turns = []
    for number, text in enumerate(answers):
        turns.append({"role": "user", "content": "red?"})
        turns.append({"role": "assistant", "content": text, **(marks if number == 0 else {})})
    return turns


def answers(messages: list[dict]) -> tuple[np.ndarray, list[np.ndarray]]:
    ids, marked = PROCESSOR.tokens(messages, [])
    return ids, [ids[start:stop] for start, stop in answer_spans(marked)]


@given(TEXTS, TEXTS)
def test_one_answer_is_spelled_and_nothing_else_changes(first, second):
    tokenizer = PROCESSOR.tokenizer
    plain, (whole, other) = answers(talk(first, second))
    ids, (letters, same) = answers(talk(first, second, spelled=True))
    assert tokenizer.decode(ids) == tokenizer.decode(plain)
    assert np.array_equal(same, other)
    assert letters[-1] == whole[-1] == tokenizer.eos_token_id
    one_by_one = [token for letter in first for token in tokenizer(letter)["input_ids"]]
    assert letters[:-1].tolist() == one_by_one


def test_a_word_of_the_vocabulary_is_one_token_unless_it_is_spelled():
    pieces = [PROCESSOR.tokenizer.decode([token]) for token in range(len(PROCESSOR.tokenizer))]
    known = max((piece for piece in pieces if piece.isalpha() and piece.isascii()), key=len)
    assert len(known) > 1
    assert len(answers(talk(known))[1][0]) == 2
    assert len(answers(talk(known, spelled=True))[1][0]) == len(known) + 1
    assert len(answers(talk(known, spelled=False))[1][0]) == 2


def test_spelled_and_not_learnt_go_together():
    _, found = answers(talk("green", "red", spelled=True, loss=False))
    assert len(found) == 1 and PROCESSOR.decode(found[0]) == "red"


def test_a_tokenizer_without_single_characters_is_refused():
    class Words:
        all_special_ids = [0]

        def decode(self, ids, **_):
            return " ".join("word" for _ in ids)

        def __call__(self, text, add_special_tokens):
            return {"input_ids": [1]}

    with pytest.raises(ValueError, match="cannot spell 'word word'"):
        spelled(Words(), talk("x", spelled=True), np.array([5, 1, 1, 0]), np.array([False, True, True, True]))


def test_answers_and_messages_must_agree():
    with pytest.raises(ValueError, match="1 answers in the rendered chat for 2 messages, some spelled"):
        spelled(PROCESSOR.tokenizer, talk("a", "b", spelled=True), np.array([5, 6]), np.array([False, True]))


def test_a_familys_answers_are_marked_where_the_recipe_says_so():
    item = reading.make(stream("reading", "train", 0, 0), "train", 3, 96)
    assert all("spelled" not in message for message in chat(item)[0])
    marked = [message.get("spelled") for message in chat(item, ["reading"])[0]]
    assert marked == [None, True] * 3
