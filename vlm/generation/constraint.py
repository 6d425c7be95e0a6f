"""Answers that keep to a grammar: a JSON schema, a regular expression, or a list of choices.

A `Grammar` says what is wanted, and says in one line what is wrong with it before any model runs; a `Matcher` follows
one answer through it. llguidance parses; here are its end tokens, its whitespace and its errors made ours.

The deciding choice: where the grammar leaves no choice of text, only the tokenizer's own spelling of that text is
allowed. The model was trained on that spelling, it can be written without asking the model (`Matcher.forced`), and
`Matcher.valid_run` counts exactly the tokens that asking `Matcher.allowed` one by one would have let through, so a
draft checked at once ends where token-by-token decoding would.
"""

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile
from typing import Any

import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer, regex_to_lark
from llguidance.hf import from_tokenizer
from transformers import PreTrainedTokenizerFast

# JSON as Python's json.dumps writes it; a schema's own "x-guidance" object overrides them one by one.
JSON_LAYOUT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


@dataclass(frozen=True)
class Grammar:
    """What an answer may be.

    Attributes:
        text: the grammar as llguidance serialises it.
        description: the same for a reader, in one line.
    """

    text: str
    description: str

    @classmethod
    def json_schema(cls, schema: dict[str, Any] | str) -> "Grammar":
        """JSON that follows a schema, written as ``json.dumps`` would: ``", "`` and ``": "``, properties in order.

        Raises:
            ValueError: if it is not JSON, not a schema, uses a keyword that cannot be kept to, or nothing follows it.
        """
        try:
            parsed = json.loads(schema if isinstance(schema, str) else json.dumps(schema))
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"schema: not JSON: {_one_line(str(error))}") from None
        if not isinstance(parsed, dict):
            raise ValueError(f"schema: must be a JSON object, not {json.dumps(parsed)[:40]}")
        try:
            text = LLMatcher.grammar_from_json_schema(json.dumps(parsed), defaults=JSON_LAYOUT)
        except ValueError as error:  # nested too deep
            raise ValueError(f"schema: {_one_line(str(error))}") from None
        _check(text, "schema")
        if not _can_end(parsed, parsed, []):
            raise ValueError("schema: it requires itself, so no answer could ever end")
        return cls(text, f"JSON schema {parsed.get('title', '')}".rstrip())

    @classmethod
    def regex(cls, pattern: str) -> "Grammar":
        r"""Text that a pattern matches from end to end; no look-around, no back references, and ``\d`` is 0 to 9.

        Raises:
            ValueError: if the pattern is malformed, or matches nothing or only the empty text.
        """
        if (len(pattern) - len(pattern.rstrip("\\"))) % 2:  # llguidance would drop it
            raise ValueError(f"regex {pattern!r}: ends in a backslash that escapes nothing")
        text = LLMatcher.grammar_from_regex(regex_to_lark(_utf8(pattern, "regex"), "d"))
        _check(text, f"regex {pattern!r}")
        return cls(text, f"regex {pattern!r}")

    @classmethod
    def choices(cls, choices: Sequence[str]) -> "Grammar":
        """One of the given texts.

        Raises:
            ValueError: if there is none, or one is empty or no text.
        """
        if isinstance(choices, str) or not all(isinstance(choice, str) for choice in choices):
            raise ValueError(f"choices: must be a list of texts, not {choices!r:.60}")
        if not choices:
            raise ValueError("choices: the list is empty")
        if "" in choices:
            raise ValueError("choices: one of them is empty")
        pattern = "|".join(_literal(_utf8(choice, "choices")) for choice in choices)
        text = LLMatcher.grammar_from_regex(pattern)
        _check(text, "choices")
        return cls(text, f"one of {len(choices)} choices")


