"""What keeping an open block's attention over its context saves, and what it costs in exactness (FlashBlock).

    python -m benchmarks.flashblock --contexts 1024,4096,16384
    python -m benchmarks.flashblock --small --contexts 256 --blocks 1

A random model of 42 M parameters reads a context of random tokens and denoises blocks behind it. For every context:

- attention: seconds of one layer's attention of a block, as usual (SDPA), in two parts, and in two parts of which the
  one over the context was kept;
- pass: the same of a whole forward pass;
- end to end: decoding blocks with the engine, one token a pass, as usual and at tau 1 (keeps nothing) and 2;
- error: blocks are filled in a random order, 1 to 4 slots a pass, and every pass is compared with the exact one at
  every tau: relative error of the open slots' logits, how many of their best tokens agree, how many passes reuse.

Errors are those of a random model with widened attention scores: they show how error grows with tau, not what a
trained model would lose.
"""

from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter

import torch

from benchmarks.measure import at_least, command, machine, now, ranged, ratios, settled, spread, turns, whole_numbers
from vlm import BlockGenerationConfig, VLMConfig, VLMForBlockDiffusion
from vlm.attention import Rows, dense_mask
from vlm.cache import BlockCache
from vlm.flash import two_parts
from vlm.generation.feed import Feed
from vlm.generation.generate import answer
from vlm.generation.request import Request, State
from vlm.generation.reuse import FlashBlock
from vlm.model import clean_rows

VOCABULARY, MASK = 8192, 0
SIZES = {
    "full": {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 12, "num_attention_heads": 8,
             "num_key_value_heads": 4, "head_dim": 64},
    "small": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
              "num_key_value_heads": 2, "head_dim": 16},
}  # fmt: skip
WIDEN = 3.0  # of queries: scores with a deviation of 3 instead of 1, so that attention chooses
TAUS = (1, 2, 3, 4, float("inf"))
WAYS = ("usual", "two_parts", "kept")
CHUNK = 512  # context rows a pass


def random_model(size: str, block: int, longest: int, seed: int) -> VLMForBlockDiffusion:
    torch.manual_seed(seed)
    text = {"model_type": "qwen3", "vocab_size": VOCABULARY, "max_position_embeddings": longest,
            "tie_word_embeddings": True, **SIZES[size]}  # fmt: skip
    traits = {"block_size": block, "trained_block_sizes": (block,), "mask_token_id": MASK}
    model = VLMForBlockDiffusion(VLMConfig(text_config=text, diffusion=traits))
    with torch.no_grad():
        for layer in model.language_model.get_decoder().layers:
            layer.self_attn.q_norm.weight.mul_(WIDEN)
    return model.eval()


def draw(count: int, seed: int) -> list[int]:
    """Random tokens, the mask not among them."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, VOCABULARY, (count,), generator=generator).tolist()


def read(model, context: int, seed: int) -> BlockCache:
    """A cache that holds ``context`` random tokens."""
    ids = torch.tensor([draw(context, seed)], device=model.device)  # [1, context]
    rows = clean_rows(torch.ones_like(ids), model.config.traits)
    cache = BlockCache(model.config.text_config, 1, 2 * CHUNK + context, model.device)
    for at in (slice(start, start + CHUNK) for start in range(0, context, CHUNK)):
        part = ids[:, at]
        model.decode(model.get_input_embeddings()(part), Rows(*(t[:, at] for t in vars(rows).values())), cache)
        cache.commit(torch.tensor([part.shape[1]], device=model.device))
    return cache


def block_rows(context: int, size: int, device) -> Rows:
    position = torch.arange(context, context + size, device=device).unsqueeze(0)  # [1, B]
    start = torch.full_like(position, context)
    return Rows(position, torch.zeros_like(start), torch.ones_like(start), start, start + size)


class Opened:
    """An open block behind a cache, as the engine would hold it, fed one canvas after the other."""

    def __init__(self, model, cache: BlockCache, tau: float | None):
        self.model, self.cache, self.caching = model, cache, None if tau is None else FlashBlock(tau)
        context = int(cache.lengths[0])
        self.state = State(None, None, context, [], 0, cached=context, block_start=context)

    def parts(self, canvas: list[int]):
        self.state.canvas = canvas
        return None if self.caching is None else [self.caching.part(self.state, Feed(canvas))]

    def hidden(self, canvas: list[int], parts) -> torch.Tensor:
        """Hidden states [1, B, D] of a pass; nothing is committed."""
        rows = block_rows(self.state.cached, len(canvas), self.model.device)
        ids = torch.tensor([canvas], device=self.model.device)
        return self.model.decode(self.model.get_input_embeddings()(ids), rows, self.cache, parts)


def attention_seconds(model, context: int, size: int, repeats: int) -> dict[str, list[float]]:
    """Of one layer's attention of a block, in turns."""
    config = model.config.text_config
    heads, groups, width = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    module = model.language_model.get_decoder().layers[0].self_attn
    query = torch.randn(1, heads, size, width, device=model.device)
    key, value = torch.randn(2, 1, groups, context + size, width, device=model.device)
    row, before = block_rows(context, size, model.device), torch.arange(context, device=model.device).unsqueeze(0)
    seen = Rows(before, *(torch.zeros_like(before) for _ in range(4)))
    keys = Rows(*(torch.cat([a, b], 1) for a, b in zip(vars(seen).values(), vars(row).values())))
    mask = dense_mask(row, keys, "causal")

    def attend(parts) -> None:
        two_parts(module, query, key, value, mask, module.scaling, parts or [None])

    return _in_turns(model, _openings(context), size, repeats, attend)


