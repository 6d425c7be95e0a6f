"""DiffusionGemma through our doors: its own `generate`, called directly, is the oracle for answers and passes.

Everything runs on tiny random weights of transformers' own classes, and on the command line wherever a user would.
"""

import io
import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, DiffusionGemmaForBlockDiffusion

import infer
from tests.vlm.checkpoints import gemma
from tests.vlm.cli.screen import Screen, printed
from vlm.answering import answer_batch, build_request, settings
from vlm.checkpoints.diffusion_gemma import open_model

ASK = ("--prompt", "What color?")
FAST = {"max_new_tokens": 16, "max_denoising_steps": 3}
FLAGS = ("--max-new-tokens", "16", "--denoising-steps", "3")


@pytest.fixture(scope="session")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("native")
    gemma.save(folder / "model", use_bidirectional_attention="vision")
    for k in range(2):
        pixels = np.random.default_rng(k).integers(0, 256, (40, 60, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{k}.png")
    return folder


@pytest.fixture(scope="session")
def stock(here):
    """The same directory by transformers alone."""
    model = DiffusionGemmaForBlockDiffusion.from_pretrained(here / "model", dtype=torch.float32).eval()
    return model, AutoProcessor.from_pretrained(here / "model")


@pytest.fixture
def ask(here, capsys, monkeypatch):
    """Run the command line in ``here``; returns (exit status, stdout, stderr)."""
    monkeypatch.chdir(here)

    def run(*arguments: str, model: str = "model", flags=FLAGS) -> tuple[int, str, str]:
        capsys.readouterr()
        status = infer.main(["--model", model, *flags, *arguments])
        return (status, *capsys.readouterr())

    return run


def conversation(here, prompt="What color?", images=(), system=None) -> list[dict]:
    parts = [{"type": "image", "image": Image.open(here / name)} for name in images]
    told = [] if system is None else [{"role": "system", "content": [{"type": "text", "text": system}]}]
    return [*told, {"role": "user", "content": [*parts, {"type": "text", "text": prompt}]}]


def direct(stock, messages: list[dict], seed: int = 0, **given) -> tuple[str, int, dict]:
    """The answer, its tokens up to the end token, and how often each half ran, by transformers' `generate`."""
    model, processor = stock
    inputs = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    calls = {"encoder": 0, "decoder": 0}

    def counting(name):
        def count(*_):
            calls[name] += 1

        return getattr(model.model, name).register_forward_hook(count)

    hooks = [counting(name) for name in calls]
    torch.manual_seed(seed)
    found = model.generate(**inputs, **{**FAST, **given}).sequences[0, inputs["input_ids"].shape[1] :].tolist()
    for hook in hooks:
        hook.remove()
    end = model.generation_config.eos_token_id
    new = found[: found.index(end) + 1] if end in found else found
    return processor.decode(new, skip_special_tokens=True).strip(), len(new), calls


@pytest.mark.parametrize(("images", "seed"), [((), 0), (("0.png",), 7), (("1.png", "0.png"), 0)])
def test_it_answers_as_its_own_generate(here, stock, ask, images, seed):
    expected, tokens, calls = direct(stock, conversation(here, images=images, system="small"), seed)
    media = [word for name in images for word in ("--image", name)]
    status, out, err = ask(*ASK, *media, "--system", "small", "--seed", str(seed), "--json")
    record = json.loads(out)
    assert (status, err) == (0, "") and record["answer"] == expected and record["tokens"] == tokens
    assert record["forwards"] == sum(calls.values()) and calls["encoder"] in (1, 2)
    assert record["tokens_per_forward"] == round(tokens / sum(calls.values()), 3)
    assert (record["mode"], record["model"]) == ("block", "model")
    assert record["prefill_s"] > 0 and record["decode_s"] > 0


def test_pictures_prompts_and_seeds_matter(ask):
    told = [ask(*ASK), ask("--prompt", "How many?"), ask(*ASK, "--image", "0.png"), ask(*ASK, "--image", "1.png"),
            ask(*ASK, "--seed", "5")]  # fmt: skip
    assert len({out for _, out, _ in told}) == 5 and ask(*ASK)[1] == told[0][1]


def test_settings_reach_its_generate(here, stock, ask):
    sampler = sys.modules[stock[0].generation_config.__module__].EntropyBoundSamplerConfig
    plain = direct(stock, conversation(here))[0]
    for flags, given in {
        ("--temperature", "0.5"): {"t_min": 0.5, "t_max": 0.5 + 1e-12},
        ("--policy-arg", "entropy_bound=9", "--policy-arg", "t_min=0.2", "--policy-arg", "t_max=3"): {
            "sampler_config": sampler(9.0), "t_min": 0.2, "t_max": 3.0},
        ("--policy-arg", "confidence_threshold=5", "--policy-arg", "stability_threshold=0"): {  # stops after a step
            "confidence_threshold": 5.0, "stability_threshold": 0},
        ("--denoising-steps", "2"): {"max_denoising_steps": 2},
        ("--max-new-tokens", "8"): {"max_new_tokens": 8},
    }.items():  # fmt: skip
        expected, tokens, calls = direct(stock, conversation(here), **given)
        record = json.loads(ask(*ASK, *flags, "--json")[1])
        assert (record["answer"], record["tokens"], record["forwards"]) == (expected, tokens, sum(calls.values()))
        assert record["answer"] != plain, flags


def test_an_end_token_ends_it_and_asked_tokens_are_what_counts(here):
    """Canvases are whole, so both ends lie inside one; the oracle is the same draw without ends."""
    model, processor = open_model(str(here / "model"))
    request = build_request(processor, conversation(here), [])
    given = {"max_new_tokens": 24, "denoising_steps": 3}
    free = model.answer([request], settings(model, **given))[0].generated
    assert len(free) == 24
    first, end = next(
        (k, token) for k, token in enumerate(free, 1) if k > gemma.CANVAS + 1 and token not in free[: k - 1]
    )
    model.ends, model.model.generation_config.eos_token_id = frozenset([end]), end
    [stopped] = answer_batch(model, processor, [request], settings(model, **given))
    [cut] = answer_batch(model, processor, [request], settings(model, **{**given, "max_new_tokens": first - 1}))
    assert (stopped.tokens, stopped.finish_reason) == (first, "stop")
    assert (cut.tokens, cut.finish_reason, cut.answer) == (
        first - 1,
        "length",
        processor.decode(free[: first - 1]).strip(),
    )
    assert stopped.forwards == -(-first // gemma.CANVAS) * 4  # one pass of the encoder, three of the decoder


def test_pictures_of_a_prompt_see_themselves_whole(here):
    """Each picture's rows see its later ones in the encoder's mask, and no text row sees ahead."""
    model, processor = open_model(str(here / "model"))
    request = build_request(
        processor, conversation(here, images=["0.png", "1.png"]), [Image.open(here / f"{k}.png") for k in (0, 1)]
    )
    seen = []
    hook = model.model.model.encoder.register_forward_pre_hook(
        lambda _, a, k: seen.append(k["attention_mask"]), with_kwargs=True
    )
    model.answer([request], settings(model, max_new_tokens=8, denoising_steps=1))
    hook.remove()
    ids = request.input_ids
    picture = ids == model.model.config.image_token_id
    which = torch.where(picture, (picture & ~torch.roll(picture, 1)).cumsum(0), 0)
    expected = torch.ones(len(ids), len(ids), dtype=torch.bool).tril() | ((which[:, None] == which) & picture)
    assert which.max() == 2 and torch.equal(seen[0]["full_attention"][0, 0], expected)


def test_a_batch_file_has_every_request_as_if_alone(here, stock, ask, tmp_path):
    asked = [
        ("a", "What color?", {}),
        ("b", [{"type": "image", "image": "0.png"}, {"type": "text", "text": "red"}], {"seed": 3}),
        ("c", "red", {"denoising_steps": 2}),
        ("d", "red", {"block_size": 4}),
        ("e", "red", {"logprobs": True}),
        ("f", [{"type": "video", "video": "."}, {"type": "text", "text": "red"}], {}),
        ("g", "z" * 600, {}),
        ("h", "red", {"max_new_tokens": "many"}),
        ("i", "red <|image|>", {}),
    ]
    requests = [
        {"id": name, "messages": [{"role": "user", "content": content}], **own} for name, content, own in asked
    ]
    (here / "in.jsonl").write_text("".join(json.dumps(r) + "\n" for r in requests))
    target = tmp_path / "out.jsonl"
    status, out, _ = ask("--input", "in.jsonl", "--output", str(target))
    found = {r["id"]: r for r in map(json.loads, target.read_text().splitlines())}
    assert (status, out, list(found)) == (1, "", list("abcdefghi"))
    assert found["a"]["answer"] == direct(stock, conversation(here))[0]
    assert found["b"]["answer"] == direct(stock, conversation(here, "red", ["0.png"]), 3)[0]
    assert found["c"]["answer"] == direct(stock, conversation(here, "red"), max_denoising_steps=2)[0]
    says = {
        "d": "block_size",
        "e": "logprobs",
        "f": "video",
        "g": "limit is 512",
        "h": "max_new_tokens 'many'",
        "i": "reserved",
    }
    assert all(part in found[name]["error"] and "\n" not in found[name]["error"] for name, part in says.items())


def test_drafts_on_a_terminal_end_as_the_piped_answer(ask, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    piped = ask(*ASK, "--image", "0.png")[1]
    monkeypatch.setenv("COLUMNS", "11")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    status = infer.main(["--model", "model", *FLAGS, *ASK, "--image", "0.png"])
    screen = Screen(11)
    screen.write(terminal.getvalue())
    assert status == 0 and screen.shown() == printed(piped.removesuffix("\n"), 11)
    assert terminal.getvalue().count("\033[33m") >= 3  # a draft a step


def test_a_chat_of_two_turns(here, stock, ask, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("red\nblue\n"))
    first = direct(stock, conversation(here, "red", ["0.png"]))[0]
    turns = conversation(here, "red", ["0.png"])
    turns += [{"role": "assistant", "content": [{"type": "text", "text": first}]}, *conversation(here, "blue")]
    assert ask("--chat", "--image", "0.png")[:2] == (0, f"{first}\n{direct(stock, turns)[0]}\n")


REFUSED = {
    "mode": ("--mode", "ar"), "decoder": ("--decoder", "sdar"), "policy": ("--policy", "threshold"),
    "threshold": ("--threshold", "0.9"), "block_size": ("--block-size", "4"), "slots": ("--slot", "margin"),
    "top_p": ("--top-p", "0.9"), "top_k": ("--top-k", "5"), "repetition_penalty": ("--repetition-penalty", "2"),
    "stop_strings": ("--stop", "x"), "regex": ("--regex", "a+"), "choices": ("--choices", "a,b"),
    "logprobs": ("--logprobs", "--json"), "trace": ("--trace", "t.json"), "adapter": ("--adapter", "model"),
    "quantize": ("--quantize", "int8"), "batch_size": ("--batch-size", "2"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_it_cannot_honour_is_refused_before_it_is_loaded(ask, name, monkeypatch):
    monkeypatch.setattr("vlm.checkpoints.diffusion_gemma.load_diffusion_gemma", None)
    status, out, err = ask(*ASK, *REFUSED[name])
    assert (
        (status, out, err.count("\n")) == (2, "", 1) and err.startswith(f"error: {name} ") and "diffusion_gemma" in err
    )


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--temperature", "0"), "temperature 0.0"),
        (("--denoising-steps", "0"), "denoising_steps 0"),
        (("--max-new-tokens", "-1"), "max_new_tokens -1"),
        (("--seed", "-1"), "seed -1"),
        (("--policy-arg", "tau=1"), "policy_args 'tau'"),
        (("--policy-arg", "entropy_bound=0"), "entropy_bound 0"),
        (("--policy-arg", "stability_threshold=1.5"), "stability_threshold 1.5"),
        (("--policy-arg", "t_max=0.1"), "t_max"),
        (("--prompt", " "), "prompt is empty"),
        (("--prompt", "red <|turn>"), "reserved"),
        (("--prompt", "z" * 600), "limit is 512"),
    ],
)
def test_values_that_cannot_be(ask, flags, says):
    status, out, err = ask(*ASK, *flags)
    assert (status, out, err.count("\n")) == (2, "", 1) and says in err
