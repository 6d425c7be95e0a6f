"""The slots of the decoding loop, filled from generation settings and checked against the checkpoint's traits."""

from collections.abc import Callable
from dataclasses import dataclass

from transformers import LogitsProcessorList, PreTrainedTokenizerFast, RepetitionPenaltyLogitsProcessor

from vlm.generation.blocks import Rule
from vlm.generation.commit import CommitPolicy
from vlm.generation.config import BlockGenerationConfig
from vlm.generation.constraint import Grammar, Matcher, tokenizer_for
from vlm.generation.drafts import Drafts
from vlm.generation.finish import Finish
from vlm.generation.held import HeldBlocks
from vlm.generation.kept import KeptRows
from vlm.generation.learn2pd import Learn2PD, check_filter
from vlm.generation.reedit import TokenEdit
from vlm.generation.rescore import Credit
from vlm.generation.reuse import FlashBlock
from vlm.generation.scoring import Sampler
from vlm.generation.sizes import DelimitedBlocks, TwoStages
from vlm.generation.slots import caching_of, other, rules_of, spans_of, verify_of
from vlm.generation.spans import FixedBlocks, SingleTokens
from vlm.generation.windows import DeferredWindow, Streaming

Spans = FixedBlocks | SingleTokens | Drafts | DeferredWindow | Streaming | DelimitedBlocks | TwoStages | HeldBlocks


@dataclass(frozen=True)
class Strategy:
    """How one request is decoded. Frozen: whatever changes on the way stands in the request's state.

    Attributes:
        spans: which slots exist.
        commit: which of them become tokens; unused where a pass decides a single slot or verifies.
        sampler: what a slot would become.
        finish: what ends an answer.
        suppress_tokens: never generated.
        max_new_tokens: longest answer.
        new_matcher: makes a request's matcher where the answer must keep to a grammar.
        processors: transformers logits processors, applied at every pass with the final tokens as ``input_ids``.
        rules: what scoring and finish strategies change about the choice of slots.
        credit: what earlier proposals add to the logits.
        caching: what a pass takes from earlier ones.
        edit: what of an open block's tokens may change.
    """

    spans: Spans
    commit: CommitPolicy
    sampler: Sampler
    finish: Finish
    suppress_tokens: tuple[int, ...]
    max_new_tokens: int
    new_matcher: Callable[[], Matcher] | None = None
    processors: LogitsProcessorList | None = None
    rules: tuple[Rule, ...] = ()
    credit: Credit | None = None
    caching: FlashBlock | KeptRows | None = None
    edit: TokenEdit | None = None

    @property
    def mode(self) -> str:
        return self.spans.mode


def build_strategy(
    model,
    config: BlockGenerationConfig,
    grammar: Grammar | None = None,
    tokenizer: PreTrainedTokenizerFast | None = None,
    processors: LogitsProcessorList | None = None,
) -> Strategy:
    """The loop's slots for these settings on this checkpoint.

    Args:
        grammar: what the answer must keep to.
        tokenizer: needed for ``stop_strings``, for a grammar, for spans that look for a text, and for a verifier.

    Raises:
        ValueError: for a setting outside its range, or one that the checkpoint's traits do not allow.
    """
    config.check()
    _check_traits(model.config.traits)
    ends = config.eos_token_id if config.eos_token_id is not None else []
    ends = frozenset([ends] if isinstance(ends, int) else ends)
    stops = config.stop_strings or ()
    stops = (stops,) if isinstance(stops, str) else tuple(stops)
    if not all(isinstance(stop, str) for stop in stops):
        raise ValueError(f"stop_strings {list(stops)} must be texts")
    if (stops or grammar) and tokenizer is None:
        raise ValueError("stop strings and grammars need a tokenizer")
    slots = config.slots or {}
    spans, commit = _spans(model, config, tokenizer), config.commit_policy()
    if isinstance(commit, Learn2PD) and commit.accept < 1:
        check_filter(commit.filter, model, spans.size)
    edit = other(slots, "token_edit")
    if edit is not None:
        edit.check(model.config.traits, spans, grammar)
    elif spans.holds:
        raise ValueError("multi_block holds finished blocks back to be edited, which token_edit does: give both")
    return Strategy(
        spans=spans,
        commit=commit,
        sampler=Sampler(config.temperature or 0.0, config.top_k or 0, config.top_p or 1.0),
        finish=Finish(ends, stops, tokenizer.decode if stops else None, other(slots, "repetition")),
        suppress_tokens=tuple(sorted({model.config.traits.mask_token_id, *(config.suppress_tokens or [])})),
        max_new_tokens=config.max_new_tokens,
        new_matcher=None if grammar is None else _matchers(model, grammar, tokenizer, ends),
        processors=_processors(config, processors),
        rules=rules_of(slots),
        credit=other(slots, "credit"),
        caching=caching_of(slots, model, commit),
        edit=edit,
    )


def _processors(config: BlockGenerationConfig, given: LogitsProcessorList | None) -> LogitsProcessorList | None:
    """The caller's processors behind the repetition penalty, if there is one."""
    if config.repetition_penalty in (None, 1.0):
        return given
    return LogitsProcessorList([RepetitionPenaltyLogitsProcessor(config.repetition_penalty), *(given or [])])


def _matchers(model, grammar: Grammar, tokenizer: PreTrainedTokenizerFast, ends: frozenset[int]) -> Callable:
    vocab_size = model.get_output_embeddings().weight.shape[0]
    return lambda: Matcher(grammar, tokenizer_for(tokenizer), vocab_size, ends)


def _spans(model, config: BlockGenerationConfig, tokenizer) -> Spans:
    traits = model.config.traits
    if config.mode == "ar":
        return SingleTokens.for_checkpoint(traits)
    if config.mode == "speculative":
        return Drafts.for_checkpoint(traits, config.block_size, *verify_of(config.slots or {}, model, tokenizer))
    return spans_of(config.slots or {}, traits, config.block_size, tokenizer)


def _check_traits(traits) -> None:
    if traits.context_attention == "full" and traits.prediction_shift != 0:
        raise ValueError("context_attention 'full' with prediction_shift 1 is not supported by this decoder")
    if traits.noise == "uniform":
        raise ValueError("noise 'uniform': decoding begins with masks, which such a checkpoint has never seen")
