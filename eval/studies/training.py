"""What the arms of a training study share: where they start, the run, and what is measured of it.

Every arm starts from the same weights: the embedded model's vision tower, warmed up and frozen, a new projector, and a
small language model that a study trains itself, on next tokens alone and for as many steps as an arm. The published
recipes turn such an autoregressive model into a diffusion model, and it favours no arm. It is made once in the study's
output directory, in a few minutes, so that none has to be kept with the code; the embedded model's own language model
would not do, because it has been trained with one of the recipes that are compared. The tower is kept because learning
to see costs a hundred times what an arm may, and the projector is new because its width is the language model's.

An arm is a run of `vlm.training.run` with some fields of the recipe replaced. Its ``init_from`` names a variant of the
start: the same weights with other traits.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from eval.record import ItemRecord
from eval.runner import evaluate
from eval.studies.frame import Arm, Measured
from eval.studies.report import Column
from eval.suites import playground
from eval.summary import by_family, mean_score, score_of
from vlm.answering import settings
from vlm.checkpoints.load import load
from vlm.config import DiffusionTraits
from vlm.training.build import build_model, build_processor
from vlm.training.curricula import Phase
from vlm.training.recipe import Recipe
from vlm.training.run import run
from vlm.training.saving import written_whole
from vlm.training.sections import DataRecipe, ModelRecipe, ObjectiveRecipe, OptimRecipe
from vlm.training.trainer import checkpoints

TEXT = {
    "model_type": "qwen3",
    "hidden_size": 192,
    "intermediate_size": 448,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 48,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}
FAMILIES = {"describe": 0.5, "attributes": 0.3, "json": 0.2}  # and their shares among samples
SCORES = (Column("score", "held-out score, %", 1), *(Column(family, family, 1) for family in FAMILIES))  # of `scores`
MAX_SIDE = 192  # pixels: the tower's own size
ROWS = 1536  # a batch
WINDOW = 256  # samples sorted by length at a time
MAX_NEW_TOKENS = 192
BATCH_SIZE = 50  # items decoded together
# A model of next tokens and nothing else: under shift 1 noise spares the first slot of a block, here all there is.
NEXT_TOKEN = {"context_attention": "causal", "ar_mode": True, "prediction_shift": 1, "trained_block_sizes": (1,)}


def base(steps: int, block_size: int) -> Recipe:
    """The recipe that arms change: plain choices, everything logged at each step, saved once."""
    phase = Phase(1, dict(FAMILIES), MAX_SIDE, (1, 1), {"attributes": (3, 6)})
    return Recipe(
        data=DataRecipe(phases=[phase], block_sizes={block_size: 1.0}, rows_per_batch=ROWS, window=WINDOW),
        objective=ObjectiveRecipe(ar_weight=0.0),
        optim=OptimRecipe(
            name="muon",
            muon_lr=0.012,
            warmup_steps=steps // 15,
            decay_steps=steps // 4,
            frozen=["vision_tower"],
        ),
        max_steps=steps,
        save_steps=steps,
        log_steps=1,
        eval_steps=max(1, steps // 6),
        sample_answers=0,
        report_to=[],
    )


def starts(output: Path, steps: int, variants: dict[str, dict]) -> dict[str, Path]:
    """The start under the traits of each variant, by name; made unless it stands in ``output`` already."""
    folder = output / "start"
    paths = {name: folder / name for name in variants}
    if not all(path.exists() for path in paths.values()):
        final = _next_token_model(folder, steps)
        for name, traits in variants.items():
            _with_traits(final, paths[name], traits)
    return paths


def _next_token_model(folder: Path, steps: int) -> Path:
    if not (folder / "new").exists():
        _new_model(folder / "new")
    run_folder = folder / "next-token"
    changes = {"init_from": str(folder / "new"), "output_dir": str(run_folder)}
    run(replace(base(steps, block_size=1), objective=ObjectiveRecipe(ar_weight=1.0), **changes))
    return run_folder / "final"


def _new_model(folder: Path) -> None:
    """The embedded tower and tokenizer with a new language model."""
    embedded, processor = load(device="cpu")
    recipe = ModelRecipe(dict(TEXT), embedded.config.vision_config, {**NEXT_TOKEN, "block_size": 1})
    model = build_model(recipe, processor.tokenizer, seed=0)
    model.vision_tower.load_state_dict(embedded.vision_tower.state_dict())
    save(folder, model, build_processor(model, processor.tokenizer))


def _with_traits(source: Path, folder: Path, traits: dict) -> None:
    """The same weights, told to be of other ``traits``."""
    model, processor = load(str(source), device="cpu")
    changed = DiffusionTraits(**{**traits, "mask_token_id": model.config.traits.mask_token_id})
    model.config.diffusion = vars(changed)
    model.generation_config.block_size = changed.block_size
    save(folder, model, processor)


def save(folder: Path, model, processor) -> None:
    with written_whole(folder) as written:
        model.save_pretrained(written)
        processor.save_pretrained(written)


def trained(arm: Arm, folder: Path, recipe: Recipe, limit: int) -> Measured:
    """Train an arm and measure it: (measures, curves).

    Args:
        folder: where the run goes on if it was stopped, and where its model ends.
        recipe: of the arm, see `recipe_of`.
        limit: held-out items a family.
    """
    run(recipe)
    model, processor = load(str(folder / "final"))
    records = answers(model, processor, arm.seed, limit, folder)
    lines = tidied(folder)
    return {**of_metrics(lines), **scores(records)}, curves_of(lines)


def recipe_of(arm: Arm, folder: Path, recipe: Recipe, paths: dict[str, Path]) -> Recipe:
    """The study's recipe with the arm's overrides; ``paths`` are the starts by the names that ``init_from`` gives."""
    start = str(paths[arm.overrides["init_from"]])
    return replace(recipe, **{**arm.overrides, "init_from": start, "output_dir": str(folder), "seed": arm.seed})


def tidied(folder: Path) -> list[dict]:
    """The metrics of an arm's run, a dictionary a step; of its models the final one stays."""
    for checkpoint in checkpoints(folder):
        shutil.rmtree(checkpoint)
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def answers(
    model, processor, seed: int, limit: int, folder: Path, mode: str = "block", longest: int | None = None
) -> list[ItemRecord]:
    """Held-out items in ``mode``, at most ``longest`` tokens each; each seed of a study has its own."""
    suite = playground.suite(seed + 1)
    config = settings(model, mode=mode, max_new_tokens=longest or MAX_NEW_TOKENS)
    name = f"{folder.parent.name}/{folder.name}"
    return evaluate(model, processor, config, suite, list(FAMILIES), limit, BATCH_SIZE, folder / "items", name)[1]


