"""The special tokens of a converted model: which is the mask, which stand for pictures, and where their rows are.

A token that the tokenizer already names is taken. Otherwise one that was set aside for such a use, then a row of the
embedding table that no token has: such rows keep the weights they came with, so that every logit of the original
stays. Only then does the table grow, by rows that are the mean of the others.
"""

import re
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from vlm.checkpoints.chat_format import template, turns_of

NAMES = {
    "mask": ("<|mask|>", "<|MASK|>", "|<MASK>|", "<mask>", "<MASK>", "[MASK]", "<|mdm_mask|>"),
    "image": ("<|image_pad|>", "<|image|>", "<image>", "<image_soft_token>"),
    "video": ("<|video_pad|>", "<|video|>", "<video>"),
}
_SET_ASIDE = re.compile(r"reserved|unused|dummy|extra_id", re.IGNORECASE)


@dataclass(frozen=True)
class Special:
    """A special token: text, id, and how it was come by: ``named``, ``set aside``, ``spare row`` or ``new row``."""

    token: str
    id: int
    how: str


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer with its special tokens registered, its chat template, and the tokens that end an answer."""

    tokenizer: PreTrainedTokenizerFast
    mask: Special
    image: Special
    video: Special
    ends: list[int]
    turns: str

    @property
    def rows(self) -> int:
        """Rows that the embedding table needs at least."""
        return 1 + max(max(self.tokenizer.get_vocab().values()), self.mask.id, self.image.id, self.video.id)

    def told(self) -> dict:
        """What was chosen, for the config."""
        found = {role: getattr(self, role) for role in NAMES}
        return {**{role: f"{s.token} ({s.id}, {s.how})" for role, s in found.items()}, "turns": self.turns}


def vocabulary(
    tokenizer: PreTrainedTokenizerFast, rows: int, ends: list[int], mask_id: int | None = None
) -> Vocabulary:
    """Choose mask, image and video tokens, and write a chat template for the turns the tokenizer knows.

    Args:
        rows: of the embedding table.
        ends: tokens that end an answer, as the checkpoint says; the end of a turn joins them.
        mask_id: the token that the checkpoint was trained to take for the mask; None chooses one.

    Raises:
        ValueError: the checkpoint's mask is not among the tokenizer's tokens or the table's rows, or nothing could
            end an answer.
    """
    vocab = dict(tokenizer.get_vocab())
    if mask_id is None:
        mask = choose("mask", vocab, rows, tokenizer)
    else:
        texts = [text for text, id in vocab.items() if id == mask_id]
        if not texts or mask_id >= rows:
            raise ValueError(f"the mask token {mask_id} is not in the tokenizer of {len(vocab)} tokens, {rows} rows")
        mask = Special(texts[0], mask_id, "named")
    image = choose("image", vocab, rows, tokenizer, (mask,))
    video = choose("video", vocab, rows, tokenizer, (mask, image))
    name, turns = turns_of(tokenizer)
    first = tokenizer.bos_token
    chat_template = template(turns, first, image.token, video.token)
    fresh = plain_tokenizer(tokenizer, {"mask": mask, "image": image, "video": video}, chat_template)
    end = fresh.convert_tokens_to_ids(turns.end)
    return Vocabulary(fresh, mask, image, video, sorted({*(e for e in ends if e < rows), end}), name)


def choose(role: str, vocab: dict[str, int], rows: int, tokenizer, taken: tuple[Special, ...] = ()) -> Special:
    """A token for ``role``, entered into ``vocab``."""
    used = {special.token for special in taken}
    own = (tokenizer.mask_token,) if role == "mask" and tokenizer.mask_token else ()
    for text in (*own, *NAMES[role]):
        if text in vocab and text not in used:
            return Special(text, vocab[text], "named")
    added = tokenizer.added_tokens_decoder
    for id in sorted(added):
        if _SET_ASIDE.search(added[id].content) and added[id].content not in used and id < rows:
            return Special(added[id].content, id, "set aside")
    text, id = NAMES[role][0], max(vocab.values()) + 1
    vocab[text] = id
    return Special(text, id, "spare row" if id < rows else "new row")


def registered(tokenizer: PreTrainedTokenizerFast, mask_id: int, rows: int) -> Special:
    """The mask of a checkpoint that was trained with a certain row of its table, whether a token has it or not.

    Where none has, ``tokenizer`` is given tokens up to there: ids are handed out in order.

    Raises:
        ValueError: the table has no such row.
    """
    vocab = tokenizer.get_vocab()
    texts = [text for text, id in vocab.items() if id == mask_id]
    if mask_id >= rows:
        raise ValueError(f"the mask token {mask_id} is not among the embedding table's {rows} rows")
    if texts:
        return Special(texts[0], mask_id, "named")
    between = range(max(vocab.values()) + 1, mask_id)
    tokenizer.backend_tokenizer.add_special_tokens([f"<|no_token_{id}|>" for id in between])
    return Special(NAMES["mask"][0], mask_id, "spare row")


def plain_tokenizer(old, ours: dict[str, Special], chat_template: str | None) -> PreTrainedTokenizerFast:
    """The same tokenizer under the plain class, which needs no file but its own to come back, with our tokens.

    Args:
        ours: by role; there is always a ``mask``.

    Raises:
        ValueError: a token does not get the id that was chosen for it.
    """
    backend = old.backend_tokenizer
    known = set(old.get_vocab())
    new = [s for s in sorted(ours.values(), key=lambda s: s.id) if s.token not in known]
    backend.add_special_tokens([s.token for s in new])  # in the order of their ids
    named = {f"{role}_token": getattr(old, f"{role}_token") for role in ("bos", "eos", "unk")}
    fresh = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        chat_template=chat_template,
        mask_token=ours["mask"].token,
        pad_token=old.pad_token or old.eos_token or ours["mask"].token,
        extra_special_tokens={f"{role}_token": s.token for role, s in ours.items() if role != "mask"},
        clean_up_tokenization_spaces=False,
        model_max_length=old.model_max_length,
        **{name: token for name, token in named.items() if token is not None},
    )
    for special in ours.values():
        if fresh.convert_tokens_to_ids(special.token) != special.id:
            raise ValueError(f"the tokenizer has holes: token {special.token!r} cannot be given the id {special.id}")
    return fresh


@torch.no_grad()
def grow(language_model: PreTrainedModel, rows: int) -> None:
    """Give the embedding table, and the head, at least ``rows`` rows; the new ones are the mean of the old."""
    old = language_model.get_input_embeddings().weight.shape[0]
    if rows <= old:
        return
    language_model.resize_token_embeddings(rows, mean_resizing=False)
    for layer in (language_model.get_input_embeddings(), language_model.get_output_embeddings()):
        for table in (layer.weight, getattr(layer, "bias", None)):
            if table is not None:
                table[old:] = table[:old].float().mean(0).to(table.dtype)
