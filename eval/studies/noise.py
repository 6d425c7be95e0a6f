"""SDAR-VL's noise ablation: a level a block, realised mask ratios, the Beta curriculum, and clipped noise.

Each arm adds one thing to the one before it, at equal steps, batches and weights to start from; the last one puts
clipped noise in the curriculum's place. Context is block-causal, blocks of 4 on one grid, no next-token loss: as the
released training files have it. The published tables could not be read. Their direction is second-hand, from public
notes on the paper; the lemma on the variance of a level a block is the paper's own, restated there.
"""

from pathlib import Path

from eval.studies.frame import Arm, Claim, Measured, Result, change, difference, opened, run_arms
from eval.studies.gradients import gradient_noise
from eval.studies.report import Column, Plot, write
from eval.studies.training import SCORES, base, recipe_of, starts, trained
from vlm.checkpoints.load import load
from vlm.noise import PUBLISHED, Uniform
from vlm.training.sections import NoiseRecipe, ObjectiveRecipe

STEPS = 240
TRAITS = {
    "context_attention": "block_causal",
    "block_origin": "sequence",
    "block_size": 4,
    "trained_block_sizes": (4,),
}
NELBO, EMRS = ObjectiveRecipe("nelbo", ar_weight=0.0), ObjectiveRecipe("emrs", ar_weight=0.0)
# BD3-LM searches clipped ranges of width 0.5 to 0.9 for each block size; this is one of width 0.5, above the middle.
CLIPPED = Uniform(0.45, 0.95)
ARMS = {
    "plain": {"noise": NoiseRecipe(level="sequence"), "objective": NELBO},
    "+ABNS": {"noise": NoiseRecipe(level="block"), "objective": NELBO},
    "+EMRS": {"noise": NoiseRecipe(level="block"), "objective": EMRS},
    "+PBNC": {"noise": NoiseRecipe(PUBLISHED["pbnc_released"]), "objective": EMRS},
    "clipped": {"noise": NoiseRecipe(CLIPPED), "objective": EMRS},
}
ORDERED = (("plain", "+ABNS"), ("+ABNS", "+EMRS"), ("+EMRS", "+PBNC"), ("clipped", "+PBNC"))  # (worse, better)
NOTES = "SDAR-VL, arXiv 2512.14068; second-hand"
COLUMNS = (
    Column("loss", "training loss", 3),
    Column("loss variance", "loss variance, relative", 3),
    Column("gradient variance", "gradient-norm variance, relative", 3),
    Column("gradient noise", "gradient variance by noise alone, relative", 2),
    Column("nelbo", "held-out NELBO, nats", 3),
    *SCORES,
)
PLOTS = (
    Plot("curves", "training loss", "training loss, running mean of 15 steps (each arm's own weighting)", 15),
    Plot("curves", "held-out NELBO", "held-out NELBO, nats a slot"),
    Plot("bars", "score", "held-out score in block mode, %"),
)


def study(output: Path, steps: int, seeds: int, limit: int) -> str:
    """Run what is missing of the study; returns its report, which also stands in ``output``."""
    overrides = {name: {**changes, "init_from": "block-causal"} for name, changes in ARMS.items()}
    arms = [Arm(name, changes, seed) for seed in range(seeds) for name, changes in overrides.items()]
    recipe = base(steps, TRAITS["block_size"])
    with opened(output, {"study": "noise", "limit": limit, "recipe": recipe, "arms": overrides}):
        paths = starts(output, steps, {"block-causal": TRAITS})

        def measured(arm: Arm, folder: Path) -> Measured:
            mine = recipe_of(arm, folder, recipe, paths)
            measures, curves = trained(arm, folder, mine, limit)
            noise = gradient_noise(*load(str(folder / "final")), mine)
            return {**measures, "gradient noise": noise}, curves

        results = run_arms(arms, output, measured)
        about = (
            f"{steps} steps an arm from one next-token model, {limit} held-out items a family and seed, decoded block "
            "by block. The score is the mean of the families' (slot-F1 of describe and json, accuracy of attributes). "
            "Changes of variances are relative; all intervals are Student's over seeds, paired by seed."
        )
        return write(
            output, "Noise: SDAR-VL's ablation on the playground", about, results, COLUMNS, claims(results), PLOTS
        )


def claims(results: list[Result]) -> list[Claim]:
    """Verdicts on variance, then the published order: by score, and by held-out NELBO."""
    return [*_variances(results), *_order(results)]


def _variances(results: list[Result]) -> list[Claim]:
    lemma = ("lower by (1 - 1/B) of the variance between levels", f"Lemma 2 of {NOTES}")
    quoted = ("lower by 30-40 %", "SDAR-VL as quoted by a topic page; weak")
    emrs = ("lower; no figure", f"Lemmas 3 and 4 of {NOTES}")
    told = [
        ("a level a block lowers the variance of the loss", *lemma, "loss variance", "+ABNS", "plain"),
        ("a level a block lowers the variance of the gradient norm", *quoted, "gradient variance", "+ABNS", "plain"),
        ("a level a block lowers the variance of the gradient", *quoted, "gradient noise", "+ABNS", "plain"),
        ("realised ratios lower the variance of the loss", *emrs, "loss variance", "+EMRS", "+ABNS"),
        ("realised ratios lower the variance of the gradient norm", *emrs, "gradient variance", "+EMRS", "+ABNS"),
        ("realised ratios lower the variance of the gradient", *emrs, "gradient noise", "+EMRS", "+ABNS"),
    ]
    return [
        Claim(text, published, source, "lower", change(results, measure, arm, other), "%")
        for text, published, source, measure, arm, other in told
    ]


def _order(results: list[Result]) -> list[Claim]:
    ordered = "order only, of MathVista, ChartQA and DocVQA"
    scores = [
        Claim(f"{b} scores above {w}", ordered, NOTES, "higher", difference(results, "score", b, w), "points")
        for w, b in ORDERED
    ]
    gaps = [difference(results, "nelbo", b, w) for w, b in ORDERED]
    losses = [
        Claim(f"{b} has a lower NELBO than {w}", f"none; {ordered}", NOTES, "lower", gap, "nats", digits=3)
        for (w, b), gap in zip(ORDERED, gaps)
    ]
    return scores + losses
