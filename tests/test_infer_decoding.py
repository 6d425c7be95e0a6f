"""The command line's ways to decode: modes, policies, grammars, traces, quantised weights, and their mistakes."""

import json

import pytest
import torch
from PIL import Image

import infer
from tests.vlm.cli.lively import save
from vlm.answering import answer_batch, build_request, own_strategy, settings
from vlm.checkpoints.load import load
from vlm.cli.batch import run_batch


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("decoding")
    save(folder / "model")
    Image.linear_gradient("L").convert("RGB").save(folder / "0.png")
    schema = {"type": "array", "maxItems": 2, "items": {"enum": ["red", "blue"]}}
    (folder / "schema.json").write_text(json.dumps(schema))
    (folder / "broken.json").write_text('{"type": ')
    return folder


@pytest.fixture
def ask(here, capsys, monkeypatch):
    monkeypatch.chdir(here)

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        flags = ("--model", "model", "--max-new-tokens", "12", "--image", "0.png", "--prompt", "red")
        return (infer.main([*flags, *arguments]), *capsys.readouterr())

    return run


def told(ask, *flags: str) -> dict:
    status, out, _ = ask("--json", *flags)
    assert status == 0
    return json.loads(out)


def test_speculation_says_what_ar_says(ask):
    ar, fast = told(ask, "--mode", "ar"), told(ask, "--mode", "speculative")
    assert ar["answer"] == fast["answer"] and (ar["mode"], fast["mode"]) == ("ar", "speculative")


@pytest.mark.parametrize("policy", ["sequential", "entropy", "factor", "bacd", "localleap", "wedlm", "static"])
def test_policies_by_name(here, ask, policy):
    model, processor = load(str(here / "model"))
    content = [{"type": "image", "image": "0.png"}, {"type": "text", "text": "red"}]
    picture = Image.open(here / "0.png")
    request = build_request(processor, [{"role": "user", "content": content}], [picture])
    expected = answer_batch(model, processor, [request], settings(model, policy=policy, max_new_tokens=12))[0]
    assert told(ask, "--policy", policy)["answer"] == expected.answer


def test_policy_arguments_reach_the_policy(ask):
    assert (
        told(ask, "--policy", "sequential", "--policy-arg", "count=4")["forwards"]
        < told(ask, "--policy", "sequential")["forwards"]
    )


def test_grammars(ask):
    assert told(ask, "--choices", "red,blue,green")["answer"] in ("red", "blue", "green")
    assert len(told(ask, "--regex", "[a-d]{3}")["answer"]) == 3
    assert all(word in ("red", "blue") for word in json.loads(told(ask, "--schema", "schema.json")["answer"]))


def test_logprobs_and_quantised_weights(ask):
    record = told(ask, "--logprobs")
    assert len(record["logprobs"]) == record["tokens"] and all(p <= 0 for _, p in record["logprobs"])
    assert "logprobs" not in told(ask, "--quantize", "int8")


def test_a_trace_replays_the_answer(here, ask):
    record = told(ask, "--trace", "t.json")
    trace = json.loads((here / "t.json").read_text())
    assert len(trace["steps"]) == record["forwards"] and len(trace["tokens"]) == record["tokens"]
    assert ask("--trace", "t.html")[0] == 0 and (here / "t.html").read_text().lstrip().startswith("<!")


@pytest.mark.parametrize(
    "flags, message",
    [
        (("--policy", "magic"), "policy 'magic' is not one of"),
        (("--policy-arg", "count"), "--policy-arg 'count' must be"),
        (("--policy", "sequential", "--policy-arg", "size=2"), "policy 'sequential' has no 'size'"),
        (("--policy", "wedlm", "--threshold", "0.5"), "threshold 0.5 means nothing to policy 'wedlm'"),
        (("--regex", "("), "regex '('"),
        (("--choices", "a,,b"), "choices: one of them is empty"),
        (("--schema", "none.json"), "none.json: cannot be read"),
        (("--schema", "broken.json"), "schema: not JSON"),
        (("--trace", "t.pdf"), "t.pdf must end in"),
        (("--repetition-penalty", "-1"), "repetition_penalty -1.0"),
    ],
)
def test_mistakes_are_one_line(ask, flags, message):
    status, out, err = ask(*flags)
    assert status == 2 and out == "" and message in err
    assert len(err.splitlines()) == 1 and err.startswith("error: ")


@pytest.mark.parametrize("flags", [("--regex", "a", "--choices", "b"), ("--logprobs",)])
def test_combinations_that_make_no_sense(ask, flags, capsys):
    with pytest.raises(SystemExit) as stopped:
        ask(*flags)
    assert stopped.value.code == 2


def test_requests_of_a_file_set_their_own(here, tmp_path):
    """Each line as if it were asked alone with its flags; a bad one fails alone."""
    model, processor = load(str(here / "model"))
    own = [
        {}, {"mode": "ar", "logprobs": True}, {"mode": "speculative"}, {"policy": "static", "denoising_steps": 2},
        {"choices": ["red", "blue"]}, {"regex": "[a-d]{3}"}, {"schema": {"enum": ["red", 7]}}, {"max_new_tokens": 3},
        {"temperature": 1.0, "seed": 5}, {"threshold": 2.0}, {"threshold": "high"}, {"regex": "a", "choices": ["b"]},
        {"policy": "magic"}, {"block_size": 5},
    ]  # fmt: skip
    lines = [{"id": str(i), "messages": [{"role": "user", "content": "red"}], **extra} for i, extra in enumerate(own)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = settings(model, max_new_tokens=8)
    failed = run_batch(model, processor, config, str(tmp_path / "in.jsonl"), str(tmp_path / "out"), 5, 4, "tiny")
    found = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert failed == 5 == sum("error" in record for record in found)
    for extra, record in zip(own, found):
        if "error" in record:
            assert len(record["error"].splitlines()) == 1
            continue
        request = build_request(processor, lines[0]["messages"], [], extra.get("seed", 0))
        request.strategy = own_strategy(model, processor, config, extra)
        alone = answer_batch(model, processor, [request], config)[0]
        assert (record["answer"], record["mode"], record["tokens"]) == (alone.answer, alone.mode, alone.tokens)
        assert ("logprobs" in record) == ("logprobs" in extra)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_new_tokens": 3.5}, {"top_k": 2.5, "temperature": 1.0}, {"block_size": 4.0}, {"stop_strings": [5]},
        {"policy_args": {"tau": "high"}}, {"seed": 2**70}, {"seed": float("inf")}, {"regex": 5}, {"choices": 5},
    ],
)  # fmt: skip
def test_a_setting_of_the_wrong_type_fails_alone(here, tmp_path, wrong):
    model, processor = load(str(here / "model"))
    messages = [{"role": "user", "content": "red"}]
    lines = [{"id": "0", "messages": messages, **wrong}, {"id": "1", "messages": messages}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = settings(model, max_new_tokens=3)
    assert run_batch(model, processor, config, str(tmp_path / "in.jsonl"), str(tmp_path / "out"), 2, 4, "tiny") == 1
    bad, good = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
    assert bad["error"] and "answer" in good


def test_torch_dtype_of_quantised_models_is_float32(here):
    model, _ = load(str(here / "model"), quantize="int8")
    assert model.dtype == torch.float32
