"""A converted vision-language model is the original: the stock classes are the oracle for every logit and token."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText

import vlm.model
from tests.vlm.checkpoints.composites import (
    NEW,
    SHOWN,
    TINY,
    chat,
    decoded,
    made,
    request_of,
    save,
    shown,
    stock_inputs,
)  # fmt: skip
from vlm.checkpoints.convert import convert, converted
from vlm.checkpoints.export import export
from vlm.checkpoints.load import load

PARITY = [  # a video alone is slow where it is tested beside an image too
    pytest.param(*one, marks=pytest.mark.slow if one[1] == ("video",) and one[0] != "smolvlm" else ()) for one in SHOWN
]


@pytest.mark.parametrize(("family", "kinds"), PARITY)
def test_logits_and_greedy_tokens_are_the_original_classes(family, kinds, tmp_path_factory):
    stock, model, processor, _ = made(family, tmp_path_factory)
    inputs = stock_inputs(family, kinds)
    request = request_of(processor, kinds)
    assert torch.equal(request.input_ids, inputs["input_ids"][0])
    media = None if request.media is None else request.media.inputs
    with torch.no_grad():
        found = model(input_ids=inputs["input_ids"], media=media).logits
        assert (found - stock(**inputs).logits).abs().max() <= 1e-9
    told = {"max_new_tokens": NEW, "suppress_tokens": model.generation_config.suppress_tokens, "do_sample": False}
    expected = stock.generate(**inputs, **told, eos_token_id=None, pad_token_id=0)[0, len(request.input_ids) :]
    assert decoded(model, [request], mode="ar") == [expected.tolist()]


@pytest.mark.parametrize("family", ["qwen3_vl", "gemma3"])
def test_in_float32_through_the_file(family, tmp_path):
    stock = save(family, tmp_path / "source", dtype=torch.float32)
    convert(str(tmp_path / "source"), str(tmp_path / "ours"))
    model, processor = load(str(tmp_path / "ours"), device="cpu")
    inputs = {n: t.float() if t.is_floating_point() else t for n, t in stock_inputs(family, ("image",)).items()}
    with torch.no_grad():
        found = model(input_ids=inputs["input_ids"], media=request_of(processor, ("image",)).media.inputs).logits
        assert (found - stock(**inputs).logits).abs().max() <= 1e-4
    assert {parameter.dtype for parameter in converted(str(tmp_path / "source"))[0].parameters()} == {torch.float32}


WHAT = {"axes": ("qwen2_vl", "qwen2_5_vl", "qwen3_vl"), "deep": ("qwen3_vl",), "groups": ("gemma3",)}


@pytest.mark.parametrize(("name", "family"), [(name, family) for name, those in WHAT.items() for family in those])
def test_what_a_decoder_is_told_of_pictures_matters(name, family, tmp_path_factory, monkeypatch):
    """So the equality above would fail without it."""
    _, model, processor, _ = made(family, tmp_path_factory)
    request = request_of(processor, ("image",))
    given = {"input_ids": request.input_ids.unsqueeze(0), "media": request.media.inputs}
    with torch.no_grad():
        right, real = model(**given).logits, vlm.model.beside_rows
        nothing = {name: [] if name == "deep" else None}
        monkeypatch.setattr(vlm.model, "beside_rows", lambda *given: replace(real(*given), **nothing))
        assert (model(**given).logits - right).abs().max() > 1e-3


@pytest.mark.parametrize("family", TINY)
def test_earlier_answers_are_marked_in_the_originals_chat(family, tmp_path_factory):
    processor = made(family, tmp_path_factory).processor
    messages = [*chat("image"), {"role": "assistant", "content": "It is red."}, *chat("image", text="And this?"),
                {"role": "assistant", "content": [{"type": "text", "text": "Green."}]}]  # fmt: skip
    encoded = processor.encode(messages, shown("image", "image"))
    assert processor.tokenizer.decode(encoded.input_ids[encoded.is_answer]) == "It is red.<|im_end|>Green.<|im_end|>"
    ids, is_answer = processor.tokens(messages, [image.size for image in shown("image", "image")])
    assert np.array_equal(ids, encoded.input_ids) and np.array_equal(is_answer, encoded.is_answer)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "gemma3", "idefics3"])
def test_a_table_without_a_spare_row_grows_by_the_mean(family, tmp_path):
    stock = save(family, tmp_path / "source", spare=0)
    model, processor = converted(str(tmp_path / "source"))
    old, request = stock.config.text_config.vocab_size, request_of(processor, ("image",))
    assert "new row" in model.config.conversion["tokens"]["mask"]
    table = model.get_input_embeddings().weight
    assert len(table) == old + 1 == model.config.text_config.vocab_size
    assert torch.allclose(table[old], stock.get_input_embeddings().weight.mean(0), atol=1e-7)
    with torch.no_grad():
        found = model(input_ids=request.input_ids.unsqueeze(0), media=request.media.inputs).logits[..., :old]
        assert (found - stock(**stock_inputs(family, ("image",))).logits).abs().max() <= 1e-9


@pytest.mark.parametrize("family", TINY)
def test_it_leaves_as_the_stock_model_that_it_came_from(family, tmp_path, tmp_path_factory):
    stock, _, _, path = made(family, tmp_path_factory)
    export(str(path), str(tmp_path / "back"), "ar")
    back = AutoModelForImageTextToText.from_pretrained(tmp_path / "back", dtype=torch.float64).eval()
    inputs = stock_inputs(family, ("image",))
    with torch.no_grad():
        assert torch.equal(back(**inputs).logits, stock(**inputs).logits)
    assert type(back) is type(stock) and (tmp_path / "back" / "processor_config.json").is_file()
