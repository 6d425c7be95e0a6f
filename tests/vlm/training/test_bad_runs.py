"""What a run finds wrong is one line that names the sample, the file or the key, and nothing saved before is lost."""

import json
import resource
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.vlm.tiny import BACKBONES, TEXTS, tiny_model, tiny_traits
from tests.vlm.training.small import data_recipe, small_recipe, stream
from train import main as train
from vlm.training import show, warmup
from vlm.training.build import build_model, train_tokenizer
from vlm.training.data import Batch, lay_out
from vlm.training.lines import Lines
from vlm.training.recipe import ModelRecipe, OptimRecipe
from vlm.training.run import _check_same_model, run
from vlm.training.saving import PARTIAL, written_whole
from vlm.training.trainer import BlockDiffusionTrainer, checkpoints

TEXT = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        **BACKBONES["qwen3"]}  # fmt: skip
VISION = {"kind": "timm", "model": "vit_tiny_patch16_224", "image_size": 32, "resample": "bilinear",
          "options": {"embed_dim": 16, "depth": 1, "num_heads": 2}}  # fmt: skip


@contextmanager
def files_of_at_most(size: int):
    """Writing further fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(scope="module")
def began(tmp_path_factory) -> Path:
    """``start``, and a ``run`` of it with a checkpoint after step 2."""
    folder = tmp_path_factory.mktemp("began")
    model, processor = tiny_model(dtype=torch.float32)
    model.save_pretrained(folder / "start")
    processor.save_pretrained(folder / "start")
    run(small_recipe(folder / "run", folder / "start", max_steps=2))
    return folder


@pytest.fixture
def again(began, tmp_path) -> Path:
    return Path(shutil.copytree(began, tmp_path / "again"))


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_a_full_disk_costs_the_new_checkpoint_only(again):
    kept = contents(again / "run" / "checkpoint-2")
    recipe = small_recipe(again / "run", again / "start", max_steps=3)
    with files_of_at_most(50_000), pytest.raises(OSError) as caught:
        run(recipe)
    said = str(caught.value)
    assert said.startswith(f"{again / 'run' / 'checkpoint-3'}: could not be saved (") and "\n" not in said
    assert [p.name for p in checkpoints(again / "run")] == ["checkpoint-2"]
    assert contents(again / "run" / "checkpoint-2") == kept
    assert list((again / "run" / PARTIAL).iterdir()) == []  # its room is free again
    run(recipe)
    assert [p.name for p in checkpoints(again / "run")] == ["checkpoint-2", "checkpoint-3"]
    assert [json.loads(line)["step"] for line in (again / "run" / "metrics.jsonl").open()] == [1, 2, 3]


def test_a_full_disk_leaves_the_final_model_as_it_was(again):
    kept = contents(again / "run" / "final")
    with files_of_at_most(50_000), pytest.raises(OSError, match="final: could not be saved"):
        run(small_recipe(again / "run", again / "start", max_steps=2))
    assert contents(again / "run" / "final") == kept


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), RuntimeError("write failed\nframe 0"), Exception()]
)
def test_whatever_stops_the_writing_is_one_line_and_leaves_the_old_directory(tmp_path, error):
    target = tmp_path / "target"
    with written_whole(target) as directory:
        (directory / "file").write_text("old")
    with pytest.raises(OSError) as caught, written_whole(target) as directory:
        (directory / "file").write_text("new")
        raise error
    assert str(caught.value).startswith(f"{target}: could not be saved (") and "\n" not in str(caught.value)
    assert (target / "file").read_text() == "old" and not directory.exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")
def test_metrics_that_cannot_be_written_name_their_file():
    with pytest.raises(OSError, match=r"/dev/full: could not be written \(No space left on device\)"):
        Lines(Path("/dev/full")).append({"step": 1})


@pytest.mark.parametrize("writes", ["lines", "tower"])
def test_a_full_disk_leaves_a_file_as_it_was(tmp_path, writes):
    """Metrics that are cut to the resumed step, and the state of the tower's warm-up."""
    if writes == "lines":
        path = tmp_path / "metrics.jsonl"
        path.write_text("".join(json.dumps({"step": step}) + "\n" for step in range(400)))
        write = lambda: Lines(path).cut(390)  # noqa: E731
    else:
        path, warmed = tmp_path / warmup.STATE, torch.nn.Linear(40, 80)
        optimizer = torch.optim.AdamW(warmed.parameters())
        write = lambda: warmup._save(tmp_path, 1, warmed, optimizer)  # noqa: E731
        write()
    kept = path.read_bytes()
    with files_of_at_most(2000), pytest.raises(OSError) as caught:
        write()
    assert str(caught.value).startswith(f"{path}: could not be") and "\n" not in str(caught.value)
    assert contents(tmp_path) == {path.name: kept}


