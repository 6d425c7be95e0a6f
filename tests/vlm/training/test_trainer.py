"""The loss restated block by block, accumulation, and whole runs: falling loss, same seed same metrics, resumption."""

import json
import shutil
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import IterableDataset
from transformers import TrainerCallback

from data_pipelines import playground
from tests.vlm.tiny import tiny_model
from tests.vlm.training.small import MIXED, data_recipe, save_start, small_recipe, stream
from vlm import VLMForBlockDiffusion, VLMProcessor
from vlm.attention import PADDING
from vlm.layout import answer_spans
from vlm.noise import NoiseTokens, levels, noise_rng
from vlm.training import heldout
from vlm.training.collate import noise_sample
from vlm.training.curricula import Growth, Phase, Stage
from vlm.training.data import Batch
from vlm.training.recipe import NoiseRecipe, ObjectiveRecipe, OptimRecipe
from vlm.training.run import run
from vlm.training.trainer import BlockDiffusionTrainer, NonFiniteLoss, checkpoints

SPEED = "tokens_per_second"


class Given(IterableDataset):
    """The given batches, once or over and over."""

    def __init__(self, batches: list, times: int = 1):
        self.batches, self.times = batches, times

    def __iter__(self):
        for number, samples in enumerate(self.batches * self.times):
            yield Batch(samples, (0, number))


