"""Adapting converted models: the shipped recipes on one's own texts and pictures, and a model that only reads text."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from data_pipelines.mixture import Source
from tests.vlm.checkpoints.sources import bare_tokenizer, language_model, save
from tests.vlm.tiny import tiny_model
from train import main
from vlm.checkpoints.convert import Choices, convert
from vlm.checkpoints.load import load
from vlm.training import heldout
from vlm.training.recipe import DataRecipe

CONFIGS = Path(__file__).parents[3] / "configs"
RECIPES = ("adapt_lm", "adapt_lm_lora", "adapt_vlm", "adapt_vlm_lora")
COLOURS = ("red", "green", "blue")


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    """A converted language model without a vision encoder, by the command's own way."""
    folder = tmp_path_factory.mktemp("lm")
    tokenizer = bare_tokenizer("<|im_start|>", "<|im_end|>")
    save(language_model("qwen3", len(tokenizer), torch.float32), tokenizer, folder / "ar")
    convert(str(folder / "ar"), str(folder / "base"), Choices())
    return folder / "base"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """A model with a vision encoder whose traits are those of a conversion."""
    folder = tmp_path_factory.mktemp("vlm") / "base"
    model, processor = tiny_model(dtype=torch.float32, block_size=8, trained_block_sizes=(8,))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def chats(folder: Path, name: str, count: int, shown: bool = False) -> str:
    """A source of questions about colours, as ``--data.sources`` wants it; the pictures lie beside."""
    lines = []
    for number in range(count):
        colour = COLOURS[number % 3]
        asked = [{"type": "text", "text": f"What color is {name} {number}?"}]
        if shown:
            Image.new("RGB", (30, 20), colour).save(folder / f"{colour}.png")
            asked = [{"type": "image", "image": f"{colour}.png"}, *asked]
        turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": f"It is {colour}."}]
        lines.append(json.dumps({"messages": turns}))
    (folder / f"{name}.jsonl").write_text("\n".join(lines))
    return json.dumps([{"path": str(folder / f"{name}.jsonl")}])


def adapted(name: str, base: Path, folder: Path, *more: str) -> Path:
    """The run of a shipped recipe that takes two steps; for the recipe in stages, one in each."""
    sources, held = (chats(folder, part, 6, shown="vlm" in name) for part in ("train", "heldout"))
    steps = [
        {"name": "projector", "steps": 1, "lr": {"projector": 1e-3}},
        {"name": "decoder", "steps": 1, "lr": {"language_model": 1e-3, "projector": 1e-3}},
    ]
    given = ["--stages", json.dumps(steps)] if name == "adapt_vlm" else []
    given += ["--init_from", str(base), "--output_dir", str(folder / "run"), "--data.sources", sources]
    given += [
        "--data.heldout",
        held,
        "--data.workers",
        "0",
        "--data.window",
        "4",
        "--eval_steps",
        "1",
        "--log_steps",
        "1",
    ]
    assert main(["--config", str(CONFIGS / f"{name}.yaml"), "--max_steps", "2", *given, *more]) == 0
    return folder / "run"


def jsonl(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_adapts_a_converted_model(name, request, tmp_path):
    base = request.getfixturevalue("pictures" if "vlm" in name else "texts")
    run = adapted(name, base, tmp_path)
    metrics, answers = jsonl(run / "metrics.jsonl"), jsonl(run / "samples.jsonl")
    assert all(line["nelbo"] > 0 and line["diffusion_loss"] > 0 and line["ar_loss"] > 0 for line in metrics)
    assert answers and all("heldout" in line["question"] and line["expected"].startswith("It is") for line in answers)
    if "lora" in name:
        model, _ = load(str(base), str(run / "final"), torch.float32, "cpu")
    else:
        model, _ = load(str(run / "final"), None, torch.float32, "cpu")
    before, _ = load(str(base), None, torch.float32, "cpu")
    old, new = before.state_dict(), model.state_dict()
    moved = {part for key in old if not torch.equal(old[key], new[key]) for part in [key.split(".")[0]]}
    assert moved == ({"language_model", "projector"} if "vlm" in name else {"language_model"})


def test_the_masks_embedding_is_what_an_adapter_trains_of_the_table(texts, tmp_path):
    run = adapted("adapt_lm_lora", texts, tmp_path)
    (before, processor), (model, _) = (
        load(str(texts), device="cpu"),
        load(str(texts), str(run / "final"), device="cpu"),
    )
    changed = (before.get_input_embeddings().weight != model.get_input_embeddings().weight).any(-1)
    assert torch.nonzero(changed).flatten().tolist() == [processor.tokenizer.mask_token_id]


def test_one_stage_will_do_where_the_projector_is_trained(pictures, tmp_path):
    more = ["--stages", "[]", "--optim.frozen", "[vision_tower]", "--optim.lr", "1e-3"]
    run = adapted("adapt_vlm", pictures, tmp_path, *more)
    assert not (run / "stage-1").exists() and (run / "final" / "model.safetensors").exists()


@pytest.mark.parametrize("name", RECIPES)
def test_a_header_gives_the_commands(name):
    header = (CONFIGS / f"{name}.yaml").read_text().partition("\noutput_dir:")[0]
    assert all(line.startswith("#") for line in header.splitlines())
    for said in ("python -m vlm.convert", f"train.py --config configs/{name}.yaml --init_from", "Source:", "memory:"):
        assert said in header


def test_a_model_of_text_goes_on_bit_for_bit(texts, tmp_path):
    more = ["--save_steps", "1", "--data.heldout", "[]", "--max_steps", "3", "--precision", "fp32"]
    run = adapted("adapt_lm", texts, tmp_path, *more)
    whole = load_file(run / "final" / "model.safetensors")
    for name in ("checkpoint-3", "final"):
        shutil.rmtree(run / name)
    again = load_file(adapted("adapt_lm", texts, tmp_path, *more) / "final" / "model.safetensors")
    assert {key: (whole[key] - again[key]).abs().max().item() for key in whole} == dict.fromkeys(again, 0.0)
    assert not any("nelbo" in line for line in jsonl(run / "metrics.jsonl"))  # there is nothing to measure it on


@pytest.mark.parametrize(
    "more, says",
    [
        (["--data.sources", "[]"], "this model reads text only; data.sources must name texts to train on"),
        (["--optim.frozen", "[language_model]"], "leaves no part of this model to train"),
        (["--data.heldout", "[{path: nowhere.jsonl}]"], "nowhere.jsonl"),
    ],
)
def test_what_a_model_of_text_cannot_do_is_one_line(texts, tmp_path, more, says, capsys):
    sources = chats(tmp_path, "train", 4)
    given = ["--init_from", str(texts), "--output_dir", str(tmp_path / "run"), "--data.sources", sources]
    assert main(["--config", str(CONFIGS / "adapt_lm.yaml"), *given, *more]) == 2
    said = capsys.readouterr().err
    assert says in said and said.count("\n") == 1


def test_heldout_samples_that_cannot_be_used_are_left_out(texts, tmp_path):
    good = json.loads(chats(tmp_path, "heldout", 4))[0]["path"]
    with open(good, "a") as file:
        file.write('\n{"messages": [{"role": "user", "content": "no answer"}]}\n')
    model, processor = load(str(texts), device="cpu")
    found = heldout.heldout_samples(DataRecipe(heldout=[Source(good)]), processor, model.config.traits)
    assert sorted(sample.encoded.id.split(" (")[0].split(":")[-1] for sample in found) == ["1", "2", "3", "4"]
    assert {sample.block_size for sample in found} == {model.config.traits.block_size}
