"""`--decoder`, `--slot` and `--list-decoders` of infer.py, ``decoder`` in batch files, and fitting a filter."""

import json

import pytest
import torch
from PIL import Image

import infer
from tests.vlm.checkpoints.sources import bare_tokenizer, language_model
from tests.vlm.checkpoints.sources import save as save_source
from tests.vlm.cli.lively import save
from vlm.answering import settings
from vlm.checkpoints.convert import convert
from vlm.checkpoints.load import load
from vlm.generation.presets import PRESETS
from vlm.generation.strategy import build_strategy
from vlm.training import fit_filter


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("decoders")
    save(folder / "model")
    return folder


@pytest.fixture
def run(here, capsys, monkeypatch):
    monkeypatch.chdir(here)

    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        return (infer.main(["--model", "model", *arguments]), *capsys.readouterr())

    return call


def asked(run, *flags: str) -> dict:
    status, out, _ = run("--prompt", "red", "--max-new-tokens", "12", "--json", *flags)
    assert status == 0
    return json.loads(out)


def test_a_decoder_by_name_and_flags_that_prevail(run):
    assert asked(run, "--decoder", "sdar-sequential")["forwards"] == 12
    plain = ("--threshold", "0.3", "--block-size", "8")
    assert asked(run, "--decoder", "fast-dllm", *plain)["answer"] == asked(run, *plain)["answer"]
    ends = ("--decoder", "sdar-sequential", "--slot", "dcd.window=1", "--slot", "eotp")
    assert asked(run, *ends)["answer"] == asked(run, "--decoder", "sdar-sequential")["answer"]


def test_the_list_names_every_decoder_its_source_and_why_it_is_refused(run):
    status, out, _ = run("--list-decoders")
    text = " ".join(out.split())
    assert status == 0 and all(name in text for name in PRESETS)
    assert "2505.22618" in text and "threshold(tau=0.9, strict=False)" in text
    assert "streaming needs causal context, shift 0 and blocks off the grid; this checkpoint has" in text
    assert text.count("refused") == text.count("cannot run here") > 0