class Matcher:
    """Where one answer stands in its grammar.

    Args:
        grammar: what the answer may be.
        tokenizer: the model's tokenizer, by `tokenizer_for`.
        vocab_size: V, width of the model's logits; rows beyond the tokenizer are never allowed.
        end_token_ids: the tokens that end an answer. They, and no other special token, may come, and only where the
            grammar is complete.
    """

    def __init__(self, grammar: Grammar, tokenizer: LLTokenizer, vocab_size: int, end_token_ids: Collection[int]):
        self.vocab_size = vocab_size
        self.end_token_ids = frozenset(end_token_ids)
        self.ended = False
        self._n_known = tokenizer.vocab_size
        self._never = list(tokenizer.eos_tokens)  # llguidance lets its own end tokens through: ours decide
        self._ends = list(self.end_token_ids)
        self._parser = LLMatcher(tokenizer, grammar.text, log_level=0)

    def copy(self) -> "Matcher":
        """A second matcher at the same place; either may go on without the other."""
        twin = object.__new__(Matcher)
        twin.__dict__ = self.__dict__ | {"_parser": self._parser.deep_copy()}
        return twin

    @property
    def complete(self) -> bool:
        """Whether the answer so far satisfies the grammar: an end token may follow."""
        return not self.ended and self._parser.is_accepting()

    @property
    def finished(self) -> bool:
        """Whether nothing but an end token may follow, or one already has."""
        return self.ended or (self._parser.is_stopped() and self._parser.is_accepting())

    def allowed(self) -> torch.Tensor:
        """bool [V], on the CPU: the tokens that may come next; none after an end token.

        Raises:
            ValueError: if the tokenizer cannot spell what must follow, or the grammar outgrew the parser's limits.
        """
        if self.ended:
            return torch.zeros(self.vocab_size, dtype=torch.bool)
        mask = np.frombuffer(self._parser.compute_bitmask(), np.uint8)
        tokens = np.unpackbits(mask, count=self.vocab_size, bitorder="little").view(np.bool_)  # [V]
        tokens[self._never] = False
        tokens[self._ends] = self.complete
        if self._parser.is_error() or not tokens.any():
            reason = _one_line(self._parser.get_error()) or "the tokenizer cannot spell what must follow"
            raise ValueError(f"the grammar cannot go on: {reason}")
        return torch.from_numpy(tokens)

    def valid_run(self, tokens: Sequence[int]) -> int:
        """How many of a draft's tokens, from its front, may follow in a row; the state stays as it is.

        The same number as asking `allowed` before each of them. An end token ends the run.
        """
        draft, end = self._split(tokens)
        if self.ended:
            return 0
        run = self._spelled(draft[: self._parser.validate_tokens(draft)])
        if run < len(draft) or not end:
            return run
        ahead = self._parser.deep_copy()
        ahead.consume_tokens(draft)
        return run + ahead.is_accepting()

    def forced(self) -> list[int]:
        """The tokens that must follow, up to where the grammar leaves a choice; often none, never an end token."""
        return [] if self.ended else self._parser.compute_ff_tokens()

    def accept(self, tokens: Sequence[int]) -> None:
        """Advance over tokens that may follow; any spelling of text that the grammar allows will do.

        Raises:
            ValueError: if they may not; the state is then as it was.
        """
        draft, end = self._split(tokens)
        ahead = self._parser.deep_copy()
        n_valid = 0 if self.ended else ahead.try_consume_tokens(draft)
        n_valid += end and not self.ended and n_valid == len(draft) and ahead.is_accepting()
        if n_valid < len(tokens):
            raise ValueError(f"token {tokens[n_valid]} may not follow under this grammar")
        self._parser, self.ended = ahead, self.ended or end

    def _split(self, tokens: Sequence[int]) -> tuple[list[int], bool]:
        """The tokens before the first that is no text to llguidance, and whether that one ends the answer."""
        for n, token in enumerate(tokens):
            if token in self.end_token_ids or token in self._never or token >= self._n_known:
                return list(tokens[:n]), token in self.end_token_ids
        return list(tokens), False

    def _spelled(self, draft: list[int]) -> int:
        """How many tokens of a valid draft keep to the tokenizer's spelling wherever the text is forced."""
        ahead, at = self._parser.deep_copy(), 0
        while at < len(draft):
            forced = ahead.compute_ff_tokens() or draft[at : at + 1]
            same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(draft[at:], forced)))
            at += same
            if same < len(forced):
                break
            ahead.consume_tokens(forced)
        return at


