"""What each part of the decoding engine brings, measured against doing without it.

    python -m benchmarks.engine
    python -m benchmarks.engine --parts cache,prefix --limit 20

memory: logits in chunks against all at once, at a vocabulary of 152 000, 8 blocks of 32. close: a block closed in the
pass that opens the next one, against a pass of its own. cache: keys and values written in place, against concatenation
at every pass. prefix: ten questions about a video one after the other, with and without the prefix store; where a film
offers fewer questions, some come twice. batch: items decoded together.

Both sides of a ratio are measured one right after the other, in changing order. What bounds a figure stands with it.
"""

import argparse
import dataclasses
import sys
import warnings
from collections.abc import Sequence

import torch

from benchmarks.alternatives import ConcatCache, SeparateClose
from benchmarks.measure import (
    at_least,
    command,
    machine,
    names,
    now,
    parser,
    ranged,
    ratios,
    settled,
    spread,
    turns,
    whole_numbers,
)
from benchmarks.memory import WAYS, measured
from benchmarks.passes import timed_pass
from data_pipelines.playground import item
from data_pipelines.record import text_part, video_part
from eval.suites import playground
from vlm.answering import answer_batch, build_request, settings
from vlm.attention import Rows
from vlm.cache import BlockCache
from vlm.checkpoints.load import load
from vlm.generation.loop import Loop
from vlm.generation.prefix import PrefixStore
from vlm.generation.request import Request
from vlm.generation.scoring import CHUNK
from vlm.generation.strategy import build_strategy

warnings.filterwarnings("ignore")

PARTS = ("memory", "close", "cache", "prefix", "batch")  # memory first: see `benchmarks.memory`
VOCABULARY, BATCH, BLOCK = 152_000, 8, 32
QUESTIONS = 10
PASSES = 8  # passes timed for each one of --limit: a pass is short


def memory(vocab_size: int, batch: int, block: int) -> dict:
    """Peak memory of one pass, logits made in chunks and all at once."""
    found = {way: measured(way, vocab_size, batch, block) for way in WAYS}
    growth = {way: round(f["peak_mb"] - f["built_mb"], 1) for way, f in found.items()}
    at_once = batch * block * vocab_size * 4 / 2**20
    return {
        **found,
        "growth_mb": growth,
        "bound": f"a chunk of logits and copies of it, {4 * CHUNK / 2**20:.0f} MB each, not {at_once:.0f} MB each",
    }


def close(model, processor, block_size: int | None, seed: int, limit: int) -> dict:
    """Seconds behind the first pass with separate closing passes, over those with fused ones."""
    strategy = build_strategy(model, settings(model, mode="block", block_size=block_size))
    loops, pairs = {"fused": Loop, "separate": SeparateClose}, []
    for index in (0, *range(limit)):
        request = _describe(model, processor, seed, index)
        pairs.append({k: loops[k](model, [request], strategy).run()[0] for k in turns(list(loops), index)})
    pairs = pairs[1:]  # the first one warms up
    passes = {k: sum(pair[k].forwards for pair in pairs) for k in loops}
    seconds = {k: [pair[k].decode_s for pair in pairs] for k in loops}
    return {
        "items": len(pairs),
        "same_tokens": sum(pair["fused"].tokens == pair["separate"].tokens for pair in pairs),
        "passes": passes,
        "pass_ratio": round(passes["separate"] / passes["fused"], 3),
        "decode_ratio": spread(ratios(seconds["separate"], seconds["fused"])),
        "bound": "the ratio of passes, less what the closed block's rows cost in the pass that carries them",
    }


@torch.no_grad()
def cache(model, contexts: Sequence[int], rows: int, passes: int) -> dict:
    """Seconds of a denoising pass with a concatenating cache, over those with one written in place."""
    found, text = {}, model.config.text_config
    for context in contexts:
        caches = _filled(model, context)
        seconds = {name: [] for name in caches}
        for index in range(passes):
            for name in turns(list(caches), index):
                seconds[name].append(timed_pass(model, caches[name], context, rows, rows))
        warm = passes // 4
        found[str(context)] = {
            **{f"{name}_s": round(settled(values), 6) for name, values in seconds.items()},
            "ratio": spread(ratios(seconds["concatenated"][warm:], seconds["in_place"][warm:])),
            "copied_mb": round(_kv_bytes(text, context, model.dtype) / 2**20, 2),
        }
    bound = "cache traffic: a pass reads all keys and values in either case, and to concatenate copies them as well"
    return {"rows": rows, "contexts": found, "bound": bound}


