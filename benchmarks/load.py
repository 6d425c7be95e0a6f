"""Time and peak memory of loading a large checkpoint of random weights, on a CPU.

    python -m benchmarks.load --billions 3
    python -m benchmarks.load --billions 1 --dtypes bfloat16,float32
    python -m benchmarks.load --model DIR

The checkpoint has the shape of a Qwen3 decoder of width 2048 with as many layers as it takes, in bfloat16. It is
written shard by shard, so that writing never holds it, and deleted at the end; ``--model`` loads one that is there.
Every dtype is loaded in a process of its own, once the files have left the page cache. What is told is memory beyond
that of the imported program: after loading, and at most until every page of the weights has been read, for in the
dtype of the files they are mapped and come into memory when they are first used. From /proc, so it needs Linux.
"""

import json
import os
import subprocess
import sys
import time
from argparse import SUPPRESS, ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Iterator
from pathlib import Path
from shutil import disk_usage, rmtree

import torch
from safetensors.torch import save_file
from torch import nn

from benchmarks.measure import command, machine, names
from benchmarks.training_memory import MB, Peak
from vlm.checkpoints.files import INDEX, read_tensors, shards
from vlm.checkpoints.load import load
from vlm.config import DiffusionTraits, VLMConfig
from vlm.generation.config import BlockGenerationConfig
from vlm.model import VLMForBlockDiffusion
from vlm.processor import VLMProcessor
from vlm.training.build import train_tokenizer

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
WIDTH, VOCABULARY = 2048, 151_936
SHARD = 512 * MB
PAGE = 4096
STATUS = Path("/proc/self/status")


def text_config(billions: float, width: int = WIDTH, vocab_size: int = VOCABULARY) -> dict:
    """The config of a decoder with about as many parameters, its head tied to the embeddings."""
    layer = 2 * width * width + 2 * width * width // 4 + 3 * width * 3 * width  # attention (grouped by four), and MLP
    return {
        "model_type": "qwen3", "hidden_size": width, "intermediate_size": 3 * width, "head_dim": 64,
        "num_attention_heads": width // 64, "num_key_value_heads": max(1, width // 256), "vocab_size": vocab_size,
        "num_hidden_layers": max(1, round((billions * 1e9 - vocab_size * width) / layer)),
        "max_position_embeddings": 4096, "tie_word_embeddings": True,
    }  # fmt: skip


def write(folder: Path, text: dict, shard: int = SHARD) -> None:
    """Write a checkpoint of ours with random weights; needs memory for one shard."""
    tokenizer = train_tokenizer(["0 1 2 3 4 5 6 7 8 9"], 300)
    traits = DiffusionTraits(mask_token_id=tokenizer.mask_token_id, ar_mode=True)
    ids = [tokenizer.convert_tokens_to_ids(f"<|{kind}|>") for kind in ("image", "video")]
    config = VLMConfig(text, image_token_id=ids[0], video_token_id=ids[1], diffusion=traits, dtype=torch.bfloat16)
    folder.mkdir(parents=True)
    config.save_pretrained(folder)
    BlockGenerationConfig(eos_token_id=tokenizer.eos_token_id).save_pretrained(folder)
    VLMProcessor(tokenizer, chat_template=tokenizer.chat_template).save_pretrained(folder)
    with torch.device("meta"):
        model = VLMForBlockDiffusion(config)
    shapes = {n: tensor.shape for n, tensor in model.state_dict().items() if n not in model.all_tied_weights_keys}
    where = {}
    for number, part in enumerate(_portions(shapes, shard)):
        file = f"model-{number:05d}.safetensors"
        save_file({name: random(shapes[name]) for name in part}, folder / file, metadata={"format": "pt"})
        where |= dict.fromkeys(part, file)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": where}))


def _portions(shapes: dict[str, torch.Size], most: int) -> Iterator[list[str]]:
    """Names of tensors that together take ``most`` bytes in bfloat16, or of a single larger one."""
    part, size = [], 0
    for name, shape in shapes.items():
        if part and size + 2 * shape.numel() > most:
            yield part
            part, size = [], 0
        part, size = [*part, name], size + 2 * shape.numel()
    yield part


