"""The scoring, finish, spans, caching and verify slots, filled by name: ``{"dcd": {"window": 4}, "eoser": {}}``.

The setting ``slots`` of a generation config names strategies and their fields. `commit` has a table of its own, as the
setting ``policy``. Which slot a name fills stands here.
"""

from collections.abc import Callable
from functools import lru_cache, partial

from vlm.generation.blocks import Rule
from vlm.generation.diffuspec import AdaptiveLength, PathSearch
from vlm.generation.dkv import DelayedKV, GreedyKV, PromptAndDelayedKV
from vlm.generation.early import EndLast, EoTP, Prophet, Stable
from vlm.generation.fast_dllm import DualKV, PrefixKV, SubBlocks
from vlm.generation.finish import Repetition
from vlm.generation.held import HeldBlocks
from vlm.generation.phase import PhaseKV
from vlm.generation.reedit import TokenEdit
from vlm.generation.rescore import EOSER, Credit, Entropy, EosGate, Gap, Margin
from vlm.generation.reuse import FlashBlock
from vlm.generation.sizes import DelimitedBlocks, TwoStages
from vlm.generation.spans import FixedBlocks
from vlm.generation.verifier import Verifier
from vlm.generation.windows import DeferredWindow, Streaming

RANKS = {"margin": Margin, "gap": Gap, "entropy": Entropy}
ENDS = {"eoser": EOSER, "eos_gate": EosGate, "eotp": EoTP, "end_last": EndLast}
RULES = {**RANKS, **ENDS, "prophet": Prophet, "stable": Stable}
OTHERS = {"credit": Credit, "repetition": Repetition, "token_edit": TokenEdit}
SPANS = {
    "dcd": DeferredWindow,
    "adablock": DelimitedBlocks,
    "tccf": TwoStages,
    "streaming": Streaming,
    "multi_block": HeldBlocks,
}
KEPT = (PrefixKV, DualKV, SubBlocks, DelayedKV, PromptAndDelayedKV, GreedyKV, PhaseKV)
CACHING = {"flashblock": FlashBlock, **{kind.name: kind for kind in KEPT}}
VERIFY = {"cps": PathSearch, "adl": AdaptiveLength, "verifier": Verifier}
NEED_TOKENS = ("adablock", "tccf")
SLOT_OF = {
    **dict.fromkeys((*RANKS, "eoser", "eos_gate", "credit"), "scoring"),
    **dict.fromkeys(("eotp", "end_last", "prophet", "stable", "repetition"), "finish"),
    **dict.fromkeys(SPANS, "spans"),
    **dict.fromkeys(CACHING, "caching"),
    **dict.fromkeys((*VERIFY, "token_edit"), "verify"),
}


def check_slots(slots: dict[str, dict], mode: str) -> None:
    """ValueError for names that there are not, or that do not go together; names both sides."""
    if not isinstance(slots, dict) or not all(isinstance(fields, dict) for fields in slots.values()):
        raise ValueError(f"slots {slots!r} must be strategies by name, each with its fields by name")
    for name in slots:
        if name not in SLOT_OF:
            raise ValueError(f"slots: {name!r} is not one of {', '.join(SLOT_OF)}")
        if not goes_with(name, mode) and name in VERIFY:
            raise ValueError(f"{name!r} works on drafts that are verified, which mode {mode!r} does not make")
        if not goes_with(name, mode):
            raise ValueError(f"{name!r} works on open blocks, which mode {mode!r} does not denoise")
    for kind, what in ((SPANS, "the spans"), (RANKS, "the rank"), (CACHING, "the caching")):
        both = [name for name in slots if name in kind]
        if len(both) > 1:
            raise ValueError(f"{both[0]!r} and {both[1]!r} both decide {what}: give one of them")
    if "eoser" in slots and "entropy" in slots:
        raise ValueError("'eoser' multiplies ranks of at least 0, but 'entropy' ranks by negative entropy")


def goes_with(name: str, mode: str) -> bool:
    """Whether a strategy has anything to do in that mode: on open blocks, on drafts, or on whatever answer."""
    return name == "repetition" or mode == ("speculative" if name in VERIFY else "block")


def rules_of(slots: dict[str, dict]) -> tuple[Rule, ...]:
    """The rules among ``slots``: ranks first, then what changes them."""
    return tuple(build(name, make, slots[name]) for name, make in RULES.items() if name in slots)


def other(slots: dict[str, dict], name: str) -> Credit | Repetition | TokenEdit | None:
    return build(name, OTHERS[name], slots[name]) if name in slots else None


def spans_of(slots: dict[str, dict], traits, size: int | None, tokenizer):
    """The spans that ``slots`` name, or fixed blocks, on a checkpoint with these traits."""
    for name, kind in SPANS.items():
        if name in slots:
            tokens = (tokens_of(tokenizer),) if name in NEED_TOKENS else ()
            return build(name, partial(kind.for_checkpoint, traits, size, *tokens), slots[name])
    return FixedBlocks.for_checkpoint(traits, size)


def verify_of(
    slots: dict[str, dict], model, tokenizer
) -> tuple[PathSearch | None, AdaptiveLength | None, Verifier | None]:
    """How ``slots`` have drafts chosen, how long they have them and who reads them; None for what is not there."""
    own = {"verifier": partial(Verifier.for_checkpoint, model, tokenizer)}
    made = (build(name, own.get(name, kind), slots[name]) if name in slots else None for name, kind in VERIFY.items())
    return tuple(made)


def caching_of(slots: dict[str, dict], model, commit):
    """What ``slots`` have passes take from earlier ones on this model, under this commit policy; None for nothing."""
    for name, kind in CACHING.items():
        if name in slots:
            return build(name, partial(kind.for_checkpoint, model, commit), slots[name])
    return None


def build(name: str, make: Callable, fields: dict):
    """A strategy from its fields; ValueError, naming it, for fields it cannot have."""
    try:
        return make(**fields)
    except TypeError as error:
        raise ValueError(f"{name!r} cannot be built from {fields}: {error}") from None


def tokens_of(tokenizer) -> Callable[[str], list[int]] | None:
    """What gives the tokens that are a text, spaces around it aside; None without a tokenizer."""
    return None if tokenizer is None else lambda text: _by_text(tokenizer).get(text, [])


@lru_cache(maxsize=4)
def _by_text(tokenizer) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for token in range(len(tokenizer)):
        found.setdefault(tokenizer.decode([token]).strip(" "), []).append(token)
    return found