def scores(records: list[ItemRecord]) -> dict[str, float]:
    """Held-out score in percent, of each family and the mean of them."""
    families = by_family(records)
    return {"score": 100 * mean_score(families), **{name: 100 * score_of(items) for name, items in families.items()}}


def of_metrics(lines: list[dict]) -> dict[str, float]:
    """What a run's metrics say, one line a step.

    ``loss`` is the mean training loss of the last quarter, ``loss variance`` and ``gradient variance`` are those of
    loss and gradient norm over the last half, about a straight line fitted to them and over the square of their mean:
    a recipe with a larger loss is not thereby a noisier one. ``nelbo`` is the last one measured.
    """
    loss, norm = (np.array([line[key] for line in lines]) for key in ("loss", "grad_norm"))
    return {
        "loss": float(loss[-max(1, len(loss) // 4) :].mean()),
        "loss variance": relative_variance(loss[len(loss) // 2 :]),
        "gradient variance": relative_variance(norm[len(norm) // 2 :]),
        "nelbo": next(line["nelbo"] for line in reversed(lines) if "nelbo" in line),
    }


def relative_variance(line: np.ndarray) -> float:
    """Variance about the best straight line, over the squared mean; NaN of fewer than three points."""
    if len(line) < 3:
        return float("nan")
    steps = np.arange(len(line))
    rest = line - np.polyval(np.polyfit(steps, line, 1), steps)
    return float(rest @ rest / (len(line) - 2) / line.mean() ** 2)


def curves_of(lines: list[dict]) -> dict[str, list[tuple[int, float]]]:
    """Training loss of every step, and the held-out NELBO where it was measured."""
    return {
        "training loss": [(line["step"], line["loss"]) for line in lines],
        "held-out NELBO": [(line["step"], line["nelbo"]) for line in lines if "nelbo" in line],
    }
