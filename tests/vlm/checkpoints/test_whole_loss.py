"""Training losses of other projects' models on fixed noise, restated from each project's description, against ours.

Both sides are handed one draw: a noise level of every block, or of the sample, and which tokens it hides. The
restatement runs the transformers class on the doubled sequence [x_t ; x_0] under a mask that is written out, and takes
the loss as published: which tokens count, shift, weights, normaliser. Ours is the loss of the recipe that ships for
the family, over the model that `load` makes. Two samples of unequal answers make an update: normalisers then differ.

Where the published code is not what its paper says, or cannot be had by a setting of a recipe, a test names it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.vlm.checkpoints.composites import chat, shown
from tests.vlm.checkpoints.sources import bare_tokenizer, language_model, llada, save, sdar
from tests.vlm.checkpoints.test_whole import of_four
from tests.vlm.checkpoints.test_whole_training import doubled, doubled_sight
from tests.vlm.checkpoints.wholes import BLOCK
from vlm.checkpoints.convert import Choices, converted
from vlm.training import collate as collating
from vlm.training.collate import IGNORED, collate, noise_sample, noise_tokens
from vlm.training.data import Prepared, lay_out
from vlm.training.losses import losses
from vlm.training.recipe import Recipe, read_recipe
from vlm.training.sections import NoiseRecipe, ObjectiveRecipe

ANSWERS = ("It is red, and there are 4 circles.", "It is red.")
CONFIGS = Path(__file__).parents[3] / "configs"
WHOLE = ("fast_dvlm", "diffusionvl_qwenvl", "sdar_v", "bard_vl")


@dataclass
class Noised:
    """One noised copy of a sample, told by position in its clean stream.

    Attributes:
        tokens: what stands where noise may reach, end tokens that complete the last block included.
        labels: positions that the published loss supervises.
        level: noise level of a position.
        hidden: positions that hold the mask.
        losses: cross-entropy of the published prediction of every position in ``hidden``.
        following: the same of the clean copy's next-token predictions of the labels in the stream.
    """

    tokens: dict[int, int]
    labels: set[int]
    level: dict[int, float]
    hidden: set[int]
    losses: dict[int, float]
    following: dict[int, float]


def recipe_of(config: str | None, **objective) -> Recipe:
    """A recipe that ships; without one, the published choices of BARD-VL and of dllm's trainer."""
    if config is None:
        return Recipe(noise=NoiseRecipe(), objective=ObjectiveRecipe(**{"ar_weight": 0.0, **objective}))
    changes = [f"--objective.{name}={value}" for name, value in objective.items()]
    return read_recipe(["--config", str(CONFIGS / f"{config}.yaml"), *changes])


def of_text(kind: str, path: Path):
    """A text family's stock model, and ours in blocks of four."""
    if kind == "sdar":
        stock = sdar(path)
    elif kind == "llada":
        stock = llada(path)
    else:
        tokenizer = bare_tokenizer("<|im_start|>", "<|im_end|>", "<|mask|>")
        tokenizer.mask_token = "<|mask|>"
        stock = language_model("qwen3", 320)
        save(stock, tokenizer, path, model_type=kind)
    return stock, *converted(str(path), Choices(block_size=BLOCK))


def update_of(kind: str, model, processor, recipe: Recipe) -> list[Prepared]:
    """Two samples; labels go on behind the turn's end to the end of a block where the project's do."""
    kinds = ("image",) if kind in WHOLE else ()
    end = processor.tokenizer.eos_token_id
    samples = []
    for answer in ANSWERS:
        encoded = processor.encode([*chat(*kinds), {"role": "assistant", "content": answer}], shown(*kinds))
        if model.config.traits.block_origin == "sequence":
            encoded.is_answer[int(encoded.is_answer.argmax()) :] = True
        samples.append(lay_out(encoded, BLOCK, recipe.data, model.config.traits, end))
    return samples


