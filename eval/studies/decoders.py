"""Every published decoder that the checkpoint can run, on the same items in the same run.

    python -m eval.studies decoders --limit 25
    python -m eval.studies decoders --families json --parallel 4

Each preset answers each item beside autoregressive decoding of the same engine and beside ``sdar-static``, one token a
pass. Presets with a knob are also run at two other values of it, for their curve of score against tokens per forward
and the area under it (AUP, see `eval.studies.curves`). ``--parallel N`` adds N items of each text task of
ParallelBench. Answers are decoded one at a time: what a decoder gains in large batches is not seen here.

The deciding choice: presets run with their published values, and two arms are added so that comparisons are fair: a
plain threshold in blocks as large as AdaBlock's and DCD's, and CD4LM without its wait for end tokens, which is 30 % of
``max_new_tokens`` and longer than most answers here.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from eval.document import Block, Figure, Heading, Table, Text, to_markdown
from eval.environment import hardware, model_hash
from eval.studies import decoders_report as told
from eval.studies.decoding import AR, Answers, answer_all
from eval.studies.drawing import draw_fronts
from eval.studies.frame import Arm, opened, write_json
from eval.studies.headlines import HEADLINES, LARGE, PLAIN, STATIC, agreement, claim_of
from eval.studies.report import claims_table
from eval.suites import parallel_bench, playground
from vlm.answering import settings
from vlm.checkpoints.load import load
from vlm.generation.commit import STEPPED, THRESHOLDED
from vlm.generation.presets import PRESETS

LIMIT = 25
FAMILIES = "describe,json"
UNGATED = "cad share=0"
PARALLEL_TOKENS = 64  # longest answer to a task of ParallelBench, as published
# The knob of each policy and where a curve looks at it, beside the preset's own value.
THRESHOLDS, STEPS_A_BLOCK = (0.6, 0.99), (2, 4)  # the latter: slots that a step commits
KNOBS = {
    "sequential": ("count", (2, 4)),
    "factor": ("factor", (0.25, 4.0)),
    "entropy": ("gamma", (0.05, 1.5)),
    "bacd": ("high", (0.7, 0.99)),
    "wedlm": ("tau", (0.1, 0.8)),
}


def study(
    output: Path,
    model: str | None = None,
    families: str | None = None,
    limit: int = LIMIT,
    seed: int = 1,
    parallel: int = 0,
    filter: str | None = None,
) -> str:
    """Run what is missing of the study; returns its report, which also stands in ``output``.

    Args:
        parallel: items of each text task of ParallelBench, asked of the presets at their own values.
        filter: file of `vlm.training.fit_filter`; without one ``learn2pd`` is not run.

    Raises:
        ValueError: for an unknown family, a model that cannot be read, or another study in ``output``.
    """
    chosen = playground.families_named(families or FAMILIES)
    loaded, processor = load(model)
    arms, refused = arms_of(loaded, processor, seed, filter)
    curves = curves_of(loaded, processor, arms)
    name = model or "embedded"
    with opened(output, {"study": "decoders", "model": model_hash(loaded), "seed": seed}):
        suite = playground.suite(seed)
        every = [arm for curve in curves.values() for arm in curve]
        parts = {suite.name: answer_all(loaded, processor, suite, chosen, limit, every, output / suite.name, name)}
        if parallel:
            suite, tasks = parallel_bench.suite(seed), parallel_bench.TASKS
            short = [replace(arm, overrides=arm.overrides | {"max_new_tokens": PARALLEL_TOKENS}) for arm in arms]
            options = (tasks, parallel, short, output / suite.name, name)
            parts[suite.name] = answer_all(loaded, processor, suite, *options)
        return _written(output, loaded, name, parts, {k: [a.name for a in c] for k, c in curves.items()}, refused)


def arms_of(model, processor, seed: int, filter: str | None = None) -> tuple[list[Arm], dict[str, str]]:
    """AR, every preset and the arms added for fairness, at their own values; and why others cannot run here."""
    sizes = [size for size in model.config.traits.trained_block_sizes if size <= (PRESETS["dcd"].block_size or 32)]
    wanted = {AR: {"mode": "ar"}, **{decoder: {"decoder": decoder} for decoder in PRESETS}}
    wanted[LARGE] = {"decoder": PLAIN, "block_size": max(sizes, default=None)}
    wanted[UNGATED] = {"decoder": "cad", "slots": {"eos_gate": {"share": 0.0}}}
    if filter is not None:
        wanted["learn2pd"]["policy_args"] = {"filter": filter}
    arms, refused = [], {}
    for name, overrides in wanted.items():
        reason = _refused(model, processor, overrides)
        if reason is None:
            arms.append(Arm(name, overrides, seed))
        else:
            refused[name] = reason
    return arms, refused


def _refused(model, processor, overrides: dict) -> str | None:
    """Why the checkpoint cannot run these settings; None if it can."""
    try:
        settings(model, tokenizer=processor.tokenizer, **overrides)
    except ValueError as error:
        return " ".join(str(error).split())
    return None


def curves_of(model, processor, arms: Sequence[Arm]) -> dict[str, list[Arm]]:
    """Each arm with those of other values of its knob, as far as they are legal; most have two of them."""
    found = {}
    for arm in arms:
        turned = [] if arm.name in (AR, LARGE, UNGATED) else _turned(model, arm)
        legal = [Arm(f"{arm.name} {what}", arm.overrides | more, arm.seed) for what, more in turned]
        found[arm.name] = [arm, *(other for other in legal if _refused(model, processor, other.overrides) is None)]
    return found


def _turned(model, arm: Arm) -> list[tuple[str, dict]]:
    preset = PRESETS[arm.name]
    if preset.mode != "block":  # no policy commits anything
        return []
    if preset.policy in THRESHOLDED:
        return [(f"threshold={value}", {"threshold": value}) for value in THRESHOLDS]
    if preset.policy in STEPPED:
        size = model.config.traits.block_size
        steps = [size // slots for slots in STEPS_A_BLOCK if size // slots]
        return [(f"steps={value}", {"denoising_steps": value}) for value in steps]
    knob, values = KNOBS.get(preset.policy, ("", ()))
    given = arm.overrides.get("policy_args", {})
    return [(f"{knob}={value}", {"policy_args": {**given, knob: value}}) for value in values]


def _written(
    output: Path, model, name: str, parts: dict[str, Answers], curves: dict[str, list[str]], refused: dict[str, str]
) -> str:
    size = model.config.traits.block_size
    machine = hardware(model)
    blocks: list[Block] = [Text(told.about(name, size, machine))]
    results = {"study": "decoders", "model": name, "hardware": machine, "refused": refused, "suites": {}}
    for suite, answers in parts.items():
        points = told.points_of(answers, curves)
        blocks += [Heading(f"{suite}: {told.counted(answers)}"), *told.tables(points, answers)]
        results["suites"][suite] = {"points": [asdict(point) for point in points]}
        if not told.nothing_right(points):
            blocks += _compared(output, suite, points, answers, size, results["suites"][suite])
    blocks += told.not_run(refused)
    text = to_markdown("Published decoders on equal terms", blocks)
    (output / "report.md").write_text(text, encoding="utf-8")
    write_json(output / "results.json", results)
    return text


def _compared(output: Path, suite: str, points: list, answers: Answers, size: int, results: dict) -> list[Block]:
    """Fronts, what the papers say beside what was found, and verdicts."""
    file = output / f"front-{suite}.png"
    draw_fronts(file, told.panels(points), "score, %")
    here = [decoder for decoder in HEADLINES if decoder in answers]
    lines = [(d, HEADLINES[d].published, agreement(d, HEADLINES[d], answers, _block(d, size))) for d in here]
    made = [(d, claim_of(d, HEADLINES[d], PRESETS[d].source, answers)) for d in here]
    claims = [claim for _, claim in made if claim is not None]
    results["claims"] = [{**asdict(claim), "verdict": claim.verdict} for claim in claims]
    results["headlines"] = [dict(zip(("decoder", "published", "here"), line)) for line in lines]
    return [
        Figure("", "Score against tokens per forward and against speed; the front is joined", file.name),
        Text(told.beyond(answers, [STATIC, PLAIN])),
        Heading(f"{suite}: beside the papers"),
        Table(("decoder", "published", "here"), lines),
        Heading(f"{suite}: verdicts on directions"),
        claims_table(claims),
    ]


def _block(decoder: str, size: int) -> int:
    return PRESETS[decoder].block_size or size
