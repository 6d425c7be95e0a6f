"""Answers written a character a token, for what is read off a picture.

A tokenizer's longer pieces are right for what a model says. For what it reads they are in the way: "erry" is a guess
at four places at once, learned from the few words that have it, while a letter is seen in all of them. The text is the
same either way, so an answer is generated and scored as ever.
"""

import numpy as np

from vlm.layout import answer_spans


def spelled(tokenizer, messages: list[dict], ids: np.ndarray, answer: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """``ids`` and ``answer`` [L], the messages that say ``"spelled": True`` tokenised character by character.

    A character that takes several bytes may take several tokens.

    Raises:
        ValueError: if it is not clear which tokens are those of such a message, or the tokenizer's tokens of single
            characters do not make up the text.
    """
    wanted = [message.get("spelled") is True for message in messages if message["role"] == "assistant"]
    if not any(wanted):
        return ids, answer
    spans = answer_spans(answer)
    if len(spans) != len(wanted):
        raise ValueError(f"{len(spans)} answers in the rendered chat for {len(wanted)} messages, some spelled")
    pieces, last = [], 0
    for start, stop in (span for span, this in zip(spans, wanted) if this):
        pieces += [(ids[last:start], answer[last:start]), _letters(tokenizer, ids[start:stop])]
        last = stop
    pieces.append((ids[last:], answer[last:]))
    return np.concatenate([piece[0] for piece in pieces]), np.concatenate([piece[1] for piece in pieces])


def _letters(tokenizer, span: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The tokens of one answer, spelled, and as many marks; what the template adds behind the text stays."""
    special = np.isin(span, tokenizer.all_special_ids)
    size = int(special.argmax()) if special.any() else len(span)
    text = tokenizer.decode(span[:size], clean_up_tokenization_spaces=False)
    tokens = [token for letter in text for token in tokenizer(letter, add_special_tokens=False)["input_ids"]]
    again = tokenizer.decode(tokens, clean_up_tokenization_spaces=False)
    if again != text:
        raise ValueError(f"the tokenizer cannot spell {text!r}: by the letter it reads {again!r}")
    found = np.concatenate([np.array(tokens, span.dtype), span[size:]])
    return found, np.ones(len(found), dtype=bool)
