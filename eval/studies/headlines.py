"""What the papers say of each decoder preset, and what of it can be held against a measurement here.

A headline is a comparison: so many times as fast, so many tokens a pass, so many points more than another decoder.
``against`` names the arm that stands here for that other decoder: ``sdar-static`` (one token a pass) for the plain
decoding of a masked diffusion model, ``fast-dllm`` for a fixed threshold. The papers measured models of billions of
parameters, most with full attention and no exact cache, in answers of hundreds of tokens; so a direction can be
confirmed here, a size hardly.

The deciding choice: agreement is computed. The verdict is the frame's, on the direction; a published size is told to
lie inside, below or above the interval; and where blocks are too small for it, that is said.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from eval.record import ItemRecord
from eval.studies.decoding import Answers, as_change, passes, same, score_difference, speed
from eval.studies.frame import Claim, Interval

STATIC, PLAIN, LARGE, AR = "sdar-static", "fast-dllm", "fast-dllm large", "ar"
Measure = Literal["speed", "passes", "score"]
UNITS = {"speed": "times as fast", "passes": "times the tokens per forward", "score": "points"}


@dataclass(frozen=True)
class Headline:
    """One published result.

    Attributes:
        published: it, in words, with the grade of the evidence: paper, abstract, or second-hand.
        measure: what of it is measured here; None if nothing can be.
        against: the arm that it is compared with.
        size: times or points; None where only a direction is published.
    """

    published: str
    measure: Measure | None = None
    against: str = STATIC
    size: float | None = None


HEADLINES: dict[str, Headline] = {
    "sdar-static": Headline("about the speed of AR decoding (README)", "speed", AR, 1.0),
    "sdar-dynamic": Headline("more than 2 times static at negligible loss, 30B-A3B (abstract)", "speed", STATIC, 2.0),
    "sdar-sequential": Headline("no figure of its own"),
    "fast-dllm": Headline(
        "GSM8K 3.25 tokens a step at 0.9; 8.1 times as fast with its cache, 79.3 to 78.5 (paper)",
        "passes",
        STATIC,
        3.25,
    ),
    "fast-dllm-factor": Headline("a curve beside the threshold's, no single figure (paper)"),
    "entropy-bounded": Headline("roughly 2 to 3 times as fast without loss (abstract)", "passes", STATIC, 2.0),
    "bacd": Headline("2.97 to 3.37 tokens per forward, accuracy 50.5 to 51.2 (abstract)", "passes", PLAIN, 1.13),
    "tccf": Headline(
        "with bacd: accuracy 51.2 to 55.9, tokens per forward 3.37 to 2.16 (abstract)", "score", "bacd", 4.7
    ),
    "localleap": Headline("6.94 times the throughput, steps down to 14.2 % (abstract)", "speed", STATIC, 6.94),
    "wedlm": Headline("3 to 6 times vLLM's AR decoding, with streaming and its own models (paper)", "speed", AR, 3.0),
    "wedlm-stream": Headline("3 to 6 times vLLM's AR decoding, with its own models (paper)", "speed", AR, 3.0),
    "cad": Headline("3.62 times as fast on average, of a distilled model (abstract)", "speed", STATIC, 3.62),
    "learn2pd": Headline("up to 22.58 times as fast, of long budgets (abstract)", "speed", STATIC, 22.58),
    "ete": Headline("fewer rounds than a threshold at equal quality, no figure read (abstract)", "passes", PLAIN),
    "eoser": Headline("figures not read"),
    "ass": Headline("figures not read"),
    "eoser-ass": Headline("figures not read"),
    "prophet": Headline("up to 3.4 times fewer steps (abstract)", "passes", STATIC, 3.4),
    "stable-confident": Headline("no figure of its own"),
    "adablock": Headline("up to 5.3 points more at equal throughput (abstract)", "score", LARGE, 5.3),
    "dcd": Headline("1.73 points more on average at similar time (abstract)", "score", LARGE, 1.73),
    "credit": Headline("5.48 times as fast and 0.48 points more, LLaDA-8B (abstract)", "speed", STATIC, 5.48),
    "hierarchical": Headline("engine figures only: over 1100 tokens a second, batch 1, eight H800 (abstract)"),
    "flashblock": Headline(
        "1.44 times the tokens a second, TraDo-8B in blocks of 4 (project page)", "speed", PLAIN, 1.44
    ),
    "fast-dllm-prefix": Headline("8.1 times as fast, GSM8K 79.3 to 78.5 (paper)", "speed", STATIC, 8.1),
    "fast-dllm-dual": Headline(
        "27.6 times as fast, 8-shot and 1024 tokens, 77.3 to 76.0 (paper)", "speed", STATIC, 27.6
    ),
    "dkv": Headline("2 to 10 times as fast, none at batch 1 (abstract, README)", "speed", STATIC, 2.0),
    "dkv-pd": Headline("2 to 10 times as fast, none at batch 1 (abstract, README)", "speed", STATIC, 2.0),
    "dkv-greedy": Headline("2 to 10 times as fast, none at batch 1 (abstract, README)", "speed", STATIC, 2.0),
    "fast-dllm-v2": Headline("up to 2.5 times AR decoding, with its own models (abstract)", "speed", AR, 2.5),
    "window": Headline("up to 99 times as fast, of very long budgets (abstract)", "speed", STATIC, 99.0),
    "llada2.1": Headline("5.93 tokens per forward against 3.08 of LLaDA2.0-flash, 72.34 to 72.43 (paper)"),
    "llada2.1-blocks": Headline(
        "flash: average 70.69 to 72.67, tokens per forward 5.82 to 5.14 (second-hand)", "score", "llada2.1", 1.98
    ),
    "diffuspec": Headline(
        "3.08 times AR on average, Qwen2.5-32B verifying drafts of Dream-7B (paper)", "speed", AR, 3.08
    ),
    "top-margin": Headline(
        "Sudoku under 7 % to about 90 % against a random order (abstract); here against confidence", "score", STATIC
    ),
}


def measured(headline: Headline, items: Sequence[ItemRecord], base: Sequence[ItemRecord]) -> Interval:
    """What the headline's measure is here: a ratio, or points."""
    return {"speed": speed, "passes": passes, "score": score_difference}[headline.measure](items, base)


