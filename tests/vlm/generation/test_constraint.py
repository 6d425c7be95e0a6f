"""Grammars against independent readers of the same texts: json.loads with a small validator, re, membership."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

import vlm
from data_pipelines.playground import scene_json
from vlm.generation.constraint import Grammar, Matcher, tokenizer_for

TOKENIZER = PreTrainedTokenizerFast(
    tokenizer_file=str(Path(vlm.__file__).parent / "assets" / "demo" / "tokenizer.json"), eos_token="<|end|>"
)
END, N_SPECIAL, VOCAB = 2, 9, 1100  # the logits are wider than the tokenizer's 1024
NESTED: dict[str, Any] = {
    "type": "object",
    "properties": {
        "count": {"type": "integer", "minimum": -5, "maximum": 120},
        "ratio": {"type": "number"},
        "flags": {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
        "inner": {
            "type": "object",
            "properties": {"kind": {"enum": ["left", "left of", 3, None]}, "name": {"type": "string", "maxLength": 5}},
            "required": ["kind"],
            "additionalProperties": False,
        },
    },
    "required": ["count", "ratio", "flags", "inner"],
    "additionalProperties": False,
}
TREE = {
    "$ref": "#/$defs/tree",
    "$defs": {
        "tree": {
            "type": "object",
            "properties": {"v": {"type": "boolean"}, "next": {"anyOf": [{"$ref": "#/$defs/tree"}, {"type": "null"}]}},
            "required": ["v", "next"],
            "additionalProperties": False,
        }
    },
}
PATTERNS = [r"\d{3}-[0-9]{4}", "(there are thirty|there are thirteen|no) (circles?|circular)", "[^a]{0,6}",
            "é{2}😀?", r"(re|red|redo)+/\\x?", r"a\/b \"[\d_ü]{2,5}\"", "^top (left|right)$"]  # fmt: skip
GRAMMARS = {
    "scene": Grammar.json_schema(scene_json.SCHEMA),
    "nested": Grammar.json_schema(NESTED),
    "tree": Grammar.json_schema(TREE),
    "choices": Grammar.choices(["red", "redo", "a red circle", "a red square", "3.14", 'say "é" / \\ <b>\n', " red"]),
    **{pattern: Grammar.regex(pattern) for pattern in PATTERNS},
}
KINDS = {"string": str, "boolean": bool, "object": dict, "array": list, "null": type(None), "number": (int, float)}


def start(grammar: Grammar, ends=(END,), vocab: int = VOCAB) -> Matcher:
    return Matcher(grammar, tokenizer_for(TOKENIZER), vocab, ends)


def spell(text: str) -> list[int]:
    return TOKENIZER(text, add_special_tokens=False).input_ids


def write(grammar: Grammar, seed: int, limit: int = 600) -> tuple[str, Matcher]:
    """An answer by random logits, to its end token."""
    generator, matcher, tokens = torch.Generator().manual_seed(seed), start(grammar), []
    while not matcher.finished and len(tokens) < limit:
        logits = torch.randn(VOCAB, generator=generator).masked_fill(~matcher.allowed(), -torch.inf)
        token = int(logits.argmax())
        matcher.accept([token])
        tokens += [token] if token != END else []
    return TOKENIZER.decode(tokens), matcher


def follows(value: Any, schema: dict[str, Any], root: dict[str, Any]) -> bool:
    """JSON schema, restated for the keywords used here."""
    if "$ref" in schema:
        return follows(value, root["$defs"]["tree"], root)
    if "anyOf" in schema:
        return any(follows(value, part, root) for part in schema["anyOf"])
    if "enum" in schema and value not in schema["enum"]:
        return False
    kind = schema.get("type")
    if kind == "integer":
        return type(value) is int and schema["minimum"] <= value <= schema["maximum"]
    if kind and (not isinstance(value, KINDS[kind]) or (kind == "number" and isinstance(value, bool))):
        return False
    if kind == "object":
        keys, known = set(value), schema["properties"]
        return set(schema["required"]) <= keys <= set(known) and all(follows(value[k], known[k], root) for k in keys)
    if kind == "array":
        few = schema.get("minItems", 0) <= len(value) <= schema["maxItems"]
        return few and all(follows(part, schema["items"], root) for part in value)
    return kind != "string" or len(value) <= schema.get("maxLength", len(value))


@pytest.mark.parametrize("schema", [scene_json.SCHEMA, NESTED, TREE], ids=["scene", "nested", "tree"])
def test_random_weights_write_json_that_follows_the_schema(schema):
    for seed in range(25):
        text, matcher = write(Grammar.json_schema(json.dumps(schema)), seed)
        assert matcher.finished and follows(json.loads(text), schema, schema), text
        assert not re.search(r"[,:][^ ]|[\[{] | [\]}]", re.sub(r'"(\\.|[^"\\])*"', '""', text)), text


def test_other_whitespace_where_the_schema_asks_for_it():
    tight = {**NESTED, "x-guidance": {"item_separator": ",", "key_separator": ":"}}
    text, _ = write(Grammar.json_schema(tight), 0)
    assert follows(json.loads(text), NESTED, NESTED)
    assert " " not in re.sub(r'"(\\.|[^"\\])*"', "", text)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_random_weights_write_what_the_pattern_matches(pattern):
    for seed in range(20):
        text, matcher = write(Grammar.regex(pattern), seed)
        assert matcher.finished and re.fullmatch(pattern, text), text


WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12)


@settings(max_examples=40, deadline=None)
@given(st.lists(WORDS | st.sampled_from(["red", "redo", "a red", "123", "1"]), min_size=1, max_size=6), st.integers(0))
def test_random_weights_write_one_of_the_choices(choices, seed):
    grammar = Grammar.choices(choices)
    text, matcher = write(grammar, seed % 2**31)
    assert matcher.finished and text in choices
    for choice in choices:
        tokens = spell(choice)
        assert start(grammar).valid_run([*tokens, END]) == len(tokens) + 1


def test_every_answer_of_the_playground_is_valid_token_by_token():
    rng = np.random.default_rng(0)
    for _ in range(25):
        answer = scene_json.make(rng, "train", 1, 96).turns[0].answer
        tokens = spell(answer)
        matcher, stepwise = start(GRAMMARS["scene"]), start(GRAMMARS["scene"])
        assert matcher.valid_run([*tokens, END]) == len(tokens) + 1
        for token in tokens:
            assert stepwise.allowed()[token] and not stepwise.finished
            stepwise.accept([token])
        assert stepwise.complete and follows(json.loads(answer), scene_json.SCHEMA, scene_json.SCHEMA)


def prefix(matcher: Matcher, length: int, rng: np.random.Generator) -> None:
    """Advance by random allowed tokens, not over an end."""
    for _ in range(length):
        tokens = [t for t in matcher.allowed().nonzero().flatten().tolist() if t != END]
        if not tokens:
            return
        matcher.accept([int(rng.choice(tokens))])


def counted(matcher: Matcher, draft: list[int]) -> int:
    """`Matcher.valid_run`, by asking for every token."""
    matcher = matcher.copy()
    for n, token in enumerate(draft):
        if not matcher.allowed()[token]:
            return n
        matcher.accept([token])
    return len(draft)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(sorted(GRAMMARS)), st.integers(0, 2**32), st.integers(0, 25), st.integers(0, 3))
def test_the_valid_run_of_a_draft_is_what_asking_for_every_token_gives(name, seed, length, n_wrong):
    rng, matcher = np.random.default_rng(seed), start(GRAMMARS[name])
    prefix(matcher, length, rng)
    ahead, draft = matcher.copy(), []
    while len(draft) < 16 and not ahead.ended:
        token = int(rng.choice(ahead.allowed().nonzero().flatten().numpy()))
        ahead.accept([token])
        draft.append(token)
    for _ in range(n_wrong):
        draft[rng.integers(len(draft))] = int(rng.integers(1024)) if rng.random() < 0.7 else END
    draft += [END, END][: rng.integers(3)]
    before = matcher.allowed()
    assert matcher.valid_run(draft) == counted(matcher, draft)
    assert torch.equal(matcher.allowed(), before)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(["scene", "nested", "choices", PATTERNS[1]]), st.integers(0, 2**32), st.integers(0, 30))
def test_other_spellings_of_forced_text_end_a_run_where_asking_would(name, seed, length):
    """Drafts written letter by letter: the same text, not the tokenizer's tokens."""
    rng, matcher = np.random.default_rng(seed), start(GRAMMARS[name])
    prefix(matcher, length, rng)
    draft = [token for letter in TOKENIZER.decode(matcher.forced()) for token in spell(letter)]
    assert matcher.valid_run(draft) == counted(matcher, draft)
    matcher.accept(draft)  # the same text all the same


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(GRAMMARS)), st.integers(0, 2**32), st.integers(0, 40))
def test_forced_tokens_are_those_without_alternative(name, seed, length):
    matcher = start(GRAMMARS[name])
    prefix(matcher, length, np.random.default_rng(seed))
    forced = matcher.forced()
    if matcher.allowed().sum() == 1 and not matcher.finished:
        assert forced
    for token in forced:
        assert matcher.allowed().nonzero().flatten().tolist() == [token]
        matcher.accept([token])
    assert END not in forced


