"""Fit a Learn2PD filter to a model's own decoding of the playground (arXiv 2509.25188).

    python -m vlm.training.fit_filter filter.safetensors --items 200
    python infer.py --decoder learn2pd --policy-arg filter=filter.safetensors --image a.png --prompt "Describe it."

Every question is answered twice: one slot a pass, which says what the answer is to be, and then committing in every
pass just the slots whose proposal is that answer's token. Each such pass is an example: the confidences of a block's
slots, and which proposals were right. Where none is, the trace of that answer ends (the paper forces the block). The
net is trained with binary cross-entropy on open slots; the loss and the precision of what it accepts are told for a
tenth of the questions that it never saw.

The filter belongs to the model, its block size and greedy decoding; the file says to which.
"""

import argparse
import sys
import warnings
from dataclasses import dataclass, field, replace

import torch
from torch.nn.functional import binary_cross_entropy

from data_pipelines.playground import EVALUATED, item
from data_pipelines.playground.conversation import chat
from vlm.answering import build_request, settings
from vlm.checkpoints.load import load
from vlm.generation.generate import answer
from vlm.generation.learn2pd import accepted, features, write_filter
from vlm.generation.ranking import rank, usable
from vlm.generation.scoring import Scores
from vlm.generation.strategy import build_strategy

HIDDEN = 32
RATE = 3e-3  # the paper's


@dataclass(eq=False)
class Oracle:
    """A commit policy that knows one answer, and notes what it sees.

    Attributes:
        answer: its tokens.
        size: of the blocks.
        seen, right, known: of every pass, [B]: the filter's input, which proposals are the answer's token, and which
            slots are open and of the answer.
    """

    answer: list[int]
    size: int
    seen: list[torch.Tensor] = field(default_factory=list)
    right: list[torch.Tensor] = field(default_factory=list)
    known: list[torch.Tensor] = field(default_factory=list)
    block: int = -1
    lost: bool = False

    def select(self, scores: Scores, is_open, step, size, committed=None) -> torch.Tensor:
        self.block += int(step[0] == 0)
        start = self.block * self.size
        wanted = self.answer[start : start + self.size]
        target = torch.tensor(wanted + [-1] * (is_open.shape[1] - len(wanted)), device=is_open.device)
        right, known = is_open & (scores.token == target), is_open & (target >= 0)
        if not self.lost:
            for notes, value in zip((self.seen, self.right, self.known), (None, right, known)):
                value = features(scores.probability, is_open, committed) if value is None else value
                notes.append(value[0, : self.size].cpu())
        self.lost |= not right.any()
        best = is_open & (rank(usable(scores.rank, is_open)) == 0)
        return right if right.any() else best


def traces(model, processor, families: list[str], items: int, config, seed: int) -> list[list[torch.Tensor]]:
    """(seen, right, known) [passes, B] of every question that left an example, question by question."""
    found = []
    for number in range(items):
        made = item(families[number % len(families)], "train", seed, number)
        messages, media = chat(made)
        request = build_request(processor, messages[:1], media)
        request.input_ids = request.input_ids.to(model.device)
        strategy = build_strategy(model, config, tokenizer=processor.tokenizer)
        oracle = Oracle(answer(model, [request], config)[0].generated, strategy.spans.size)
        answer(model, [replace(request, strategy=replace(strategy, commit=oracle))], config)
        if oracle.seen:
            found.append([torch.stack(notes) for notes in (oracle.seen, oracle.right, oracle.known)])
    return found


