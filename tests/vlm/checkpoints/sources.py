"""Tiny checkpoint directories of other projects: random weights of stock classes under those projects' names."""

import json
import re
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from tests.vlm.tiny import TEXTS
from vlm.training.build import train_tokenizer

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 512}  # fmt: skip
FAMILIES = {
    "llama": {"tie_word_embeddings": False, "rope_theta": 5e5},
    "smollm": {"model_type": "llama", "tie_word_embeddings": True, "rope_theta": 1e5},
    "smollm3": {"pad_token_id": 0},
    "qwen2": {"tie_word_embeddings": False},
    "qwen3": {"head_dim": 8, "rope_theta": 1e6, "tie_word_embeddings": True},
    "gemma3_text": {"head_dim": 8, "sliding_window": 6, "query_pre_attn_scalar": 8,
                    "layer_types": ["sliding_attention", "full_attention"]},
    "mistral": {"sliding_window": 6},
    "olmo2": {"tie_word_embeddings": False},
    "phi3": {"pad_token_id": 0},
    "qwen3_moe": {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
                  "tie_word_embeddings": False},
}  # fmt: skip


def bare_tokenizer(*extra: str) -> PreTrainedTokenizerFast:
    """A language model's tokenizer: an end token and ``extra`` ones, no mask, no pictures, no template."""
    backend = train_tokenizer(TEXTS, 300).backend_tokenizer
    text = backend.to_str()
    for name in ("<|mask|>", "<|image|>", "<|video|>"):
        text = text.replace(name, name.replace("|", "_"))
    backend = type(backend).from_str(text)
    backend.add_special_tokens(list(extra))
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>", bos_token="<|begin|>")


def language_model(family: str, vocab_size: int, dtype: torch.dtype = torch.float64, **fields) -> PreTrainedModel:
    """Random weights whose biases and norms are random too, so that nothing is right by chance."""
    own = {"model_type": family, **SIZES, **FAMILIES.get(family, {}), "vocab_size": vocab_size, **fields}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**own, eos_token_id=2, bos_token_id=1))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return model.to(dtype).eval()


def save(model: PreTrainedModel, tokenizer, path: Path, shard: str = "10MB", **config) -> Path:
    """A directory as its project would publish it; ``config`` changes fields of config.json (None removes)."""
    model.save_pretrained(path, max_shard_size=shard)
    tokenizer.save_pretrained(path)
    change_config(path, **config)
    return path


def change_config(path: Path, **fields) -> None:
    file = path / "config.json"
    found = {**json.loads(file.read_text()), **fields}
    file.write_text(json.dumps({name: value for name, value in found.items() if value is not None}))


def rename(path: Path, names: list[tuple[str, str]]) -> None:
    """Give a directory's tensors the names that another project uses: the first pattern that fits replaces."""
    tensors = load_file(path / "model.safetensors")

    def renamed(name: str) -> str:
        for pattern, replacement in names:
            if re.search(pattern, name):
                return re.sub(pattern, replacement, name)
        return name

    save_file({renamed(n): t for n, t in tensors.items()}, path / "model.safetensors", metadata={"format": "pt"})


def sdar(path: Path, block_size: int | None = 4, dtype: torch.dtype = torch.float64, **config) -> PreTrainedModel:
    """An SDAR directory (Qwen3 names, sharded, remote code named in it) and the stock model with its weights."""
    tokenizer = bare_tokenizer("<|im_start|>", "<|im_end|>", "<|MASK|>")
    mask = tokenizer.convert_tokens_to_ids("<|MASK|>")
    model = language_model("qwen3", len(tokenizer) + 9, dtype, tie_word_embeddings=False)
    save(
        model, tokenizer, path, "20KB", model_type="sdar", architectures=["SDARForCausalLM"],
        auto_map={"AutoModelForCausalLM": "modeling_sdar.SDARForCausalLM"}, block_size=block_size,
        **{"mask_token_id": mask, "rope_theta": 1e6, "rope_parameters": None, "fuse_cross_entropy": True, **config},
    )  # fmt: skip
    (path / "modeling_sdar.py").write_text("raise SystemExit('remote code was run')\n")
    return model


LLADA_NAMES = [
    (r"^model\.embed_tokens\.", "model.transformer.wte."), (r"^model\.norm\.", "model.transformer.ln_f."),
    (r"^lm_head\.", "model.transformer.ff_out."),
    (r"^model\.layers\.(\d+)\.self_attn\.o_proj", r"model.transformer.blocks.\1.attn_out"),
    (r"^model\.layers\.(\d+)\.self_attn\.", r"model.transformer.blocks.\1."),
    (r"^model\.layers\.(\d+)\.input_layernorm", r"model.transformer.blocks.\1.attn_norm"),
    (r"^model\.layers\.(\d+)\.post_attention_layernorm", r"model.transformer.blocks.\1.ff_norm"),
    (r"^model\.layers\.(\d+)\.mlp\.gate_proj", r"model.transformer.blocks.\1.ff_proj"),
    (r"^model\.layers\.(\d+)\.mlp\.up_proj", r"model.transformer.blocks.\1.up_proj"),
    (r"^model\.layers\.(\d+)\.mlp\.down_proj", r"model.transformer.blocks.\1.ff_out"),
]  # fmt: skip


def llada(path: Path, **config) -> PreTrainedModel:
    """A LLaDA directory (its own names for weights and fields) and the stock Llama with its weights."""
    tokenizer = bare_tokenizer("<|mdm_mask|>")
    model = language_model("llama", 320, num_key_value_heads=4)
    save(model, tokenizer, path)
    rename(path, LLADA_NAMES)
    fields = {
        "model_type": "llada", "architectures": ["LLaDAModelLM"], "d_model": 32, "n_layers": 2, "n_heads": 4,
        "n_kv_heads": 4, "mlp_hidden_size": 48, "max_sequence_length": 512, "vocab_size": 310, "embedding_size": 320,
        "rope_theta": 5e5, "rms_norm_eps": model.config.rms_norm_eps, "weight_tying": False, "activation_type": "silu",
        "block_type": "llama", "layer_norm_type": "rms", "rope": True, "alibi": False, "include_bias": False,
        "include_qkv_bias": False, "eos_token_id": 2, "pad_token_id": 0, "use_cache": False, "mlp_ratio": 4,
        "mask_token_id": tokenizer.convert_tokens_to_ids("<|mdm_mask|>"),
        "auto_map": {"AutoModel": "modeling_llada.LLaDAModelLM"},
    }  # fmt: skip
    (path / "config.json").write_text(json.dumps({**fields, **config}))
    return model
