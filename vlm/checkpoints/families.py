"""Block-diffusion checkpoints of other projects, as data: what they are called there, and how they were trained.

A family is a stock transformers backbone under another name. Its weights keep their names or follow a list of
renamings, its config fields likewise, and its traits are those of the published training code. A config often leaves
out the block size or the mask id: the family's value then stands in, and the loader says so.

SDAR: arXiv 2510.06303, grid from the sequence's start, block-causal context. LLaDA: arXiv 2502.09992, one stream in
which everything sees everything. A2D: the dllm project's conversions of Qwen and Llama by BD3-LM (arXiv 2503.09573).
WeDLM: arXiv 2512.22737, Qwen2.5 or Qwen3 under plain causal attention over rows in an order of their own: what is
written first, masks behind, each where its position says. That is causal block attention. It was trained in blocks of
32 beside its AR mode, and decodes in windows that begin anywhere.
"""

from dataclasses import dataclass, field, replace
from typing import Any

_SDAR = {"context_attention": "block_causal", "prediction_shift": 0, "block_origin": "sequence"}
_SDAR |= {"block_size": 4, "mask_token_id": 151669}
_A2D = {"context_attention": "block_causal", "prediction_shift": 0, "block_origin": "sequence", "block_size": 32}
_A2D_NOTE = "the BD3-LM variant is assumed: the MDLM one has the same config and needs --context full"
_LLADA = {"context_attention": "full", "prediction_shift": 0, "block_origin": "response"}
_LLADA |= {"block_size": 32, "mask_token_id": 126336}


@dataclass(frozen=True)
class Family:
    """How a checkpoint of another project becomes one of ours.

    Attributes:
        backbone: ``model_type`` of the transformers class that has its arithmetic.
        traits: of `vlm.DiffusionTraits`, as trained. Without ``mask_token_id`` the tokenizer must name the mask.
        fields: config field there to its name in the backbone's config; fields of the same name need no entry.
        names: regular expression to replacement, tensor name there to that of the backbone.
        needs: config field to the only value that the backbone can compute, where the field is given.
        told: which traits the config may say.
        bare_mask: its mask is a row of the table, whether the tokenizer has a token for it or not.
        ends: tokens that end an answer, beside those that the directory names.
        note: what a person should know about what was assumed.
    """

    backbone: str
    traits: dict[str, Any]
    fields: dict[str, str] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    needs: dict[str, Any] = field(default_factory=dict)
    told: tuple[str, ...] = ("block_size", "mask_token_id")
    bare_mask: bool = False
    ends: tuple[int, ...] = ()
    note: str = ""


LLADA = Family(
    backbone="llama",
    traits=_LLADA,
    fields={
        "d_model": "hidden_size",
        "n_layers": "num_hidden_layers",
        "n_heads": "num_attention_heads",
        "n_kv_heads": "num_key_value_heads",
        "mlp_hidden_size": "intermediate_size",
        "max_sequence_length": "max_position_embeddings",
        "embedding_size": "vocab_size",  # the table's rows; its own vocab_size may be smaller
        "weight_tying": "tie_word_embeddings",
        "activation_type": "hidden_act",
    },
    names={
        r"^model\.transformer\.wte\.": "model.embed_tokens.",
        r"^model\.transformer\.ln_f\.": "model.norm.",
        r"^model\.transformer\.ff_out\.": "lm_head.",
        r"^model\.transformer\.blocks\.(\d+)\.attn_norm\.": r"model.layers.\1.input_layernorm.",
        r"^model\.transformer\.blocks\.(\d+)\.q_proj\.": r"model.layers.\1.self_attn.q_proj.",
        r"^model\.transformer\.blocks\.(\d+)\.k_proj\.": r"model.layers.\1.self_attn.k_proj.",
        r"^model\.transformer\.blocks\.(\d+)\.v_proj\.": r"model.layers.\1.self_attn.v_proj.",
        r"^model\.transformer\.blocks\.(\d+)\.attn_out\.": r"model.layers.\1.self_attn.o_proj.",
        r"^model\.transformer\.blocks\.(\d+)\.ff_norm\.": r"model.layers.\1.post_attention_layernorm.",
        r"^model\.transformer\.blocks\.(\d+)\.ff_proj\.": r"model.layers.\1.mlp.gate_proj.",
        r"^model\.transformer\.blocks\.(\d+)\.up_proj\.": r"model.layers.\1.mlp.up_proj.",
        r"^model\.transformer\.blocks\.(\d+)\.ff_out\.": r"model.layers.\1.mlp.down_proj.",
    },
    needs={
        "block_type": "llama",
        "layer_norm_type": "rms",
        "activation_type": "silu",
        "rope": True,
        "alibi": False,
        "include_bias": False,
        "include_qkv_bias": False,
        "bias_for_layer_norm": False,
        "attention_layer_norm": False,
        "input_emb_norm": False,
        "scale_logits": False,
    },
    ends=(126081, 126348),
    note="the grid of blocks is decoding's own: under full attention training knows none",
)

_WEDLM = Family(
    backbone="qwen3",
    traits={
        "context_attention": "causal",
        "block_attention": "causal",
        "prediction_shift": 0,
        "block_origin": "response",
        "ar_mode": True,
        "off_grid_ok": True,
        "block_size": 32,
        "mask_token_id": 151665,
    },
    needs={"use_sliding_window": False},
    bare_mask=True,
    ends=(151645, 151643),
)

FAMILIES: dict[str, Family] = {
    "sdar": Family("qwen3", _SDAR, ends=(151645, 151643)),
    "sdar_moe": Family("qwen3_moe", _SDAR, ends=(151645, 151643)),
    "llada": LLADA,
    "a2d-qwen3": Family("qwen3", _A2D, note=_A2D_NOTE),
    "a2d-qwen2": Family("qwen2", _A2D, note=_A2D_NOTE),
    "a2d-llama": Family("llama", _A2D, note=_A2D_NOTE),
    "wedlm": _WEDLM,
}


def family_of(raw: dict) -> Family:
    """The family of a config, whose ``model_type`` is in `FAMILIES`; WeDLM's says which of two backbones it has."""
    family = FAMILIES[raw["model_type"]]
    return replace(family, backbone="qwen2") if family is _WEDLM and not raw.get("qk_norm") else family


# model_type to why it cannot be loaded: the reason that a person gets to read.
REFUSED: dict[str, str] = {
    "llada2_moe": "LLaDA2 has a mixture-of-experts decoder that transformers lacks",
    "llada_moe": "LLaDA-MoE has a decoder that transformers lacks",
    "dream": "Dream denoises the whole answer at once with shifted predictions and has no blocks",
    "PanguEmbedded": "NBDiff's backbone, openPangu, is not in transformers",
    "diffusion_gemma": "DiffusionGemma's uniform noise over a canvas is not a mask diffusion over blocks; "
    "infer.py --model DIR runs it as it is, by its own generate",
}
