"""DiffusionVL's tables of block sizes and thresholds, measured on one checkpoint trained with several block sizes.

    python -m eval.studies tables --limit 40

The paper trains a model for each block size and decodes a token a pass; here one checkpoint decodes in every size that
it was trained with, at every threshold, on the same items. So the effect of the size is that of decoding alone.
"""

from dataclasses import asdict
from pathlib import Path

from eval.document import Block, Figure, Heading, Table, Text, to_markdown
from eval.environment import hardware, model_hash
from eval.studies.decoding import (
    AR,
    Answers,
    answer_all,
    as_change,
    passes,
    per_forward,
    pooled,
    score,
    score_difference,
    speed,
)
from eval.studies.drawing import draw_lines
from eval.studies.frame import Arm, Claim, opened, write_json
from eval.studies.report import claims_table
from eval.suites import playground
from eval.summary import by_family
from vlm.checkpoints.load import load

LIMIT = 40
FAMILIES = "describe,json"
SIZES = (4, 8, 16, 32)
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
SOURCE = "DiffusionVL, arXiv 2512.15713 v3"
# (what is turned, how much of it to how much, published score, published speed)
PUBLISHED = {
    "size": ("ChartQA 82.8, 80.9, 79.9, 77.4 at 1, 4, 8, 16", "26.9, 38.8, 39.0, 41.6 tokens/s at 1, 4, 8, 16"),
    "threshold": (
        "BERTScore 30.2, 30.1, 29.7, 27.4, 18.6 at 1.0, 0.8, 0.6, 0.4, 0.2",
        "31.5, 34.6, 37.8, 46.6, 71.8 tokens/s at 1.0, 0.8, 0.6, 0.4, 0.2",
    ),
}


def study(
    output: Path, model: str | None = None, families: str | None = None, limit: int = LIMIT, seed: int = 1
) -> str:
    """Run what is missing of the study; returns its report, which also stands in ``output``.

    Raises:
        ValueError: for an unknown family, a checkpoint trained with fewer than two of the sizes, or another study in
            ``output``.
    """
    chosen = playground.families_named(families or FAMILIES)
    loaded, processor = load(model)
    sizes = [size for size in SIZES if size in loaded.config.traits.trained_block_sizes]
    if len(sizes) < 2:
        trained = ", ".join(map(str, loaded.config.traits.trained_block_sizes))
        raise ValueError(f"{model}: trained with blocks of {trained}; the tables need two of {SIZES}")
    arms = arms_of(loaded, sizes, seed)
    with opened(output, {"study": "tables", "model": model_hash(loaded), "seed": seed}):
        suite, name = playground.suite(seed), model or "embedded"
        answers = answer_all(loaded, processor, suite, chosen, limit, arms, output / suite.name, name)
        return _written(output, name, hardware(loaded), sizes, answers)


def arms_of(model, sizes: list[int], seed: int) -> list[Arm]:
    """A cell each, and AR where the checkpoint has it."""
    cells = {
        cell(size, tau): {"policy": "threshold", "policy_args": {}, "threshold": tau, "block_size": size}
        for size in sizes
        for tau in THRESHOLDS
    }
    beside = {AR: {"mode": "ar"}} if model.config.traits.ar_mode else {}
    return [Arm(name, overrides, seed) for name, overrides in {**cells, **beside}.items()]


def cell(size: int, tau: float) -> str:
    return f"{size} at {tau}"


def _written(output: Path, name: str, machine: dict, sizes: list[int], answers: Answers) -> str:
    families = {
        f: {arm: by_family(items)[f] for arm, items in answers.items()}
        for f in by_family(next(iter(answers.values())))
    }
    blocks: list[Block] = [Text(_about(name, machine, next(iter(answers.values()))))]
    claims = [claim for family, own in families.items() for claim in claims_of(family, sizes, own)]
    blocks += [Heading("Verdicts"), claims_table(claims)]
    results: dict = {"study": "tables", "model": name, "hardware": machine, "families": {}}
    for family, own in families.items():
        blocks += _tables(family, sizes, own)
        file = output / f"{family}.png"
        draw_lines(file, _panels(family, sizes, own), ("tokens per forward", "score, %"))
        blocks.append(Figure("", f"{family}: score against tokens per forward, a line a block size", file.name))
        results["families"][family] = {arm: _figures(items) for arm, items in own.items()}
    text = to_markdown("Block sizes and thresholds: DiffusionVL's tables", blocks)
    (output / "report.md").write_text(text, encoding="utf-8")
    write_json(output / "results.json", results | {"claims": [{**asdict(c), "verdict": c.verdict} for c in claims]})
    return text