def test_forced_text_is_spelled_as_the_tokenizer_does():
    matcher = start(GRAMMARS["scene"])
    matcher.accept(spell('[{"'))
    assert matcher.forced() == spell('[{"shape": "')[1:]
    matcher.accept([*matcher.forced(), *spell("circle")])
    assert TOKENIZER.decode(matcher.forced()) == '", "color": "'
    assert start(Grammar.choices(["a red circle"])).forced() == spell("a red circle")


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(["scene", "nested", *PATTERNS]), st.integers(0, 2**32), st.integers(0, 60))
def test_end_tokens_may_come_exactly_where_the_text_is_complete(name, seed, length):
    """No special token ever, several ends alike; an end of the tokenizer that is none of the model's is no end."""
    matcher = start(GRAMMARS[name], ends=(5, 1050))
    prefix_tokens, rng = [], np.random.default_rng(seed)
    for _ in range(length):
        allowed = matcher.allowed().nonzero().flatten().tolist()
        assert not set(allowed) & ({*range(N_SPECIAL), *range(1024, VOCAB)} - {5, 1050})
        tokens = [t for t in allowed if t not in (5, 1050)]
        assert matcher.finished == (not tokens)
        text = TOKENIZER.decode(prefix_tokens)
        assert (5 in allowed) == (1050 in allowed) == matcher.complete == whole(name, text), text
        assert matcher.valid_run([5]) == matcher.valid_run([1050]) == matcher.valid_run([1050, 5]) == matcher.complete
        assert matcher.valid_run([END]) == matcher.valid_run([3]) == matcher.valid_run([1023 + VOCAB]) == 0
        if not tokens:
            return
        prefix_tokens.append(int(rng.choice(tokens)))
        matcher.accept(prefix_tokens[-1:])