def test_requests_of_a_file_name_their_decoder(run, here):
    messages = [{"role": "user", "content": "red"}]
    own = [{"decoder": "ass"}, {"decoder": "magic"}, {"decoder": "wedlm-stream"}, {}]
    lines = [{"id": str(i), "messages": messages, "max_new_tokens": 8, **extra} for i, extra in enumerate(own)]
    (here / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert run("--input", "in.jsonl", "--output", "out.jsonl", "--decoder", "sdar-sequential")[0] == 1
    found = [json.loads(line) for line in (here / "out.jsonl").read_text().splitlines()]
    assert found[0]["forwards"] < found[3]["forwards"] == 8
    assert "'magic' is not one of" in found[1]["error"] and "off_grid_ok=False" in found[2]["error"]


@pytest.mark.parametrize(
    "flags, message",
    [
        (("--decoder", "magic"), "decoder 'magic' is not one of"),
        (("--slot", "dcd=3"), "--slot 'dcd=3' must be"),
        (("--slot", "dcd.window"), "--slot 'dcd.window' must be"),
        (("--slot", "dcd.window=many"), "'dcd' cannot be built"),
        (("--verifier", "model"), "'verifier' works on drafts that are verified, which mode 'block' does not make"),
        (("--verifier", "nowhere", "--mode", "speculative"), "nowhere: no such model directory"),
    ],
)
def test_mistakes_are_one_line(run, flags, message):
    status, out, err = run("--prompt", "red", *flags)
    assert status == 2 and out == "" and message in err and len(err.splitlines()) == 1


@pytest.fixture(scope="module")
def stock(here) -> str:
    """The same weights as a stock language model, as its own project would publish it."""
    model, processor = load(str(here / "model"))
    model.language_model.save_pretrained(here / "stock")
    processor.tokenizer.save_pretrained(here / "stock")
    return "stock"


def test_a_stock_language_model_verifies_drafts_of_text(run, stock):
    ar = asked(run, "--mode", "ar")
    for decoding in (("--mode", "speculative"), ("--decoder", "diffuspec")):
        found = asked(run, *decoding, "--verifier", stock)
        assert found["answer"] == ar["answer"] and found["forwards"] % 2 == 0, (
            "every draft is a pass, and so is reading it"
        )


def test_a_model_that_was_converted_drafts_for_the_one_it_was_made_of(run, here):
    """Whose tokenizer knows no mask and no pictures: tokens that neither ever says need not be the same."""
    tokenizer = bare_tokenizer()
    stock = language_model("qwen2", len(tokenizer) + 5, torch.float32)
    save_source(stock, tokenizer, here / "original")
    convert(str(here / "original"), str(here / "converted"))
    model, processor = load(str(here / "converted"))
    assert len(tokenizer) < len(processor.tokenizer)
    ask = ("--prompt", "red", "--model", "converted", "--max-new-tokens", "12", "--json")
    ar, drafted = (json.loads(run(*ask, *more)[1]) for more in (
        ("--mode", "ar"), ("--mode", "speculative", "--verifier", "original")))  # fmt: skip
    assert ar["answer"] == drafted["answer"] and ar["tokens"] == drafted["tokens"] > 1


def test_a_checkpoint_of_ours_verifies_drafts_about_pictures_and_a_stock_model_does_not(run, here, stock):
    Image.linear_gradient("L").convert("RGB").save(here / "0.png")
    look = ("--image", "0.png")
    ar = asked(run, *look, "--mode", "ar")
    assert asked(run, *look, "--mode", "speculative", "--verifier", "model")["answer"] == ar["answer"]
    status, out, err = run("--prompt", "red", *look, "--mode", "speculative", "--verifier", stock)
    assert status == 2 and out == "" and len(err.splitlines()) == 1
    assert "the request has pictures, but verifier stock does not see them as the model does" in err


def test_drafts_are_as_long_as_the_largest_trained_block_unless_a_size_is_given(here):
    """Whichever way the mode is set; a size that somebody has chosen stays."""
    model, _ = load(str(here / "model"))
    assert model.generation_config.block_size == model.config.traits.block_size == 4

    def sizes(base=None, **given):
        config = settings(model, base, **given)
        return config.block_size, build_strategy(model, config).spans.size

    assert sizes() == (4, 4) and sizes(mode="speculative") == (8, 8) and sizes(mode="ar")[1] == 1
    assert sizes(mode="speculative", block_size=4) == (4, 4)
    block, chosen = settings(model), settings(model, block_size=1)
    drafts = settings(model, mode="speculative")
    assert sizes(block, mode="speculative") == (8, 8) and sizes(drafts, mode="block") == (4, 4)
    assert sizes(chosen, mode="speculative") == (1, 1) and sizes(drafts, mode="speculative") == (8, 8)
    assert sizes(mode="speculative", decoder="fast-dllm") == (8, 8)
    out = [model.generate(torch.tensor([[40, 41]]), mode="speculative", max_new_tokens=12, **more).states[0]
           for more in ({}, {"block_size": 8})]  # fmt: skip
    assert out[0].tokens == out[1].tokens and out[0].forwards == out[1].forwards


def test_a_filter_is_fitted_and_decodes(run, here, capsys):
    command = [
        "--model",
        "model",
        "--items",
        "6",
        "--max-new-tokens",
        "12",
        "--steps",
        "150",
        "--families",
        "counting",
    ]
    assert fit_filter.main(["f.safetensors", *command]) == 0
    said = capsys.readouterr().out
    assert "precision" in said and (here / "f.safetensors").is_file()
    found = asked(run, "--decoder", "learn2pd", "--policy-arg", "filter=f.safetensors")
    assert 1 <= found["forwards"] <= 12
    assert fit_filter.main(["g.safetensors", "--families", "none"]) == 2


def test_fitting_learns_what_tells_right_from_wrong(here):
    """Proposals above one half are right: the fitted filter says so of others."""
    generator = torch.Generator().manual_seed(0)
    seen = torch.rand(600, 8, generator=generator)
    examples = [seen, seen > 0.5, torch.ones_like(seen, dtype=torch.bool)]
    weights = fit_filter.fit([part[:500] for part in examples], 400, 0)
    told = fit_filter.report(weights, [part[500:] for part in examples])
    assert told["precision"] > 0.97 and told["recall"] > 0.6


def test_the_oracle_answers_what_the_static_decoder_answers(here):
    model, processor = load(str(here / "model"))
    config = settings(model, tokenizer=processor.tokenizer, decoder="sdar-static", max_new_tokens=12)
    found = fit_filter.traces(model, processor, ["counting"], 4, config, 0)
    assert found
    for seen, right, known in found:
        assert seen.shape == right.shape == known.shape and seen.shape[1] == 4
        assert not (right & ~known).any() and ((0 <= seen) & (seen <= 1)).all()
        assert right[:-1].any(-1).all(), "a trace ends where nothing is right"