class Gradients(TrainerCallback):
    """Keeps the gradients that the first optimiser step is given."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def metrics(run_dir: Path) -> list[dict]:
    """Metrics without what depends on the clock."""
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in (SPEED, "waiting", "seconds")} for line in lines]


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    return save_start(tmp_path_factory.mktemp("start"))


@pytest.fixture(scope="module")
def finished(start, tmp_path_factory) -> Path:
    """A run of eight steps, saved at 3, 6 and 8, logged at every second."""
    directory = tmp_path_factory.mktemp("finished")
    run(small_recipe(directory, start, log_steps=2))
    return directory


@pytest.fixture
def again(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "again"))


# The loss, restated ------------------------------------------------------------------------------------------------


def cross_entropy(logits: torch.Tensor, token: int) -> float:
    return float(torch.logsumexp(logits, -1) - logits[token])


def embed(model, sample, ids: np.ndarray) -> torch.Tensor:
    """Embeddings of a clean prefix (with every picture) and what follows it."""
    pixels = [torch.from_numpy(p) if len(p) else None for p in (sample.encoded.images, sample.encoded.frames)]
    return model.embed(torch.from_numpy(ids)[None], *pixels)


def block_logits(model, sample, start: int, noisy: np.ndarray) -> torch.Tensor:
    """Logits of one noisy block behind its clean prefix, alone in a forward: [B, V]."""
    traits, total = model.config.traits, start + len(noisy)
    sees = np.zeros((total, total), bool)
    for query in range(total):
        for key in range(total):
            if query >= start:
                sees[query, key] = True
            elif traits.context_attention == "causal":
                sees[query, key] = key <= query
            else:  # one grid over the sequence; the prefix ends at a border of it
                sees[query, key] = key < min((query // len(noisy) + 1) * len(noisy), start)
    embeds = embed(model, sample, np.concatenate([sample.encoded.input_ids[:start], noisy]))
    hidden = model.language_model.get_decoder()(
        inputs_embeds=embeds,
        attention_mask=torch.from_numpy(sees)[None, None],
        position_ids=torch.arange(total)[None],
    ).last_hidden_state
    return model.language_model.lm_head(hidden[0, start:])


def starts_of(sample, origin: str) -> list[int]:
    size = sample.block_size
    if origin == "response":
        return [s for a, b in answer_spans(sample.encoded.is_answer) for s in range(a, b, size)]
    return sorted({i // size * size for i in np.flatnonzero(sample.encoded.is_answer)})


def restated(model, processor, samples: list, recipe) -> float:
    """The published rule as loops: per block a forward of its own, per sample a plain causal language model."""
    traits, end = model.config.traits, processor.tokenizer.eos_token_id
    total, normaliser, next_total, next_count = 0.0, 0.0, 0.0, 0
    for sample in samples:
        clean, answer = sample.encoded.input_ids, sample.encoded.is_answer
        starts, size = starts_of(sample, traits.block_origin), sample.block_size
        noised = (
            noise_sample(
                sample,
                NoiseTokens(traits.mask_token_id),
                recipe.noise,
                recipe.objective,
                recipe.seed,
                step=0,
                progress=0.0,
            )
            .ids[len(clean) :]
            .reshape(len(starts), size)
        )
        rng = noise_rng(recipe.seed, 0, sample.encoded.id, 1)
        t = levels(recipe.noise.schedule, recipe.noise.level, rng, len(starts), 0.0, recipe.noise.stratified)
        for start, noisy, level in zip(starts, noised, t):
            logits, losses, maskable = block_logits(model, sample, start, noisy), [], 0
            own_end = next((b for a, b in answer_spans(answer) if a <= start < b), len(clean))
            stop = own_end if traits.block_origin == "response" else len(clean)
            for slot in range(traits.prediction_shift, size):
                at = start + slot
                if at < stop and not answer[at]:
                    continue
                maskable += 1
                if noisy[slot] == traits.mask_token_id:
                    token = clean[at] if at < stop else end
                    losses.append(cross_entropy(logits[slot - traits.prediction_shift], token))
            if recipe.objective.weighting == "nelbo":
                total, normaliser = total + sum(losses) / level, normaliser + maskable
            elif losses:
                total, normaliser = total + maskable * np.mean(losses), normaliser + maskable
        if recipe.objective.ar_weight:
            logits = model.language_model(inputs_embeds=embed(model, sample, clean)).logits[0]  # stock causal model
            for at in np.flatnonzero(answer):
                next_total, next_count = next_total + cross_entropy(logits[at - 1], clean[at]), next_count + 1
    return total / normaliser + recipe.objective.ar_weight * next_total / max(next_count, 1)


@pytest.mark.parametrize("weighting", ["emrs", "nelbo"])
@pytest.mark.parametrize(
    "traits, ar_weight",
    [
        ({}, 1.0),
        ({}, 0.3),
        ({"prediction_shift": 1}, 1.0),
        ({"context_attention": "block_causal", "block_origin": "sequence"}, 0.0),
    ],
    ids=["causal", "light AR", "shift 1", "block-causal"],
)
def test_one_updates_loss_equals_the_published_rule(tmp_path, weighting, traits, ar_weight):
    model, processor = tiny_model(scale=8.0, **traits)
    dataset = stream(
        recipe=data_recipe(phases=[Phase(6, {"attributes": 1.0}, 96, (2, 2)), Phase(1, MIXED, 96, (2, 2))]), **traits
    )
    samples = [dataset.sample(i) for i in (0, 3, 6, 7, 8)]
    recipe = small_recipe(tmp_path, objective=ObjectiveRecipe(weighting, ar_weight))
    trainer = BlockDiffusionTrainer(model, processor, Given([samples]), recipe)
    (batch,), _ = trainer.get_batch_samples(iter(trainer.train_dataset), 1, torch.device("cpu"))
    with torch.no_grad():
        found = trainer.compute_loss(model, batch).item()
        expected = restated(model, processor, samples, recipe)
    assert expected > 1
    assert found == pytest.approx(expected, rel=2e-6)


@pytest.mark.parametrize("traits", [{}, {"prediction_shift": 1}], ids=["shift 0", "shift 1"])
def test_the_nelbo_is_the_published_rule_on_heldout_items(tmp_path, monkeypatch, traits):
    monkeypatch.setattr(heldout, "SAMPLES", 5)
    model, processor = tiny_model(scale=8.0, **traits)
    trainer = BlockDiffusionTrainer(model, processor, Given([]), small_recipe(tmp_path))
    model.train()
    found = trainer.nelbo()
    assert trainer.nelbo() == found and model.training
    other = small_recipe(tmp_path, seed=5, objective=ObjectiveRecipe(), noise=NoiseRecipe(level="sequence"))
    assert BlockDiffusionTrainer(model, processor, Given([]), other).nelbo() == found
    model.eval()
    samples = heldout.heldout_samples(data_recipe(), processor, model.config.traits)
    for index, sample in enumerate(samples):
        family = sample.encoded.id.split("/")[0]
        turns = len(answer_spans(sample.encoded.is_answer))
        item = playground.item(family, "heldout", heldout.SEED, index, turns, 96)
        asked = processor.tokenizer.decode(sample.encoded.input_ids)
        assert all(turn.question in asked and turn.answer in asked for turn in item.turns)
    plain = NoiseRecipe(stratified=True)
    recipe = small_recipe(tmp_path, noise=plain, objective=ObjectiveRecipe("nelbo", 0.0), seed=heldout.SEED)
    with torch.no_grad():
        assert found == pytest.approx(restated(model, processor, samples, recipe), rel=2e-6)


def update(directory: Path, batches: list) -> tuple[float, dict]:
    """Loss and gradients of one optimiser step over ``batches``, from the same weights."""
    model, processor = tiny_model()
    optim = OptimRecipe(name="adamw", max_grad_norm=0.0)
    recipe = small_recipe(directory, max_steps=1, accumulation=len(batches), optim=optim)
    trainer = BlockDiffusionTrainer(model, processor, Given(batches), recipe)
    gradients = Gradients()
    trainer.add_callback(gradients)
    trainer.resume()
    return metrics(directory)[0]["loss"], gradients.found


@pytest.mark.parametrize("cuts", [[1, 2, 3, 4, 5, 6], [4], [1, 5]])
def test_accumulated_pieces_equal_one_big_batch(tmp_path, cuts):
    dataset = stream()
    samples = [dataset.sample(i) for i in range(7)]
    loss, gradients = update(tmp_path / "whole", [samples])
    pieces = [samples[a:b] for a, b in zip([0, *cuts], [*cuts, 7])]
    piece_loss, piece_gradients = update(tmp_path / "pieces", pieces)
    assert piece_loss == pytest.approx(loss, rel=1e-6)
    assert gradients.keys() == piece_gradients.keys()
    norm = max(g.norm() for g in gradients.values())
    for name, gradient in gradients.items():
        assert (gradient - piece_gradients[name]).norm() <= 1e-6 * max(gradient.norm(), 0.01 * norm), name


# Whole runs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("capacity", [None, 450])
def test_fill_is_the_share_of_places_that_hold_tokens(tmp_path, monkeypatch, capacity):
    """Counted on what the model is handed, between one line of metrics and the next; of budgets where it is packed."""
    model, processor = tiny_model(dtype=torch.float32)
    handed, inner = [], BlockDiffusionTrainer.compute_loss

    def counting(self, model, inputs, **rest):
        held = inputs["segment"] != PADDING
        handed.append((held.sum().item(), held.numel() if capacity is None else data.rows_per_batch, len(held)))
        return inner(self, model, inputs, **rest)

    monkeypatch.setattr(BlockDiffusionTrainer, "compute_loss", counting)
    data = data_recipe(row_capacity=capacity)
    recipe = small_recipe(tmp_path, max_steps=4, save_steps=4, log_steps=2, accumulation=2, eval_steps=100, data=data)
    BlockDiffusionTrainer(model, processor, stream(recipe=data), recipe).resume()
    assert [n_rows for *_, n_rows in handed] == [len(b.packs) for b in islice(stream(recipe=data), 8)]
    expected = [sum(h[0] for h in part) / sum(h[1] for h in part) for part in (handed[:4], handed[4:])]
    assert 0.3 < min(expected) < max(expected) < 1
    assert [line["fill"] for line in metrics(tmp_path)] == pytest.approx(expected, abs=1e-4)


def test_loss_falls_on_a_small_fixed_task(tmp_path):
    model, processor = tiny_model(dtype=torch.float32)
    dataset = stream()
    samples = [dataset.sample(i) for i in range(4)]
    optim = OptimRecipe(name="muon", lr=5e-3, warmup_steps=2, decay_steps=5)
    recipe = small_recipe(tmp_path, max_steps=40, save_steps=40, optim=optim)
    BlockDiffusionTrainer(model, processor, Given([samples], times=40), recipe).resume()
    losses = [line["loss"] for line in metrics(tmp_path)]
    assert len(losses) == 40 and np.isfinite(losses).all()
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])


def test_the_same_seed_gives_the_same_metrics_with_and_without_a_worker(finished, start, tmp_path):
    run(small_recipe(tmp_path, start, log_steps=2, data=data_recipe(workers=1)))
    assert metrics(tmp_path) == metrics(finished)


def test_another_seed_gives_another_loss(finished, start, tmp_path):
    run(small_recipe(tmp_path, start, log_steps=2, seed=1))
    assert metrics(tmp_path)[0]["loss"] != metrics(finished)[0]["loss"]


def test_what_a_finished_run_leaves(finished):
    assert [line["step"] for line in metrics(finished)] == [2, 3, 4, 6, 8]  # every second, and where it was saved
    assert [p.name for p in checkpoints(finished)] == ["checkpoint-6", "checkpoint-8"]
    weights = {p.suffix for p in (finished / "final").iterdir()} - {".json", ".jinja"}
    assert weights == {".safetensors"}
    for directory in checkpoints(finished):
        pickles = {p.name for p in directory.iterdir() if p.suffix in (".bin", ".pt", ".pth")}
        assert pickles == {"optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"}
        for name in ("optimizer.pt", "scheduler.pt"):
            torch.load(directory / name, weights_only=True)


def test_the_final_model_loads_and_is_the_last_checkpoint(finished):
    model = VLMForBlockDiffusion.from_pretrained(finished / "final")
    VLMProcessor.from_pretrained(finished / "final")
    last = load_file(finished / "checkpoint-8" / "model.safetensors")
    state = model.state_dict()
    assert last.keys() <= state.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in last.items())


def test_tensorboard_gets_what_the_metrics_get(finished):
    events = next((finished / "runs").glob("*/events*"))
    reader = EventAccumulator(str(events.parent))
    reader.Reload()
    tags = reader.Tags()["scalars"]
    assert {f"train/{name}" for name in ("loss", "diffusion_loss", "ar_loss", "grad_norm", SPEED)} <= set(tags)
    written = {event.step: event.value for event in reader.Scalars("train/loss")}
    assert written == pytest.approx({line["step"]: line["loss"] for line in metrics(finished)})


def test_a_half_written_checkpoint_is_ignored_and_metrics_are_cut_to_the_resumed_step(again, finished, start):
    (again / "checkpoint-8" / "data_position.json").unlink()
    (again / "checkpoint-8" / "model.safetensors").write_bytes(b"half")
    (again / "checkpoint-old").mkdir()
    (again / "checkpoint-old" / "data_position.json").write_text("[0, 0]")
    path = again / "metrics.jsonl"
    marked = path.read_text().replace('"step": 8', '"step": 7')  # steps after the checkpoint are done again
    path.write_text(marked + '{"step": 8, "lo')  # and a kill may cut a line short
    run(small_recipe(again, start, log_steps=2))
    assert metrics(again) == metrics(finished)
    for name in ("checkpoint-8", "final"):
        ours, theirs = (load_file(d / name / "model.safetensors") for d in (again, finished))
        assert all(torch.equal(ours[n], theirs[n]) for n in theirs)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"rows_per_batch": 600, "row_capacity": 300}], ids=["buckets", "packs"])
def test_resuming_in_the_middle_of_an_accumulated_window_continues_exactly(start, tmp_path, changes):
    recipe = {"accumulation": 3, "max_steps": 7, "log_steps": 1, "data": data_recipe(**changes)}
    run(small_recipe(tmp_path / "straight", start, **recipe))
    run(small_recipe(tmp_path / "cut", start, **recipe))
    shutil.rmtree(tmp_path / "cut" / "checkpoint-7")
    assert json.loads((tmp_path / "cut" / "checkpoint-6" / "data_position.json").read_text())[1] > 0
    run(small_recipe(tmp_path / "cut", start, **recipe))
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "straight")


def test_nelbo_and_growing_blocks_go_on_exactly_after_a_resume(start, tmp_path, monkeypatch):
    monkeypatch.setattr(heldout, "SAMPLES", 4)
    data = data_recipe(growth=Growth([1, 4, 8], "plateaus", starts=[0.0, 0.4, 0.6], earlier=0.4))
    settings = {"eval_steps": 4, "log_steps": 3, "data": data}
    run(small_recipe(tmp_path / "straight", start, **settings))
    run(small_recipe(tmp_path / "cut", start, **settings))
    shutil.rmtree(tmp_path / "cut" / "checkpoint-8")
    run(small_recipe(tmp_path / "cut", start, **settings))
    lines = metrics(tmp_path / "straight")
    assert metrics(tmp_path / "cut") == lines
    measured = {line["step"]: line["nelbo"] for line in lines if "nelbo" in line}
    assert list(measured) == [4, 8] and measured[4] != measured[8]
    reader = EventAccumulator(str(next((tmp_path / "straight" / "runs").glob("*/events*")).parent))
    reader.Reload()
    assert {e.step: e.value for e in reader.Scalars("train/nelbo")} == pytest.approx(measured)
    model, processor = (
        kind.from_pretrained(tmp_path / "cut" / "final") for kind in (VLMForBlockDiffusion, VLMProcessor)
    )
    trainer = BlockDiffusionTrainer(model, processor, Given([]), small_recipe(tmp_path / "again", **settings))
    assert trainer.nelbo() == measured[8]  # the final weights, measured by another run


def test_measuring_the_nelbo_changes_nothing_else(finished, start, tmp_path, monkeypatch):
    monkeypatch.setattr(heldout, "SAMPLES", 4)
    run(small_recipe(tmp_path, start, log_steps=2, eval_steps=2))
    assert [{k: v for k, v in line.items() if k != "nelbo"} for line in metrics(tmp_path)] == metrics(finished)


def test_an_updates_block_sizes_are_those_of_its_progress(tmp_path):
    model, processor = tiny_model()
    samples = [stream().sample(i) for i in range(4)]
    growth = Growth([1, 4, 8], "plateaus", starts=[0.0, 0.25, 0.75])
    recipe = small_recipe(tmp_path, data=data_recipe(growth=growth))
    trainer = BlockDiffusionTrainer(model, processor, Given([samples]), recipe)
    for step, size in enumerate([1, 1, 4, 4, 4, 4, 8, 8]):
        trainer.state.global_step = step
        (batch,), _ = trainer.get_batch_samples(iter(trainer.train_dataset), 1, torch.device("cpu"))
        noisy = batch["view"] > 0
        assert set((batch["block_end"] - batch["block_start"])[noisy].tolist()) == {size}


@pytest.mark.parametrize("frozen", [["language_model"], ["vision_tower", "projector"]])
def test_frozen_parts_do_not_move_and_the_others_do(start, tmp_path, frozen):
    optim = OptimRecipe(name="adamw", lr=1e-2, weight_decay=0.5, warmup_steps=0, frozen=frozen)
    run(small_recipe(tmp_path, start, optim=optim, max_steps=2))
    before, after = (load_file(d / "model.safetensors") for d in (start, tmp_path / "final"))
    moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"vision_tower", "projector", "language_model"} - set(frozen)


def test_the_running_statistics_of_a_frozen_part_do_not_move(tmp_path):
    model, processor = tiny_model(dtype=torch.float32)
    norm = torch.nn.BatchNorm1d(32)  # a projector that keeps statistics
    model.projector.out_norm = torch.nn.Sequential(torch.nn.Flatten(0, 1), norm, torch.nn.Unflatten(0, (-1, 4)))
    recipe = small_recipe(tmp_path, optim=OptimRecipe(name="adamw", frozen=["projector"]), max_steps=1)
    trainer = BlockDiffusionTrainer(model, processor, Given([[stream().sample(i) for i in range(3)]]), recipe)
    (batch,), _ = trainer.get_batch_samples(iter(trainer.train_dataset), 1, torch.device("cpu"))
    model.train()
    trainer.compute_loss(model, batch)
    assert norm.num_batches_tracked == 0 and not norm.running_mean.any()
    assert model.language_model.training


def test_stages_go_on_from_one_another_and_a_stopped_one_continues(start, tmp_path):
    rates = {"language_model": 1e-3, "projector": 1e-3}
    stages = [Stage(2, {"projector": 1e-3}), Stage(4, rates, block_sizes={4: 1.0})]
    settings = {"stages": stages, "max_steps": 6, "save_steps": 2, "optim": OptimRecipe(name="adamw", warmup_steps=1)}
    run(small_recipe(tmp_path / "straight", start, **settings))
    run(small_recipe(tmp_path / "cut", start, **settings))
    shutil.rmtree(tmp_path / "cut" / "checkpoint-4")
    first = (tmp_path / "cut" / "stage-1" / "final" / "model.safetensors").stat().st_mtime_ns
    run(small_recipe(tmp_path / "cut", start, **settings))
    assert metrics(tmp_path / "cut") == metrics(tmp_path / "straight")
    assert [line["step"] for line in metrics(tmp_path / "cut")] == [1, 2, 3, 4]
    assert (tmp_path / "cut" / "stage-1" / "final" / "model.safetensors").stat().st_mtime_ns == first  # not again
    one, two = (load_file(tmp_path / "cut" / d / "final" / "model.safetensors") for d in ("stage-1", "."))
    assert {n.split(".")[0] for n in one if not torch.equal(one[n], two[n])} == set(rates)


def test_a_finished_run_started_again_is_left_alone(again, finished, start):
    run(small_recipe(again, start, log_steps=2))
    assert metrics(again) == metrics(finished)
    assert [p.name for p in checkpoints(again)] == ["checkpoint-6", "checkpoint-8"]


def test_a_checkpoint_is_whole_before_it_has_its_name(start, tmp_path, monkeypatch):
    """Stopped just before the rename, the run has no checkpoint of that step; the next try writes it whole."""
    rename = Path.rename

    def stop(path: Path, target: Path):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", stop)
    with pytest.raises(KeyboardInterrupt):
        run(small_recipe(tmp_path, start))
    assert checkpoints(tmp_path) == [] and not list(tmp_path.glob("checkpoint-*"))
    monkeypatch.setattr(Path, "rename", rename)
    run(small_recipe(tmp_path, start))
    assert [p.name for p in checkpoints(tmp_path)] == ["checkpoint-6", "checkpoint-8"]


def test_a_loss_that_is_not_finite_stops_with_the_samples(tmp_path):
    model, processor = tiny_model(dtype=torch.float32)
    dataset = stream()
    batches = [[dataset.sample(0)], [dataset.sample(7), dataset.sample(8)]]
    batches[1][0].encoded.images[:] = np.nan
    batches[1][0].encoded.frames[:] = np.nan
    trainer = BlockDiffusionTrainer(model, processor, Given(batches), small_recipe(tmp_path, max_steps=2))
    with pytest.raises(NonFiniteLoss) as caught:
        trainer.resume()
    assert "step 1" in str(caught.value)
    assert all(sample.encoded.id in str(caught.value) for sample in batches[1])
    assert batches[0][0].encoded.id not in str(caught.value)
    assert [line["step"] for line in metrics(tmp_path)] == [1]


def test_a_gradient_that_is_not_finite_stops_before_it_reaches_the_weights(tmp_path):
    """The loss would say so an update later, of other samples, and a checkpoint might hold the weights by then."""
    model, processor = tiny_model(dtype=torch.float32)
    batches = [[stream().sample(0)], [stream().sample(7)]]
    recipe = small_recipe(tmp_path, max_steps=2, save_steps=1, optim=OptimRecipe(name="adamw", max_grad_norm=0.0))
    trainer = BlockDiffusionTrainer(model, processor, Given(batches), recipe)
    norm = model.language_model.get_decoder().norm.weight
    norm.register_hook(lambda grad: grad * (float("inf") if trainer.state.global_step else 1.0))
    with pytest.raises(NonFiniteLoss, match="gradient's norm is (inf|nan) at step 1") as caught:
        trainer.resume()
    assert batches[1][0].encoded.id in str(caught.value) and batches[0][0].encoded.id not in str(caught.value)
    assert [p.name for p in checkpoints(tmp_path)] == ["checkpoint-1"]
    assert all(torch.isfinite(p).all() for p in model.parameters())