def whole(name: str, text: str) -> bool:
    if name in PATTERNS:
        return "\ufffd" not in text and re.fullmatch(name, text) is not None
    try:
        schema = {"scene": scene_json.SCHEMA, "nested": NESTED}[name]
        return follows(json.loads(text), schema, schema)
    except ValueError:
        return False


def test_a_copy_goes_its_own_way_and_nothing_follows_an_end():
    matcher = start(GRAMMARS["choices"])
    twin = matcher.copy()
    twin.accept([*spell("red"), END])
    assert twin.finished and twin.ended and not twin.complete and not twin.allowed().any()
    assert twin.valid_run([END]) == twin.valid_run(spell("red")) == 0 and twin.forced() == []
    assert matcher.valid_run(spell("a red circle")) == len(spell("a red circle"))
    for tokens in ([END], spell("red")):
        with pytest.raises(ValueError, match="may not follow"):
            twin.accept(tokens)


@pytest.mark.parametrize("tokens", [spell("blue"), [END], [*spell("red"), END, END], [*spell("red"), 3], [4000]])
def test_a_refused_token_leaves_the_matcher_as_it_was(tokens):
    matcher = start(GRAMMARS["choices"])
    before = matcher.allowed()
    with pytest.raises(ValueError, match="^token .* may not follow under this grammar$"):
        matcher.accept(tokens)
    assert torch.equal(matcher.allowed(), before) and matcher.forced() == []