def claims_of(family: str, sizes: list[int], answers: Answers) -> list[Claim]:
    """The largest block against the smallest, all thresholds together; the lowest threshold against the highest.

    "Larger block, lower threshold: faster, less accurate", each half of it a claim.
    """
    by_size = {size: pooled([answers[cell(size, tau)] for tau in THRESHOLDS]) for size in sizes}
    by_tau = {tau: pooled([answers[cell(size, tau)] for size in sizes]) for tau in THRESHOLDS}
    pairs = (
        ("size", f"blocks of {sizes[-1]} against {sizes[0]}", by_size[sizes[-1]], by_size[sizes[0]]),
        ("threshold", f"threshold {THRESHOLDS[0]} against {THRESHOLDS[-1]}", by_tau[THRESHOLDS[0]], by_tau[1.0]),
    )
    found = []
    for turned, words, fast, slow in pairs:
        scored, timed = PUBLISHED[turned]
        gap = score_difference(fast, slow)
        found += [
            Claim(f"{family}, {words}: scores lower", scored, SOURCE, "lower", gap, "points"),
            Claim(f"{family}, {words}: decodes faster", timed, SOURCE, "higher", as_change(speed(fast, slow)), "%", 0),
            Claim(
                f"{family}, {words}: more tokens per forward",
                f"none; {timed}",
                SOURCE,
                "higher",
                as_change(passes(fast, slow)),
                "%",
                0,
            ),
        ]
    return found


def _tables(family: str, sizes: list[int], answers: Answers) -> list[Block]:
    header = ("block", *(f"threshold {tau:g}" for tau in THRESHOLDS))
    shown = {
        "score, %": lambda items: score(items).text(1),
        "tokens per forward": lambda items: f"{per_forward(items):.2f}",
    }
    if AR in answers:
        shown["decoding, times as fast as AR (paired medians)"] = lambda items: speed(items, answers[AR]).text(2)
    blocks: list[Block] = []
    for title, told in shown.items():
        lines = [(size, *(told(answers[cell(size, tau)]) for tau in THRESHOLDS)) for size in sizes]
        blocks += [Heading(f"{family}: {title}"), Table(header, lines)]
    beside = f" AR scores {score(answers[AR]).text(1)} %." if AR in answers else ""
    return [*blocks, Text(_fastest(sizes, answers) + beside)]


def _fastest(sizes: list[int], answers: Answers) -> str:
    """The cell with the most tokens per forward among those that are not distinguishably below the best score."""
    cells = [cell(size, tau) for size in sizes for tau in THRESHOLDS]
    best = max(cells, key=lambda name: score(answers[name]).value)
    good = [name for name in cells if not score_difference(answers[name], answers[best]).high < 0]
    fastest = max(good, key=lambda name: per_forward(answers[name]))
    return (
        f"Best score: blocks of {best}. Most tokens per forward among scores not distinguishable from it: blocks of "
        f"{fastest}, {per_forward(answers[fastest]):.2f}."
    )


def _panels(family: str, sizes: list[int], answers: Answers) -> dict:
    lines = {}
    for size in sizes:
        cells = [answers[cell(size, tau)] for tau in THRESHOLDS]
        lines[f"blocks of {size}"] = [(per_forward(items), score(items)) for items in cells]
    if AR in answers:
        lines["AR"] = [(per_forward(answers[AR]), score(answers[AR]))]
    return {family: lines}


def _figures(items: list) -> dict:
    return {"score": asdict(score(items)), "tokens_per_forward": per_forward(items), "items": len(items)}


def _about(name: str, machine: dict, items: list) -> str:
    return (
        f"Model {name}; {machine['device']}, {machine['dtype']}, {machine['threads']} threads, one answer at a time; "
        f"{len(items)} items. A pass commits every slot whose confidence reaches the threshold, at least the best. "
        "Claims compare the ends of a row or column with the other axis pooled, paired by item. Scores are slot-F1 "
        "where a family has slots, else exact matches, in percent with 95 % intervals over items."
    )