def claim_of(decoder: str, headline: Headline, source: str, answers: Answers) -> Claim | None:
    """The headline as a claim with a direction; None where there is nothing to hold against it.

    A size of one claims that nothing differs, which no interval confirms.
    """
    if headline.measure is None or headline.size == 1 or not {decoder, headline.against} <= answers.keys():
        return None
    found = measured(headline, answers[decoder], answers[headline.against])
    told = {"speed": "decodes faster", "passes": "commits more tokens per forward", "score": "scores higher"}
    text = f"{decoder} {told[headline.measure]} than {headline.against}"
    points = headline.measure == "score"
    figure = found if points else as_change(found)
    return Claim(text, headline.published, source, "higher", figure, "points" if points else "%")


def agreement(decoder: str, headline: Headline, answers: Answers, block_size: int) -> str:
    """One line, computed: whether ours agrees with the published figure, and what stands in its way."""
    if headline.measure is None:
        return "nothing to hold ours against"
    if headline.against not in answers:
        return f"not compared: {headline.against} is not run here"
    items, base = answers[decoder], answers[headline.against]
    found = measured(headline, items, base)
    sign = "+" if headline.measure == "score" else ""
    line = f"here {found.text(2, sign)} {UNITS[headline.measure]} ({_sided(headline, found)} {headline.against})"
    return line + _size(headline, found) + _reason(headline, items, base, block_size)


def _sided(headline: Headline, found: Interval) -> str:
    even = 0.0 if headline.measure == "score" else 1.0
    if found.low > even:
        return "more than"
    return "less than" if found.high < even else "not distinguishable from"


def _size(headline: Headline, found: Interval) -> str:
    if headline.size is None:
        return ""
    if found.high < headline.size:
        return f"; below the published {headline.size:g}"
    return f"; {'above' if found.low > headline.size else 'not distinguishable from'} the published {headline.size:g}"


def _reason(headline: Headline, items: Sequence[ItemRecord], base: Sequence[ItemRecord], block_size: int) -> str:
    if headline.measure != "score" and headline.size is not None and headline.size > block_size:
        return f"; a pass commits at most {block_size} tokens"
    if headline.measure == "score":
        return f"; {same(items, base):.0f} % of the answers are the same"
    return ""