def test_grammars_are_values():
    assert {Grammar.json_schema(NESTED), Grammar.json_schema(json.dumps(NESTED))} == {GRAMMARS["nested"]}
    assert (
        Grammar.regex("a").description == "regex 'a'" and Grammar.choices(["a", "b"]).description == "one of 2 choices"
    )
    assert tokenizer_for(TOKENIZER) is tokenizer_for(TOKENIZER)


def deep(levels: int) -> dict[str, Any]:
    return {"items": deep(levels - 1)} if levels else {}


ITSELF = {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}
LINKS = {
    "type": "object",
    "properties": {"b": {"enum": [1, 2]}, "n": {"$ref": "#/$defs/x~1y"}},
    "required": ["b", "n"],
}
WRONG_SCHEMAS = [
    ("{", "not JSON"),
    ({"a": {1}}, "not JSON"),
    ("[]", r"must be a JSON object, not \[\]"),
    (False, "must be a JSON object, not false"),
    ({"type": "strin"}, "strin"),
    ({"type": "string", "minLength": 5, "maxLength": 2}, r"minLength \(5\)"),
    ({"enum": []}, "Unsatisfiable"),
    ({"allOf": [{"type": "string"}, {"type": "number"}]}, "incompatible types"),
    ({"type": "array", "uniqueItems": True}, "uniqueItems"),
    ({"type": "string", "pattern": "("}, "unclosed group"),
    ({"type": "array", "items": {"$ref": "#/nope"}}, "/nope"),
    ({"x-guidance": {"bogus": True}}, "bogus"),
    (deep(200), "recursion"),
    (ITSELF, "requires itself"),
    ({"type": "array", "items": {"$ref": "#"}, "minItems": 10**12}, "requires itself"),
    ({"$ref": "#/$defs/x~1y", "$defs": {"x/y": LINKS}}, "requires itself"),
    ({"anyOf": [{"type": "array", "prefixItems": [{"$ref": "#"}], "minItems": 1}, ITSELF]}, "requires itself"),
]


@pytest.mark.parametrize("schema, message", WRONG_SCHEMAS)
def test_a_wrong_schema_is_named_in_one_line(schema, message):
    with pytest.raises(ValueError, match=rf"^schema: .*{message}.*\Z"):
        Grammar.json_schema(schema)


@pytest.mark.parametrize("optional", [{**ITSELF, "required": []}, {"type": "array", "items": {"$ref": "#"}}, TREE])
def test_a_schema_may_hold_itself_where_it_need_not(optional):
    assert start(Grammar.json_schema(optional)).allowed().any()


@pytest.mark.parametrize(
    "pattern, message",
    [
        ("(", "unclosed group"),
        ("a{3,2}", "repetition"),
        ("(?=a)b", "look-around"),
        (r"(a)\1", "backreferences"),
        (r"a\b", "lookarounds"),
        (r"ab[^\s\S]", "nothing can match"),
        ("a{0}", "only the empty"),
        ("a\\", "backslash"),
        ("\ud800", "UTF-8"),
    ],
)
def test_a_wrong_pattern_is_named_in_one_line(pattern, message):
    with pytest.raises(ValueError, match=rf"^regex.*: .*{message}.*\Z"):
        Grammar.regex(pattern)


@pytest.mark.parametrize(
    "choices, message",
    [([], "empty"), ([""], "empty"), ("red", "must be a list"), (["red", 3], "must be a list"), (["\ud800"], "UTF-8")],
)
def test_wrong_choices_are_named_in_one_line(choices, message):
    with pytest.raises(ValueError, match=rf"^choices: .*{message}.*\Z"):
        Grammar.choices(choices)
