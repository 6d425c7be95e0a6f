"""NBDiff's ablation: context, next-token loss and block growth, from a model of next tokens.

{block-causal, causal context} x {next-token loss} x {block growth} at equal steps. Of the eight cells six are legal:
under block-causal context clean rows see the tokens that they would have to predict, so the next-token loss is refused
there. Unlike in the paper a masked slot predicts its own token (no shift): under the shift only the next-token loss
trains a block's first slot, and the cells without it could not answer at all. Weights (every hidden slot 1, next-token
loss 0.5), uniform levels and the pace of growth are the paper's, the largest block is 8 and not 32.
"""

from dataclasses import replace
from pathlib import Path

from eval.studies.frame import Arm, Claim, Measured, Result, difference, opened, run_arms
from eval.studies.report import Column, Plot, write
from eval.studies.training import SCORES, base, recipe_of, starts, trained
from vlm.training.curricula import Growth
from vlm.training.recipe import Recipe
from vlm.training.sections import ObjectiveRecipe

STEPS = 240
SIZES = (1, 2, 4, 8)
TRAITS = {"block_origin": "response", "block_size": SIZES[-1], "trained_block_sizes": SIZES}
STARTS = {
    "block-causal": {**TRAITS, "context_attention": "block_causal"},
    "causal": {**TRAITS, "context_attention": "causal"},
    "causal+ar": {**TRAITS, "context_attention": "causal", "ar_mode": True},
}
GROWTH = Growth(list(SIZES), "doubling", end=0.625)  # 2500 of 4000 steps
SOURCE = "NBDiff, arXiv 2512.06776 v2"
# (statement, published figure, arm, other arm)
STATEMENTS = (
    ("causal context beats block-causal", "mean 48.6 against 31.4", "causal", "block-causal"),
    ("the next-token loss helps", "mean 52.97 against 48.95", "causal+ar", "causal"),
    ("growing blocks help, with the next-token loss", "mean 54.94 against 52.97", "causal+ar+growth", "causal+ar"),
)
COLUMNS = (
    Column("loss", "training loss", 3),
    Column("nelbo", "held-out NELBO, nats", 3),
    *SCORES,
)
PLOTS = (
    Plot("curves", "held-out NELBO", "held-out NELBO at blocks of 8, nats a slot"),
    Plot("bars", "score", "held-out score in block mode, %"),
)


def cells(recipe: Recipe) -> dict[str, dict]:
    """Overrides of the six legal cells."""
    found = {}
    for start in STARTS:
        objective = ObjectiveRecipe("none", ar_weight=0.5 if start.endswith("+ar") else 0.0)
        found[start] = {"init_from": start, "objective": objective}
        found[f"{start}+growth"] = {**found[start], "data": replace(recipe.data, growth=GROWTH)}
    return found


def study(output: Path, steps: int, seeds: int, limit: int) -> str:
    """Run what is missing of the study; returns its report, which also stands in ``output``."""
    recipe = base(steps, SIZES[-1])
    overrides = cells(recipe)
    arms = [Arm(name, changes, seed) for seed in range(seeds) for name, changes in overrides.items()]
    with opened(output, {"study": "nbdiff", "limit": limit, "recipe": recipe, "arms": overrides}):
        paths = starts(output, steps, STARTS)

        def measured(arm: Arm, folder: Path) -> Measured:
            return trained(arm, folder, recipe_of(arm, folder, recipe, paths), limit)

        results = run_arms(arms, output, measured)
        about = (
            f"{steps} steps a cell from one model of next tokens, itself trained for as many; {limit} held-out items "
            "a family and seed, decoded in blocks of 8. The score is the mean of the families' (slot-F1 of describe "
            "and json, accuracy of attributes). All intervals are Student's over seeds, paired by seed. Steps are "
            "equal, time is not quite: the next-token loss adds its share of the output layer."
        )
        return write(output, "NBDiff's ablation on the playground", about, results, COLUMNS, claims(results), PLOTS)


def claims(results: list[Result]) -> list[Claim]:
    """The published comparisons by score, and again by held-out NELBO, for which nothing is published."""
    scores = [
        Claim(f"{text}: score", published, SOURCE, "higher", difference(results, "score", arm, other), "points")
        for text, published, arm, other in STATEMENTS
    ]
    gaps = [difference(results, "nelbo", arm, other) for _, _, arm, other in STATEMENTS]
    losses = [
        Claim(f"{text}: NELBO", f"none; {published}", SOURCE, "lower", gap, "nats", digits=3)
        for (text, published, _, _), gap in zip(STATEMENTS, gaps)
    ]
    return scores + losses