def _openings(context: int) -> dict[str, State]:
    """A state for each way of attending."""
    return {way: State(None, None, context, [], 0, cached=context, block_start=context) for way in WAYS}


def _in_turns(model, states: dict[str, State], size: int, repeats: int, run) -> dict[str, list[float]]:
    """Seconds of ``run`` on what each way attends by; the first round of ``kept`` fills what later ones use."""
    taus, canvas, seconds = {"two_parts": 1, "kept": float("inf")}, [MASK] * size, {way: [] for way in WAYS}
    for number in range(repeats + 1):
        canvas = [number + 1, *canvas[1:]]  # one slot changes between passes
        for way in turns(WAYS, number):
            states[way].canvas = canvas
            parts = [FlashBlock(taus[way]).part(states[way], Feed(canvas))] if way in taus else None
            begin = now(model.device)
            run(parts)
            if number:
                seconds[way].append(now(model.device) - begin)
    return seconds


def pass_seconds(model, cache: BlockCache, size: int, repeats: int) -> dict[str, list[float]]:
    """Of whole forward passes of a block behind the cache, in turns."""
    opened = Opened(model, cache, None)
    states = _openings(opened.state.cached)
    return _in_turns(model, states, size, repeats, lambda parts: opened.hidden([MASK] * size, parts))


def end_to_end(model, cache: BlockCache, size: int, blocks: int, seed: int) -> dict[str, list[float]]:
    """Decoding seconds of every block, as usual, at tau 1 and at tau 2, one token a pass; a block before warms up."""
    kept = cache.lengths.clone()
    seconds = {"usual": [], "tau 1": [], "tau 2": []}
    for number in range(blocks + 1):
        for way in turns(tuple(seconds), number):
            slots = None if way == "usual" else {"flashblock": {"tau": int(way[-1])}}
            config = BlockGenerationConfig(policy="static", max_new_tokens=size, slots=slots)
            (state,) = answer(model, [Request(torch.tensor(draw(1, seed + number)))], config, cache)
            cache.crop(kept)
            if number:
                seconds[way].append(state.decode_s)
    return seconds


def schedule(size: int, seed: int) -> list[list[int]]:
    """The canvases of a block that is filled in a random order, 1 to 4 slots a pass."""
    generator = torch.Generator().manual_seed(seed)
    order, tokens = torch.randperm(size, generator=generator).tolist(), draw(size, seed)
    canvases, canvas = [], [MASK] * size
    while order:
        canvases.append(list(canvas))
        count = int(torch.randint(1, 5, (1,), generator=generator))
        for slot in order[:count]:
            canvas[slot] = tokens[slot]
        order = order[count:]
    return canvases


