"""A second model that reads drafts, as in DiffuSpec (arXiv 2510.02358): an autoregressive one of the same vocabulary.

Answers are then the verifier's own, token for token when greedy: the drafter decides no more than the pace. So the
verifier must know the same tokens by the same ids; what either never generates (masks, placeholders of pictures,
padding) may differ. Everything it reads goes into an exact KV cache of its own, one for every request; the drafts of
a batch are read one request after the other, and every reading is a pass that its request pays for.

It reads the prompt as the drafter's chat template wrote it. Pictures it can only see if its vision encoder, its
placeholders and its frames are the drafter's, as with two checkpoints of one recipe; other requests with pictures are
refused.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from time import perf_counter

import torch
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from vlm.attention import Rows
from vlm.cache import BlockCache
from vlm.generation.decide import decide
from vlm.generation.feed import reading
from vlm.generation.request import Request, State


@dataclass(frozen=True, eq=False)
class Verifier:
    """A model that says how far a draft is kept, and which token follows.

    Attributes:
        model: a `vlm.VLMForBlockDiffusion` with causal context and an AR mode.
        rows: of the drafter's vocabulary, V: what is read has as many logits.
        sees: the drafter's pictures.
        name: of its checkpoint, for messages.
    """

    model: torch.nn.Module
    rows: int
    sees: bool
    name: str

    @classmethod
    def for_checkpoint(cls, drafter, tokenizer, model: str) -> "Verifier":
        """The verifier of a directory or hub id: a checkpoint of ours, or a stock causal language model.

        Raises:
            ValueError: it cannot be loaded, has no AR mode, or another vocabulary; names what is needed and is there.
        """
        if tokenizer is None:
            raise ValueError("a verifier needs the tokenizer, to compare vocabularies")
        source = str(Path(model).resolve()) if Path(model).is_dir() else model
        return fitted(drafter, tokenizer, *opened(source, drafter.dtype, str(drafter.device)), model)

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits [S, V] of hidden states [S, D] over the drafter's tokens; the lowest of what it never says itself."""
        logits = self.model.head(hidden)[..., : self.rows]
        lowest, missing = torch.finfo(logits.dtype).min, self.rows - logits.shape[-1]
        never = [token for token in self.model.generation_config.suppress_tokens or [] if token < self.rows]
        logits = torch.nn.functional.pad(logits, (0, missing), value=lowest)  # finite: only a grammar forbids
        return logits.index_fill(-1, torch.tensor(never, dtype=torch.long, device=logits.device), lowest)

    @property
    def limit(self) -> int:
        """Positions that it has."""
        return self.model.config.text_config.max_position_embeddings

    def check(self, request: Request, offset: int) -> None:
        """Raises ValueError for a request that it cannot read; names both sides."""
        if offset:
            raise ValueError(f"a cache cannot be continued with verifier {self.name}: it has not read what that holds")
        if request.has_media and not self.sees:
            raise ValueError(
                f"the request has pictures, but verifier {self.name} does not see them as the model does: that needs "
                "the same vision encoder and placeholders"
            )
        most = self.model.get_input_embeddings().weight.shape[0]
        if int(request.input_ids.max()) >= most:
            raise ValueError(f"the prompt has token {int(request.input_ids.max())}; verifier {self.name} has {most}")

    @torch.no_grad()
    def read(self, state: State) -> None:
        """Keep a request's draft as far as this model agrees, and its own token behind that: one pass."""
        started, first = perf_counter(), state.verified is None
        state.verified = state.verified or BlockCache(self.model.config.text_config, 1, device=self.model.device)
        most = self.model.get_input_embeddings().weight.shape[0]
        state.draft = state.draft[: next((i for i, token in enumerate(state.draft) if token >= most), None)]
        known = int(state.verified.lengths[0])
        feed = reading(state.tokens[known:], state.draft)
        hidden = self.model.decode(self._embeds(state, feed.ids, known), self._rows(feed.ids, known), state.verified)
        counts = decide(self.head, self.rows, self.model.config.traits, [state], [feed], hidden)
        state.verified.commit(torch.tensor(counts, device=self.model.device))
        state.forwards += 1
        elapsed = perf_counter() - started
        if first:  # it has read the prompt
            state.prefill_s += elapsed
        else:
            state.decode_s += elapsed
        if state.finish_reason is not None:
            state.verified = None

    def _embeds(self, state: State, ids: list[int], known: int) -> torch.Tensor:
        """Embeddings [1, L, D] of the tokens fed; the prompt's pictures stand in the first pass."""
        request, fed = state.request, torch.tensor([ids], device=self.model.device)
        if known or not request.has_media:
            return self.model.get_input_embeddings()(fed)
        return self.model.embed(fed, request.pixel_values, request.pixel_values_videos)

    def _rows(self, ids: list[int], known: int) -> Rows:
        """Clean rows [1, L] behind ``known`` ones; no rule of causal context reads their blocks."""
        position = torch.arange(known, known + len(ids), device=self.model.device)[None]
        zeros = torch.zeros_like(position)
        return Rows(position, zeros, zeros, zeros, zeros)