CHANGES = {
    "text.hidden_size is 32, the recipe's 64": {"text": {**TEXT, "hidden_size": 64}},
    "text.rope_parameters is": {"text": {**TEXT, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}},
    "vision.image_size is 32, the recipe's 64": {"vision": {**VISION, "image_size": 64}},
    "vision.options is": {"vision": {**VISION, "options": {**VISION["options"], "depth": 2}}},
    "diffusion.prediction_shift is 0, the recipe's 1": {"diffusion": tiny_traits(prediction_shift=1)},
    "projector_hidden_size is None, the recipe's 48": {"projector_hidden_size": 48},
    "frame_pool is 2, the recipe's 1": {"frame_pool": 1},
}


def test_a_checkpoint_of_another_shape_is_refused_on_resume(tmp_path):
    same = {"text": TEXT, "vision": VISION, "diffusion": tiny_traits()}
    checkpoint = tmp_path / "checkpoint-2"
    build_model(ModelRecipe(**same), train_tokenizer(TEXTS, 300), seed=0).config.save_pretrained(checkpoint)
    (checkpoint / "data_position.json").write_text("[0, 0]")
    _check_same_model(checkpoint, ModelRecipe(**same))
    _check_same_model(checkpoint, ModelRecipe())  # says nothing about the model
    for says, change in CHANGES.items():
        with pytest.raises(ValueError) as caught:
            run(small_recipe(tmp_path, model=ModelRecipe(**{**same, **change})))
        assert str(caught.value).startswith(f"{checkpoint}: its model.{says}")


def test_another_optimiser_is_refused_on_resume(again):
    with pytest.raises(ValueError, match="checkpoint-2: its optimiser's state does not fit this recipe"):
        run(small_recipe(again / "run", again / "start", max_steps=4, optim=OptimRecipe(name="adamw")))


def spoil(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:20] if path.suffix == ".pt" else b"junk")


def shorten(path: Path) -> None:
    """One tensor of another shape than the model's."""
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith("input_layernorm.weight"))
    save_file({**tensors, name: tensors[name][:-1].clone()}, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    "file, damage, says",
    [
        ("model.safetensors", spoil, "model.safetensors: not a readable safetensors file"),
        ("model.safetensors", shorten, "input_layernorm.weight has shape [31], expected [32]"),
        ("data_position.json", spoil, "data_position.json: not a position of the data stream"),
        ("optimizer.pt", spoil, "checkpoint-2: its optimiser's state is damaged"),
    ],
    ids=["weights", "shape", "position", "optimiser"],
)
def test_a_damaged_checkpoint_is_refused_on_resume(again, file, damage, says):
    damage(again / "run" / "checkpoint-2" / file)
    with pytest.raises(ValueError) as caught:
        run(small_recipe(again / "run", again / "start", max_steps=4))
    assert says in str(caught.value) and "checkpoint-2" in str(caught.value) and "\n" not in str(caught.value)


ANSWER = {"role": "assistant", "content": "x"}
ASKED = {"role": "user", "content": "What?"}
TWO_FOR_ONE = [{"from": "human", "value": "<image><image> What?"}, {"from": "gpt", "value": "x"}]
SAMPLES = {
    "sample 'empty': answer 1 is empty": {"id": "empty", "messages": [ASKED, {**ANSWER, "content": ""}]},
    "sample 'long': ": {"id": "long", "messages": [ASKED, {**ANSWER, "content": "word " * 900}]},
    "sample 'media': 2 <image> and 0 <video> placeholders for 1 images": {
        "id": "media", "conversations": TWO_FOR_ONE, "image": "red.png",
    },
}  # fmt: skip
MISTAKES = {
    "data.block_sizes 0": ["--data.block_sizes", "{0: 1.0}"],
    "noise.complementary needs an even number of data.views, not 3": [
        "--noise.complementary", "true", "--data.views", "3",
    ],
    "ar_weight 1.0 needs causal context": ["--init_from", "BLOCK_CAUSAL"],
    "--optim.learning_rat": ["--optim.learning_rat", "1"],
    "'max_sid'": ["--data.phases", "[{samples: 6, weights: {counting: 1.0}, max_sid: 96}]"],
    "'max_stepz'": ["--config", "UNKNOWN"],
}  # fmt: skip