def fixed_noise(monkeypatch, level: str) -> list[tuple]:
    """Ours draws this: levels [n_blocks] and hidden rows [R], remembered in the order of the samples."""
    drawn, rng = [], np.random.default_rng(5)

    def draw(noise, own, shared, block, maskable, progress):
        t = rng.uniform(0.1, 0.9, int(block.max()) + 1)
        t = np.repeat(t[:1], len(t)) if level != "block" else t
        drawn.append((t[block], maskable & (rng.random(len(block)) < t[block])))
        return t, drawn[-1][1]

    monkeypatch.setattr(collating, "_draw", draw)
    return drawn


def ours(model, processor, samples: list[Prepared], recipe: Recipe) -> float:
    """The loss of an update as the trainer takes it, with weights that are not rounded to float32."""
    traits, objective = model.config.traits, recipe.objective
    tokens = noise_tokens(processor.tokenizer, traits, recipe.noise)
    noised = [noise_sample(s, tokens, recipe.noise, objective, seed=0, step=0, progress=0.0) for s in samples]
    batch = collate(samples, noised, 0)
    for row, one in zip(exact := batch["weights"].double(), noised):
        row[: len(one.weights)] = torch.from_numpy(one.weights)
    assert (exact - batch["weights"]).abs().max() <= 1e-6 * exact.max()
    following = sum((one.next_targets != IGNORED).sum() for one in noised)
    totals = {"diffusion": sum(one.normaliser for one in noised), "next": float(following)}
    with torch.no_grad():
        diffusion, ar = losses(model, {**batch, "weights": exact}, traits.prediction_shift, totals)
    return float(diffusion + objective.ar_weight * ar)


def terms(kind: str, stock, mask: int, sample: Prepared, noise: tuple, hidden: set[int] | None = None, sight=None):
    """What a published loss is made of, of one sample under one draw.

    Args:
        noise: levels and hidden rows [R] of the sample's first view.
        hidden: positions hidden in place of those of ``noise``.
        sight: who sees whom, in place of the description's.
    """
    rows = np.flatnonzero(sample.layout.noise_view == 1)
    places = sample.layout.position[rows].tolist()
    tokens = dict(zip(places, sample.layout.ids[rows].tolist()))
    start = int(sample.encoded.is_answer.argmax())
    stop = int(np.flatnonzero(sample.encoded.is_answer)[-1])
    hidden = {p for p, hides in zip(places, noise[1].tolist()) if hides} if hidden is None else hidden
    written = {p: mask if p in hidden else token for p, token in tokens.items()}
    clean, media = torch.from_numpy(sample.encoded.input_ids), sample.encoded.media
    if kind in WHOLE:
        logits = doubled(kind, stock, clean, media.inputs, written, start, sight or doubled_sight)
    else:
        logits = of_stream(kind, stock, clean, written, stop)
    length, shift = max(places) + 1, int(kind == "fast_dvlm")
    nats = -logits.log_softmax(-1)
    following = {}
    if kind == "fast_dvlm":
        following = {p: float(nats[length + p - 1, clean[p]]) for p in range(start, stop + 1)}
    predicted = {p: float(nats[p - shift, tokens[p]]) for p in hidden}
    labels = {p for p in places if p >= start}
    return Noised(tokens, labels, dict(zip(places, noise[0].tolist())), hidden, predicted, following)


