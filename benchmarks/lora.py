"""An adapter from one's own data: train it, evaluate before and after, merge it, evaluate again.

    python -m benchmarks.lora
    python -m benchmarks.lora --ways qlora --steps 80 --limit 60

The task is new to the embedded model: questions about a picture, answered in brackets, ``[red]``. It knows the answers
and has never given them in this form. The command writes the data (messages in JSON lines, pictures beside them; other
pictures and other wordings for the evaluation), then does what a user would: ``train.py`` with ``configs/lora.yaml``
or ``configs/qlora.yaml`` on that file, ``python -m eval run --suite local`` without and with ``--adapter``,
``python -m vlm.merge_adapter``, and eval of what was merged.

``right`` is the whole answer, form and value; ``in form`` any answer of the form; ``value`` a right value in any form.
A merged LoRA adapter must answer as the adapter does. A QLoRA adapter was trained beside rounded weights: it is merged
into those, while ``--adapter`` adds it to the original ones, so the two may differ and their agreement is told.
"""

import json
import logging
import re
import sys
import time
from argparse import Namespace
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from shutil import rmtree

from benchmarks.measure import at_least, command, machine, names, parser
from data_pipelines.playground import item
from eval.__main__ import main as evaluate
from eval.output import load as results_of
from vlm.checkpoints.merge import merge

WAYS = {"lora": None, "qlora": "nf4"}
CONFIGS = Path(__file__).parents[1] / "configs"
FAMILIES = ("attributes", "counting")
MAX_SIDE = 256
TRAIN_SEED = 7
ASK = "{question} Answer in brackets."
FORM = re.compile(r"\[([^\[\]]*)\]")


def form(value: str) -> str:
    return f"[{value}]"


def value_in(answer: str) -> str | None:
    """The value of an answer in the form; None for any other answer."""
    found = FORM.fullmatch(answer)
    return None if found is None else found[1]


def write(path: Path, split: str, count: int, seed: int) -> None:
    """``count`` samples of the task as JSON lines, their pictures in a folder beside the file."""
    pictures = path.with_suffix("")
    pictures.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for index in range(count):
            made = item(FAMILIES[index % len(FAMILIES)], split, seed, index, max_side=MAX_SIDE)
            picture = pictures / f"{index}.png"
            made.media[0].save(picture)
            turn = made.turns[0]
            asked = [
                {"type": "image", "image": f"{pictures.name}/{picture.name}"},
                {"type": "text", "text": ASK.format(question=turn.question)},
            ]
            messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": form(turn.answer)}]
            file.write(json.dumps({"id": f"{split}-{index}", "messages": messages}) + "\n")