def random(shape: torch.Size) -> torch.Tensor:
    """Random bfloat16 weights; large ones repeat, since what they are does not matter here."""
    drawn = (0.02 * torch.randn(min(shape.numel(), 2**20))).to(torch.bfloat16)
    return drawn.repeat(-(-shape.numel() // len(drawn)))[: shape.numel()].view(shape)


def measured(folder: Path, dtype: str) -> dict[str, float]:
    """Loading in this process, which should have loaded nothing before: seconds, and bytes beyond what stood."""
    forget(folder)
    before, peak = resident(), Peak("cpu")
    start = time.perf_counter()
    model, _ = load(str(folder), dtype=DTYPES[dtype], device="cpu")
    loaded, after = time.perf_counter() - start, resident()
    start = time.perf_counter()
    read_every_page(model)
    return {
        "load_s": round(loaded, 2),
        "read_s": round(time.perf_counter() - start, 2),
        "loaded": after - before,
        "peak": peak.read() - before,
    }


def forget(folder: Path) -> None:
    """Let a directory's files leave the page cache, so that they are read from the disk."""
    for path in shards(folder):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def resident() -> int:
    return next(int(line.split()[1]) * 1024 for line in STATUS.open() if line.startswith("VmRSS"))


def read_every_page(model: nn.Module) -> None:
    for parameter in model.parameters():
        parameter.detach().flatten().view(torch.uint8)[::PAGE].sum()


def apart(folder: Path, dtype: str) -> dict[str, float]:
    """`measured` in a process of its own. Raises ValueError if that process fails, with the last line it said."""
    asked = [sys.executable, "-m", "benchmarks.load", "--measure", dtype, "--model", str(folder)]
    done = subprocess.run(asked, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    if done.returncode:
        raise ValueError(f"loading in {dtype} failed: {(done.stderr.splitlines() or ['no output'])[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def lines(report: dict) -> str:
    """The report for a terminal."""
    size = report["bytes"]
    out = [f"{report['parameters'] / 1e9:.2f} G parameters, {size / MB:.0f} MB of files"]
    out.append(f"{'loaded as':12}{'load s':>8}{'read s':>8}{'loaded MB':>11}{'peak MB':>9}{'peak / files':>14}")
    for dtype, found in report["dtypes"].items():
        out.append(
            f"{dtype:12}{found['load_s']:8.1f}{found['read_s']:8.1f}{found['loaded'] / MB:11.0f}"
            f"{found['peak'] / MB:9.0f}{found['peak'] / size:14.2f}"
        )
    return "\n".join(out)


def _run(arguments: Namespace) -> dict:
    dtypes = names(arguments.dtypes, tuple(DTYPES), "dtype")
    if not STATUS.exists():
        raise ValueError(f"memory is read from {STATUS}, which this system lacks")
    if arguments.model is not None:
        return _report(Path(arguments.model), dtypes)
    folder = Path(arguments.folder)
    if not 0 < arguments.billions < 1000:
        raise ValueError(f"--billions {arguments.billions} must be a positive number below 1000")
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.exists() or 2e9 * arguments.billions > disk_usage(folder.parent).free - 2e9:
        raise ValueError(f"{folder}: exists already" if folder.exists() else f"{folder}: the disk is too full for it")
    try:
        print(f"writing {folder}", file=sys.stderr)
        write(folder, text_config(arguments.billions))
        return _report(folder, dtypes)
    finally:
        rmtree(folder, ignore_errors=True)


def _report(folder: Path, dtypes: list[str]) -> dict:
    found = {}
    for dtype in dtypes:
        print(f"loading in {dtype}", file=sys.stderr)
        found[dtype] = apart(folder, dtype)
    size = sum(path.stat().st_size for path in shards(folder))
    count = sum(tensor.count for tensor in read_tensors(str(folder)).values())
    return {"bytes": size, "parameters": count, "machine": machine(), "dtypes": found}


def main(argv: list[str] | None = None) -> int:
    options = ArgumentParser(
        prog="python -m benchmarks.load", description=__doc__, formatter_class=RawDescriptionHelpFormatter
    )
    options.add_argument("--billions", type=float, default=3.0, help="parameters, in 10^9 (default 3)")
    options.add_argument("--dtypes", default="bfloat16", help=f"of {', '.join(DTYPES)} (default bfloat16)")
    options.add_argument("--model", help="a checkpoint that is there, in place of a random one")
    options.add_argument("--folder", default="runs/benchmarks/load", help="of the random one; default: %(default)s")
    options.add_argument("--output", default="runs/benchmarks/load.json", help="default: %(default)s")
    options.add_argument("--measure", choices=DTYPES, help=SUPPRESS)
    arguments = options.parse_args(argv)
    if arguments.measure:
        print(json.dumps(measured(Path(arguments.model), arguments.measure)))
        return 0
    return command(arguments.output, lambda: _run(arguments), lines)


if __name__ == "__main__":
    sys.exit(main())