@torch.no_grad()
def of_stream(kind: str, stock, clean: torch.Tensor, written: dict[int, int], stop: int) -> torch.Tensor:
    """Logits of a language model: of the doubled sequence, under full attention of one that is noised in place."""
    length = max(written) + 1
    noisy = torch.tensor([[written.get(p, int(clean[min(p, len(clean) - 1)])) for p in range(length)]])
    if kind == "llada":
        return stock(input_ids=noisy, attention_mask=torch.ones(1, 1, length, length, dtype=torch.bool)).logits[0]
    rest = [written[p] for p in range(len(clean), length)]  # seen by no earlier block
    both = torch.cat([noisy, torch.cat([clean[:length], torch.tensor(rest, dtype=torch.long)])[None]], 1)
    allowed = doubled_sight("sdar_v", torch.arange(length) // BLOCK)[None, None]
    return stock(input_ids=both, position_ids=torch.arange(length).repeat(2)[None], attention_mask=allowed).logits[0]


def by_sample(update: list[Noised]) -> float:
    """1 / t, each sample's sum over the number of its own labels, then the mean over samples."""
    return float(np.mean([sum(c / n.level[p] for p, c in n.losses.items()) / len(n.labels) for n in update]))


def by_labels(update: list[Noised]) -> float:
    """1 / t, the sum over all samples by the number of all labels."""
    return sum(c / n.level[p] for n in update for p, c in n.losses.items()) / sum(len(n.labels) for n in update)


def by_masked(update: list[Noised]) -> float:
    """1 / t, by the number of hidden tokens."""
    return sum(c / n.level[p] for n in update for p, c in n.losses.items()) / sum(len(n.hidden) for n in update)


def effective_ratio(update: list[Noised]) -> float:
    """Every block's sum by its realised ratio k / n, over the labels of blocks in which anything is hidden."""
    total, count = 0.0, 0
    for sample in update:
        for block in {p // BLOCK for p in sample.hidden}:
            inside = [p for p in sample.labels if p // BLOCK == block]
            own = [sample.losses[p] for p in inside if p in sample.hidden]
            total, count = total + sum(own) * len(inside) / len(own), count + len(inside)
    return total / count


PUBLISHED: list[tuple[str, str | None, str, dict, Callable[[list[Noised]], float]]] = [
    # paper and released code agree: by sample, a level a block
    ("diffusionvl_qwenvl", "diffusionvl", "block", {}, by_sample),
    # the paper: effective mask ratio scaling, a level a block
    ("sdar_v", "sdar_vl", "block", {}, effective_ratio),
    # the released modeling file: a level a sample, 1 / t by masked tokens
    ("sdar_v", "sdar_vl", "sequence", {"weighting": "nelbo", "normaliser": "masked"}, by_masked),
    ("bard_vl", None, "block", {"weighting": "nelbo", "normaliser": "sample"}, by_sample),
    ("sdar", "sdar", "sequence", {}, by_labels),
    ("llada", "llada_v", "sequence", {}, by_sample),
    # dllm's trainer has both; by labels is its default
    ("a2d-qwen3", None, "sequence", {"weighting": "nelbo"}, by_labels),
    ("a2d-qwen3", None, "sequence", {"weighting": "nelbo", "normaliser": "sample"}, by_sample),
]


@pytest.mark.parametrize("kind, config, level, objective, published", PUBLISHED)
def test_the_loss_is_the_published_one(
    kind, config, level, objective, published, tmp_path, tmp_path_factory, monkeypatch
):
    stock, model, processor = of_four(kind, tmp_path_factory) if kind in WHOLE else of_text(kind, tmp_path)
    recipe, drawn = recipe_of(config, **objective), fixed_noise(monkeypatch, level)
    assert config is None or objective or recipe.noise.level == level
    samples = update_of(kind, model, processor, recipe)
    found = ours(model, processor, samples, recipe)
    mask = model.config.traits.mask_token_id
    update = [terms(kind, stock, mask, sample, noise) for sample, noise in zip(samples, drawn)]
    assert all(n.hidden < n.labels for n in update)
    assert abs(found - published(update)) <= 1e-9
    others = {by_sample, by_labels, by_masked, effective_ratio} - {published}
    assert all(abs(found - other(update)) > 1e-3 for other in others)


def copies(stock, mask: int, end: int, sample: Prepared, noise: tuple, first: bool) -> list[Noised]:
    """Both copies of a Fast-dVLM sample: a draw and its complement, the end of turn hidden in either.

    Args:
        first: tokens that begin a block are hidden where draw or complement say so, as in the released code.
    """
    drawn = terms("fast_dvlm", stock, mask, sample, noise)
    ends = {p for p in drawn.labels if drawn.tokens[p] == end}
    kept = set() if first else {p for p in drawn.labels if (p - min(drawn.labels)) % BLOCK == 0}
    pair = [(drawn.hidden | ends) - kept, (drawn.labels - drawn.hidden | ends) - kept]
    return [terms("fast_dvlm", stock, mask, sample, noise, hidden) for hidden in pair]


def two_branches(update: list[list[Noised]], diffusion_share: float, next_share: float) -> float:
    """The mean over hidden tokens of all copies, and that over next tokens of the clean half of one copy."""
    hidden = [c for pair in update for copy in pair for c in copy.losses.values()]
    following = [c for pair in update for c in pair[0].following.values()]
    return float(diffusion_share * np.mean(hidden) + next_share * np.mean(following))


@pytest.mark.parametrize("ar_weight, shares", [(1.0, (0.5, 0.5)), (2.0, (0.5, 1.0))])
def test_fast_dvlms_two_branches(ar_weight, shares, tmp_path_factory, monkeypatch):
    """The page weighs both by half; a line-by-line account of the code halves the diffusion branch alone.

    Ours is twice that, and is the shipped recipe for the page. Neither hides a block's first token: see below.
    """
    stock, model, processor = of_four("fast_dvlm", tmp_path_factory)
    recipe, drawn = recipe_of("fast_dvlm", ar_weight=ar_weight), fixed_noise(monkeypatch, "block")
    recipe.noise.always_masked = ["<|im_end|>"]
    samples = update_of("fast_dvlm", model, processor, recipe)
    found, mask = ours(model, processor, samples, recipe), model.config.traits.mask_token_id
    end = processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    update = [copies(stock, mask, end, sample, noise, first=False) for sample, noise in zip(samples, drawn)]
    assert all(one.hidden | two.hidden < one.labels and one.hidden & two.hidden for one, two in update)
    assert abs(found - 2 * two_branches(update, *shares)) <= 1e-9
    released = [copies(stock, mask, end, sample, noise, first=True) for sample, noise in zip(samples, drawn)]
    assert all(one.hidden | two.hidden == one.labels for one, two in released)
    assert abs(found - 2 * two_branches(released, *shares)) > 1e-3


def test_fast_dvlms_recipe_is_the_pages():
    recipe = recipe_of("fast_dvlm")
    assert (recipe.objective.ar_weight, recipe.data.views, recipe.data.last_block) == (1.0, 2, "truncate")
    assert recipe.noise.complementary and recipe.objective.weighting == "none"


def clean_sees_noised(kind: str, blocks: torch.Tensor) -> torch.Tensor:
    """BARD-VL's released collator: clean rows see noised ones too, of their own block and of earlier ones."""
    allowed, length = doubled_sight(kind, blocks), len(blocks)
    allowed[length:, :length] = blocks[None] <= blocks[:, None]
    return allowed


def test_bard_vls_collator_is_not_its_description(tmp_path_factory, monkeypatch):
    """It lets the answer's clean rows see noised ones, which decoding never shows them, and halves the fill's weight.

    Ours does neither: only an answer of one block that it fills has the released code's loss.
    """
    stock, model, processor = of_four("bard_vl", tmp_path_factory)
    recipe, drawn = recipe_of(None, weighting="nelbo", normaliser="sample"), fixed_noise(monkeypatch, "block")
    samples = update_of("bard_vl", model, processor, recipe)[:1]
    found, mask = ours(model, processor, samples, recipe), model.config.traits.mask_token_id
    described = terms("bard_vl", stock, mask, samples[0], drawn[0])
    released = terms("bard_vl", stock, mask, samples[0], drawn[0], sight=clean_sees_noised)
    block = {p: (p - min(described.labels)) // BLOCK for p in described.hidden}
    apart = {p: abs(described.losses[p] - released.losses[p]) for p in described.hidden}
    assert max(d for p, d in apart.items() if block[p] == 0) <= 1e-12
    assert min(d for p, d in apart.items() if block[p] > 0) > 1e-6
    fill = {p for p in described.labels if p > min(described.labels) + int(samples[0].encoded.is_answer.sum()) - 1}
    described.level |= {p: 2 * described.level[p] for p in fill}
    assert fill & described.hidden and found - by_sample([described]) > 1e-3