def fit(examples: list[torch.Tensor], steps: int, seed: int) -> dict[str, torch.Tensor]:
    """A filter's weights from (seen, right, known) [N, B]."""
    seen, right, known = examples
    generator, width = torch.Generator().manual_seed(seed), seen.shape[1]
    shapes = {
        "up.weight": (HIDDEN, width),
        "up.bias": (HIDDEN,),
        "down.weight": (width, HIDDEN),
        "down.bias": (width,),
    }
    weights = {
        name: (torch.randn(shape, generator=generator) / shape[-1] ** 0.5 if len(shape) == 2 else torch.zeros(shape))
        for name, shape in shapes.items()
    }
    for weight in weights.values():
        weight.requires_grad_()
    optimiser = torch.optim.AdamW(weights.values(), lr=RATE)
    for _ in range(steps):
        optimiser.zero_grad()
        _loss(weights, seen, right, known).backward()
        optimiser.step()
    return {name: weight.detach() for name, weight in weights.items()}


def _loss(weights, seen: torch.Tensor, right: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    return binary_cross_entropy(accepted(weights, seen)[known], right[known].float())


def report(weights: dict[str, torch.Tensor], examples: list[torch.Tensor], accept: float = 0.9) -> dict[str, float]:
    """On open slots: the loss, how many of the accepted proposals are right, how many of the right ones it accepts."""
    seen, right, known = examples
    takes, right_known = accepted(weights, seen)[known] > accept, right[known]
    hits = (takes & right_known).sum().item()
    return {
        "loss": _loss(weights, seen, right, known).item(),
        "precision": hits / max(1, takes.sum().item()),
        "recall": hits / max(1, right_known.sum().item()),
    }


def main(argv: list[str] | None = None) -> int:
    arguments = parse(argv)
    try:
        _run(arguments)
        return 0
    except (ValueError, OSError) as error:
        print("error:", " ".join(str(error).splitlines()), file=sys.stderr)
        return 2


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m vlm.training.fit_filter", description=__doc__.splitlines()[0])
    parser.add_argument("output", help="the filter's file, .safetensors")
    parser.add_argument("--model", help="a checkpoint (default: the embedded model)")
    parser.add_argument("--families", default="describe,json", help="of questions (default: those with long answers)")
    parser.add_argument("--items", type=int, default=200, help="questions (default 200)")
    parser.add_argument("--block-size", type=int, help="a trained one (default: the checkpoint's)")
    parser.add_argument("--max-new-tokens", type=int, default=128, help="longest answer (default 128)")
    parser.add_argument("--steps", type=int, default=2000, help="of the optimiser (default 2000)")
    parser.add_argument("--seed", type=int, default=0, help="of questions and weights (default 0)")
    return parser.parse_args(argv)


def _run(arguments: argparse.Namespace) -> None:
    families = arguments.families.split(",")
    if unknown := [name for name in families if name not in EVALUATED]:
        raise ValueError(f"unknown family {unknown[0]!r}; there are {', '.join(EVALUATED)}")
    for name, least in (("items", 2), ("steps", 1), ("seed", 0)):
        if getattr(arguments, name) < least:
            raise ValueError(f"--{name} {getattr(arguments, name)} must be at least {least}")
    model, processor = load(arguments.model)
    if model.config.traits.block_origin != "response":
        raise ValueError("a filter is fitted on blocks that start with the answer; this checkpoint's start elsewhere")
    given = {"block_size": arguments.block_size, "max_new_tokens": arguments.max_new_tokens}
    config = settings(model, tokenizer=processor.tokenizer, decoder="sdar-static", **given)
    found = traces(model, processor, families, arguments.items, config, arguments.seed)
    if len(found) < 2:
        raise ValueError(f"{len(found)} of {arguments.items} answers left a trace: at least 2 are needed")
    held = max(1, len(found) // 10)
    learnt, tested = ([torch.cat(part) for part in zip(*some)] for some in (found[held:], found[:held]))
    weights = fit(learnt, arguments.steps, arguments.seed)
    write_filter(arguments.output, weights, model, config.block_size or model.config.traits.block_size)
    told = report(weights, tested)
    print(f"{arguments.output}: from {len(learnt[0])} passes; on {len(tested[0])} others " + _text(told))


def _text(told: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in told.items())


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    sys.exit(main())