def mistake(argv: list[str], capsys) -> str:
    """What `train.py` says, in one line, before it ends with 2."""
    assert train(argv) == 2
    (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return said


@pytest.mark.parametrize("says", MISTAKES)
def test_a_mistake_in_a_recipe_is_one_line(began, tmp_path, capsys, says):
    (tmp_path / "unknown.yaml").write_text("max_stepz: 3\n")
    model, processor = tiny_model(dtype=torch.float32, context_attention="block_causal", ar_mode=False)
    model.save_pretrained(tmp_path / "start")
    processor.save_pretrained(tmp_path / "start")
    places = {"BLOCK_CAUSAL": str(tmp_path / "start"), "UNKNOWN": str(tmp_path / "unknown.yaml")}
    arguments = [places.get(word, word) for word in MISTAKES[says]]
    general = ["--output_dir", str(tmp_path / "run"), "--init_from", str(began / "start"), "--max_steps", "1"]
    assert says in mistake([*general, *arguments], capsys)


@pytest.mark.parametrize("says", SAMPLES)
def test_a_bad_sample_is_one_line_where_the_recipe_says_so(began, tmp_path, capsys, says):
    Image.new("RGB", (32, 32)).save(tmp_path / "red.png")
    data = tmp_path / "data.jsonl"
    data.write_text(json.dumps(SAMPLES[says]) + "\n")
    said = mistake(
        ["--output_dir", str(tmp_path / "run"), "--init_from", str(began / "start"), "--max_steps", "1",
         "--data.sources", json.dumps([{"path": str(data)}]), "--data.bad_samples", "raise", "--data.workers", "0"],
        capsys,
    )  # fmt: skip
    assert f"{data}:1: {says}" in said


def test_a_sample_longer_than_the_model_is_named(tmp_path):
    model, processor = tiny_model()
    long = stream().sample(1)
    long.layout.position[-1] = 512
    trainer = BlockDiffusionTrainer(model, processor, stream(), small_recipe(tmp_path))
    with pytest.raises(ValueError, match=f"sample {long.encoded.id}: 513 positions, but the model has 512"):
        trainer.get_batch_samples(iter([Batch([stream().sample(0), long], (0, 0))]), 1, torch.device("cpu"))


def test_a_sample_with_an_empty_answer_is_refused(tmp_path):
    dataset = stream()
    encoded, end = dataset.sample(1).encoded, dataset.processor.tokenizer.eos_token_id
    encoded.input_ids = np.append(encoded.input_ids, [7, end])
    encoded.is_answer = np.append(encoded.is_answer, [False, True])
    with pytest.raises(ValueError, match="answer . is empty"):
        lay_out(encoded, 4, data_recipe(), dataset.traits, end)
    encoded.is_answer[:] = False
    with pytest.raises(ValueError, match="no answer token"):
        lay_out(encoded, 4, data_recipe(), dataset.traits, end)


def test_bad_samples_of_a_dataset_are_skipped_by_name(tmp_path, capsys):
    user, picture = {"role": "user", "content": "What is it?"}, {"role": "user", "content": [{"type": "image"}]}
    lines = [
        {"id": "empty", "messages": [user, {"role": "assistant", "content": ""}]},
        {"id": "none", "messages": [user]},
        {"id": "media", "messages": [picture, {"role": "assistant", "content": "x"}]},
        {"id": "good", "messages": [user, {"role": "assistant", "content": "A star."}]},
    ]  # fmt: skip
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert show.main([str(tmp_path / "data.jsonl"), "--output", str(tmp_path / "rows.html")]) == 0
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 3 and all(name in line for name, line in zip(("'empty'", "'none'", "'media'"), said))
    assert "answer 1 is empty" in said[0] and "no answer token" in said[1]
    assert (tmp_path / "rows.html").read_text().count("<h2>") == 1


# Gradient checkpointing --------------------------------------------------------------------------------------------


def gradients(directory: Path, batches: list, checkpointing: bool) -> tuple[dict[str, torch.Tensor], int]:
    """Of one update over the batches; and how often the decoder's first layer was computed."""
    model, processor = tiny_model()
    recipe = small_recipe(directory, accumulation=len(batches), gradient_checkpointing=checkpointing)
    trainer = BlockDiffusionTrainer(model, processor, stream(), recipe)
    if trainer.args.activation_checkpointing:
        model.activation_checkpointing_enable()
    calls, layer = [], model.language_model.get_decoder().layers[0].self_attn
    layer.register_forward_hook(lambda *_: calls.append(1))
    inputs, _ = trainer.get_batch_samples(iter(batches), len(batches), torch.device("cpu"))
    model.train()
    for batch in inputs:
        trainer.compute_loss(model, batch).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}, len(calls)


def test_gradient_checkpointing_computes_twice_and_gives_the_same_gradients(tmp_path):
    samples = [stream().sample(i) for i in range(6)]
    pieces = [Batch(samples[:2], (0, 0)), Batch(samples[2:], (0, 1))]
    plain, once = gradients(tmp_path / "plain", [Batch(samples, (0, 0))], checkpointing=False)
    saved, twice = gradients(tmp_path / "saved", pieces, checkpointing=True)
    assert (once, twice) == (1, 4)
    largest = max(g.norm() for g in plain.values())
    for name, gradient in plain.items():
        assert (gradient - saved[name]).norm() <= 1e-6 * max(gradient.norm(), 0.01 * largest), name