def _filled(model, context: int) -> dict:
    """Both caches holding the same random keys and values of ``context`` tokens."""
    text = model.config.text_config
    shape = (text.num_key_value_heads, context, _head_dim(text))
    layers = [
        tuple(torch.randn(shape, dtype=model.dtype, device=model.device) for _ in range(2))
        for _ in range(text.num_hidden_layers)
    ]
    position = torch.arange(context, device=model.device).unsqueeze(0)  # [1, n]
    zeros = torch.zeros_like(position)
    caches = {"in_place": BlockCache(text, 1, device=model.device), "concatenated": ConcatCache()}
    caches["in_place"].load(0, layers)
    caches["concatenated"].load(Rows(position, zeros, zeros, zeros, zeros), layers)
    return caches


def _kv_bytes(text, context: int, dtype: torch.dtype) -> int:
    return 2 * text.num_hidden_layers * text.num_key_value_heads * _head_dim(text) * context * dtype.itemsize


def _head_dim(text) -> int:
    return getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads


def prefix(model, processor, questions: int, seed: int, limit: int) -> dict:
    """Seconds of answering some questions about a video without a prefix store, over those with one."""
    config, videos = settings(model), []
    for index in (0, *range(limit)):
        made = item("video", "heldout", seed, index, n_turns=questions)
        asked = {}
        for stored in turns([True, False], index):
            asked[stored] = _ask(model, processor, config, made, PrefixStore() if stored else None)
        videos.append(asked)
    videos = videos[1:]  # the first one warms up

    def ratio(name: str) -> dict | None:
        return spread(ratios([v[False][name] for v in videos], [v[True][name] for v in videos]))

    return {
        "videos": len(videos),
        "questions": questions,
        "same_answers": sum(a == b for v in videos for a, b in zip(v[True]["answers"], v[False]["answers"])),
        "ratio": ratio("seconds"),
        "prefill_ratio": ratio("prefill_s"),
        "frames_encoded": spread([v[True]["encoded"] for v in videos]),
        "ceiling": questions,
        "bound": f"the first of {questions} questions reads the video, the others only decode: what decoding takes "
        f"keeps the whole below {questions}",
    }


def _ask(model, processor, config, made, store: PrefixStore | None) -> dict:
    """Ask a video's questions one after the other. New requests every time: they remember their media's hashes."""
    requests = [
        build_request(processor, [{"role": "user", "content": [video_part(made.media), text_part(t.question)]}],
                      [made.media])
        for t in made.turns
    ]  # fmt: skip
    begin = now(model.device)
    answers = [answer_batch(model, processor, [request], config, store=store)[0] for request in requests]
    return {
        "seconds": now(model.device) - begin,
        "prefill_s": sum(a.prefill_s for a in answers),
        "answers": [a.answer for a in answers],
        "encoded": 0 if store is None else store.encoded,
    }


def batch(model, processor, sizes: Sequence[int], block_size: int | None, seed: int, limit: int) -> dict:
    """Tokens per second at batch sizes, over those one by one."""
    config = settings(model, mode="block", block_size=block_size)
    sizes = list(dict.fromkeys([1, *sizes]))
    requests = [_describe(model, processor, seed, index) for index in range(max(sizes))]
    speeds, answers = {size: [] for size in sizes}, {}
    for index in range(limit + 1):
        for size in turns(sizes, index):
            begin = now(model.device)
            found = answer_batch(model, processor, requests, config, max_batch=size)
            speeds[size].append(sum(a.tokens for a in found) / (now(model.device) - begin))
            answers[size] = [a.answer for a in found]
    speeds = {size: values[1:] for size, values in speeds.items()}  # the first round warms up
    return {
        "items": len(requests),
        "sizes": {
            str(size): {
                "tokens_per_s": spread(values),
                "ratio": spread(ratios(values, speeds[1])),
                "same_answers": sum(a == b for a, b in zip(answers[size], answers[1])),
            }
            for size, values in speeds.items()
        },
        "bound": "rows: a wider pass shares its Python and reads the weights once, until arithmetic is all it does",
    }


