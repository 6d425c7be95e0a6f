"""Next tokens, blocks and whole answers: three ways to train one start, at equal compute.

    python -m eval.studies equal_compute

All arms start from the same model of next tokens and see the same mixture. The block arm has ``--steps`` steps; every
other arm has as many as make the same number of operations, counted on its own batches (`eval.studies.regimes`). Each
answers in its own way: token by token, block by block, or the whole answer's masks at once; both diffusion models
commit what is surer than the checkpoint's threshold. The start favours the arm that goes on with next tokens: it is
what the published conversions start from.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

from eval.document import Heading, Table
from eval.studies.frame import Arm, Claim, Measured, Result, change, difference, opened, run_arms, write_json
from eval.studies.regimes import Cost, cost_of_a_step, heldout_nats, train
from eval.studies.report import Column, Plot, write
from eval.studies.training import NEXT_TOKEN, SCORES, answers, base, curves_of, of_metrics, scores, starts, tidied
from vlm.checkpoints.load import load
from vlm.training.recipe import Recipe
from vlm.training.sections import NoiseRecipe, ObjectiveRecipe

STEPS = 240
BLOCK = 8
LONGEST = 160  # tokens of an answer: what full attention fills up to, and where all stop
FIRST = "block"  # the arm whose steps are given; the others follow


@dataclass(frozen=True)
class Regime:
    """An arm: the model's traits, its loss, and how it is decoded."""

    traits: dict
    objective: ObjectiveRecipe
    noise: NoiseRecipe
    mode: str = "block"


BLOCKS = {
    "context_attention": "causal",
    "block_origin": "response",
    "block_size": BLOCK,
    "trained_block_sizes": (BLOCK,),
}
WHOLE = {**BLOCKS, "context_attention": "full", "block_size": LONGEST, "trained_block_sizes": (LONGEST,)}
REGIMES = {
    "ar": Regime({**NEXT_TOKEN, "block_size": 1}, ObjectiveRecipe(ar_weight=1.0), NoiseRecipe(), "ar"),
    "block": Regime(BLOCKS, ObjectiveRecipe("emrs", ar_weight=0.0), NoiseRecipe()),
    "block+ar": Regime({**BLOCKS, "ar_mode": True}, ObjectiveRecipe("emrs", ar_weight=0.5), NoiseRecipe()),
    "full": Regime(WHOLE, ObjectiveRecipe("emrs", ar_weight=0.0), NoiseRecipe(level="sequence")),
}
COLUMNS = (
    Column("steps", "steps", 0),
    Column("TFLOP", "TFLOP of training", 2),
    Column("samples", "samples", 0),
    *SCORES,
    Column("nats", "held-out loss, nats a token", 3),
    Column("forwards", "forwards an answer", 1),
    Column("per forward", "tokens / forward", 2),
)
PLOTS = (
    Plot("curves", "training loss", "training loss, running mean of 15 steps (each arm's own)", 15),
    Plot("bars", "score", "held-out score, each decoded in its own mode, %"),
    Plot("bars", "nats", "held-out loss, nats an answer token (ar exact, the others a bound)"),
    Plot("bars", "per forward", "tokens per forward"),
)
DIFFUSIONVL = "DiffusionVL, arXiv 2512.15713 v3, table"
SDAR = "SDAR, arXiv 2510.06303, README"
BD3 = "BD3-LM, arXiv 2503.09573, OpenWebText; recalled, not read again"


def study(output: Path, steps: int, seeds: int, limit: int) -> str:
    """Run what is missing of the study; returns its report, which also stands in ``output``."""
    recipe = base(steps, BLOCK)
    overrides = {
        name: {"init_from": name, "objective": regime.objective, "noise": regime.noise}
        for name, regime in REGIMES.items()
    }
    arms = [Arm(name, changes, seed) for seed in range(seeds) for name, changes in overrides.items()]
    header = {"study": "equal_compute", "limit": limit, "recipe": recipe, "arms": overrides}
    with opened(output, header):
        paths = starts(output, steps, {name: regime.traits for name, regime in REGIMES.items()})
        costs = _costs(output / "costs.json", paths, steps)
        planned = equal_steps(costs, steps)

        def measured(arm: Arm, folder: Path) -> Measured:
            return _measured(arm, folder, planned[arm.name], costs[arm.name], paths[arm.name], limit)

        results = run_arms(arms, output, measured)
        title = "Next tokens, blocks and whole answers at equal compute"
        more = [Heading("What a step costs"), cost_table(costs, planned)]
        return write(output, title, _about(steps, limit), results, COLUMNS, claims(results), PLOTS, more)