def errors(model, cache: BlockCache, size: int, blocks: int, seed: int) -> list[dict]:
    """How far the open slots' logits are from the exact ones, at every tau."""
    found = {tau: {"error": [], "agree": [], "reused": []} for tau in TAUS}
    for number in range(blocks):
        exact, opened = Opened(model, cache, None), {tau: Opened(model, cache, tau) for tau in TAUS}
        for canvas in schedule(size, seed + number):
            at = [i for i, token in enumerate(canvas) if token == MASK]
            expected = model.head(exact.hidden(canvas, None)[0, at]).float()  # [S, V]
            for tau, block in opened.items():
                parts = block.parts(canvas)
                found[tau]["reused"].append(bool(parts[0].kept))
                logits = model.head(block.hidden(canvas, parts)[0, at]).float()
                found[tau]["error"].append(float((logits - expected).norm() / expected.norm()))
                found[tau]["agree"] += (logits.argmax(-1) == expected.argmax(-1)).tolist()
    return [{"tau": "inf" if tau == float("inf") else tau, **_summary(**of)} for tau, of in found.items()]


def _summary(error: list[float], agree: list[bool], reused: list[bool]) -> dict:
    mean = {"reused": sum(reused) / len(reused), "agree": sum(agree) / len(agree)}
    return {"passes": len(error), **{k: round(v, 4) for k, v in mean.items()},
            "error_mean": sum(error) / len(error), "error_most": max(error)}  # fmt: skip


@torch.no_grad()
def measure(arguments: Namespace) -> dict:
    at_least(arguments, block_size=1, blocks=1, repeats=1)
    contexts = whole_numbers(arguments.contexts, "--contexts")
    size, seed, longest = arguments.block_size, arguments.seed, max(contexts)
    model = random_model("small" if arguments.small else "full", size, longest + 4 * size, seed)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    found = []
    for context in contexts:
        cache = read(model, context, seed)
        timed = {
            "attention": attention_seconds(model, context, size, arguments.repeats),
            "pass": pass_seconds(model, cache, size, arguments.repeats),
            "end_to_end": end_to_end(model, cache, size, arguments.blocks, seed),
        }
        found.append({
            "context": context,
            **{what: _compared(seconds) for what, seconds in timed.items()},
            "error": errors(model, cache, size, arguments.blocks, seed),
        })  # fmt: skip
    parameters = sum(p.numel() for p in model.parameters())
    settings = {"block_size": size, "blocks": arguments.blocks, "repeats": arguments.repeats, "seed": seed}
    return {"machine": machine(), "parameters": parameters, **settings, "contexts": found}


def _compared(seconds: dict[str, list[float]]) -> dict:
    """Of each way its settled seconds, and how many times faster than usual it is."""
    return {
        way: {"seconds": round(settled(values), 6), "speedup": spread(ratios(seconds["usual"], values))}
        for way, values in seconds.items()
    }


def lines(report: dict) -> str:
    """The report for a terminal."""
    told = [f"{report['parameters'] / 1e6:.0f} M parameters, blocks of {report['block_size']}"]
    for at in report["contexts"]:
        told.append(f"context {at['context']}")
        for what in ("attention", "pass", "end_to_end"):
            for way, of in at[what].items():
                told.append(f"  {what} {way}: {of['seconds'] * 1e3:.2f} ms, {ranged(of['speedup'])} times as fast")
        for of in at["error"]:
            told.append(
                f"  tau {of['tau']}: {of['reused']:.0%} of passes reuse, logits off by {of['error_mean']:.1e} "
                f"(at most {of['error_most']:.1e}), best token agrees {of['agree']:.1%}"
            )
    return "\n".join(told)


def main(argv: list[str] | None = None) -> int:
    parser = ArgumentParser(
        prog="python -m benchmarks.flashblock", description=__doc__, formatter_class=RawDescriptionHelpFormatter
    )
    parser.add_argument("--contexts", default="1024,4096,16384", help="tokens (default %(default)s)")
    parser.add_argument("--block-size", type=int, default=32, help="default %(default)s")
    parser.add_argument("--blocks", type=int, default=2, help="decoded by every arm (default %(default)s)")
    parser.add_argument("--repeats", type=int, default=20, help="of attention and of passes (default %(default)s)")
    parser.add_argument("--small", action="store_true", help="a model of 2 small layers, to try the command")
    parser.add_argument("--seed", type=int, default=1, help="default %(default)s")
    parser.add_argument("--output", default="runs/benchmarks/flashblock.json", help="default: %(default)s")
    arguments = parser.parse_args(argv)
    return command(arguments.output, lambda: measure(arguments), lines)


if __name__ == "__main__":
    raise SystemExit(main())