@lru_cache(maxsize=4)
def tokenizer_for(tokenizer: PreTrainedTokenizerFast) -> LLTokenizer:
    """llguidance's view of a fast tokenizer, made once: its special tokens are never text."""
    return from_tokenizer(tokenizer)


@lru_cache(maxsize=1)
def _byte_tokenizer() -> LLTokenizer:
    """One token a byte: grammars can be checked before there is a model."""
    return LLTokenizer("byte")


def _check(text: str, name: str) -> None:
    """Refuse a grammar that llguidance cannot read or that matches no text, in one line behind its name."""
    parser = LLMatcher(_byte_tokenizer(), text, log_level=0)
    if parser.is_error():
        raise ValueError(f"{name}: {_one_line(parser.get_error())}")
    first = np.unpackbits(np.frombuffer(parser.compute_bitmask(), np.uint8), bitorder="little")
    first[_byte_tokenizer().eos_tokens] = 0
    if not first.any():
        matched = "only the empty text matches it" if parser.is_accepting() else "nothing can match it"
        raise ValueError(f"{name}: {matched}")


def _one_line(message: str) -> str:
    """The line of a parser's report that says what is wrong."""
    lines = [line.strip() for line in message.splitlines() if line.strip()] or [""]
    telling = next((line.removeprefix("error: ") for line in lines if line.startswith("error: ")), lines[0])
    return re.sub(r"^at \d+\(\d+\): (invalid regex .* \(in regex\): )?", "", telling)


def _utf8(text: str, name: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name}: {text!r:.60} is not text that UTF-8 can hold") from None
    return text


def _literal(text: str) -> str:
    """A pattern that matches just this text."""
    return "".join(c if c.isalnum() or ord(c) > 127 else f"\\x{ord(c):02x}" for c in text)


def _can_end(schema: Any, root: dict[str, Any], above: list[Any]) -> bool:
    """Whether some finite JSON follows a schema, as far as its references tell: none may need itself.

    Args:
        above: the schemas that this one is needed by, outermost first.
    """
    if not isinstance(schema, dict) or "enum" in schema or "const" in schema:
        return True
    if any(schema is other for other in above):
        return False
    above = [*above, schema]
    needed = [*schema.get("allOf", []), _target(schema.get("$ref"), root), *_needed_parts(schema)]
    either = [schema[key] for key in ("anyOf", "oneOf") if key in schema]
    return all(_can_end(part, root, above) for part in needed) and all(
        any(_can_end(part, root, above) for part in parts) for parts in either
    )


def _needed_parts(schema: dict[str, Any]) -> list[Any]:
    """What every value of a schema contains, where it can only be an object or only an array."""
    if schema.get("type") in ("object", ["object"]):
        return [schema.get("properties", {}).get(key) for key in schema.get("required", [])]
    if schema.get("type") in ("array", ["array"]):
        return [*schema.get("prefixItems", []), schema.get("items")][: schema.get("minItems", 0)]
    return []


def _target(reference: str | None, root: dict[str, Any]) -> Any:
    """The schema a ``#/...`` reference points to; None for any other."""
    if reference == "#":
        return root
    if reference is None or not reference.startswith("#/"):
        return None
    node: Any = root
    for key in reference[2:].split("/"):
        key = key.replace("~1", "/").replace("~0", "~")
        node = node[int(key)] if isinstance(node, list) else node.get(key) if isinstance(node, dict) else None
    return node