def _costs(file: Path, paths: dict[str, Path], steps: int) -> dict[str, Cost]:
    """What a step of each arm costs, counted once."""
    if not file.exists():
        write_json(file, {name: cost_of_a_step(paths[name], _recipe(name, steps, file.parent)) for name in REGIMES})
    return {name: Cost(**cost) for name, cost in json.loads(file.read_text(encoding="utf-8")).items()}


def equal_steps(costs: dict[str, Cost], steps: int) -> dict[str, int]:
    """Steps of every arm that cost what ``steps`` of the first one do."""
    return {name: max(1, round(steps * costs[FIRST].flops / cost.flops)) for name, cost in costs.items()}


def _recipe(name: str, steps: int, folder: Path, seed: int = 0) -> Recipe:
    regime = REGIMES[name]
    own = {"objective": regime.objective, "noise": regime.noise, "output_dir": str(folder), "seed": seed}
    return replace(base(steps, regime.traits["block_size"]), **own)


def _measured(arm: Arm, folder: Path, steps: int, cost: Cost, start: Path, limit: int) -> Measured:
    recipe = _recipe(arm.name, steps, folder, arm.seed)
    train(start, recipe)
    model, processor = load(str(folder / "final"))
    records = answers(model, processor, arm.seed, limit, folder, REGIMES[arm.name].mode, LONGEST)
    nats = heldout_nats(model, processor, recipe)
    lines = tidied(folder)
    tokens, forwards = (sum(getattr(r, name) for r in records) for name in ("tokens", "forwards"))
    spent = {"steps": steps, "TFLOP": steps * cost.flops / 1e12, "samples": steps * cost.samples}
    decoded = {"forwards": forwards / len(records), "per forward": tokens / max(1, forwards)}
    found = {**spent, **decoded, **scores(records), "nats": nats, "loss": of_metrics(lines)["loss"]}
    return found, {"training loss": curves_of(lines)["training loss"]}


def claims(results: list[Result]) -> list[Claim]:
    """Scores, tokens per forward and held-out loss, in the published order."""
    told = (
        ("blocks score above full attention", "ChartQA 84.20 against 52.00", DIFFUSIONVL, "block", "full", "higher"),
        ("blocks score below next tokens", "1.7B, mean of 7: 62.3 against 62.6", SDAR, "block", "ar", "lower"),
    )
    found = [
        Claim(text, published, source, side, difference(results, "score", arm, other), "points")
        for text, published, source, arm, other, side in told
    ]
    pace = change(results, "per forward", "block", "ar")
    faster = Claim("blocks write more tokens per forward", "2 to 4 times as fast", SDAR, "higher", pace, "%", 0)
    losses = (
        ("next tokens have a lower loss than blocks", "perplexity 17.5 against 21.7 at blocks of 8", "ar", "block"),
        ("blocks have a lower loss than full attention", "perplexity 21.7 against 23.0", "block", "full"),
    )
    return [*found, faster] + [
        Claim(text, published, BD3, "lower", difference(results, "nats", arm, other), "nats a token", 3)
        for text, published, arm, other in losses
    ]


def cost_table(costs: dict[str, Cost], planned: dict[str, int]) -> Table:
    header = (
        "arm",
        "GFLOP a step",
        "steps",
        "TFLOP",
        "rows a step",
        "samples a step",
        "answer tokens a step",
    )
    return Table(
        header,
        [
            (name, f"{c.flops / 1e9:.1f}", planned[name], f"{planned[name] * c.flops / 1e12:.3f}",
             f"{c.rows:.0f}", f"{c.samples:.1f}", f"{c.answer_tokens:.0f}")
            for name, c in costs.items()
        ],
    )  # fmt: skip


def _about(steps: int, limit: int) -> str:
    return (
        f"All arms start from one model of next tokens, itself trained for {steps} steps, and cost what {steps} steps "
        "of the block arm do, in operations of matrix products, forward and backward, the frozen vision tower "
        f"included; so do steps and samples differ. {limit} held-out items a family and seed, each arm decoded in its "
        f"own mode, at most {LONGEST} tokens: blocks of {BLOCK} over exact KV, the whole answer at once under full "
        "attention, where every forward feeds prompt and answer again. The score is the mean of the families' "
        "(slot-F1 of describe and json, accuracy of attributes). Loss is per answer token: exact for next tokens, an "
        "upper bound for the others. All intervals are Student's over seeds, paired by seed."
    )
