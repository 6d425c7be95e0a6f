"""Memory of a training step: everything trains, an adapter does (LoRA), or one over a decoder in 4 bits (QLoRA).

    python -m benchmarks.training_memory
    python -m benchmarks.training_memory --layers 8 --width 512 --rows 512

Each way is measured with and without gradient checkpointing, in a process of its own, on a random decoder of the Qwen3
shape. What is told is the most that the process held during two steps beyond what stood before the model was made, and
what that consists of: weights, gradients with the optimiser's moments (both counted from the tensors), and the rest,
which is activations and scratch. On a CPU it is read from /proc, so that needs Linux; on CUDA from the allocator.
"""

import gc
import json
import logging
import subprocess
import sys
from argparse import SUPPRESS, ArgumentParser, Namespace, RawDescriptionHelpFormatter
from pathlib import Path

import torch

from benchmarks.measure import at_least, command, machine
from benchmarks.training_layout import Case, Step, build
from vlm.training.optim import build_optimizer
from vlm.training.precision import autocast
from vlm.training.sections import AdapterRecipe, OptimRecipe

WAYS: dict[str, AdapterRecipe | None] = {
    "full": None,
    "lora": AdapterRecipe(),
    "qlora": AdapterRecipe(quantize="nf4"),
}
HEAD = 64
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
PEAK_OF_NOW = "5"  # what makes the kernel forget the peak
MB = 2**20


def decoder(layers: int, width: int, vocab_size: int, rows: int) -> dict:
    """The config of a decoder of the Qwen3 shape."""
    return {
        "model_type": "qwen3", "hidden_size": width, "intermediate_size": 3 * width, "num_hidden_layers": layers,
        "head_dim": HEAD, "num_attention_heads": width // HEAD, "num_key_value_heads": width // HEAD,
        "vocab_size": vocab_size, "max_position_embeddings": rows, "tie_word_embeddings": True,
    }  # fmt: skip


class Peak:
    """The most memory in use since this was made, in bytes."""

    def __init__(self, device: str):
        self.device = device
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        else:
            CLEAR.write_text(PEAK_OF_NOW)

    def read(self) -> int:
        if self.device == "cuda":
            return torch.cuda.max_memory_allocated()
        return next(int(line.split()[1]) * 1024 for line in STATUS.open() if line.startswith("VmHWM"))


def prepared(way: str, checkpointing: bool, text_config: dict, device: str):
    """The model of a way, ready to train, on its device."""
    model = build(Case(0, 1, 1), text_config, 8).to(device)
    if WAYS[way] is not None:
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # imported now, it warns of kernels
        from vlm.training.adapters import attach

        model = attach(model, None, WAYS[way])
    if checkpointing:
        model.activation_checkpointing_enable()
    return model.train()


def held(model, optimizer: torch.optim.Optimizer) -> dict[str, int]:
    """Bytes of the weights, and of gradients and moments together."""
    parameters, states = list(model.parameters()), optimizer.state.values()
    moments = [value for state in states for value in state.values() if torch.is_tensor(value)]
    gradients = [p.grad for p in parameters if p.grad is not None]
    return {"weights": _bytes(parameters), "training": _bytes([*gradients, *moments])}


def _bytes(tensors: list[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def grown(way: str, checkpointing: bool, arguments: Namespace) -> dict[str, float]:
    """MB of two steps and what they consist of; to be asked once in a process."""
    device, case = machine()["device"], Case(0, 1, arguments.rows // 2 - 16)
    text_config = decoder(arguments.layers, arguments.width, arguments.vocab, 2 * arguments.rows)
    before = Peak(device).read()
    model = prepared(way, checkpointing, text_config, device)
    base = model if WAYS[way] is None else model.get_base_model()
    optimizer = build_optimizer(base, OptimRecipe())
    step = Step(model, optimizer, case, "once", 1)
    gc.collect()
    peak = Peak(device)
    for _ in range(2):
        with autocast("auto"):
            step()
    found = {"total": peak.read() - before, **held(model, optimizer)}
    found["rest"] = found["total"] - found["weights"] - found["training"]
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {"trained_parameters": trained, **{f"{k}_mb": round(v / MB, 1) for k, v in found.items()}}


def measured(way: str, checkpointing: bool, arguments: Namespace) -> dict[str, float]:
    """`grown`, from a process of its own.

    Raises:
        ValueError: if that process fails, with the last line it said.
    """
    sizes = [f"--{name}={getattr(arguments, name)}" for name in ("layers", "width", "vocab", "rows")]
    asked = [sys.executable, "-m", "benchmarks.training_memory", "--measure", f"{way},{int(checkpointing)}", *sizes]
    done = subprocess.run(asked, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    if done.returncode:
        raise ValueError(f"measuring memory failed: {(done.stderr.splitlines() or ['no output'])[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def lines(report: dict) -> str:
    """The report for a terminal."""
    settings = report["settings"]
    out = ["{layers} layers of width {width}, {vocab} words, {rows} rows; MB".format(**settings)]
    out.append(f"{'':22}{'total':>8}{'weights':>9}{'training':>10}{'rest':>8}{'trained':>12}")
    for name, found in report["ways"].items():
        out.append(
            "{:22}{total_mb:8.0f}{weights_mb:9.0f}{training_mb:10.0f}{rest_mb:8.0f}{trained_parameters:12,}".format(
                name, **found
            )
        )
    return "\n".join(out)


def _run(arguments: Namespace) -> dict:
    at_least(arguments, layers=1, width=HEAD, vocab=16, rows=64)
    if machine()["device"] == "cpu" and not CLEAR.exists():
        raise ValueError("without a GPU this reads /proc, which this system does not have")
    ways = {
        way + (" + checkpointing" if checkpointing else ""): measured(way, checkpointing, arguments)
        for way in WAYS
        for checkpointing in (False, True)
    }
    settings = {name: getattr(arguments, name) for name in ("layers", "width", "vocab", "rows")}
    return {"settings": settings, "machine": machine(), "ways": ways}


def main(argv: list[str] | None = None) -> int:
    options = ArgumentParser(
        prog="python -m benchmarks.training_memory", description=__doc__, formatter_class=RawDescriptionHelpFormatter
    )
    options.add_argument("--layers", type=int, default=8, help="default: 8")
    options.add_argument("--width", type=int, default=512, help=f"a multiple of {HEAD} (default 512)")
    options.add_argument("--vocab", type=int, default=8192, help="words (default 8192)")
    options.add_argument("--rows", type=int, default=512, help="of the one sample of a step (default 512)")
    options.add_argument("--output", default="runs/benchmarks/training_memory.json", help="default: %(default)s")
    options.add_argument("--measure", help=SUPPRESS)  # what a process for memory is told
    arguments = options.parse_args(argv)
    if arguments.measure:
        way, checkpointing = arguments.measure.split(",")
        print(json.dumps(grown(way, checkpointing == "1", arguments)))
        return 0
    return command(arguments.output, lambda: _run(arguments), lines)


if __name__ == "__main__":
    sys.exit(main())
