"""What `python -m vlm.inspect` tells, against the model itself: loaded, counted, and asked to decode."""

import json

import pytest
import torch

from tests.vlm.checkpoints.sources import bare_tokenizer, language_model, llada, save, sdar
from tests.vlm.tiny import tiny_model
from vlm.checkpoints.load import load
from vlm.generation.config import MODES
from vlm.generation.strategy import build_strategy
from vlm.inspect import main, said


def told(path, capsys) -> dict:
    assert main([str(path), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def saved(path, dtype=torch.float32, **traits):
    model, processor = tiny_model(dtype=dtype, **traits)
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return model


@pytest.mark.parametrize("traits", [{}, {"context_attention": "block_causal"}, {"context_attention": "full"}])
def test_sizes_and_modes_are_the_models(traits, tmp_path, capsys):
    model = saved(tmp_path / "m", **traits)
    found = told(tmp_path / "m", capsys)
    for part, (count, size) in found["parts"].items():
        tensors = dict.fromkeys(getattr(model, part).parameters())  # a tied table counts once
        buffers = [b for n, b in getattr(model, part).named_buffers() if "rotary" not in n]
        assert count == sum(t.numel() for t in tensors) + sum(b.numel() for b in buffers)
        assert size == 4 * count
    assert found["memory"]["float32"] == sum(size for _, size in found["parts"].values())
    assert found["kv_bytes"] == 2 * 4 * 2 * 2 * 8  # keys and values, float32, layers, heads, width
    for mode in MODES:
        config = type(model.generation_config)(mode=mode)
        try:
            build_strategy(model, config)
            assert found["modes"][mode] is None
        except ValueError as error:
            assert found["modes"][mode] == str(error)
    assert bool(found["policies"]) == (found["modes"]["block"] is None)


def test_int8_counts_the_decoders_linear_layers(tmp_path, capsys):
    model = saved(tmp_path / "m")
    linear = [m.weight for m in model.language_model.get_decoder().modules() if isinstance(m, torch.nn.Linear)]
    everything = told(tmp_path / "m", capsys)["memory"]
    saves = sum(3 * w.numel() - 4 * w.shape[0] for w in linear)
    assert everything["float32"] - everything["int8 decoder, rest float32"] == saves


def test_what_was_read_and_what_was_inferred(tmp_path, capsys):
    sdar(tmp_path / "sdar", block_size=None)
    found = told(tmp_path / "sdar", capsys)
    assert found["family"] == "sdar" and found["backbone"] == "qwen3"
    assert found["origins"]["block_size"] == "the family's default"
    assert found["origins"]["mask_token_id"] == "config.json"
    assert found["modes"]["block"] is None and "causal context" in found["modes"]["ar"]
    model, _ = load(str(tmp_path / "sdar"), device="cpu")
    assert found["traits"]["mask_token_id"] == model.config.traits.mask_token_id
    assert main([str(tmp_path / "sdar")]) == 0
    lines = capsys.readouterr().out
    assert "block_size            4" in lines and "the family's default" in lines


def test_other_kinds(tmp_path, capsys):
    stock = llada(tmp_path / "llada")
    found = told(tmp_path / "llada", capsys)
    assert found["parts"]["language_model"][0] == sum(p.numel() for p in stock.parameters())
    assert found["modes"]["block"] is None
    assert all("full" in found["modes"][mode] for mode in ("ar", "speculative"))
    linear = sum(m.weight.numel() for m in stock.model.modules() if isinstance(m, torch.nn.Linear))
    assert found["memory"]["float32"] - found["memory"]["int8 decoder, rest float32"] > 2 * linear
    save(language_model("llama", 300), bare_tokenizer(), tmp_path / "ar")
    found = told(tmp_path / "ar", capsys)
    assert found["traits"] is None and "vlm.convert" in found["note"]


@pytest.mark.parametrize("change", [{"model_type": "mystery"}, {"model_type": None}, {"diffusion": {"noise": "loud"}}])
def test_bad_directories_are_one_line(change, tmp_path, capsys):
    saved(tmp_path / "m")
    config = tmp_path / "m" / "config.json"
    fields = {**json.loads(config.read_text()), **change}
    config.write_text(json.dumps({name: value for name, value in fields.items() if value is not None}))
    capsys.readouterr()
    assert main([str(tmp_path / "m")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error:") and str(tmp_path / "m") in error and error.count("\n") == 1
    assert main([str(tmp_path / "none")]) == 2 and "no such model directory" in capsys.readouterr().err


def test_sizes_in_a_row_are_told_by_the_ends():
    assert said(tuple(range(1, 33))) == "1 to 32"
    assert said((4, 8, 16, 32)) == "(4, 8, 16, 32)"
    assert said((*range(1, 9), 16)) == "(1, 2, 3, 4, 5, 6, 7, 8, 16)"