def _describe(model, processor, seed: int, index: int) -> Request:
    """A request for a long answer, where the model stands."""
    asked = playground.question("describe", seed, index)
    request = build_request(processor, asked.messages, asked.media)
    pixels = request.pixel_values.to(model.device)
    return dataclasses.replace(request, input_ids=request.input_ids.to(model.device), pixel_values=pixels)


def lines(report: dict) -> str:
    """The report for a terminal: each part's figures and what bounds them."""
    out = []
    for part in [part for part in PARTS if part in report]:
        found = report[part]
        out += [f"{part}:", *(f"  {line}" for line in _FIGURES[part](found)), f"  bound: {found['bound']}"]
    return "\n".join(out)


_FIGURES = {
    "memory": lambda f: [
        f"{way}: {f[way]['peak_mb']} MB at most, {f['growth_mb'][way]} MB of it to decode" for way in WAYS
    ],
    "close": lambda f: [
        f"separate / fused: {ranged(f['decode_ratio'])}, passes {f['passes']['separate']} / {f['passes']['fused']} = "
        f"{f['pass_ratio']}; the same tokens {f['same_tokens']} of {f['items']}"
    ],
    "cache": lambda f: [
        f"{n} tokens: concatenated / in place {ranged(c['ratio'])}, {c['copied_mb']} MB copied a pass"
        for n, c in f["contexts"].items()
    ],
    "prefix": lambda f: [
        f"without / with: {ranged(f['ratio'])} (ceiling {f['ceiling']}), prefill {ranged(f['prefill_ratio'])}; the "
        f"same answers {f['same_answers']} of {f['videos'] * f['questions']}"
    ],
    "batch": lambda f: [
        f"{n}: {ranged(s['ratio'])} times the tokens per second; the same answers {s['same_answers']} of {f['items']}"
        for n, s in f["sizes"].items()
    ],
}


def parse(argv: list[str] | None) -> argparse.Namespace:
    found = parser("engine", __doc__, 10, "items, videos or rounds a figure")
    found.add_argument("--parts", default=",".join(PARTS), help=f"of {', '.join(PARTS)} (default: all)")
    found.add_argument("--contexts", default="512,4096,16384", help="of cache (default: %(default)s)")
    found.add_argument("--batches", default="1,2,4,8,16", help="of batch (default: %(default)s)")
    found.add_argument("--block-size", type=int, help="default: the checkpoint's")
    return found.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    return command(arguments.output, lambda: _run(arguments), lines)


def _run(arguments: argparse.Namespace) -> dict:
    parts = names(arguments.parts, PARTS, "part")
    at_least(arguments, limit=1, seed=0)
    contexts = whole_numbers(arguments.contexts, "--contexts")
    batches = whole_numbers(arguments.batches, "--batches")
    report = {"model": arguments.model or "embedded", "machine": machine(), "limit": arguments.limit}
    if "memory" in parts:
        report["memory"] = memory(VOCABULARY, BATCH, BLOCK)
    if parts == ["memory"]:
        return report
    model, processor = load(arguments.model)
    size, seed, limit = arguments.block_size, arguments.seed, arguments.limit
    rows = settings(model, block_size=size).block_size or model.config.traits.block_size  # refuses a size at once
    run = {
        "close": lambda: close(model, processor, size, seed, limit),
        "cache": lambda: cache(model, contexts, rows, PASSES * limit),
        "prefix": lambda: prefix(model, processor, QUESTIONS, seed, limit),
        "batch": lambda: batch(model, processor, batches, size, seed, limit),
    }
    return report | {part: run[part]() for part in PARTS if part in parts and part in run}


if __name__ == "__main__":
    sys.exit(main())
