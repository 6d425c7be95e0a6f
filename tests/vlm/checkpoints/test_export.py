"""Exports reload in stock classes with the same logits; what an engine could not serve is refused with the reason."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3ForCausalLM

import vlm.checkpoints.export as exporting
from tests.vlm.checkpoints.sources import bare_tokenizer, language_model, save, sdar
from tests.vlm.checkpoints.test_foreign import block_causal, ids_of
from tests.vlm.tiny import tiny_model
from vlm.checkpoints.convert import Choices, convert
from vlm.checkpoints.export import SDAR_MASK
from vlm.checkpoints.load import load
from vlm.export import main


def saved(path, **traits):
    for part in tiny_model(**traits):
        part.save_pretrained(path)
    return str(path)


def refused(capsys, *arguments: str, says: str) -> None:
    assert main(list(arguments)) == 2
    error = capsys.readouterr().err
    assert says in error and error.startswith("error:") and error.count("\n") == 1, error


@pytest.mark.parametrize("backbone", ["qwen3", "llama", "qwen2", "gemma3_text"])
def test_ar_is_a_stock_directory(backbone, tmp_path, capsys):
    source = saved(tmp_path / "vlm", backbone=backbone)
    assert main([source, str(tmp_path / "ar"), "--to", "ar", "--text-only"]) == 0
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "ar").eval()
    model, processor = load(source, dtype=torch.float64, device="cpu")
    assert stock.dtype == torch.float64 and "vlm" not in type(stock).__module__
    with torch.no_grad():
        assert (stock(input_ids=ids_of(11)).logits - model(input_ids=ids_of(11)).logits).abs().max() <= 1e-9
    settings = {"max_new_tokens": 10, "eos_token_id": None}
    ours = model.generate(ids_of(5), mode="ar", **settings).sequences
    assert torch.equal(stock.generate(input_ids=ids_of(5), do_sample=False, **settings), ours)
    tokenizer, chat = AutoTokenizer.from_pretrained(tmp_path / "ar"), [{"role": "user", "content": "red green"}]
    told = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"]
    assert told == processor.encode(chat, [], add_generation_prompt=True).input_ids.tolist()
    assert "generation %}" not in tokenizer.chat_template


def test_ar_is_refused_where_it_would_answer_wrongly(tmp_path, capsys):
    out, blocks = str(tmp_path / "out"), saved(tmp_path / "blocks", context_attention="block_causal")
    refused(capsys, blocks, out, "--to", "ar", "--text-only", says="needs causal context")
    refused(capsys, saved(tmp_path / "vlm"), out, "--to", "ar", says="--text-only exports the language model")
    refused(capsys, "nothing_here", out, "--to", "ar", says="nothing_here")
    refused(capsys, blocks, str(tmp_path), "--to", "ar", says="exists already")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("tied", [True, False])
def test_sdar_is_qwen3_with_sdars_config(tied, tmp_path, monkeypatch):
    tokenizer = bare_tokenizer("<|MASK|>")
    mask = tokenizer.convert_tokens_to_ids("<|MASK|>")
    monkeypatch.setattr(exporting, "SDAR_MASK", mask)  # a tokenizer of the real size takes minutes to make
    model = language_model("qwen3", len(tokenizer) + 9, torch.float32, tie_word_embeddings=tied)
    source = save(model, tokenizer, tmp_path / "ar")
    convert(str(source), str(tmp_path / "ours"), Choices(context="block_causal", block_size=4))
    config = tmp_path / "ours" / "config.json"
    fields = json.loads(config.read_text())
    fields["diffusion"]["block_origin"] = "sequence"  # as training on SDAR's grid would have it
    config.write_text(json.dumps(fields))
    assert main([str(tmp_path / "ours"), str(tmp_path / "sdar"), "--to", "sdar"]) == 0
    told = json.loads((tmp_path / "sdar" / "config.json").read_text())
    wanted = {"model_type": "sdar", "architectures": ["SDARForCausalLM"], "block_size": 4, "mask_token_id": mask,
              "tie_word_embeddings": False, "rope_theta": 1e6, "head_dim": 8, "attention_bias": False}  # fmt: skip
    assert {name: told[name] for name in wanted} == wanted and "rope_parameters" not in told
    model, _ = load(str(tmp_path / "ours"), dtype=torch.float32, device="cpu")
    again, processor = load(str(tmp_path / "sdar"), dtype=torch.float32, device="cpu")
    stock = Qwen3ForCausalLM.from_pretrained(tmp_path / "sdar", config=again.config.text_config).eval()
    ids = ids_of(11)
    with torch.no_grad():
        expected = model(input_ids=ids).logits
        assert (again(input_ids=ids).logits - expected).abs().max() <= 1e-5
        assert (stock(input_ids=ids, attention_mask=block_causal(11, 4)).logits - expected).abs().max() <= 1e-5
    assert processor.tokenizer.mask_token_id == mask
    assert again.config.traits == model.config.traits


def test_sdar_is_refused_where_its_engines_would_decode_otherwise(tmp_path, capsys):
    out = ("--to", "sdar", "--text-only")
    cases = [
        ({}, "context_attention 'block_causal'"),
        ({"context_attention": "block_causal"}, "block_origin 'sequence'"),
        ({"context_attention": "block_causal", "prediction_shift": 1}, "prediction_shift 0"),
        ({"context_attention": "block_causal", "block_origin": "sequence"}, f"token {SDAR_MASK}"),
        ({"backbone": "llama"}, "run Qwen3 decoders, not 'llama'"),
    ]
    for i, (traits, says) in enumerate(cases):
        refused(capsys, saved(tmp_path / str(i), **traits), str(tmp_path / "out"), *out, says=says)
    sdar(tmp_path / "sdar")
    refused(capsys, str(tmp_path / "sdar"), str(tmp_path / "out"), *out, says=f"token {SDAR_MASK}")
