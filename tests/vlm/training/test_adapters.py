"""Adapters: what trains and what does not, the trained model from its directory and merged, exact resumption."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from tests.vlm.tiny import BACKBONES
from tests.vlm.training.small import save_start, small_recipe
from train import main as train
from vlm import VLMForBlockDiffusion, VLMProcessor
from vlm.checkpoints.load import EMBEDDED, CheckpointError, load
from vlm.checkpoints.quantize import quantize
from vlm.merge_adapter import main as merge
from vlm.training.adapters import attach
from vlm.training.recipe import AdapterRecipe, OptimRecipe, Recipe
from vlm.training.run import run
from vlm.training.trainer import BlockDiffusionTrainer, checkpoints

CONFIGS = Path(__file__).parents[3] / "configs"
WEIGHTS = "adapter_model.safetensors"
PARTS = [f"self_attn.{n}_proj" for n in "qkvo"] + [f"mlp.{n}_proj" for n in ("gate", "up", "down")]
FACTORS = {
    f"language_model.model.layers.{layer}.{part}.lora_{factor}.default.weight"
    for layer in (0, 1)
    for part in PARTS
    for factor in "AB"
}


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    """A tiny model with dropout, wide enough for nf4, whose factors of 64 the CPU kernels need."""
    directory = tmp_path_factory.mktemp("start")
    with pytest.MonkeyPatch.context() as patch:
        wide = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
        patch.setitem(BACKBONES, "qwen3", {**BACKBONES["qwen3"], **wide})
        return save_start(directory, scale=4.0)


def recipe_of(directory: Path, start: Path | None, max_steps: int = 4, **adapter) -> Recipe:
    """A run of four steps, saved at two and four, with every kind of randomness in it."""
    settings = {"rank": 4, "alpha": 8, "dropout": 0.1, "train_projector": True, **adapter}
    optim = OptimRecipe(name="adamw", lr=1e-2, warmup_steps=1, decay_steps=1)
    adapter_recipe = AdapterRecipe(**settings)
    return small_recipe(
        directory, start, optim=optim, max_steps=max_steps, save_steps=2, precision="fp32", adapter=adapter_recipe
    )


@dataclass
class Trained:
    """A finished run and the model that it held at its end."""

    recipe: Recipe
    model: PeftModel
    base: Path

    @property
    def directory(self) -> Path:
        return Path(self.recipe.output_dir)

    @property
    def quantize(self) -> str | None:
        return self.recipe.adapter.quantize


@pytest.fixture(scope="module", params=[None, "nf4"], ids=["LoRA", "QLoRA"])
def trained(request, start, tmp_path_factory) -> Trained:
    kept = []

    class Kept(BlockDiffusionTrainer):
        def __init__(self, model, *rest):
            kept.append(model)
            super().__init__(model, *rest)

    recipe = recipe_of(tmp_path_factory.mktemp("run"), start, quantize=request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vlm.training.run.BlockDiffusionTrainer", Kept)
        run(recipe)
    return Trained(recipe, kept[0].eval(), start)


def base_of(trained: Trained) -> VLMForBlockDiffusion:
    model = VLMForBlockDiffusion.from_pretrained(str(trained.base), dtype=torch.float32)
    return model if trained.quantize is None else quantize(model, trained.quantize)


@torch.no_grad()
def logits(model) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(20, 250, (1, 12), generator=generator)
    ids[0, 1:5] = model.config.image_token_id
    ids[0, 9:] = model.config.traits.mask_token_id
    return model.eval()(input_ids=ids, pixel_values=torch.randn(1, 3, 32, 32, generator=generator)).logits


def apart(one, other) -> float:
    return (logits(one) - logits(other)).abs().max().item()


def metrics(directory: Path) -> list[dict]:
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("tokens_per_second", "waiting", "seconds")} for line in lines]


def same_tensors(one: Path, other: Path) -> bool:
    ours, theirs = load_file(one), load_file(other)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


# What trains -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("train_projector", [False, True])
@pytest.mark.parametrize("train_tokens", [[], ["<|mask|>"]], ids=["no token", "a token"])
def test_only_what_the_recipe_names_can_train(start, train_projector, train_tokens):
    base, processor = load(str(start))
    projector = {f"projector.modules_to_save.default.{name}" for name, _ in base.projector.named_parameters()}
    token = "language_model.model.embed_tokens.token_adapter.trainable_tokens_delta.default"
    recipe = AdapterRecipe(train_projector=train_projector, train_tokens=train_tokens)
    model = attach(base, processor.tokenizer, recipe).get_base_model()
    expected = FACTORS | (projector if train_projector else set()) | ({token} if train_tokens else set())
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == expected


def test_training_moves_the_adapter_and_nothing_else(trained):
    before, after = base_of(trained).state_dict(), trained.model.get_base_model().state_dict()
    frozen = {n.replace(".base_layer", "").replace(".original_module", ""): t for n, t in after.items()}
    assert all(torch.equal(frozen[name], tensor) for name, tensor in before.items())
    moved = {n: t for n, t in after.items() if ".lora_B." in n}
    assert len(moved) == len(FACTORS) / 2 and all(t.abs().max() > 1e-3 for t in moved.values())
    projector = {n: t for n, t in after.items() if n.startswith("projector.modules_to_save")}
    trainable = {n for n, p in trained.model.get_base_model().named_parameters() if p.requires_grad}
    assert trainable == FACTORS | projector.keys()
    assert all(not torch.equal(t, before[n.replace("modules_to_save.default.", "")]) for n, t in projector.items())


# What is saved -----------------------------------------------------------------------------------------------------


def test_the_final_directory_is_peft_s_own_and_the_last_checkpoint_s(trained):
    final = trained.directory / "final"
    assert {path.name for path in final.iterdir()} == {"adapter_config.json", WEIGHTS, "README.md"}
    last = checkpoints(trained.directory)[-1]
    assert last.name == "checkpoint-4" and same_tensors(final / WEIGHTS, last / WEIGHTS)
    assert not list(trained.directory.rglob("model.safetensors"))  # the base is not saved again and again


def test_base_and_adapter_give_back_the_trained_model(trained):
    base = base_of(trained)
    untrained = logits(base)
    again = PeftModel.from_pretrained(base, str(trained.directory / "final"))
    assert (logits(again) - untrained).abs().max() > 1e-2
    assert apart(again, trained.model) <= 1e-6


def test_merged_is_the_trained_model(trained, tmp_path, capsys):
    final, output = str(trained.directory / "final"), tmp_path / "merged"
    flags = [] if trained.quantize is None else ["--base-quantize", "nf4"]
    assert merge([final, "--output", str(output), *flags]) == 0
    assert capsys.readouterr().out == f"{output}\n"
    merged = load(str(output))[0]
    assert apart(merged, trained.model) <= 1e-4
    assert {type(module) for module in merged.modules() if isinstance(module, torch.nn.Linear)} == {torch.nn.Linear}
    assert merged.generation_config.to_dict() == load(str(trained.base))[0].generation_config.to_dict()
    on_full_weights = apart(load(str(trained.base), final)[0], trained.model)  # as `infer.py --adapter` does
    if trained.quantize is None:
        assert on_full_weights <= 1e-4
    else:
        assert 1e-3 < on_full_weights < apart(load(str(trained.base))[0], trained.model)


def test_a_trained_token_is_merged_into_both_ends_of_a_tied_embedding(start, tmp_path):
    base, processor = load(str(start))
    mask = processor.tokenizer.mask_token_id
    before = base.get_input_embeddings().weight.detach().clone()
    adapted = attach(base, processor.tokenizer, AdapterRecipe(train_tokens=["<|mask|>"]))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "trainable_tokens_delta" in name:
                parameter.add_(0.5)
    adapted.save_pretrained(tmp_path / "adapter")
    merged = load(str(start), str(tmp_path / "adapter"))[0]
    table = merged.get_input_embeddings().weight
    assert merged.get_output_embeddings().weight is table
    assert torch.equal(table[mask], before[mask] + 0.5)
    rest = torch.arange(len(table)) != mask
    assert torch.equal(table[rest], before[rest])
    assert apart(merged, adapted) <= 1e-5 < (logits(merged) - logits(load(str(start))[0])).abs().max()


# Runs that go on ---------------------------------------------------------------------------------------------------


def test_a_stopped_run_goes_on_exactly_and_a_finished_one_stays(trained, tmp_path):
    again = Path(shutil.copytree(trained.directory, tmp_path / "again"))
    shutil.rmtree(again / "checkpoint-4")
    shutil.rmtree(again / "final")
    recipe = recipe_of(again, trained.base, quantize=trained.quantize)
    for _ in ("stopped", "finished"):
        run(recipe)
        assert metrics(again) == metrics(trained.directory)
        for name in ("checkpoint-4", "final"):
            assert same_tensors(again / name / WEIGHTS, trained.directory / name / WEIGHTS)
        shutil.rmtree(again / "final")


@pytest.mark.parametrize("init_from", [None, "embedded"])
def test_without_a_start_it_is_the_embedded_model(start, tmp_path, monkeypatch, init_from):
    monkeypatch.setattr("vlm.training.run.EMBEDDED", start)
    recipe = recipe_of(tmp_path, None, max_steps=1)
    recipe.init_from = init_from
    run(recipe)
    config = json.loads((tmp_path / "final" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(start)


# The shipped recipes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, kind", [("lora", None), ("qlora", "nf4")])
def test_the_shipped_recipes_fit_the_embedded_model(monkeypatch, name, kind):
    handed = []
    monkeypatch.setattr("train.run", handed.append)
    assert train(["--config", str(CONFIGS / f"{name}.yaml"), "--adapter.rank", "8"]) == 0
    (recipe,) = handed
    assert recipe.adapter == AdapterRecipe(rank=8, train_projector=True, quantize=kind)
    traits = json.loads((EMBEDDED / "config.json").read_text())["diffusion"]
    assert set(recipe.data.block_sizes) <= set(traits["trained_block_sizes"])
    assert recipe.objective.ar_weight > 0 and recipe.init_from is None
    assert recipe.optim.warmup_steps + recipe.optim.decay_steps <= recipe.max_steps


# Mistakes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--adapter.rank", "0"], "adapter.rank must be at least 1, not 0"),
        (["--adapter.dropout", "1"], "adapter.dropout 1.0 must lie in [0, 1)"),
        (["--adapter.quantize", "int8"], "adapter.quantize 'int8' does not train"),
        (["--init_from", "nowhere"], "nowhere: no such model directory"),
        (["--adapter.targets", "nothing_here"], "adapter.targets 'nothing_here' matches no layer"),
        (["--adapter.targets", "(a"], "adapter.targets '(a' is not a regular expression"),
        (["--adapter.targets", r"language_model\..*"], "matches language_model.model, which is no linear layer"),
        (["--adapter.train_tokens", "[<|msk|>]"], "adapter.train_tokens '<|msk|>' is not a token of the model"),
        (["--optim.frozen", "[projector]"], "optim.frozen cannot go with an adapter"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_mistakes_are_one_line(start, tmp_path, monkeypatch, capsys, arguments, said):
    monkeypatch.setattr("vlm.training.run.EMBEDDED", start)
    config = ["--config", str(CONFIGS / "lora.yaml"), "--output_dir", str(tmp_path / "run")]
    assert train([*config, *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error and error.startswith("error: ") and error.count("\n") == 1


def test_a_checkpoint_of_another_adapter_is_refused(trained, start, tmp_path):
    again = Path(shutil.copytree(trained.directory, tmp_path / "again"))
    with pytest.raises(ValueError, match="checkpoint-4: its adapter has r 4, the recipe's has 5"):
        run(recipe_of(again, start, rank=5))
    elsewhere = shutil.copytree(start, tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="checkpoint-4: its adapter has base_model_name_or_path .*elsewhere"):
        run(recipe_of(again, elsewhere))
    with pytest.raises(ValueError, match="checkpoint-4: an adapter, not a model"):
        run(small_recipe(again, start))
    with pytest.raises(ValueError, match="final: an adapter, not a model"):
        run(recipe_of(tmp_path / "new", again / "final"))
    (again / "checkpoint-4" / "adapter_config.json").unlink()
    with pytest.raises(ValueError, match="checkpoint-4: holds a whole model, but the recipe trains an adapter"):
        run(recipe_of(again, start))


def test_what_cannot_be_merged(trained, tmp_path, capsys):
    def refused(*arguments: str) -> str:
        assert merge([*map(str, arguments)]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    final = trained.directory / "final"
    assert f"{tmp_path}: exists already" in refused(final, "--output", tmp_path)
    assert "not an adapter directory" in refused(tmp_path, "--output", tmp_path / "new")
    moved = Path(shutil.copytree(final, tmp_path / "moved"))
    path = moved / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": "/not/here"}))
    assert f"{moved}: its base '/not/here' is not here" in refused(moved, "--output", tmp_path / "new")
    assert "does not fit the model" in refused(moved, "--output", tmp_path / "new", "--model", "embedded")
    assert not (tmp_path / "new").exists()
    VLMProcessor.from_pretrained(str(trained.base))  # the base is as it was
    with pytest.raises(CheckpointError):
        load(str(final))
