"""WeDLM's directories: decoding and training loss against its rule, written out on the stock classes.

The rule (arXiv 2512.22737, the project's reference generator, its engine and its training code) is in `reordered`.
"""

import logging

import pytest
import torch

from tests.vlm.checkpoints.sources import bare_tokenizer, language_model, save
from tests.vlm.checkpoints.test_foreign import ids_of, refused
from tests.vlm.generation.reordered import entropies, of_masks, published, surest
from tests.vlm.tiny import greedy
from vlm.answering import settings
from vlm.checkpoints.convert import Choices, converted
from vlm.checkpoints.describe import describe
from vlm.checkpoints.export import export
from vlm.checkpoints.files import CheckpointError
from vlm.checkpoints.load import load
from vlm.generation.generate import answer
from vlm.generation.request import Request
from vlm.generation.strategy import build_strategy
from vlm.noise import NoiseTokens, Uniform, levels, noise_rng
from vlm.processor import Encoded
from vlm.training.collate import collate, noise_sample
from vlm.training.data import lay_out
from vlm.training.losses import losses
from vlm.training.recipe import DataRecipe, NoiseRecipe, ObjectiveRecipe

KINDS = {"qwen3": {"qk_norm": True, "attention_bias": False}, "qwen2": {"qk_norm": False, "attention_bias": True}}
NEW = 9


def wedlm(path, backbone: str, **config):
    """A directory with the fields of WeDLM's config, whose mask is a row that no token has, and the stock model."""
    tokenizer = bare_tokenizer("<|im_start|>", "<|im_end|>")
    stock = language_model(backbone, len(tokenizer) + 9, tie_word_embeddings=False)
    stock.lm_head.weight.data *= 8  # until some masks are sure of their token and others are not
    fields = {
        "mask_token_id": len(tokenizer) + 3,
        "use_sliding_window": False,
        "sliding_window": None,
        "rope_theta": stock.config.rope_parameters["rope_theta"],
        "rope_parameters": None,
    }
    save(stock, tokenizer, path, model_type="wedlm", architectures=["WeDLMForCausalLM"], layer_types=None,
         auto_map={"AutoModelForCausalLM": "modeling_wedlm.WeDLMForCausalLM"},
         **{**fields, **KINDS[backbone], **config})  # fmt: skip
    return stock


@pytest.fixture(scope="module", params=KINDS)
def made(request, tmp_path_factory):
    path = tmp_path_factory.mktemp(request.param)
    stock = wedlm(path, request.param)
    return stock, *load(str(path), dtype=torch.float64, device="cpu"), path


def test_clean_rows_and_ar_mode_are_the_stock_model(made, tmp_path):
    stock, model, _, path = made
    ids = ids_of(11)
    told = {"max_new_tokens": NEW, "suppress_tokens": model.generation_config.suppress_tokens, "do_sample": False}
    with torch.no_grad():
        assert (model(input_ids=ids).logits - stock(input_ids=ids).logits).abs().max() <= 1e-9
        expected = stock.generate(ids, eos_token_id=None, pad_token_id=0, **told)
    found = model.generate(ids, max_new_tokens=NEW, eos_token_id=None, mode="ar").sequences
    assert found.tolist() == expected.tolist()
    export(str(path), str(tmp_path / "ar"), "ar")
    back = type(stock).from_pretrained(tmp_path / "ar", dtype=torch.float64).eval()
    with torch.no_grad():
        assert torch.equal(back(ids).logits, stock(ids).logits)


def expected_of(stock, model, prompt: torch.Tensor, window: int, choose, streams: bool) -> tuple[list[int], int]:
    banned = model.generation_config.suppress_tokens
    return published(
        stock, prompt[0].tolist(), model.config.traits.mask_token_id, banned, window, NEW, choose, streams
    )


@pytest.mark.parametrize("length, window", [(1, 4), (6, 1), (11, 8), (7, 32)])
@pytest.mark.parametrize("tau", [0.3, 1.0])
def test_blocks_decode_as_its_reference_generator(made, length, window, tau):
    stock, model, _, _ = made
    prompt = ids_of(length, seed=length)
    told = {"max_new_tokens": NEW, "eos_token_id": None, "block_size": window, "policy": "threshold"}
    found = model.generate(prompt, **told, threshold=tau)
    tokens, passes = expected_of(stock, model, prompt, window, surest(tau), streams=False)
    assert found.sequences[0, length:].tolist() == tokens
    assert found.tokens_per_forward[0] == pytest.approx(NEW / passes)
    assert (passes < NEW) == (tau < 1 and window > 1)