def reads_apart(state: State) -> bool:
    """Whether the coming pass of a request is its verifier's."""
    return state.draft is not None and state.strategy.spans.verifier is not None


def fitted(drafter, tokenizer, model, own_tokenizer, name: str) -> Verifier:
    """A verifier of this model and tokenizer; ValueError, naming both sides, where it cannot read the drafter's."""
    traits, config = model.config.traits, model.config
    if config.composite_config is not None or traits.context_attention != "causal" or not traits.ar_mode:
        has = f"context_attention={traits.context_attention!r}, ar_mode={traits.ar_mode}"
        has += ", and a decoder that sees pictures itself" * (config.composite_config is not None)
        raise ValueError(f"a verifier needs causal context, a trained AR mode and a text decoder; {name} has {has}")
    (mine, never), (its, nor) = _vocabulary(drafter, tokenizer), _vocabulary(model, own_tokenizer)
    differing = (t for t in (mine.keys() | its.keys()) - never - nor if mine.get(t) != its.get(t))
    other = min(differing, default=None)
    if other is not None:
        raise ValueError(
            f"a verifier needs the model's vocabulary: the model has {len(mine)} tokens, verifier {name} {len(its)}, "
            f"and {other!r} is {mine.get(other)} in the one and {its.get(other)} in the other"
        )
    seen = ("vision_config", "image_token_id", "video_token_id", "frame_pool")
    sees = bool(config.vision_config) and all(getattr(config, n) == getattr(drafter.config, n) for n in seen)
    return Verifier(model, drafter.get_output_embeddings().weight.shape[0], sees, name)


def _vocabulary(model, tokenizer) -> tuple[dict[str, int], set[str]]:
    """The id of every token, and the tokens that a model never generates."""
    vocabulary = tokenizer.get_vocab()
    never = {model.config.traits.mask_token_id, *(model.generation_config.suppress_tokens or [])}
    return vocabulary, {token for token, id in vocabulary.items() if id in never}


@lru_cache(maxsize=1)
def opened(source: str, dtype: torch.dtype, device: str) -> tuple:
    """The model of a directory or hub id, and its tokenizer; a stock language model becomes one of ours in memory."""
    # Imported here: whatever loads a checkpoint knows how to decode, and decoding loads one in this place only.
    from vlm.checkpoints.convert import converted
    from vlm.checkpoints.files import local_directory, read_config
    from vlm.checkpoints.load import load

    directory = local_directory(source)
    if read_config(directory)["model_type"] in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        model, processor = converted(directory)
        model = model.to(device=device, dtype=dtype).eval()
    else:
        model, processor = load(directory, dtype=dtype, device=device)
    return model, processor.tokenizer