def train(way: str, folder: Path, steps: int, model: str) -> float:
    """Train ``folder/way``, an adapter of ``model``, on ``folder/train.jsonl``; seconds."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # imported now, it warns of kernels that are not needed
    from vlm.training.recipe import read_recipe
    from vlm.training.run import run

    start = time.perf_counter()
    arguments = {
        "config": CONFIGS / f"{way}.yaml",
        "init_from": model,
        "output_dir": folder / way,
        "data.sources": json.dumps([{"path": str(folder / "train.jsonl")}]),
        "data.rows_per_batch": 1024,
        "data.window": 64,
        "data.workers": 0,
        "max_steps": steps,
        "save_steps": steps,
        "eval_steps": steps + 1,  # never: what matters is measured here
        "optim.warmup_steps": max(1, steps // 8),
        "optim.decay_steps": max(1, steps // 2),
    }
    run(read_recipe([text for name, value in arguments.items() for text in (f"--{name}", str(value))]))
    return time.perf_counter() - start


def answers(folder: Path, name: str, limit: int, options: list[str]) -> list[dict]:
    """What ``python -m eval run`` finds on the held-out file, item by item."""
    output = folder / "eval" / name
    asked = ["run", "--suite", "local", "--source", str(folder / "heldout.jsonl"), "--metric", "exact_match",
             "--limit", str(limit), "--max-new-tokens", "32", "--output", str(output), *options]  # fmt: skip
    with redirect_stdout(StringIO()):
        if evaluate(asked):
            raise ValueError(f"the evaluation {name!r} failed")
    return [{"answer": record.answer, "expected": record.expected} for record in results_of(output)[1]]


def scored(found: list[dict]) -> dict[str, float]:
    """Shares of the answers that are right as a whole, have the form, and have the value."""
    wanted = [value_in(f["expected"]) for f in found]
    said = [value_in(f["answer"]) for f in found]
    plain = [f["answer"] if value is None else value for f, value in zip(found, said)]
    return {
        "right": _share(s == w for s, w in zip(said, wanted)),
        "in_form": _share(s is not None for s in said),
        "value": _share(p == w for p, w in zip(plain, wanted)),
    }


def _share(hits) -> float:
    hits = list(hits)
    return round(sum(hits) / len(hits), 3)


def measured(way: str, folder: Path, steps: int, limit: int, model: str | None, before: list[dict]) -> dict:
    """One way from its training to the evaluation of what was merged."""
    seconds = train(way, folder, steps, model or "embedded")
    adapter, whole = folder / way / "final", folder / way / "merged"
    after = answers(folder, f"{way}-adapter", limit, [*_base(model), "--adapter", str(adapter)])
    merge(str(adapter), str(whole), base_quantize=WAYS[way])
    merged = answers(folder, f"{way}-merged", limit, ["--model", str(whole)])
    alike = [one["answer"] == other["answer"] for one, other in zip(after, merged)]
    return {
        "train_s": round(seconds, 1),
        "adapter_mb": round((adapter / "adapter_model.safetensors").stat().st_size / 2**20, 2),
        "before": scored(before),
        "adapter": scored(after),
        "merged": scored(merged),
        "merged_answers_alike": _share(alike),
        "example": {"before": before[0]["answer"], **after[0]},
    }


def _base(model: str | None) -> list[str]:
    return [] if model is None else ["--model", model]


def lines(report: dict) -> str:
    """The report for a terminal."""
    settings = report["settings"]
    out = [f"{settings['steps']} steps on {settings['samples']} samples; {report['items']} held-out questions"]
    for way, found in report["ways"].items():
        out.append(f"{way}: trained in {found['train_s']} s, {found['adapter_mb']} MB")
        out.append(f"  {'':8}{'right':>8}{'in form':>9}{'value':>8}")
        for name in ("before", "adapter", "merged"):
            out.append("  {:8}{right:8.3f}{in_form:9.3f}{value:8.3f}".format(name, **found[name]))
        out.append(f"  merged answers as the adapter does: {found['merged_answers_alike']:.0%}")
        if way == "lora" and found["merged_answers_alike"] < 1:
            out.append("  FAULT: a merged LoRA adapter must answer as the adapter does")
    return "\n".join(out)


def _run(arguments: Namespace) -> dict:
    ways = names(arguments.ways, tuple(WAYS), "way")
    at_least(arguments, limit=1, steps=1, samples=1)
    folder = Path(arguments.folder)
    rmtree(folder, ignore_errors=True)  # trained and evaluated anew
    write(folder / "train.jsonl", "train", arguments.samples, TRAIN_SEED)
    write(folder / "heldout.jsonl", "heldout", arguments.limit, arguments.seed)
    limit, model = arguments.limit, arguments.model
    before = answers(folder, "before", limit, _base(model))
    return {
        "model": model or "embedded",
        "settings": {"steps": arguments.steps, "samples": arguments.samples, "seed": arguments.seed},
        "machine": machine(),
        "items": len(before),
        "ways": {way: measured(way, folder, arguments.steps, limit, model, before) for way in ways},
    }


def main(argv: list[str] | None = None) -> int:
    options = parser("lora", __doc__, 60, "held-out questions")
    options.add_argument("--ways", default=",".join(WAYS), help=f"of {', '.join(WAYS)} (default: both)")
    options.add_argument("--steps", type=int, default=100, help="of training (default 100)")
    options.add_argument("--samples", type=int, default=400, help="of training (default 400)")
    options.add_argument("--folder", default="runs/benchmarks/lora", help="replaced; default: %(default)s")
    arguments = options.parse_args(argv)
    return command(arguments.output, lambda: _run(arguments), lines)


if __name__ == "__main__":
    sys.exit(main())