@pytest.mark.parametrize("length, window", [(1, 4), (6, 1), (11, 16)])
def test_the_decoder_wedlm_stream_is_its_engine(made, length, window):
    """Its window, its selector: the same tokens in as many passes as decide one."""
    stock, model, _, _ = made
    prompt, taken = ids_of(length, seed=length), []
    for tau in (0.0, 0.2, 0.4, 0.8, 1.2):
        told = {"block_size": window, "policy_args": {"tau": tau}, "max_new_tokens": NEW}
        (state,) = answer(model, [Request(prompt[0])], settings(model, decoder="wedlm-stream", **told))
        tokens, passes = expected_of(stock, model, prompt, window, entropies(tau, 0.02), streams=True)
        assert (state.generated, state.forwards) == (tokens, passes)
        taken.append(passes)
    assert any(1 < passes < NEW for passes in taken) == (window > 1)


def test_its_blocks_are_trained_up_to_the_size_that_its_config_says(made, tmp_path):
    _, model, _, path = made
    traits = model.config.traits
    assert (traits.block_attention, traits.block_size, traits.off_grid_ok) == ("causal", 32, True)
    assert traits.trained_block_sizes == tuple(range(1, 33))
    with pytest.raises(ValueError, match="block_size 33 was not trained; this checkpoint allows 1, 2, "):
        build_strategy(model, greedy(block_size=33))
    chosen, _ = converted(str(path), Choices(block_size=4))
    assert chosen.config.traits.trained_block_sizes == (1, 2, 3, 4) and chosen.config.traits.ar_mode
    other = converted(str(path), Choices(context="block_causal"))[0].config.traits
    assert not other.ar_mode and not other.off_grid_ok and other.block_attention == "bidirectional"
    with pytest.raises(CheckpointError, match="block_attention 'causal' needs prediction_shift 0, not 1"):
        converted(str(path), Choices(shift=1))


@pytest.mark.parametrize("size", [1, 3, 8])
def test_the_training_loss_on_fixed_noise(made, size):
    """Two streams: 1 / gamma weights that sum to one over the masks, and next tokens of the clean stream beside.

    The noise is drawn by ours; each block is then put in its order behind the clean text before it.
    """
    stock, model, processor, _ = made
    traits, ids = model.config.traits, ids_of(17, seed=3)[0]
    answered, end = torch.arange(17) >= 6, processor.tokenizer.eos_token_id
    none = torch.zeros(0, 3, 0, 0).numpy()
    sample = lay_out(Encoded(ids.numpy(), answered.numpy(), none, none), size, DataRecipe(), traits, end)
    noise, objective = NoiseRecipe(exact_count=True), ObjectiveRecipe("gamma")
    drawn = noise_sample(sample, NoiseTokens(traits.mask_token_id), noise, objective, 5, 0, 0.0)
    totals = {"diffusion": drawn.normaliser, "next": float((drawn.next_targets >= 0).sum())}
    with torch.no_grad():
        found, following = losses(model, collate([sample], [drawn], 0), 0, totals)
        clean = stock(input_ids=ids[None]).logits[0].log_softmax(-1)
    starts = range(6, 17, size)
    level = levels(Uniform(), "block", noise_rng(5, 0, "", 1), len(starts), 0.0, False)  # gamma of every block
    full = [*ids.tolist(), *[end] * size]
    expected = total = count = 0
    for start, gamma in zip(starts, level):
        noised = drawn.ids[17:][start - 6 : start - 6 + size].tolist()
        hidden = [start + i for i, token in enumerate(noised) if token == traits.mask_token_id]
        assert len(hidden) == int(gamma * size + 0.5)
        if hidden:
            told = of_masks(stock, full[:start] + noised, traits.mask_token_id).log_softmax(-1)
            expected -= sum(float(row[full[at]]) for row, at in zip(told, hidden)) / gamma
        total, count = total + len(hidden) / gamma, count + len(hidden)
    assert 0 < count < 11 and float(found) == pytest.approx(expected / total, rel=1e-6)
    assert float(following) == pytest.approx(-float(clean[5:16].gather(1, ids[6:, None]).mean()), rel=1e-6)


def test_what_is_said_of_it(made, caplog):
    _, model, processor, path = made
    with caplog.at_level(logging.WARNING):
        load(str(path), device="cpu")
    assert "block_size is 32, from the family's default" in caplog.text
    mask = model.config.traits.mask_token_id
    assert processor.tokenizer.mask_token_id == mask in model.generation_config.suppress_tokens
    found = describe(str(path))
    assert found.traits == model.config.traits and found.backbone == model.config.text_config.model_type
    assert all(reason is None for reason in found.modes.values()) and found.origins["mask_token_id"] == "config.json"


def test_a_directory_that_is_not_as_it_says(tmp_path):
    wedlm(tmp_path / "row", "qwen3", mask_token_id=None)
    refused(tmp_path / "row", "151665", "embedding table")
    wedlm(tmp_path / "norm", "qwen3", qk_norm=False)
    refused(tmp_path / "norm", "q_norm.weight", "q_proj.bias")
    wedlm(tmp_path / "window", "qwen2", use_sliding_window=True)
    refused(tmp_path / "window", "use_sliding_window True is not supported")
