"""Load a checkpoint directory, strictly: every tensor present and of its shape, safetensors only, no remote code.

Without a name the embedded model is loaded, which is part of the package. Checkpoints of other projects' block
diffusion are translated on the way (`vlm.checkpoints.foreign`); any other model has to be converted first.
"""

import logging
from pathlib import Path

import torch

from vlm.checkpoints.families import FAMILIES
from vlm.checkpoints.files import (
    UNUSABLE,
    CheckpointError,
    local_directory,
    one_line,
    read_config,
    read_header,
    read_tensors,
    refuse_differences,
)
from vlm.checkpoints.foreign import load_foreign, refuse_unknown
from vlm.checkpoints.quantize import check_kind
from vlm.checkpoints.quantize import quantize as quantized
from vlm.config import VLMConfig
from vlm.model import VLMForBlockDiffusion
from vlm.processor import VLMProcessor

EMBEDDED = Path(__file__).parent.parent / "assets" / "demo"


def load(
    model: str | None = None,
    adapter: str | None = None,
    dtype: torch.dtype | None = None,
    device: str | None = None,
    quantize: str | None = None,
) -> tuple[VLMForBlockDiffusion, VLMProcessor]:
    """A model in evaluation mode and its processor.

    Args:
        model: a checkpoint directory or hub id, ours or of a family in `vlm.checkpoints.families`; None loads the
            embedded model.
        adapter: a PEFT adapter directory, merged into the weights.
        dtype: None means float32 on CPU (bfloat16 is slow on those without AVX-512) and bfloat16 on CUDA.
        device: None means CUDA where there is one, else CPU.
        quantize: ``int8`` or ``nf4``, of the decoder's linear layers, see `vlm.checkpoints.quantize`; None keeps them.

    Raises:
        CheckpointError: one line that names what is wrong.
        ValueError: the device cannot be used here, or the quantisation is unknown or not possible on it.
    """
    if quantize is not None:
        check_kind(quantize)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    _check_device(device)
    dtype = dtype or (torch.bfloat16 if device.startswith("cuda") else torch.float32)
    source = str(EMBEDDED) if model is None else local_directory(model)
    try:
        kind = read_config(source)["model_type"]
        if kind in FAMILIES:
            loaded, processor = load_foreign(source, dtype)
        elif kind == VLMConfig.model_type:
            loaded, processor = _load_own(source, dtype)
        else:
            refuse_unknown(source)
    except CheckpointError:
        raise
    except UNUSABLE as error:
        raise CheckpointError(f"{source}: not a usable checkpoint ({one_line(error)})") from error
    if adapter is not None:
        loaded = merged(loaded, adapter)
    loaded = loaded.to(device).eval()
    return (loaded if quantize is None else quantized(loaded, quantize)), processor


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built with CUDA
        raise ValueError(f"device {device!r} cannot be used ({one_line(error)})") from error


def _load_own(source: str, dtype: torch.dtype) -> tuple[VLMForBlockDiffusion, VLMProcessor]:
    read_tensors(source)  # refuses what is incomplete before anything is loaded
    config = VLMConfig.from_pretrained(source)
    loaded, told = VLMForBlockDiffusion.from_pretrained(
        source, config=config, dtype=dtype, use_safetensors=True, ignore_mismatched_sizes=True,
        output_loading_info=True,
    )  # fmt: skip
    refuse_differences(source, told)
    processor = VLMProcessor.from_pretrained(source)
    if processor.vision_config != config.vision_config:
        raise CheckpointError(f"{source}: processor_config.json is missing, or of another vision encoder")
    mask, known = config.traits.mask_token_id, processor.tokenizer.mask_token_id
    if mask != known:
        raise CheckpointError(f"{source}: the mask token is {mask} in config.json but {known} in the tokenizer")
    return loaded, processor


def merged(model: VLMForBlockDiffusion, adapter: str) -> VLMForBlockDiffusion:
    """``model`` with the weights of a PEFT adapter directory added to its own; CheckpointError if they do not fit."""
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (Path(adapter) / name).is_file():
            raise CheckpointError(f"{adapter}: no {name}, not an adapter directory")
    found = read_header(Path(adapter) / "adapter_model.safetensors")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # peft imports it, and it speaks of optional kernels
    from peft import PeftModel, get_peft_model_state_dict

    try:
        adapted = PeftModel.from_pretrained(model, adapter)
    except UNUSABLE as error:
        raise CheckpointError(f"{adapter}: the adapter does not fit the model ({one_line(error)})") from error
    unmatched = sorted(found.keys() ^ get_peft_model_state_dict(adapted).keys())
    if unmatched:  # peft only warns
        raise CheckpointError(f"{adapter}: the adapter does not fit the model (tensor {unmatched[0]})")
    return adapted.merge_and_unload()
