"""DiffusionGemma, which transformers has itself: loaded by its own classes, decoded by its own `generate`.

It is no mask diffusion: a causal encoder reads prompt and finished canvases into the cache, a decoder that shares its
weights denoises a canvas of uniformly random tokens. So it does not become a model of ours; `vlm.generation.native`
asks it in its own words. `open_model` is the door that takes both kinds.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoProcessor

from vlm.checkpoints.complete import refuse_outsized, refuse_quantised
from vlm.checkpoints.describe import BYTES, Description
from vlm.checkpoints.files import (
    UNUSABLE,
    CheckpointError,
    Tensor,
    local_directory,
    one_line,
    read_config,
    read_tensors,
    refuse_differences,
)
from vlm.checkpoints.load import load, placed
from vlm.generation.config import MODES
from vlm.generation.native import CANNOT, NUMBERS, NativeModel, NativeProcessor, refuse

MODEL_TYPE = "diffusion_gemma"
PARTS = {"model.encoder.vision_tower.": "vision_tower", "model.encoder.embed_vision.": "projector"}


def open_model(
    model: str | None,
    adapter: str | None = None,
    dtype: torch.dtype | None = None,
    device: str | None = None,
    quantize: str | None = None,
    asked: Mapping[str, Any] = {},
) -> tuple[Any, Any]:
    """A model and its processor as `vlm.answering` takes them: those of `load`, or a native pair.

    Args:
        asked: what will be asked of it, by the names of settings: what it cannot honour is refused before any weight
            is read.

    Raises:
        CheckpointError, ValueError: see `load`; or a setting that a native model cannot honour.
    """
    source = model if model is None else local_directory(model)
    if source is None or read_config(source)["model_type"] != MODEL_TYPE:
        return load(source, adapter, dtype, device, quantize)
    refuse(MODEL_TYPE, {**asked, "adapter": adapter, "quantize": quantize})
    return load_diffusion_gemma(source, *placed(device, dtype))


def load_diffusion_gemma(source: str, device: str, dtype: torch.dtype) -> tuple[NativeModel, NativeProcessor]:
    """The model and processor of a directory.

    Raises:
        CheckpointError: one line that names what is wrong.
    """
    tensors = read_tensors(source)
    refuse_quantised(source, tensors)
    for name in ("tokenizer.json", "generation_config.json"):
        if not (Path(source) / name).is_file():  # transformers would make up some of them
            raise CheckpointError(f"{source}: no {name}")
    try:
        from transformers import DiffusionGemmaForBlockDiffusion

        refuse_outsized(source, AutoConfig.from_pretrained(source, trust_remote_code=False).text_config, tensors)
        loaded, told = DiffusionGemmaForBlockDiffusion.from_pretrained(
            source, dtype=dtype, use_safetensors=True, ignore_mismatched_sizes=True, output_loading_info=True
        )
        refuse_differences(source, told)
        processor = AutoProcessor.from_pretrained(source, trust_remote_code=False)
    except CheckpointError:
        raise
    except (ImportError, *UNUSABLE) as error:
        raise CheckpointError(f"{source}: not a usable checkpoint ({one_line(error)})") from error
    _check(source, loaded, processor)
    torch.compiler.cudagraph_mark_step_begin()  # imports the compiler now: its generate would, within the first answer
    image = loaded.config.image_token_id
    return NativeModel(loaded.to(device).eval()), NativeProcessor(processor, image, MODEL_TYPE)


def _check(source: str, model, processor) -> None:
    """CheckpointError unless answers can end, and processor and model speak of the same tokens."""
    if model.generation_config.eos_token_id is None:
        raise CheckpointError(f"{source}: generation_config.json names no token that ends an answer")
    if getattr(processor, "chat_template", None) is None:
        raise CheckpointError(f"{source}: no chat template")
    known, placeholder = getattr(processor, "image_token_id", None), model.config.image_token_id
    if known != placeholder:
        raise CheckpointError(
            f"{source}: the image token is {placeholder} in config.json but {known} in the tokenizer"
        )
    rows, tokens = model.config.text_config.vocab_size, max(processor.tokenizer.get_vocab().values())
    if tokens >= rows:
        raise CheckpointError(f"{source}: the tokenizer has a token {tokens}, the model {rows} rows")


def describe_diffusion_gemma(source: str, tensors: dict[str, Tensor]) -> Description:
    """What `vlm.inspect` tells of a directory, from its config and the headers of its files."""
    config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    text, parts = config.text_config, {name: (0, 0) for name in (*PARTS.values(), "language_model")}
    for name, tensor in tensors.items():
        part = next((told for start, told in PARTS.items() if name.startswith(start)), "language_model")
        count, size = parts[part]
        parts[part] = (count + tensor.count, size + tensor.count * BYTES.get(tensor.dtype, 1))
    total = sum(count for count, _ in parts.values())
    return Description(
        source,
        MODEL_TYPE,
        text.model_type,
        {name: sizes for name, sizes in parts.items() if sizes[0]},
        {"float32": 4 * total, "bfloat16": 2 * total, "float16": 2 * total},
        _kv_bytes(text),
        modes={mode: None if mode == "block" else CANNOT["mode"] for mode in MODES},
        note=f"decodes by its own generate, in canvases of {config.canvas_length} tokens; it takes max_new_tokens, "
        f"denoising_steps, temperature, seed and policy_args ({', '.join(NUMBERS)}); pictures are read "
        + ("whole" if text.use_bidirectional_attention == "vision" else "causally"),
    )


def _kv_bytes(text) -> int:
    """Of one token in every layer, keys and values in float32."""
    layers = (text.per_layer_config[k] for k in range(text.num_hidden_layers))
    return sum(2 * 4 * layer.num_key_value_heads * layer.head_dim for layer in layers)
